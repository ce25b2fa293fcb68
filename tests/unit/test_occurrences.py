"""Where words stand: the one search that hiding relies on."""

import sys
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.escalation.occurrences import occurrences, word_edges

FEW = st.text("ab", max_size=30)


def words(text: str, cuts: tuple[int, ...] = ()) -> list[str]:
    """Return the words of a text."""
    edges = word_edges(text, cuts)
    return [text[start:end] for start, end in pairwise(edges)]


@given(st.lists(st.text("ab", min_size=1, max_size=6)), FEW)
def test_the_longest_at_each_place(patterns: list[str], text: str) -> None:
    """At every place the longest pattern that ends there is told, and no other."""
    numbered = [(pattern, str(number)) for number, pattern in enumerate(patterns)]
    expected = []
    for end in range(1, len(text) + 1):
        ending = [p for p in patterns if text[:end].endswith(p)]
        if ending:
            longest = max(ending, key=len)
            value = str(patterns.index(longest))
            expected.append((end - len(longest), end, value))
    assert list(occurrences(numbered, text)) == expected


def test_symbols_may_be_words() -> None:
    """A pattern of words is found among words."""
    found = occurrences([(["new", "york"], "city")], ["in", "new", "york", "new"])
    assert list(found) == [(1, 3, "city")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("Ann's cat_2", ["Ann", "'", "s", " ", "cat_2"]),
        ("O.K.", ["O", ".", "K", "."]),
        ("Mu\u0308ller Straße", ["Mu\u0308ller", " ", "Straße"]),
        ("王小明さん", ["王", "小", "明", "さ", "ん"]),
        ("Иван 5-й", ["Иван", " ", "5", "-", "й"]),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    """Letters, digits and their marks make words; unspaced scripts have none."""
    assert words(text) == expected


def test_a_word_can_be_cut() -> None:
    """Where something is hidden, a word ends."""
    assert words("annbob", (3,)) == ["ann", "bob"]


def test_case_makes_no_difference_to_words() -> None:
    """No character is part of a word in one case and not in another."""
    for code in range(sys.maxunicode + 1):
        char = chr(code)
        folded = char.casefold()
        if folded != char:
            assert len(words(folded + folded)) == len(words(char + char)), hex(code)


def test_hostile_patterns_take_no_longer() -> None:
    """What makes a search by backtracking quadratic is done in a moment."""
    text = "a" * 100_000
    patterns = [("a" * 50_000, "x"), ("a" * 30_000 + "b", "y")]
    begun = time.perf_counter()
    assert sum(1 for _ in occurrences(patterns, text)) == 50_001
    assert time.perf_counter() - begun < 10
