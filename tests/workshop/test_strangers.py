"""What is outside though it reads like a request."""

import random

import pytest

pytest.importorskip("torch", reason="the extra `workshop` is not installed")

from agent.workshop.data.strangers import (
    in_part,
    jumbled,
    near_misses,
    prose,
    strangers,
)


@pytest.mark.parametrize("bundle", ["home", "assistant", "support", "media"])
def test_shipped_bundles_have_near_misses(bundle: str) -> None:
    """What validates is other than what taught, and no slot is left open."""
    said = []
    for split in ("train", "valid"):
        source = near_misses(bundle, split)
        assert source is not None
        chance = random.Random(1)  # noqa: S311
        said.append({source(chance) for _ in range(500)})
        assert not any("{" in text for text in said[-1])
    assert not said[0] & said[1]


def test_own_bundles_have_none() -> None:
    """A bundle that does not ship has no near-misses, but prose."""
    assert near_misses("front-desk", "train") is None
    assert strangers("front-desk", "train", (), ())


def test_a_file_without_parts_is_parted_by_its_lines() -> None:
    """Each line is in one part, always the same; about a fourth validates."""
    lines = [f"line {number}" for number in range(1000)]
    kept = [line for line in lines if in_part(line, "valid")]
    assert 200 < len(kept) < 300
    assert all(in_part(line, "train") != in_part(line, "valid") for line in lines)


def test_words_in_no_order_are_none_of_ours() -> None:
    """No text is a whole text of ours, however many words it has."""
    say = jumbled(["lights", "music", "stop"], ["Stop", "music lights"])
    chance = random.Random(1)  # noqa: S311
    said = {say(chance) for _ in range(500)}
    assert {"lights", "music"} <= said
    assert not said & {"stop", "music lights"}
    assert not any("stop" in text for text in said)


def test_prose_of_one_seed() -> None:
    """The same seed says the same lines."""
    one, same = (
        [prose("train")(chance) for _ in range(20)]
        for chance in map(random.Random, (1, 1))
    )
    assert one == same
