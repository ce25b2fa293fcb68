"""What the network is told of a text: ids, and tags by level."""

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the extra `workshop` is not installed")

from tokenizers import Tokenizer

from agent.evaluation.examples import Example, Span
from agent.workshop.data.catalogue import catalogue
from agent.workshop.data.features import IGNORED, collate, nested, rows

LAMP = Example(
    text="turn on the kitchen lamp",
    label="on",
    spans=(Span(start=12, end=19, label="place"),),
)
WHOLE = Span(start=8, end=24, label="thing")
NESTED = LAMP.model_copy(update={"spans": (*LAMP.spans, WHOLE)})


@pytest.fixture
def tokenizer(encoder_package: Path) -> Tokenizer:
    """Return the tokenizer of the tiny encoder."""
    path = encoder_package / "tiny_encoder" / "model" / "tokenizer.json"
    return Tokenizer.from_file(str(path))


def _said(tags: list[int]) -> list[int]:
    return [tag for tag in tags if tag != IGNORED]


def test_rows_follow_words(tokenizer: Tokenizer) -> None:
    """Tags sit on first sub-tokens, and long texts become overlapping windows."""
    known = catalogue([LAMP])
    [row] = rows(LAMP, tokenizer, known)
    [tags] = row.tags
    assert _said(tags) == [0, 0, 0, 1, 0]
    tokenizer.enable_truncation(6, stride=2)
    assert len(rows(LAMP, tokenizer, known)) > 1


def test_lines_without_spans_teach_no_entity(tokenizer: Tokenizer) -> None:
    """Nothing said is not the same as none there: no word of it is tagged."""
    known = catalogue([LAMP])
    for spans, said in ((None, []), ((), [0, 0, 0, 0, 0])):
        [row] = rows(LAMP.model_copy(update={"spans": spans}), tokenizer, known)
        assert _said(row.tags[0]) == said


def test_inner_entities_are_the_next_level(tokenizer: Tokenizer) -> None:
    """An entity in another is taught on a level of its own, with the same words."""
    known = catalogue([NESTED], levels=2)
    [row] = rows(NESTED, tokenizer, known)
    outer, inner = map(_said, row.tags)
    thing, place = (1 + 2 * known.entities.index(name) for name in ("thing", "place"))
    assert outer == [0, 0, thing, thing + 1, thing + 1]
    assert inner == [0, 0, 0, place, 0]
    assert collate([row]).tags.shape == (1, len(row.ids), 2)


def test_levels_sort_by_what_lies_in_what() -> None:
    """The outermost come first; what fits into no level is left out."""
    spans = [
        Span(start=start, end=end, label="x")
        for start, end in ((4, 6), (0, 10), (4, 8), (12, 14))
    ]
    by_level = [[(s.start, s.end) for s in level] for level in nested(spans, 3)]
    assert by_level == [[(0, 10), (12, 14)], [(4, 8)], [(4, 6)]]
    assert [len(level) for level in nested(spans, 1)] == [2]
    assert nested([], 2) == [[], []]


def test_nothing_is_said_of_entities_outside(tokenizer: Tokenizer) -> None:
    """A text out of scope teaches its class, which is the last, and no tags."""
    known = catalogue([LAMP], outside="oos")
    [row] = rows(Example(text="turn off", label="oos"), tokenizer, known)
    assert row.label == len(known.labels) == known.classes - 1
    assert not any(_said(tags) for tags in row.tags)
