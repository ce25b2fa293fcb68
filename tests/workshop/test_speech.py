"""Requests as people say them: other around them, in them the same."""

import random

import pytest

pytest.importorskip("torch", reason="the extra `workshop` is not installed")

from agent.evaluation.examples import Example, Span
from agent.workshop.data.speech import accent, edited

TEXT = "remind me to call jonathan at seven pm"
PERSON, TIME = (
    Span(start=18, end=26, label="person"),
    Span(start=30, end=38, label="time"),
)
CALL = Example(text=TEXT, label="reminder", spans=(PERSON, TIME))
# Ways that may change the words of an entity itself.
INSIDE = {
    "joined",
    "mistyped",
    "twice mistyped",
    "misheard",
    "as digits",
    "renamed",
    "capitals",
}


def marked(example: Example) -> list[str]:
    """Return the words of the entities."""
    return [example.text[span.start : span.end] for span in example.marked]


@pytest.mark.parametrize("name", accent().names)
def test_label_and_entities_stay(name: str) -> None:
    """Whatever way it is said, the label is the same, and entities are where they were.

    A way that leaves the words of entities alone leaves all of them.
    """
    say, chance = accent(), random.Random(name)  # noqa: S311
    for _ in range(100):
        said = say.by(name, CALL, chance)
        assert said.label == "reminder"
        assert [span.label for span in said.marked] == ["person", "time"]
        assert all(marked(said))
        if name not in INSIDE:
            assert marked(said) == ["jonathan", "seven pm"]


@pytest.mark.parametrize("name", accent().names)
def test_something_changes(name: str) -> None:
    """Each way changes the text, if not always."""
    say, chance = accent(), random.Random(name)  # noqa: S311
    said = {say.by(name, CALL, chance).text for _ in range(100)}
    assert said - {TEXT}


@pytest.mark.parametrize(
    ("start", "end", "words", "entities"),
    [
        (0, 0, "please ", ["jonathan", "seven pm"]),
        (18, 26, "tom", ["tom", "seven pm"]),
        (20, 21, "", ["joathan", "seven pm"]),
        (17, 18, "", ["jonathan", "seven pm"]),
        (38, 38, " please", ["jonathan", "seven pm"]),
        (26, 30, " ", ["jonathan", "seven pm"]),
        (18, 18, "uh ", ["jonathan", "seven pm"]),
        (13, 26, "call tom", ["call tom", "seven pm"]),
    ],
)
def test_entities_move_with_the_text(
    start: int, end: int, words: str, entities: list[str]
) -> None:
    """An edit before, behind, in or over an entity leaves its place right."""
    assert marked(edited(CALL, start, end, words)) == entities


def test_what_validates_did_not_teach() -> None:
    """No opening or tail of one split stands in the other."""
    taught, kept = (accent(split).lists for split in ("train", "valid"))
    for name in ("before", "lead", "after", "wake", "fillers"):
        assert kept[name]
        assert not set(taught[name]) & set(kept[name])


def test_texts_of_one_seed() -> None:
    """The same seed says the same, another something else."""
    one, same, other = (
        [accent()(CALL, chance).text for _ in range(20)]
        for chance in map(random.Random, (1, 1, 2))
    )
    assert one == same != other
