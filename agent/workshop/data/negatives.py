"""What is none of a bundle's business: other domains, other languages, nonsense.

A model that has only seen its own texts is sure of everything. These examples carry
the label of what is outside; each epoch draws new ones.
"""

import random
import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

from agent.evaluation.examples import Example, read_examples
from agent.workshop.data.recipe import Other, Outside
from agent.workshop.data.strangers import in_part, strangers

FOREIGN = Path(__file__).parent / "foreign.txt"
# Locales of Faker whose `sentence` is made of words of the language, Latin and other.
LOCALES = (
    *("de_DE", "fr_FR", "nl_NL", "pl_PL", "cs_CZ", "da_DK", "la", "vi_VN"),
    *("ru_RU", "el_GR", "ja_JP", "zh_CN", "ar_AA", "he_IL", "th_TH", "ko_KR"),
)
KEYS = "qwertyuiopasdfghjklzxcvbnm"
MARKS = "0123456789.,:;-/#*()[]{}<>=+%&@!?$"
CAT = 0.2  # of the nonsense is a cat on the keyboard
# Words that ask for nothing. Not `on`, `off`, `up`, `down`, `yes` or `no`, which may.
FILLERS = (
    "a about after all also am an and any are as at be because been but by can could "
    "did do does for from had has have he her him his i if in into is it its just like "
    "me my of or our she so some than that the their them then there they this to us "
    "very was we were which will with would you your"
)
LOAN = 4  # letters of a word that may be borrowed
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
    outside: Outside,
    data: Path,
    own: Sequence[str],
    ours: Sequence[str],
    split: str = "train",
    bundle: str = "",
    dictionary: Sequence[str] = (),
) -> Negatives:
    """Return the sources of a recipe.

    `own` are the texts of our data that are outside, `ours` those that are not.
    `split` is the file taken of other domains: what validates must not be what taught.
    `bundle` has near-misses of its own, if it ships; of `dictionary` words are drawn.
    """
    sources: list[Source] = [
        _any_of(_lines(data, other, split)) for other in outside.others
    ]
    if outside.foreign:
        foreign = _foreign(split)
        sources += [_any_of(foreign), _spoken_elsewhere(split)]
        sources.append(_with_loans(foreign, ours))
    if outside.strangers:
        sources += strangers(bundle, split, dictionary, ours)
    if outside.nonsense:
        sources += [nonsense, _fragments(ours)]
    return Negatives(outside.label, own, sources, round(outside.share * len(ours)))


def _any_of(texts: Sequence[str]) -> Source:
    return lambda chance: chance.choice(texts)


def of_others(path: Path, without: Sequence[str]) -> list[Example]:
    """Return the examples of a file but for those with one of these labels (globs)."""
    return [
        example
        for example in read_examples(path)
        if not any(fnmatchcase(example.label or "", glob) for glob in without)
    ]


def _texts(path: Path, without: Sequence[str]) -> list[str]:
    return [example.text for example in of_others(path, without)]


def _lines(data: Path, other: Other, split: str) -> list[str]:
    """Return the texts of a split; a file without parts is parted by its texts."""
    texts = _texts(data / other.file.format(split=split), other.without)
    return [text for text in texts if in_part(text, split)] if other.parted else texts


def _foreign(split: str) -> list[str]:
    """Return sentences in other languages; every fourth is kept for validation."""
    lines = FOREIGN.read_text("utf-8").splitlines()
    return [
        line
        for number, line in enumerate(line for line in lines if line.strip())
        if (number % 4 == 0) == (split == "valid")
    ]


@cache
def _sentences(locale: str, split: str) -> list[str]:
    """Return sentences of random words; others to validate with than taught."""
    from faker import Faker

    speaker = Faker(locale)
    speaker.seed_instance(1 if split == "train" else split)
    return [speaker.sentence(nb_words=7) for _ in range(300)]


def _spoken_elsewhere(split: str) -> Source:
    return lambda chance: chance.choice(_sentences(chance.choice(LOCALES), split))


def _with_loans(foreign: Sequence[str], ours: Sequence[str]) -> Source:
    """Return what mixes words of ours into another language: "alarm um 7"."""
    words = (word for text in ours for word in text.lower().split())
    loans = sorted({word for word in words if word.isalpha() and len(word) >= LOAN})

    def mixed(chance: random.Random) -> str:
        words = chance.choice(foreign).split()
        start = chance.randrange(max(1, len(words) - 1))
        kept = words[start : start + chance.randint(2, 5)]
        for _ in range(chance.randint(1, 2) if loans else 0):
            kept.insert(chance.randint(0, len(kept)), chance.choice(loans))
        return " ".join(kept)

    return mixed


def _fragments(ours: Sequence[str]) -> Source:
    """Return what says a word that asks for nothing, a number or a single sign.

    But for those that are all of a text of ours.
    """
    asked = {text.casefold().strip() for text in ours}
    signs = string.ascii_lowercase + MARKS
    texts = [*FILLERS.split(), *map(str, range(100)), *dict.fromkeys(signs)]
    return _any_of([text for text in texts if text not in asked])


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
