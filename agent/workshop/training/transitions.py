"""Which tags follow which: what the examples say beyond what the network sees.

A word is tagged from its context, but each by itself. That an artist seldom follows a
track without a word between is known from counting. The matrix holds, for each pair of
tags, how much likelier the second is after the first than anywhere (pointwise mutual
information), times WEIGHT. Half a CRF, without its training.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from agent.evaluation.examples import Example
from agent.workshop.data.catalogue import Catalogue
from agent.workshop.data.features import IGNORED, rows

TRANSITIONS = "transitions.npy"
WEIGHT = 0.3  # span F1 on HWU64 and SNIPS is flat from 0.1 to 0.5
LEAST = 6.0  # a pair never seen is so much less likely, but not impossible


def transitions(
    examples: Sequence[Example], tokenizer: Tokenizer, known: Catalogue, caution: float
) -> NDArray[np.float32]:
    """Return levels x (tags + 1) x (tags + 1); the last stands for a text's edge.

    `caution` is taken from the score of every word that is no entity: the larger, the
    more is found, right or wrong.
    """
    edge = known.tags
    counts = np.zeros((known.levels, edge + 1, edge + 1))
    for example in examples:
        for row in rows(example, tokenizer, known)[:1]:
            for level, tags in enumerate(row.tags):
                said = [edge, *(tag for tag in tags if tag != IGNORED), edge]
                np.add.at(counts[level], (said[:-1], said[1:]), 1)
    found = np.stack([_information(level) for level in counts]) * WEIGHT
    found[:, :, 0] -= caution
    return found.astype(np.float32)


def _information(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    share = (counts.sum(axis=0) + 0.5) / (counts.sum() + 0.5 * len(counts))
    smoothed = (
        counts + share
    )  # a pair never seen counts as often as its second tag does
    after = smoothed / smoothed.sum(axis=1, keepdims=True)
    information: NDArray[np.float64] = np.log(after / share)
    return np.clip(information, -LEAST, LEAST)
