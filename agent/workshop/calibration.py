"""Calibration: scores that mean what they say, and the score from which to trust.

Everything is asked of the quantised model through the code that ships, one text at a
time, on data that was never trained on.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from agent.certify import Certificate, Claim, certify
from agent.examples import Example
from agent.families.encoder import EncoderSpec
from agent.types import Prediction
from agent.workshop.scoring import entity_outcomes, label_outcomes, log_loss

MAX_ERRORS = (0.01, 0.02, 0.03, 0.05, 0.07, 0.10, 0.15, 0.20)
COLDEST, HOTTEST = 0.4, 2.5

Ask = Callable[[EncoderSpec], list[Prediction]]


def temperatures(
    spec: EncoderSpec, examples: Sequence[Example], ask: Ask
) -> EncoderSpec:
    """Return the spec with the temperatures whose scores are the least surprising.

    Guo et al. 2017, but scored by what is published: the top label and whole
    entities. Both are searched in the same passes, coarse and then fine.
    """
    grid = np.geomspace(COLDEST, HOTTEST, 12).tolist()
    label = entity = 1.0
    losses: dict[float, tuple[float, float]] = {}
    for _ in range(2):
        for heat in grid:
            losses[heat] = _losses(_heated(spec, heat, heat), examples, ask)
        label = min(losses, key=lambda heat: losses[heat][0])
        entity = min(losses, key=lambda heat: losses[heat][1])
        grid = sorted(
            {*_around(label, sorted(losses)), *_around(entity, sorted(losses))}
        )
    return _heated(spec, round(label, 4), round(entity, 4))


def _heated(spec: EncoderSpec, label: float, entity: float) -> EncoderSpec:
    heat = {"label_temperature": label, "entity_temperature": entity}
    return spec.model_copy(update=heat)


def _losses(
    spec: EncoderSpec, examples: Sequence[Example], ask: Ask
) -> tuple[float, float]:
    found = ask(spec)
    labels = label_outcomes(examples, found)
    entities = entity_outcomes(examples, found)
    return (
        log_loss(labels) if labels else math.inf,
        log_loss(entities) if entities else math.inf,
    )


def _around(best: float, tried: Sequence[float]) -> list[float]:
    """Return points between the best and its neighbours."""
    between = []
    for left, right in pairwise(tried):
        if best in (left, right):
            between += np.geomspace(left, right, 4)[1:-1].tolist()
    return between


def halves(
    examples: Sequence[Example],
) -> tuple[list[Example], list[Example]]:
    """Split calibration data in two, by the hash of the text: the same way each time.

    The first half makes the scores, the second certifies thresholds on them: a
    certificate is worth nothing on data that its scores were fitted to.
    """
    parts: tuple[list[Example], list[Example]] = ([], [])
    for example in examples:
        parts[hashlib.sha256(example.text.encode()).digest()[0] % 2].append(example)
    return parts


def thresholds(outcomes: Sequence[Claim]) -> list[Certificate]:
    """Return a certificate for each error that the data can carry."""
    found = (certify(outcomes, level) for level in MAX_ERRORS)
    return [certificate for certificate in found if certificate]
