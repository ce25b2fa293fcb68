"""What the network sees of an example: token ids, and a tag on each word's first token.

Words are those of the tokenizer; entities are read off them at run time the same way
(`agent.inference.encoder`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tokenizers import Encoding, Tokenizer
from torch import Tensor

from agent.evaluation.examples import Example, Span
from agent.workshop.data.catalogue import Catalogue

IGNORED = -100  # torch's cross entropy passes over this target


@dataclass(frozen=True, slots=True)
class FeatureRow:
    """One window of one example."""

    ids: list[int]
    tags: list[list[int]]  # of each level; IGNORED on all but a word's first token
    label: int  # IGNORED where the example has none
    opinion: Tensor | None = None  # of teachers: a probability for each class


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows padded to the longest: examples x tokens (x levels, the tags)."""

    ids: Tensor
    mask: Tensor
    tags: Tensor
    labels: Tensor
    opinion: Tensor | None = None  # examples x classes

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on another device."""
        return Batch(
            self.ids.to(device),
            self.mask.to(device),
            self.tags.to(device),
            self.labels.to(device),
            None if self.opinion is None else self.opinion.to(device),
        )


def rows(example: Example, tokenizer: Tokenizer, known: Catalogue) -> list[FeatureRow]:
    """Return a row for each window of the text (one, if it fits the model)."""
    label = IGNORED if example.label is None else known.index(example.label)
    encoding = tokenizer.encode(example.text)
    levels = nested(example.marked, known.levels)
    outside = known.outside is not None and example.label == known.outside
    unsaid = outside or example.spans is None
    return [
        FeatureRow(
            part.ids, [_tags(part, spans, known, unsaid) for spans in levels], label
        )
        for part in (encoding, *encoding.overflowing)
    ]


def nested(spans: Sequence[Span], levels: int) -> list[list[Span]]:
    """Sort spans into levels: those that lie in no other, those that lie in these...

    What does not fit into the levels is left out.
    """
    left = sorted(spans, key=lambda span: (span.start, -span.end))
    layers = []
    for _ in range(levels):
        outermost: list[Span] = []
        inner = []
        for span in left:
            if not outermost or span.start >= outermost[-1].end:
                outermost.append(span)
            else:
                inner.append(span)
        layers.append(outermost)
        left = inner
    return layers


def _tags(
    encoding: Encoding,
    spans: Sequence[Span],
    known: Catalogue,
    unsaid: bool,  # noqa: FBT001
) -> list[int]:
    tags = [IGNORED] * len(encoding.ids)
    if unsaid:  # nobody said what its entities are
        return tags
    begun: set[int] = set()
    previous = None
    for token, word in enumerate(encoding.word_ids):
        if word is None or word == previous:
            continue
        previous = word
        tags[token] = 0
        position = encoding.offsets[token][0]
        for number, span in enumerate(spans):
            if span.start <= position < span.end:
                entity = known.entities.index(span.label)
                tags[token] = 1 + 2 * entity + (number in begun)
                begun.add(number)
    return tags


def collate(chosen: Sequence[FeatureRow]) -> Batch:
    """Pad rows to the longest; id 0 is padding."""
    width = max(len(row.ids) for row in chosen)
    ids = torch.zeros(len(chosen), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    tags = torch.full((len(chosen), width, len(chosen[0].tags)), IGNORED)
    for number, row in enumerate(chosen):
        length = len(row.ids)
        ids[number, :length] = torch.tensor(row.ids)
        mask[number, :length] = 1
        tags[number, :length] = torch.tensor(row.tags).T
    labels = torch.tensor([row.label for row in chosen])
    opinions = [row.opinion for row in chosen if row.opinion is not None]
    return Batch(ids, mask, tags, labels, torch.stack(opinions) if opinions else None)
