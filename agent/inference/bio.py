"""Decode entities from the tag scores of words: BIO tags in a legal order."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Following:
    """The log-score that a tag adds for following another; -inf where it may not.

    `into` is tags x tags with a row for the second tag, so that the best first tag of a
    row is found at once. `first` (tags) is for the first word of a text, `last` (tags)
    for the last one.
    """

    into: Scores
    first: Scores
    last: Scores


def following(transitions: Scores) -> Following:
    """Return the scores of a bundle's matrix, which is (tags + 1) x (tags + 1).

    Rows are the first tag, columns the second. The last row is for the first word of a
    text, the last column for the last word.
    """
    tags = len(transitions) - 1
    steps = transitions[:tags, :tags] + _illegal(tags)
    first = transitions[tags, :tags].copy()
    first[2::2] = -np.inf
    last = transitions[:tags, tags].copy()
    return Following(np.ascontiguousarray(steps.T), first, last)


def best_tags(log_probs: Scores, follow: Following | None = None) -> list[int]:
    """Return the most probable legal tag of each word (Viterbi).

    `log_probs` is words x tags; tag 0 is O, 1 + 2e is B-e, 2 + 2e is I-e of entity e.
    I-e may only follow B-e or I-e. Without `follow` all legal steps score the same, and
    a word costs O(tags) instead of O(tags squared).
    """
    if len(log_probs) == 0:
        return []
    if follow is not None:
        return _weighed(log_probs, follow)
    words, tags = log_probs.shape
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
    return _walked(came_from, int(score.argmax()))


def _weighed(log_probs: Scores, follow: Following) -> list[int]:
    words, tags = log_probs.shape
    came_from = np.zeros((words, tags), dtype=np.int64)
    score = log_probs[0] + follow.first
    every = np.arange(tags)
    for word in range(1, words):
        reached = follow.into + score
        best = reached.argmax(axis=1)
        came_from[word] = best
        score = reached[every, best] + log_probs[word]
    return _walked(came_from, int((score + follow.last).argmax()))


def _illegal(tags: int) -> Scores:
    """Return first x second tag: -inf where the second may not follow, else 0."""
    scores = np.zeros((tags, tags), dtype=np.float32)
    inside = np.arange(2, tags, 2)
    scores[:, inside] = -np.inf
    scores[inside - 1, inside] = 0.0
    scores[inside, inside] = 0.0
    return scores


def _walked(came_from: NDArray[np.int64], tag: int) -> list[int]:
    path = [tag]
    for word in range(len(came_from) - 1, 0, -1):
        tag = int(came_from[word, tag])
        path.append(tag)
    return path[::-1]


def runs(tags: Sequence[int]) -> list[tuple[int, int, int]]:
    """Return (entity, first word, last word) of each entity in a legal tag sequence.

    Words are numbered from 0; the last word is inclusive.
    """
    entities: list[tuple[int, int, int]] = []
    for word, tag in enumerate(tags):
        if tag == 0:
            continue
        entity = (tag - 1) // 2
        if tag % 2 == 1:
            entities.append((entity, word, word))
        else:
            entities[-1] = (entity, entities[-1][1], word)
    return entities
