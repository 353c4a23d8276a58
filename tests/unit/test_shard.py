"""The share of a job that one of several processes does."""

import pytest

from adatp.errors import RefusedError
from adatp.shard import Shard


@pytest.mark.parametrize("count", [1, 3, 7])
def test_shards_share_all_pieces(count: int) -> None:
    shards = [Shard.named(f"{number}/{count}") for number in range(1, count + 1)]
    owners = [[shard.index for shard in shards if shard.has(piece)] for piece in range(20)]
    assert owners == [[piece % count] for piece in range(20)]


def test_the_first_shard_is_number_one() -> None:
    assert Shard.named("1/1") == Shard() == Shard(0, 1)
    assert Shard.named("3/8") == Shard(2, 8)
    assert Shard.named("1/8").has(0)


@pytest.mark.parametrize(
    "text", ["1", "a/2", "-1/2", "1/", "/2", "0/0", "1/0", "\u00b9/2", "", "1/" + "9" * 5000]
)
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(RefusedError, match="--shard is i/n, such as 1/8, not"):
        Shard.named(text)


@pytest.mark.parametrize("text", ["0/8", "9/8"])
def test_a_number_out_of_range_is_refused_with_the_range(text: str) -> None:
    with pytest.raises(RefusedError) as caught:
        Shard.named(text)
    assert str(caught.value) == f"--shard {text}: shards are counted from 1, so they go from 1/8 to 8/8"
