"""Lets a vision tower encode a video once for all questions about it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten


class EncodeOnce:
    """While open, a vision tower encodes equal videos of a batch once, and caches those that come again.

    The tower's hooks fire as if it had encoded every video. Its input is cut into one piece per prompt, and
    pieces are compared number by number. If a tower's calls can't be cut like this, it encodes everything as
    usual.

    This and `adatp.evaluation.runner.TowerCache` are two because only this one tells the videos of a batch
    apart, and only that one can let a method watch the tower's attention again, which needs a batch that
    comes again as it was.

    Args:
        tower: the vision tower.

    Attributes:
        encoded: how many videos the tower has encoded.
        shared: how many it could skip, because it had encoded them before.
    """

    def __init__(self, tower: nn.Module) -> None:
        self.tower = tower
        self.encoded = self.shared = 0
        self._keys: Sequence[Hashable] = ()
        self._again: Collection[Hashable] = ()
        self._held: dict[Hashable, tuple[list[Tensor], Any]] = {}  # input and output of each
        self._replaced = ExitStack()

    def __enter__(self) -> EncodeOnce:
        encode = self.tower.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            return self._forward(encode, args, kwargs)

        self._replaced.enter_context(replaced_forward(self.tower, forward))
        return self

    def __exit__(self, *_: object) -> None:
        self._replaced.close()
        self._held = {}

    def show(self, keys: Sequence[Hashable], again: Collection[Hashable] = ()) -> None:
        """Announce the tower's next input.

        Args:
            keys: of each prompt's video, in the order of the batch; empty: every video is encoded.
            again: keys of videos that more prompts come with later.
        """
        self._keys, self._again = keys, again
        self._held = {key: held for key, held in self._held.items() if key in keys or key in again}

    def _forward(self, encode: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        keys, self._keys = self._keys, ()  # whatever follows in the same call is not of these prompts
        count = len(keys)
        given = _cut((args, kwargs), count)
        first: dict[Hashable, int] = {}
        for row, key in enumerate(keys):
            first.setdefault(key, row)
        known = {key: self._held.get(key, (given[row], None)) for key, row in first.items()} if given else {}
        if not given or not all(same_tensors(known[key][0], given[row]) for row, key in enumerate(keys)):
            self._held = {}
            self.encoded += count
            return encode(*args, **kwargs)
        missing = {key: row for key, row in first.items() if key not in self._held}
        everything = len(missing) == count
        if everything and not any(key in self._again for key in keys):
            self.encoded += count
            return encode(*args, **kwargs)
        made = {key: output for key, (_, output) in self._held.items()}
        if missing:
            args, kwargs = _chosen((args, kwargs), list(missing.values()), count)
            output = encode(*args, **kwargs)
            self.encoded += len(missing)
            pieces = _chosen_each(output, len(missing))
            made.update(zip(missing, pieces, strict=True))
        self.shared += count - len(missing)
        self._held |= {key: (known[key][0], made[key]) for key in first}
        self._held = {key: held for key, held in self._held.items() if key in self._again}
        return _joined([made[key] for key in keys])


@contextmanager
def replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """While the block runs, calls of a module go through ``forward``, and its hooks stay around it.

    Afterwards the module has its own back, or the one that accelerate gave to this instance.
    """
    attributes = vars(module)
    before = attributes.get("forward")
    attributes["forward"] = forward
    try:
        yield
    finally:
        del attributes["forward"]
        if before is not None:
            attributes["forward"] = before


def _cut(value: Any, count: int) -> list[list[Tensor]]:
    """The tensors of nested containers cut into ``count`` equal pieces along their first axis.

    Returns:
        One list per piece; empty if they can't be cut.
    """
    tensors = [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
    if (
        not count
        or not tensors
        or any(not each.ndim or not len(each) or len(each) % count for each in tensors)
    ):
        return []
    cut = [each.chunk(count) for each in tensors]
    return [list(piece) for piece in zip(*cut, strict=True)]


def _chosen(value: Any, rows: Sequence[int], count: int) -> Any:
    """The same nested containers with some of the ``count`` pieces of every tensor."""

    def choose(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        pieces = leaf.chunk(count)
        return torch.cat([pieces[row] for row in rows]) if len(rows) > 1 else pieces[rows[0]]

    return tree_map(choose, value)


def _chosen_each(value: Any, count: int) -> list[Any]:
    return [_chosen(value, [row], count) for row in range(count)]


def _joined(values: Sequence[Any]) -> Any:
    """Equal nested containers as one, their tensors one after the other; a new object in any case."""
    leaves, spec = zip(*map(tree_flatten, values), strict=True)
    joined = [
        torch.cat(same) if isinstance(same[0], Tensor) else same[0] for same in zip(*leaves, strict=True)
    ]
    return tree_unflatten(joined, spec[0])


def same_tensors(mine: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """Whether both hold the same numbers in tensors of the same shapes and dtypes."""
    return len(mine) == len(others) and all(
        a is b or (a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b))
        for a, b in zip(mine, others, strict=True)
    )
