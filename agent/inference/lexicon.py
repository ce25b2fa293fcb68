"""Reading work orders as typed: abbreviations written out, tags and numbers as masks.

A model that was taught "change out left hand mirror" reads "c/o l/h mirror" as that.
What it finds in the words written out lies on the whole of what was typed.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from agent.inference.folding import View

_TOKEN = re.compile(r"\S+")
_CORE = re.compile(r"[(\[{\"'`\-]*(?P<core>.*?)[)\]}\"'`.,;:!?\-]*", re.DOTALL)
_MARKS = re.compile(r"[/&+]|-{1,2}")
_NUMBER = re.compile(r"(?P<mark>#|no\.?|pos\.?)?\d+(?:[.,:]\d+){0,4}%?", re.IGNORECASE)
_MEASURE = re.compile(r"\d+(?:[.,]\d+)?(?P<unit>[a-z]{1,4})", re.IGNORECASE)
_DATE = re.compile(r"\d{1,2}[/.]\d{1,2}[/.]\d{2,4}|\d{4}-\d\d-\d\d")
# P-101A, CV-203, 12-PU-1034; a letter or two in front of a long number: PH639
TAG = r"(?:\d{1,4}-)?[A-Z]{1,5}(?:-[A-Z]{1,4})?-\d{2,5}[A-Z]?(?:/[A-Z])?"
_TAGS = re.compile(rf"(?<![\w\-/]){TAG}(?![\w\-]|/\w)")
_ID = re.compile(rf"{TAG}|[a-z]{{1,4}}_?\d{{2,6}}[a-z]?", re.IGNORECASE)
_MASK = re.compile(r"<\w{1,20}>")
UNITS = {
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), "hour"),
    **dict.fromkeys(("wk", "wks", "w"), "week"),
    **dict.fromkeys(("mth", "mths"), "month"),
    **dict.fromkeys(("v", "vdc", "vac", "kv"), "v"),
    **dict.fromkeys(("a", "amp", "amps"), "amp"),
    **{
        unit: unit
        for unit in ("mm", "cm", "km", "kg", "kw", "psi", "kpa", "bar", "rpm")
    },
    "m": "metre",
    "t": "tonne",
    "l": "litre",
    "deg": "degree",
    "yr": "year",
}
MARKS = {"#": "number ", "no": "number ", "pos": "position "}
LEAST = 3  # letters of a word that may stand for itself beside a slash
LONGEST = 64  # characters of a token that is looked at
LONG_NUMBER = 4  # digits of one that names a machine in front of an order


@dataclass(frozen=True, slots=True)
class _Piece:
    """What is read, and where that stands; `whole`: all of it, for each character."""

    words: str
    start: int
    end: int
    whole: bool = True


class Lexicon:
    """What is read for what is typed."""

    def __init__(self, entries: Mapping[str, str]) -> None:
        """Take words written out by their abbreviations, in small letters.

        Where the words are empty, nothing is read.
        """
        self._entries = entries

    def expanded(self, text: str) -> View:
        """Return the text as it is read, each character with its place."""
        read: list[str] = []
        starts: list[int] = []
        ends: list[int] = []
        for piece in self._pieces(text):
            size = len(piece.words)
            read.append(piece.words)
            if piece.whole:
                starts += [piece.start] * size
                ends += [piece.end] * size
            else:
                starts += range(piece.start, piece.end)
                ends += range(piece.start + 1, piece.end + 1)
        return View("".join(read), tuple(starts), tuple(ends))

    def _pieces(self, text: str) -> Iterator[_Piece]:
        at = 0
        for token in _TOKEN.finditer(text):
            if token.end() - token.start() > LONGEST:
                continue
            core = _CORE.fullmatch(token[0])
            start, end = core.span("core") if core else (0, 0)
            first, last = token.start() + start, token.start() + end
            yield _Piece(text[at:first], at, first, whole=False)
            yield from self._read(text, first, last)
            at = last
        yield _Piece(text[at:], at, len(text), whole=False)

    def _read(self, text: str, start: int, end: int) -> Iterator[_Piece]:
        """Yield how a token is read."""
        core = text[start:end]
        words = self._entries.get(core.lower())
        if words is None:
            words = _masked(core, head=start == 0)
        if words is not None:
            yield _Piece(words, start, end)
        elif _MARKS.search(core) is None:
            yield _Piece(core, start, end, whole=any(map(str.isdigit, core)))
        else:
            yield from self._parts(text, start, end)

    def _parts(self, text: str, start: int, end: int) -> Iterator[_Piece]:
        """Yield the words of "inv/rep" one by one; "x-over" is a word of its own."""
        core = text[start:end]
        words = [part for part in _MARKS.split(core) if part]
        known = any(part.lower() in self._entries for part in words)
        if not (words and all(map(self._is_word, words)) and (known or "/" in core)):
            yield _Piece(core, start, end)
            return
        at = start
        marks = [(start + m.start(), start + m.end()) for m in _MARKS.finditer(core)]
        for first, last in (*marks, (end, end)):
            part = text[at:first]
            yield _Piece(self._entries.get(part.lower(), part), at, first)
            if last > first:
                yield _Piece(f" {text[first:last]} ", first, last)
            at = last

    def _is_word(self, part: str) -> bool:
        long = part.isalpha() and len(part) >= LEAST
        return long or part.lower() in self._entries


def _masked(token: str, *, head: bool) -> str | None:
    """Return how a number, a date or the tag of a machine is read; None: as it is.

    `head`: whether it stands first in the order, where a long number is a machine.
    """
    if _DATE.fullmatch(token):
        return "<date>"
    number = _NUMBER.fullmatch(token)
    if number:
        if head and len(token) >= LONG_NUMBER and token.isdigit():
            return "<id>"
        return MARKS.get((number["mark"] or "").lower().rstrip("."), "") + "<num>"
    measure = _MEASURE.fullmatch(token)
    if measure and measure["unit"].lower() in UNITS:
        return f"<num> {UNITS[measure['unit'].lower()]}"
    return "<id>" if _ID.fullmatch(token) else None


def tags(text: str) -> Iterator[tuple[int, int]]:
    """Yield where tags of equipment stand: `P-101A`, `CV-203`, `12-PU-1034`."""
    for match in _TAGS.finditer(text):
        yield match.span()


def read_lexicon(lines: str) -> Lexicon:
    """Read a table: an abbreviation, a tab, the words written out; "# " is a comment.

    Raises ValueError for a line that is none of these.
    """
    entries = {}
    for line in lines.splitlines():
        if line and not line.startswith("# "):
            short, tab, words = line.partition("\t")
            if not (short and tab):
                raise ValueError(f"no line of a lexicon: {line[:60]!r}")
            entries[short.lower()] = words
    return Lexicon(entries)
