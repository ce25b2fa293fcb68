"""Runs of letters that are not Latin: no model here reads them, so they hide whole."""

import sys
import unicodedata
from collections.abc import Iterator
from functools import cache, lru_cache

LABEL = "OTHER_SCRIPT"
LATIN = "LATIN"
SHORTEST = 2  # letters; one alone is a symbol: "5 \N{GREEK SMALL LETTER MU}m"
GAP = 3  # characters between two words of one run
# A letter of these is a word, or a syllable of one.
SYLLABLES = frozenset({"CJK", "HANGUL", "HIRAGANA", "KATAKANA", "YI", "BOPOMOFO"})
# The first word of a letter's Unicode name, where that is no script.
_COMMON = frozenset({"MODIFIER", "FEMININE", "MASCULINE", "DOUBLE-STRUCK", "SCRIPT"})
_NAMES = {
    "KATAKANA-HIRAGANA": "KATAKANA",
    "IDEOGRAPHIC": "CJK",
    "HALFWIDTH": "FULLWIDTH",
    "MICRO": LATIN,
    "OHM": LATIN,
    "KELVIN": LATIN,
    "ANGSTROM": LATIN,
}


def runs(text: str) -> Iterator[tuple[int, int]]:
    """Yield where letters of other scripts stand, words side by side as one."""
    if text.isascii():
        return
    start = end = longest = 0
    for first, last, size in _words(text):
        if longest and _apart(text, end, first):
            if longest >= SHORTEST:
                yield start, end
            longest = 0
        if not longest:
            start = first
        end, longest = last, max(longest, size)
    if longest >= SHORTEST:
        yield start, end


def _words(text: str) -> Iterator[tuple[int, int, int]]:
    """Yield start, end and letters of each word; a syllable counts as a word."""
    start = size = 0
    for place, char in enumerate(text):
        script = script_of(char)
        if script and script != LATIN:
            start = start if size else place
            size += SHORTEST if script in SYLLABLES else 1
        elif size and unicodedata.category(char)[0] != "M":
            yield start, place, size
            size = 0
    if size:
        yield start, len(text), size


def _apart(text: str, end: int, start: int) -> bool:
    """Tell whether what stands between two words ends a run."""
    between = text[end : min(start, end + GAP + 1)]
    return start - end > GAP or any(map(str.isalnum, between))


def scripts_of(text: str) -> frozenset[str]:
    """Return the scripts of the letters of a text, by their Unicode names."""
    return frozenset(script_of(char) for char in text) - {""}


@cache
def known() -> frozenset[str]:
    """Return every script that a letter is of; takes a second."""
    letters = (chr(code) for code in range(0x80, sys.maxunicode + 1))
    return frozenset(script_of(char) for char in letters) - {"", LATIN}


@lru_cache(maxsize=4096)
def script_of(char: str) -> str:
    """Return the script of a letter as `CYRILLIC`; empty where it is of none."""
    if char.isascii():
        return LATIN if char.isalpha() else ""
    if unicodedata.category(char)[0] != "L":
        return ""
    first = unicodedata.name(char, "").partition(" ")[0]
    first = _NAMES.get(first, first)
    return "" if first in _COMMON else first
