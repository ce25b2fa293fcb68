"""Which tags follow which, counted in the training examples.

The network tags each word from its context, but independently of the other tags.
Counting shows that an artist seldom follows a track without a word between. For each
pair of tags the matrix holds how much likelier the second is after the first than
anywhere (pointwise mutual information), times WEIGHT. That is half of a CRF, without
its training.
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
LEAST = 6.0  # the bound of the information: an unseen pair is unlikely, not impossible


def transitions(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    catalogue: Catalogue,
    caution: float,
) -> NDArray[np.float32]:
    """Return levels x (tags + 1) x (tags + 1); the last tag is the edge of a text.

    `caution` is subtracted from the score of every word that is no entity: the larger
    it is, the more entities are found, right or wrong.
    """
    edge = catalogue.tags
    counts = np.zeros((catalogue.levels, edge + 1, edge + 1))
    for example in examples:
        for row in rows(example, tokenizer, catalogue)[:1]:
            for level, tags in enumerate(row.tags):
                path = [edge, *(tag for tag in tags if tag != IGNORED), edge]
                np.add.at(counts[level], (path[:-1], path[1:]), 1)
    scores = np.stack([_information(level) for level in counts]) * WEIGHT
    scores[:, :, 0] -= caution
    return scores.astype(np.float32)


def _information(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    share = (counts.sum(axis=0) + 0.5) / (counts.sum() + 0.5 * len(counts))
    smoothed = counts + share  # an unseen pair counts as much as its second tag does
    after = smoothed / smoothed.sum(axis=1, keepdims=True)
    information: NDArray[np.float64] = np.log(after / share)
    return np.clip(information, -LEAST, LEAST)
