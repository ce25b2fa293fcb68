"""What people say around a request for courtesy: where it ends, and where it begins.

"Good morning, I hope you are well, could you possibly dim the lamp? Many thanks!" asks
to dim the lamp. Models read that; what they were taught has few courtesies of such
length, and would take them for the message.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path

from agent.inference.form_words import STOPS, words
from agent.inference.utterance import Words

_CHOICE = re.compile(r"\(([^)]*)\)")
Phrases = Mapping[str, Mapping[int, AbstractSet[tuple[str, ...]]]]
LEAST = 2  # words that must be left
SHORT = 3  # words in front that are left where they are: "good morning, ..."
MOST = 12  # courtesies one behind the other
HOPED = 10  # words of "i hope you are having a lovely day"
ENDS = frozenset(".?!")  # of the message itself
NAMED = 2  # words of a name and the comma before it


def phrases(table: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """Yield all phrases of a table; `(a|b|)` is a choice of words."""
    for line in table:
        parts = enumerate(_CHOICE.split(line))
        choices = [part.split("|") if odd % 2 else [part] for odd, part in parts]
        for chosen in itertools.product(*choices):
            yield tuple(" ".join(chosen).split())


def by_length(some: Iterable[tuple[str, ...]]) -> Phrases:
    """Return phrases by first word and length, the longest first."""
    table: dict[str, dict[int, set[tuple[str, ...]]]] = {}
    for phrase in sorted(some, key=len, reverse=True):
        table.setdefault(phrase[0], {}).setdefault(len(phrase), set()).add(phrase)
    return table


_LINES = (Path(__file__).parent / "courtesies.txt").read_text("utf-8").splitlines()
_AHEAD, _BEHIND = _LINES[: _LINES.index("")], _LINES[_LINES.index("") + 1 :]
AHEAD = by_length(phrases(line for line in _AHEAD if line[0] != "#"))
BEHIND = by_length(tuple(reversed(phrase)) for phrase in phrases(_BEHIND))
HOPING = frozenset({"hope", "trust"})
HOPED_OF = words("you you're your this everyone everything all things it i'm i")
ASKING_NOW = words("could can would will please")


def bare(message: Words) -> tuple[int, int]:
    """Return where the message in these words and stops begins, and where it ends.

    All of them where what is around it is short, or is all there is.
    """
    start = _repeated(_after_one, message)
    end = len(message) - _repeated(_before_one, [*reversed(message)])
    cut = sum(word not in STOPS for word in message[:start])
    start = start if cut >= SHORT else 0
    while 0 < start < end and message[start] in STOPS:
        start += 1
    while start < end < len(message) and message[end - 1] in STOPS - ENDS:
        end -= 1
    left = sum(word not in STOPS for word in message[start:end])
    return (start, end) if left >= LEAST else (0, len(message))


def _repeated(step: Callable[[Words, int], int], message: Words) -> int:
    """Return where one courtesy after the other ends."""
    place = 0
    for _ in range(MOST):
        after = step(message, place)
        if after == place:
            break
        place = after
    return place


def _after_one(message: Words, place: int) -> int:
    """Return where the next courtesy in front ends; the place itself: there is none."""
    at = place
    while at < len(message) and message[at] in STOPS:
        at += 1
    hoping = at + (message[at : at + 1] in (["i"], ["we"]))
    verb = message[hoping : hoping + 1]
    if verb and verb[0] in HOPING and set(message[hoping + 1 : hoping + 2]) & HOPED_OF:
        ends = STOPS | ASKING_NOW
        reach = range(hoping + 2, min(len(message), hoping + HOPED))
        return next((end for end in reach if message[end] in ends), place)
    return _behind_phrase(message, at, AHEAD) or place


def _before_one(turned: Words, place: int) -> int:
    """Do the same with a courtesy behind, in the words from the last to the first."""
    at = place
    while at < len(turned) and turned[at] in STOPS | {"and"}:
        at += 1
    named = turned[at + 1 : at + 1 + NAMED]
    if "regards" in named:  # "kind regards, Anna"
        at += 1 + [*named].index("regards")
    return _behind_phrase(turned, at, BEHIND) or place


def _behind_phrase(words_: Words, at: int, table: Phrases) -> int:
    """Return where the longest phrase that stands at a place ends; 0: none does."""
    known = table.get(words_[at], {}) if at < len(words_) else {}
    lengths = (
        size for size, some in known.items() if tuple(words_[at : at + size]) in some
    )
    return at + size if (size := next(lengths, 0)) else 0
