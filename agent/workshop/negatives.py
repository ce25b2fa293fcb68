"""What is none of a bundle's business: other domains, other languages, nonsense.

A model that has only seen its own texts is sure of everything. These examples carry
the label of what is outside; each epoch draws new ones.
"""

import random
import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from agent.examples import Example, read_examples
from agent.workshop.recipe import Outside

FOREIGN = Path(__file__).parent / "foreign.txt"
# Locales of Faker whose `sentence` is made of words of the language, Latin and other.
LOCALES = (
    *("de_DE", "fr_FR", "nl_NL", "pl_PL", "cs_CZ", "da_DK", "la", "vi_VN"),
    *("ru_RU", "el_GR", "ja_JP", "zh_CN", "ar_AA", "he_IL", "th_TH", "ko_KR"),
)
KEYS = "qwertyuiopasdfghjklzxcvbnm"
MARKS = "0123456789.,:;-/#*()[]{}<>=+%&@!?$"
CAT = 0.2  # of the nonsense is a cat on the keyboard
OWN = 0.4  # of what is drawn, where there are texts of our own that are outside

Source = Callable[[random.Random], str]


@dataclass(frozen=True, slots=True)
class Negatives:
    """Where texts from outside come from."""

    label: str
    own: Sequence[str]
    sources: Sequence[Source]
    an_epoch: int

    def epoch(self, chance: random.Random) -> Iterator[Example]:
        """Yield the examples of one epoch."""
        for _ in range(self.an_epoch):
            yield self._one(chance)

    def some(self, number: int, seed: int = 0) -> list[Example]:
        """Return examples, the same each time."""
        chance = random.Random(seed)  # noqa: S311  no secret
        return [self._one(chance) for _ in range(number)]

    def _one(self, chance: random.Random) -> Example:
        if self.own and (not self.sources or chance.random() < OWN):
            text = chance.choice(self.own)
        else:
            text = chance.choice(self.sources)(chance)
        return Example(text=text, label=self.label)


def negatives(
    outside: Outside, data: Path, own: Sequence[str], among: int, split: str = "train"
) -> Negatives:
    """Return the sources of a recipe; `among` texts of our own there are in all.

    `split` is the file taken of other domains: what validates must not be what taught.
    """
    sources: list[Source] = [
        _any_of(_texts(data / other.file.format(split=split), other.without))
        for other in outside.others
    ]
    if outside.foreign:
        sources += [_any_of(_foreign(split)), _spoken_elsewhere]
    if outside.nonsense:
        sources.append(nonsense)
    return Negatives(outside.label, own, sources, round(outside.share * among))


def _any_of(texts: Sequence[str]) -> Source:
    return lambda chance: chance.choice(texts)


def _texts(path: Path, without: Sequence[str]) -> list[str]:
    return [
        example.text
        for example in read_examples(path)
        if not any(fnmatchcase(example.label or "", glob) for glob in without)
    ]


def _foreign(split: str) -> list[str]:
    """Return sentences in other languages; every fourth is kept for validation."""
    lines = FOREIGN.read_text("utf-8").splitlines()
    return [
        line
        for number, line in enumerate(line for line in lines if line.strip())
        if (number % 4 == 0) == (split == "valid")
    ]


_made: dict[str, list[str]] = {}


def _spoken_elsewhere(chance: random.Random) -> str:
    locale = chance.choice(LOCALES)
    if locale not in _made:
        from faker import Faker

        speaker = Faker(locale)
        speaker.seed_instance(1)
        _made[locale] = [speaker.sentence(nb_words=7) for _ in range(300)]
    return chance.choice(_made[locale])


def nonsense(chance: random.Random) -> str:
    """Return a text that means nothing in any language."""
    word = chance.choice((_any_letters, _syllables, _marks))
    if chance.random() < CAT:
        return _letters(chance, KEYS, longest=30)
    return " ".join(word(chance) for _ in range(chance.randint(1, 8)))


def _any_letters(chance: random.Random) -> str:
    return _letters(chance, string.ascii_lowercase)


def _marks(chance: random.Random) -> str:
    return _letters(chance, MARKS)


def _letters(chance: random.Random, alphabet: str, longest: int = 9) -> str:
    return "".join(chance.choice(alphabet) for _ in range(chance.randint(1, longest)))


def _syllables(chance: random.Random) -> str:
    return "".join(
        chance.choice("bcdfghjklmnpqrstvwxz") + chance.choice("aeiou")
        for _ in range(chance.randint(1, 4))
    )
