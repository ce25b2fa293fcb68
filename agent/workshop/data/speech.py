"""Requests as people say and type them: other around them, in them the same.

Politeness before and behind, wake words, fillers, marks and capitals, times as written
and as spoken, typos, dropped and joined words, words that were misheard, names that
nobody has heard of (speech.toml). The label stays, and entities stay where they are.
"""

import random
import re
import string
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from agent.evaluation.examples import Example, Span

LISTS = Path(__file__).parent / "speech.toml"
VERBS = Path(__file__).parent / "verbs.txt"
KEPT = 4  # every so manyth line of a list is kept to validate with
WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
LEAST_TYPO = 4  # letters of a word that is misspelt
DROPPED = frozenset(
    ["the", "a", "an", "of", "to", "for", "in", "on", "at", "my", "some", "me"]
)
CLOCK = re.compile(r"\b([ap])\.?\s?m\b\.?|\bo'?\s?clock\b", re.IGNORECASE)
ORDINARY = 0.25  # of the texts are changed in one way only by marks and capitals

Change = Callable[[Example, random.Random, Mapping[str, Sequence[str]]], Example]


@dataclass(frozen=True, slots=True)
class Verb:
    """The forms of a verb."""

    base: str
    past: str
    done: str
    ing: str


@dataclass(frozen=True, slots=True)
class Accent:
    """Says an example otherwise, by the lists of one split."""

    lists: Mapping[str, Sequence[str]]
    changes: Sequence[tuple[str, Change, int]]

    def __call__(self, example: Example, chance: random.Random) -> Example:
        """Return the example as somebody else would say it."""
        names, kinds, weights = zip(*self.changes, strict=True)
        del names
        for change in chance.choices(kinds, weights, k=chance.choice((1, 1, 2, 3))):
            example = change(example, chance, self.lists)
        return example

    def once(self, example: Example, chance: random.Random) -> Example:
        """Return the example said otherwise in one way."""
        weights = [weight for *_, weight in self.changes]
        [(_, change, _)] = chance.choices(self.changes, weights)
        return change(example, chance, self.lists)

    @property
    def names(self) -> tuple[str, ...]:
        """What the ways of saying it otherwise are called."""
        return tuple(name for name, *_ in self.changes)

    def by(self, name: str, example: Example, chance: random.Random) -> Example:
        """Return the example changed in one named way."""
        change = next(kind for known, kind, _ in self.changes if known == name)
        return change(example, chance, self.lists)


def accent(split: str = "train") -> Accent:
    """Return who says examples otherwise; `valid` has words that `train` has not."""
    lists = {
        name: items if name in WHOLE else _part(items, split)
        for name, items in _read().items()
    }
    return Accent(lists, CHANGES)


@cache
def _read() -> dict[str, list[str]]:
    return tomllib.loads(LISTS.read_text("utf-8"))


def _part(items: Sequence[str], split: str) -> list[str]:
    kept = split == "valid"
    return [
        one for number, one in enumerate(items) if (number % KEPT == KEPT - 1) == kept
    ]


def edited(example: Example, start: int, end: int, words: str) -> Example:
    """Return the example with other words in a place; entities move with the text."""
    moved = len(words) - (end - start)

    def place(offset: int, *, last: bool) -> int:
        if offset == start == end:  # words put in between belong to neither side
            return offset if last else offset + moved
        if offset <= start:
            return offset
        if offset >= end:
            return offset + moved
        return start + len(words) if last else start

    spans = None
    if example.spans is not None:
        found = (
            Span(
                start=place(span.start, last=False),
                end=place(span.end, last=True),
                label=span.label,
            )
            for span in example.spans
        )
        spans = tuple(span for span in found if span.start < span.end)
    text = example.text[:start] + words + example.text[end:]
    return Example(text=text, label=example.label, spans=spans)


def _in_front(example: Example, words: str) -> Example:
    return edited(example, 0, 0, f"{words} ")


def _behind(example: Example, words: str) -> Example:
    end = len(example.text.rstrip())
    return edited(example, end, len(example.text), words)


def _words(example: Example) -> list[re.Match[str]]:
    return list(WORD.finditer(example.text))


@cache
def verbs() -> dict[str, Verb]:
    """Return the verbs that begin requests, by their base form."""
    lines = VERBS.read_text("utf-8").splitlines()
    known_verbs = [Verb(*line.split()) for line in lines if line and line[0] != "#"]
    return {verb.base: verb for verb in known_verbs}


# -- ways of saying it otherwise


def _polite(
    example: Example, chance: random.Random, lists: Mapping[str, Sequence[str]]
) -> Example:
    first = example.text.lower().split()[:1]
    command = bool(first) and first[0] in verbs()
    opening = chance.choice(lists["before" if command else "lead"])
    if not command:
        opening += chance.choice((",", ".", "", ":", " -"))
    return _in_front(example, opening)


def _thanked(
    example: Example, chance: random.Random, lists: Mapping[str, Sequence[str]]
) -> Example:
    mark = chance.choice((" ", " ", ", ", ". ", "! "))
    end = chance.choice(("", "", "!", "."))
    bare = example.text.rstrip()
    if bare and bare[-1] in ".?!":
        mark = " "
    return _behind(example, f"{mark}{chance.choice(lists['after'])}{end}")


def _woken(
    example: Example, chance: random.Random, lists: Mapping[str, Sequence[str]]
) -> Example:
    mark = chance.choice(("", "", ",", "!", "..."))
    return _in_front(example, chance.choice(lists["wake"]) + mark)


def _filled(
    example: Example, chance: random.Random, lists: Mapping[str, Sequence[str]]
) -> Example:
    words = _words(example)
    free = [
        word.start()
        for word in words
        if not any(s.start < word.start() < s.end for s in example.marked)
    ]
    if not free:
        return example
    place = chance.choice(free)
    mark = chance.choice(("", "", ",", "..."))
    return edited(example, place, place, f"{chance.choice(lists['fillers'])}{mark} ")


def _marked(
    example: Example, chance: random.Random, lists: Mapping[str, Sequence[str]]
) -> Example:
    del lists
    bare = example.text.rstrip()
    if bare and bare[-1] in string.punctuation:
        end = chance.choice(("", ".", "!", "?"))
        free = not any(span.end == len(bare) for span in example.marked)
        return (
            edited(example, len(bare) - 1, len(example.text), end) if free else example
        )
    return _behind(
        example, chance.choice((".", ".", "?", "!", "!!", "...", " .", "?!"))
    )


def _capitals(
    example: Example, chance: random.Random, lists: Mapping[str, Sequence[str]]
) -> Example:
    del lists
    kind = chance.choice(("first", "first", "title", "upper", "lower"))
    text = example.text
    if kind == "first":
        changed = text[:1].upper() + text[1:]
    elif kind == "title":
        changed = string.capwords(text, " ")
    else:
        changed = text.upper() if kind == "upper" else text.lower()
    if len(changed) != len(text):  # letters that are two when large
        return example
    return Example(text=changed, label=example.label, spans=example.spans)


def _mistyped(
    example: Example, chance: random.Random, lists: Mapping[str, Sequence[str]]
) -> Example:
    del lists
    long = [word for word in _words(example) if len(word[0]) >= LEAST_TYPO]
    if not long:
        return example
    word = chance.choice(long)
    place = word.start() + chance.randrange(1, len(word[0]))
    letter = example.text[place]
    kind = chance.choice(("drop", "double", "swap", "near", "other"))
    if kind == "drop":
        return edited(example, place, place + 1, "")
    if kind == "double":
        return edited(example, place, place, letter)
    if kind == "swap":
        return edited(example, place - 1, place + 1, letter + example.text[place - 1])
    new = chance.choice(string.ascii_lowercase)
    if kind == "near":
        row = next((row for row in KEYS if letter.lower() in row), KEYS[0])
        at = max(row.find(letter.lower()), 0)
        new = row[min(max(at + chance.choice((-1, 1)), 0), len(row) - 1)]
    return edited(example, place, place + 1, new)


def _twice_mistyped(
    example: Example, chance: random.Random, lists: Mapping[str, Sequence[str]]
) -> Example:
    return _mistyped(_mistyped(example, chance, lists), chance, lists)


def _dropped(
    example: Example, chance: random.Random, lists: Mapping[str, Sequence[str]]
) -> Example:
    del lists
    small = [
        word
        for word in _words(example)
        if word[0].lower() in DROPPED
        and not any(s.start <= word.start() < s.end for s in example.marked)
        and word.end() < len(example.text)
    ]
    if not small:
        return example
    word = chance.choice(small)
    return edited(example, word.start(), word.end() + 1, "")


def _joined(
    example: Example, chance: random.Random, lists: Mapping[str, Sequence[str]]
) -> Example:
    del lists
    gaps = [
        place
        for place, letter in enumerate(example.text)
        if letter == " "
        and 0 < place < len(example.text) - 1
        and not any(place in {s.start - 1, s.end} for s in example.marked)
    ]
    if not gaps:
        return example
    place = chance.choice(gaps)
    return edited(example, place, place + 1, "")


def _misheard(
    example: Example, chance: random.Random, lists: Mapping[str, Sequence[str]]
) -> Example:
    return _exchanged(example, chance, lists["heard"])


def _as_digits(
    example: Example, chance: random.Random, lists: Mapping[str, Sequence[str]]
) -> Example:
    example = _exchanged(example, chance, lists["numbers"])
    time = CLOCK.search(example.text)
    if time is None:
        return example
    wanted = (time[1] or "o").lower()
    same = [one for one in lists["clock"] if one.lower()[0] == wanted]
    words = chance.choice(same) if same else time[0]
    return edited(example, time.start(), time.end(), words)


def _exchanged(
    example: Example, chance: random.Random, pairs: Sequence[Sequence[str]]
) -> Example:
    """Return the example with one word for another, of pairs, if it has any."""
    lowered = example.text.lower()
    words = []
    for one, other in pairs:
        for here, there in ((one, other), (other, one)):
            place = re.search(rf"(?<!\w){re.escape(here)}(?!\w)", lowered)
            if place:
                words.append((place.start(), place.end(), there))
    if not words or len(lowered) != len(example.text):
        return example
    return edited(example, *chance.choice(words))


def _renamed(
    example: Example, chance: random.Random, lists: Mapping[str, Sequence[str]]
) -> Example:
    """Return the example with a made-up name for one of its names."""
    names = [
        span
        for span in example.outermost()
        if any(part in span.label.lower() for part in lists["named"])
    ]
    if not names or len(names) != len({span.start for span in names}):
        return example
    span = chance.choice(names)
    return edited(example, span.start, span.end, made_up(chance, lists))


def made_up(chance: random.Random, lists: Mapping[str, Sequence[str]]) -> str:
    """Return one or two words that sound like a name and are none."""

    def word() -> str:
        parts = (
            chance.choice(lists["onsets"]) + chance.choice(lists["rhymes"])
            for _ in range(chance.choice((2, 2, 3)))
        )
        return "".join(parts)

    whole = " ".join(word() for _ in range(chance.choice((1, 1, 1, 2))))
    return chance.choice((whole, whole, string.capwords(whole)))


WHOLE = {"named", "clock", "onsets", "rhymes", "numbers", "heard"}
CHANGES: Sequence[tuple[str, Change, int]] = (
    ("polite", _polite, 6),
    ("thanked", _thanked, 4),
    ("woken", _woken, 2),
    ("filled", _filled, 2),
    ("marked", _marked, 5),
    ("capitals", _capitals, 3),
    ("mistyped", _mistyped, 4),
    ("twice mistyped", _twice_mistyped, 2),
    ("dropped", _dropped, 2),
    ("joined", _joined, 1),
    ("misheard", _misheard, 2),
    ("as digits", _as_digits, 2),
    ("renamed", _renamed, 3),
)
