"""The operator's regular expressions: one pass over what a sender wrote."""

import time

import pytest

from agent.core.expressions import LONGEST, compiled

# Each takes Python's own engine hours for some thirty characters.
CATASTROPHIC = ["(a+)+b", "(a|a)*b", "(a*)*b", "([a-z]+)*=", "(.*)*x", "(a?){30}a{30}"]


@pytest.mark.parametrize("pattern", CATASTROPHIC)
def test_no_pattern_takes_long(pattern: str) -> None:
    """What is catastrophic elsewhere is a moment here, whole match and search."""
    begun = time.perf_counter()
    assert not compiled(pattern).is_whole("a" * 100_000 + "!")
    list(compiled(pattern).spans("a" * 20_000 + "!"))
    assert time.perf_counter() - begun < 20


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        (r"(?=a)b", r"\(\?="),
        (r"(?<!a)b", r"\(\?<"),
        (r"(a)\1", r"\\1"),
        (r"a\Z", r"\\Z"),
        ("(", "missing"),
        ("a{2000}", "repetition"),
    ],
)
def test_what_has_no_linear_time_is_refused(pattern: str, reason: str) -> None:
    """Look-around and back-references are refused; the error says which and why."""
    with pytest.raises(ValueError, match=reason) as caught:
        compiled(pattern)
    assert "linear time" in str(caught.value)


def test_a_whole_match() -> None:
    """The words match from beginning to end, or not at all."""
    expression = compiled("B-[0-9]{3}|x")
    assert expression.is_whole("B-123")
    assert not expression.is_whole("B-1234")
    assert not expression.is_whole("B-123\n")


def test_places_are_of_characters() -> None:
    """Places count characters, not bytes, and nothing empty is found."""
    assert list(compiled("[0-9]*").spans("é12 ü3 😀45")) == [(1, 3), (5, 6), (8, 10)]


@pytest.mark.parametrize(
    "at", [0, 1, LONGEST - 3, LONGEST, 2 * LONGEST - 3, 5 * LONGEST]
)
def test_long_texts_are_searched_everywhere(at: int) -> None:
    """A find is seen whole wherever it stands, across the edge of a window, too."""
    text = "é" * at + "B-123" + "ü" * (6 * LONGEST - at)
    assert (at, at + 5) in set(compiled("B-[0-9]{3}").spans(text))
    assert set(compiled("B-[0-9]{3}").spans(text)) == {(at, at + 5)}
