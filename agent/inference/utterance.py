"""The words of an utterance, and where its request begins after what is polite."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from agent.inference import form_words as known
from agent.inference.form_words import STOPS

TOKEN = re.compile(
    r"\d{1,2}:\d\d|[^\W_]+(?:'[^\W_]+)*|[.,;:!?&]|-+(?=\s)|\N{HORIZONTAL ELLIPSIS}"
)
APOSTROPHES = str.maketrans(
    {"\N{RIGHT SINGLE QUOTATION MARK}": "'", "\N{MODIFIER LETTER APOSTROPHE}": "'"}
)
MOST_OPENINGS = 24  # one behind the other

Words = Sequence[str]


@dataclass(frozen=True, slots=True)
class Token:
    """A word or stop, in small letters and spelt alike, and where it stands."""

    word: str
    start: int
    end: int


def tokens_of(text: str) -> list[Token]:
    """Return words and stops, in small letters, spelt alike, with their places."""
    tokens = []
    for match in TOKEN.finditer(text.translate(APOSTROPHES)):
        word = match[0].lower()
        tokens.append(Token(known.SPELT.get(word, word), *match.span()))
    return tokens


def words_of(text: str) -> list[str]:
    """Return words and stops, in small letters, spelt alike."""
    return [token.word for token in tokens_of(text)]


def plain(text: str) -> str:
    """Return the words of a text without what is polite before and behind it."""
    words = words_of(text)
    while words and (words[-1] in STOPS or words[-1] in {"please", "thanks", "thank"}):
        words.pop()
    return " ".join(words[opened(words) :])


def opened(words: Words) -> int:
    """Return where a request begins, after what is polite; 0 where nothing is left."""
    start = 0
    for _ in range(MOST_OPENINGS):
        while start < len(words) and words[start] in STOPS:
            start += 1
        if start == len(words):
            return 0
        end = next(
            (
                start + len(opening)
                for opening in known.OPENINGS.get(words[start], ())
                if are(words, start, opening)
            ),
            start,
        )
        if end in {start, len(words)}:
            break
        start = end
    return start


def are(words: Words, start: int, phrase: tuple[str, ...]) -> bool:
    """Tell whether the words from a place on are this phrase."""
    return tuple(words[start : start + len(phrase)]) == phrase


def following(words: Words, place: int) -> str:
    """Return the word after a place; empty where none is."""
    return words[place + 1] if place + 1 < len(words) else ""
