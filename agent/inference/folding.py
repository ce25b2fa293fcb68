"""A text as patterns read it: every digit 0 to 9, every hyphen and space the plain one.

Letters and digits of compatibility forms (fullwidth, circled, mathematical) become
their plain ones (Unicode NFKC), decimal digits of every script become ASCII, and what
is not seen (zero-width characters, variation selectors) is left out. Each character of
the view knows its place in the text.
"""

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

Spans = Iterator[tuple[int, int]]  # places in a folded text, end exclusive

_DASHES = "\N{MINUS SIGN}\N{HYPHEN BULLET}\N{KATAKANA-HIRAGANA PROLONGED SOUND MARK}"
_ZERO = "\N{IDEOGRAPHIC NUMBER ZERO}"
_STOPS = {"\N{IDEOGRAPHIC FULL STOP}": ".", "\N{HALFWIDTH IDEOGRAPHIC FULL STOP}": "."}
_SPACES = {"Zs": " ", "Zl": "\n", "Zp": "\n"}  # by category
_UNSEEN = {"Cf", "Me"}  # format characters and enclosing marks
_SELECTORS = range(0xFE00, 0xFE10)  # whether the character before is an emoji


@dataclass(frozen=True, slots=True)
class View:
    """What is read of a text; each character has its place in it, None: the same."""

    text: str
    starts: tuple[int, ...] | None = None
    ends: tuple[int, ...] | None = None

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Return where a part of the view, not empty, stands in the text."""
        if self.starts is None or self.ends is None:
            return start, end
        return self.starts[start], self.ends[end - 1]


def folded(text: str) -> View:
    """Return the view of a text; a character becomes 18 of the view at most."""
    if text.isascii():
        return View(text)
    parts = [_plain(char) for char in text]
    places = tuple(place for place, part in enumerate(parts) for _ in part)
    return View("".join(parts), places, tuple(place + 1 for place in places))


@lru_cache(maxsize=4096)
def _plain(char: str) -> str:
    if char.isascii():
        return char
    category = unicodedata.category(char)
    if category in _UNSEEN or ord(char) in _SELECTORS:
        return ""
    if category in {"Nd", "No"} or char == _ZERO:
        number = unicodedata.numeric(char, -1)
        if number in range(10):
            return str(int(number))
    if category == "Pd" or char in _DASHES:
        return "-"
    return (
        _SPACES.get(category) or _STOPS.get(char) or unicodedata.normalize("NFKC", char)
    )


def united(spans: Iterable[tuple[int, int]]) -> Spans:
    """Yield places by start, one for all that overlap."""
    start = end = -1
    for first, last in sorted(spans):
        if first < end:
            end = max(end, last)
            continue
        if end > start:
            yield start, end
        start, end = first, last
    if end > start:
        yield start, end
