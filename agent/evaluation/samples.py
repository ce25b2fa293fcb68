"""Labelled texts with what the tiers say of them: some fit scores, others certify."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from agent.core.types import Entity, RawPrediction
from agent.evaluation.examples import Example, Span
from agent.evaluation.scoring import place

LEAST = 40  # texts; with fewer nothing can be fitted, let alone certified
FITTING = 0.3  # of the texts fit the scores


@dataclass(frozen=True, slots=True)
class CalibrationSample:
    """A labelled text and what every tier says of it, cheapest first."""

    example: Example
    guesses: Sequence[RawPrediction]

    def label_right(self, tier: int) -> bool:
        """Whether the tier gave the true label; never so for one it cannot give."""
        return self.guesses[tier].label == self.example.label

    def entities_right(self, tier: int) -> bool:
        """Whether the tier found all entities and no other."""
        return places(self.guesses[tier].entities) == places(self.example.marked)


def places(spans: Sequence[Entity | Span]) -> set[tuple[int, int, str]]:
    """Return what must agree for two sets of entities to be the same."""
    return {place(span) for span in spans}


def parted(
    heard: Sequence[CalibrationSample],
) -> tuple[list[CalibrationSample], list[CalibrationSample]]:
    """Part the texts by their hash, the same way each time: to fit, and to certify.

    A text that comes again is hashed with how often it came before. Were its copies
    kept together, those of a frequent one might all fit, and none certify.
    """
    parts: tuple[list[CalibrationSample], list[CalibrationSample]] = ([], [])
    seen: Counter[str] = Counter()
    for one in heard:
        text = one.example.text
        again = f"\0{seen[text]}" if seen[text] else ""
        seen[text] += 1
        digest = hashlib.sha256(f"{text}{again}".encode("utf-8", "surrogatepass"))
        parts[digest.digest()[0] >= FITTING * 256].append(one)
    return parts
