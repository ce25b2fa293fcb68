"""The words by which a bundle reads its texts (agent/inference/reading.py)."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from agent.evaluation.examples import Example
from agent.inference.reading import MARKS, slips

# Texts from which on a word is one that others may be slips of; in entities names are
# more often what they are than a slip.
TAUGHT, NAMED = 3, 10
LEAST = 4  # letters
MARKED = 0.05  # of the texts end with a mark, or it is not read
WORD = re.compile(r"[a-z]+")


def word_table(examples: Sequence[Example], dictionary: Iterable[str]) -> str:
    """Return a table of words: those taught, with counts, and those like them, with 0.

    `dictionary` has words of the language: one of them is no slip of another word.
    """
    counts: Counter[str] = Counter()
    plain: Counter[str] = Counter()  # not in entities
    for example in examples:
        counts.update({*WORD.findall(example.text.lower())})
        plain.update({*WORD.findall(_around(example).lower())})
    taught = {
        word: count
        for word, count in counts.items()
        if len(word) >= LEAST and (count >= NAMED or plain[word] >= TAUGHT)
    }
    alike = {other for word in taught for other in slips(word)}
    marks = Counter(example.text[-1:] for example in examples)
    usual = {m: marks[m] for m in MARKS if marks[m] >= MARKED * len(examples)}
    real = {*counts, *dictionary} & alike - taught.keys()
    table = {
        **usual,
        **taught,
        **dict.fromkeys((w for w in real if len(w) >= LEAST), 0),
    }
    return "".join(f"{word}\t{count}\n" for word, count in sorted(table.items()))


def _around(example: Example) -> str:
    """Return the text without its entities."""
    parts, at = [], 0
    for span in sorted(example.spans or (), key=lambda span: span.start):
        parts.append(example.text[at : span.start])
        at = max(at, span.end)
    return " ".join([*parts, example.text[at:]])
