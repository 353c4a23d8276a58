"""Lets the model answer one prompt or a batch while a method prunes."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from adatp.errors import AdaTPError, PruningError, first_line, is_out_of_memory
from adatp.layout import VideoLayout
from adatp.methods import Method
from adatp.models import family_of
from adatp.pruning import Run
from adatp.report import Report
from adatp.session.errors import PromptError
from adatp.session.prompt import Prompt


@dataclass(frozen=True, eq=False)
class Answer:
    """The model's answer and its cost.

    Attributes:
        text: the answer.
        token_ids: the tokens generated, the end-of-turn token included.
        milliseconds: time of ``generate``; for a batch, of all its prompts together.
        report: what the method did; for a batch, in all its prompts.
        layout: positions of the prompt's visual tokens.
        row: index of this prompt in the report's batch.
    """

    text: str
    token_ids: tuple[int, ...]
    milliseconds: float
    report: Report
    layout: VideoLayout
    row: int = 0

    @property
    def new_tokens(self) -> int:
        """Number of tokens generated, the end-of-turn token included."""
        return len(self.token_ids)

    @property
    def flops_ratio(self) -> float:
        """Real FLOPs of the decoder's prefill of this prompt over vanilla's, independent of the rest of
        the batch.
        """
        spent, vanilla = self.report.prompt_flops[self.row]
        return spent / vanilla

    def to_dict(self) -> dict[str, Any]:
        """The answer as plain numbers, strings, lists and dictionaries."""
        return {
            "answer": self.text,
            "new_tokens": self.new_tokens,
            "generate_milliseconds": self.milliseconds,
            "report": self.report.to_dict(),
        }


def generate(
    model: Any,
    processor: Any,
    prompts: Sequence[Prompt],
    method: Method,
    max_new_tokens: int,
    settings: Mapping[str, Any],
    reuse_frames: float | None = None,
    strict: bool = False,
    watch: Callable[[Run], object] | None = None,
) -> list[Answer]:
    """Answer the prompts of one batch.

    Args:
        model: a Video LLM of a supported family.
        processor: its processor.
        prompts: prompts whose inputs fit together (see `batches`).
        method: the pruning method.
        max_new_tokens: longest answer, in tokens.
        settings: more arguments of ``generate``.
        reuse_frames: see `adatp.methods.Method.__call__`.
        strict: see there.
        watch: called with the run before the model reads the prompts.

    Raises:
        PromptError: the settings ask for several answers to a prompt, or for prompts in chunks.
        PruningError: the settings make the model read the prompt in a way that can't be pruned.
    """

    def asked_for(name: str) -> Any:
        """A setting, wherever it was given: by itself, in ``generation_config``, or by the checkpoint."""
        if name in settings:
            return settings[name]
        given = getattr(settings.get("generation_config"), name, None)
        return getattr(model.generation_config, name, None) if given is None else given

    if (asked_for("num_return_sequences") or 1) != 1 or asked_for("return_dict_in_generate"):
        raise PromptError(
            "a session gives one answer to a prompt: leave num_return_sequences and "
            "return_dict_in_generate out"
        )
    if asked_for("prefill_chunk_size") is not None:
        raise PromptError("a prompt in chunks can't be pruned: leave prefill_chunk_size out")
    sampled = bool(getattr(settings.get("generation_config"), "do_sample", None))
    settings = {"do_sample": sampled, "max_new_tokens": max_new_tokens, **settings}
    axes = family_of(model.config.model_type).joined_along
    inputs = collate(prompts, pad_token(model, processor), model.device, axes)
    asked = _questions(prompts)
    with method(model, processor, question=asked, reuse_frames=reuse_frames, strict=strict) as run:
        if watch is not None:
            watch(run)
        begun = time.perf_counter()
        ids = _generated(model, inputs, settings)
        rows = ids[:, inputs["input_ids"].shape[1] :].tolist()  # waits for the device
        milliseconds = 1000 * (time.perf_counter() - begun)
    if not run.layouts:
        reasons = "; ".join(run.not_pruned) or "generate did not read the prompt"
        raise PruningError(f"with these settings the prompt can't be pruned ({reasons})")
    ends = asked_for("eos_token_id")
    copies = len(run.layouts) // len(prompts)  # beams read each prompt several times, side by side
    answers = []
    for row, tokens in zip(range(0, len(run.layouts), copies), rows, strict=True):
        said = until_end(tokens, ends)
        text = words_of(processor, said)
        answers.append(Answer(text, tuple(said), milliseconds, run.report, run.layouts[row], row))
    return answers


def _questions(prompts: Sequence[Prompt]) -> list[str] | None:
    """The question of each prompt. None if one has no words, as tasks of benchmarks may: then those in the
    prompts count.
    """
    found = [prompt.question for prompt in prompts]
    return found if all(map(str.strip, found)) else None


def _generated(model: Any, inputs: Mapping[str, Any], settings: Mapping[str, Any]) -> Any:
    """The output of ``model.generate``. Settings that it refuses, also the checkpoint's own, raise one
    line.
    """
    try:
        return model.generate(**inputs, **settings)
    except (ValueError, ImportError, ZeroDivisionError) as error:
        if isinstance(error, AdaTPError) or is_out_of_memory(error):
            raise
        raise PromptError(f"the model does not generate with these settings ({first_line(error)})") from error


@torch.no_grad()
def read(model: Any, processor: Any, prompt: Prompt, method: Method) -> Answer:
    """Let the model read a prompt without answering it."""
    inputs = collate([prompt], 0, model.device)
    with method(model, processor, question=_questions([prompt])) as run:
        begun = time.perf_counter()
        model(**inputs, logits_to_keep=1, use_cache=False)
        milliseconds = 1000 * (time.perf_counter() - begun)
    return Answer("", (), milliseconds, run.report, run.layouts[0])


def words_of(processor: Any, tokens: Sequence[int]) -> str:
    """The text of an answer's tokens."""
    return str(processor.decode(list(tokens), skip_special_tokens=True)).strip()


def until_end(tokens: Sequence[int], ends: int | Sequence[int] | None) -> list[int]:
    """Tokens up to and including the first that ends a turn. In a batch, padding follows it."""
    stops = {ends} if isinstance(ends, int) else {*(ends or ())}
    last = next((number for number, token in enumerate(tokens) if token in stops), len(tokens))
    return list(tokens[: last + 1])


def pad_token(model: Any, processor: Any) -> int:
    """The token that pads the rows of a batch. It is masked, so any token will do."""
    tokenizer = getattr(processor, "tokenizer", processor)
    found = getattr(tokenizer, "pad_token_id", None)
    return int(found) if found is not None else int(model.generation_config.pad_token_id or 0)


def batches(prompts: Sequence[Prompt]) -> list[list[int]]:
    """Indices of the prompts, grouped so that the frames of each group fit into one batch."""
    groups: dict[Hashable, list[int]] = {}
    for number, prompt in enumerate(prompts):
        groups.setdefault(kind_of(prompt), []).append(number)
    return list(groups.values())


def kind_of(prompt: Prompt) -> Hashable:
    """A key that is equal for prompts that fit into one batch."""
    of_text, others = _split(prompt)
    shapes = tuple(sorted((name, tuple(value.shape[1:])) for name, value in others.items()))
    return tuple(sorted(of_text)), shapes


def collate(
    prompts: Sequence[Prompt], pad: int, device: torch.device | str, axes: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Combine the inputs of several prompts into one batch, padded on the left, on a device.

    Args:
        prompts: prompts whose frames fit together: one group of `batches`.
        pad: the token to pad with.
        device: device of the model.
        axes: see `Family.joined_along`.
    """
    if len(prompts) == 1:
        return prompts[0].to(device).inputs
    parts = [_split(prompt) for prompt in prompts]
    longest = max(prompt.inputs["input_ids"].shape[1] for prompt in prompts)
    inputs = {}
    for name in parts[0][0]:
        rows = [of_text[name] for of_text, _ in parts]
        filler = pad if name == "input_ids" else 0
        inputs[name] = torch.cat([F.pad(row, (longest - row.shape[1], 0), value=filler) for row in rows])
    for name in parts[0][1]:
        inputs[name] = torch.cat([others[name] for _, others in parts], (axes or {}).get(name, 0))
    return {name: value.to(device) for name, value in inputs.items()}


def _split(prompt: Prompt) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split inputs into those with one value per token of the prompt, and those of its frames and images."""
    tokens = prompt.inputs["input_ids"].shape
    of_text = {name: value for name, value in prompt.inputs.items() if value.shape == tokens}
    return of_text, {name: value for name, value in prompt.inputs.items() if name not in of_text}
