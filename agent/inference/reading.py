"""A message as the tiers read it: without the courtesies around it, slips mended.

Nor is a mark at its end read, if few texts that were taught have one there.

A word that nobody taught and that is one slip of the fingers from a word that was
taught often ("lihgts") is read as that. What is found in the words that are read lies
on what was typed.
"""

import itertools
import re
from collections.abc import Mapping
from pathlib import Path

from agent.inference.courtesies import bare
from agent.inference.folding import View
from agent.inference.utterance import tokens_of

WORD = re.compile(r"(?<![\w'])[A-Za-z]{4,20}(?![\w'])")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
MARKS = ".?!"
ENDINGS = "sdrny"
MOST = 40  # strange words of a text that are looked at: each has some 600 slips
SURE = 5  # letters from which on the first one may be wrong, too


def slips(word: str) -> set[str]:
    """Return all words one slip away: a letter dropped, added, swapped or another."""
    parts = [(word[:place], word[place:]) for place in range(len(word) + 1)]
    dropped = [ahead + rest[1:] for ahead, rest in parts if rest]
    swapped = [a + rest[1] + rest[0] + rest[2:] for a, rest in parts if len(rest) > 1]
    added = [ahead + letter + rest for ahead, rest in parts for letter in LETTERS]
    other = [
        ahead + letter + rest[1:] for ahead, rest in parts if rest for letter in LETTERS
    ]
    return {*dropped, *swapped, *added, *other}


def _inflected(word: str, other: str) -> bool:
    """Tell whether one word is the other with an ending: "lists", "messaged"."""
    short, long = sorted((word, other), key=len)
    return long[:-1] == short and long[-1] in ENDINGS


class Reading:
    """What is read for what is typed."""

    def __init__(self, words: Mapping[str, int]) -> None:
        """Take words in small letters, and how often each was taught.

        A word with the count 0 stands for itself, and is read for no other. Of the
        marks `.?!` at the end of a text those are read that are among the words.
        """
        self._words = words
        self._unread = "".join(mark for mark in MARKS if mark not in words)

    def view(self, text: str) -> View:
        """Return the text as it is read, each character with its place."""
        start, end = self._message(text)
        parts: list[str] = []
        starts: list[int] = []
        ends: list[int] = []
        at = start
        strange = filter(self._is_strange, WORD.finditer(text, start, end))
        for match in itertools.islice(strange, MOST):
            word = self._meant(match[0].lower())
            if word is None:
                continue
            first, last = match.span()
            parts += [text[at:first], word]
            starts += [*range(at, first), *[first] * len(word)]
            ends += [*range(at + 1, first + 1), *[last] * len(word)]
            at = last
        if not parts and (start, end) == (0, len(text)):
            return View(text)
        parts.append(text[at:end])
        starts += range(at, end)
        ends += range(at + 1, end + 1)
        return View("".join(parts), tuple(starts), tuple(ends))

    def _message(self, text: str) -> tuple[int, int]:
        """Return where the text without its courtesies begins and ends."""
        tokens = tokens_of(text)
        first, last = bare([token.word for token in tokens])
        whole = (first, last) == (0, len(tokens))
        start = tokens[first].start if first else 0
        end = len(text) if whole else tokens[last - 1].end
        read = text[start:end].rstrip()
        bared = read.rstrip(self._unread)
        return start, start + len(bared) if bared not in {"", read} else end

    def _is_strange(self, match: re.Match[str]) -> bool:
        """Tell whether a word is neither known nor a name."""
        typed = match[0]
        name = typed[0].isupper() and not typed.isupper() and match.start() > 0
        return not name and typed.lower() not in self._words

    def _meant(self, word: str) -> str | None:
        """Return the taught word that a strange one is a slip of; None: of none."""
        meant = [
            (count, other)
            for other in self._words.keys() & slips(word)
            if (count := self._words[other])
            and (len(word) >= SURE or other[0] == word[0])
            and not _inflected(word, other)
        ]
        return max(meant)[1] if meant else None


def open_reading(folder: Path, name: str | None) -> Reading | None:
    """Open a bundle's table of words; None where it has none.

    Raises OSError, and ValueError for what is no table.
    """
    return read_words((folder / name).read_text("utf-8")) if name else None


def read_words(lines: str) -> Reading:
    """Read a table: a word, a tab, how often it was taught; raises ValueError."""
    words = {}
    for line in lines.splitlines():
        word, _, count = line.partition("\t")
        if not (word and count.isdecimal()):
            raise ValueError(f"no line of a table of words: {line[:60]!r}")
        words[word] = int(count)
    return Reading(words)
