"""Entities from per-word tag scores: BIO tags, decoded so that they are legal."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float32]


def best_tags(log_probs: Scores) -> list[int]:
    """Return the most probable legal tag of each word (Viterbi).

    `log_probs`: words x tags; tag 0 is O, 1 + 2e is B-e, 2 + 2e is I-e. I-e may only
    follow B-e or I-e; all other transitions are free, so that one step costs
    O(tags) instead of O(tags squared).
    """
    words, tags = log_probs.shape
    if words == 0:
        return []
    inside = np.arange(2, tags, 2)
    came_from = np.zeros((words, tags), dtype=np.int64)
    score = log_probs[0].copy()
    score[inside] = -np.inf
    for word in range(1, words):
        best = int(score.argmax())
        came_from[word] = best
        reached = np.full(tags, score[best], dtype=score.dtype)
        begun, continued = score[inside - 1], score[inside]
        from_begin = begun >= continued
        came_from[word, inside] = np.where(from_begin, inside - 1, inside)
        reached[inside] = np.where(from_begin, begun, continued)
        score = reached + log_probs[word]
    tag = int(score.argmax())
    path = [tag]
    for word in range(words - 1, 0, -1):
        tag = int(came_from[word, tag])
        path.append(tag)
    return path[::-1]


def runs(tags: Sequence[int]) -> list[tuple[int, int, int]]:
    """Return (entity, first word, last word) of each entity in a legal tag sequence."""
    found: list[tuple[int, int, int]] = []
    for word, tag in enumerate(tags):
        if tag == 0:
            continue
        entity = (tag - 1) // 2
        if tag % 2 == 1:
            found.append((entity, word, word))
        else:
            found[-1] = (entity, found[-1][1], word)
    return found
