"""What is outside though it reads like a request, or like nothing at all.

Near-misses of each bundle and prose written for this (strangers.toml), lines of other
data sets that have one file only, words of the dictionary one by one or in no order.
"""

import hashlib
import random
import re
import tomllib
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from agent.workshop.data.speech import KEPT, accent, made_up

FILE = Path(__file__).parent / "strangers.toml"
SLOT = re.compile(r"\{(name|place|number)\}")
WORDS = 8  # of a text of words in no order, at most
LEAST = 3  # letters of a word of the dictionary

Source = Callable[[random.Random], str]


def strangers(
    bundle: str, split: str, dictionary: Sequence[str], ours: Iterable[str]
) -> list[Source]:
    """Return all sources: near-misses count twice, prose three times."""
    near = near_misses(bundle, split)
    sources = [prose(split)] * 3 + ([near, near] if near else [])
    return [*sources, jumbled(dictionary, ours)] if dictionary else sources


def near_misses(bundle: str, split: str) -> Source | None:
    """Return what says near-misses of a shipped bundle; None where there are none."""
    lines = _read()["near"].get(bundle)
    return _filled(_part(lines, split), split) if lines else None


def prose(split: str) -> Source:
    """Return what says lines of mail, reviews, chats, news, logs and stories."""
    return _filled(_part(_read()["prose"], split), split)


@cache
def _read() -> dict[str, Any]:
    return tomllib.loads(FILE.read_text("utf-8"))


def _part(lines: Sequence[str], split: str) -> list[str]:
    kept = split == "valid"
    return [
        one for number, one in enumerate(lines) if (number % KEPT == KEPT - 1) == kept
    ]


def _filled(lines: Sequence[str], split: str) -> Source:
    lists = accent(split).lists

    def said(chance: random.Random) -> str:
        def words(match: re.Match[str]) -> str:
            if match[1] == "number":
                return str(chance.randint(2, 999))
            return made_up(chance, lists)

        return SLOT.sub(words, chance.choice(lines))

    return said


def in_part(text: str, split: str) -> bool:
    """Tell whether a line of a file that has no parts belongs to a split."""
    digest = hashlib.sha256(f"part\0{text}".encode("utf-8", "surrogatepass"))
    return (digest.digest()[0] % KEPT == 0) == (split == "valid")


def jumbled(dictionary: Sequence[str], ours: Iterable[str]) -> Source:
    """Return what says a word or several in no order, none of them all of a text."""
    asked = {text.casefold().strip() for text in ours}
    words = [word for word in dictionary if len(word) >= LEAST and word not in asked]

    def said(chance: random.Random) -> str:
        if chance.random() < 1 / 3:
            return chance.choice(words)
        some = (chance.choice(words) for _ in range(chance.randint(2, WORDS)))
        text = " ".join(some)
        return text if text not in asked else chance.choice(words)

    return said
