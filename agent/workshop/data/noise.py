"""How hurried people and old machines write: small letters, slips, lost accents."""

# ruff: noqa: PLR2004 - shares of the whole, each said once and beside what it shares

import random
import re
import unicodedata

from agent.workshop.data.personal_values import Piece

_WORD = re.compile(r"[a-z]{5,}")
_UNSPOKEN = re.compile(r"\s*[.,;:!?]+(?=\s|$)\s*")


def noisy(pieces: list[Piece], chance: random.Random) -> list[Piece]:
    """Return the pieces as hurried people and old machines write them."""
    draw = chance.random()
    if draw < 0.06:
        pieces = [(text.lower(), label) for text, label in pieces]
        if draw < 0.03:  # as speech is written down
            pieces = [
                (text if label else _UNSPOKEN.sub(" ", text), label)
                for text, label in pieces
            ]
    elif draw < 0.09:
        pieces = [(text.upper(), label) for text, label in pieces]
    elif draw < 0.17:
        pieces = [*pieces[:-1], (pieces[-1][0].rstrip(".!?"), pieces[-1][1])]
    elif draw < 0.22:
        pieces = [
            (text if label else _mistyped(text, chance), label)
            for text, label in pieces
        ]
    elif draw < 0.25:
        pieces = [
            (text if label else text.replace(" ", "  ", 2), label)
            for text, label in pieces
        ]
    elif draw < 0.28:
        pieces = [
            (text if label else re.sub(r"(?<=\w)'(?=\w)", "", text), label)
            for text, label in pieces
        ]
    elif draw < 0.3:
        pieces = [
            (text.replace("'", "\N{RIGHT SINGLE QUOTATION MARK}"), label)
            for text, label in pieces
        ]
    if chance.random() < 0.1:
        pieces = [(_bare(text), label) for text, label in pieces]
    return pieces


def _mistyped(text: str, chance: random.Random) -> str:
    """Return the text with a letter of some longer words doubled, lost or moved."""

    def mistype(match: re.Match[str]) -> str:
        word = match[0]
        if chance.random() > 0.2:
            return word
        at = chance.randint(1, len(word) - 2)
        two = word[at : at + 2]
        other = chance.choice((two[::-1], two[1], two[0] * 2 + two[1]))
        return word[:at] + other + word[at + 2 :]

    return _WORD.sub(mistype, text)


def _bare(text: str) -> str:
    """Return the text without accents."""
    split = unicodedata.normalize("NFD", text)
    return "".join(char for char in split if not unicodedata.combining(char))
