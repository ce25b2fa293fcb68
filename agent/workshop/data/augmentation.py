"""Small untruths that teach: other entities of the same label in the same sentence."""

import random
from collections.abc import Iterable

from agent.evaluation.examples import Example, Span

EXCHANGED = 0.5  # of the entities in a text that is chosen for it

Pool = dict[str, list[str]]


def pool(examples: Iterable[Example]) -> Pool:
    """Return the different texts of each entity label."""
    values: dict[str, set[str]] = {}
    for example in examples:
        for span in example.marked:
            text = example.text[span.start : span.end]
            values.setdefault(span.label, set()).add(text)
    return {label: sorted(texts) for label, texts in values.items()}


def swap(example: Example, others: Pool, chance: random.Random) -> Example:
    """Return the example with some of its entities exchanged."""
    text, last, spans = "", 0, []
    for span in example.outermost():
        text += example.text[last : span.start]
        inside = example.text[span.start : span.end]
        if chance.random() < EXCHANGED:
            inside = chance.choice(others[span.label])
        end = len(text) + len(inside)
        spans.append(Span(start=len(text), end=end, label=span.label))
        text += inside
        last = span.end
    text += example.text[last:]
    return Example(text=text, label=example.label, spans=tuple(spans))
