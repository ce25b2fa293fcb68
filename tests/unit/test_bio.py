"""BIO tags: always legal, always the best of all legal sequences."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from agent.inference.bio import Scores, best_tags, following, runs

# Quarters of small integers: sums of them are exact in float32, so ties are true ties.
SCORES = st.integers(1, 2).flatmap(
    lambda entities: st.integers(1, 5).flatmap(
        lambda words: arrays(
            np.float32,
            (words, 1 + 2 * entities),
            elements=st.integers(-12, 0).map(lambda n: n / 4),
        )
    )
)


def legal(tags: tuple[int, ...]) -> bool:
    """Tell whether every I-e follows B-e or I-e: the definition, spelt out."""
    before = (0, *tags)
    return all(
        tag == 0 or tag % 2 == 1 or previous in {tag, tag - 1}
        for previous, tag in zip(before, tags, strict=False)
    )


def total(log_probs: Scores, tags: tuple[int, ...]) -> float:
    """Return the log probability of a sequence."""
    return float(sum(log_probs[word, tag] for word, tag in enumerate(tags)))


@settings(max_examples=300)
@given(SCORES)
def test_best_tags_is_the_best_legal_sequence(log_probs: Scores) -> None:
    """Decoding gives a legal sequence that no other legal one beats."""
    words, tags = log_probs.shape
    found = tuple(best_tags(log_probs))
    best = max(
        total(log_probs, other)
        for other in product(range(tags), repeat=words)
        if legal(other)
    )
    assert legal(found)
    assert total(log_probs, found) == best


@settings(max_examples=300)
@given(SCORES, st.data())
def test_transitions_weigh_in(log_probs: Scores, data: st.DataObject) -> None:
    """With transitions, edges included, no legal sequence beats what is found."""
    words, tags = log_probs.shape
    quarters = st.integers(-8, 8).map(lambda n: n / 4)
    shape = (tags + 1, tags + 1)
    transitions = data.draw(arrays(np.float32, shape, elements=quarters))

    def weighed(sequence: tuple[int, ...]) -> float:
        steps = zip((tags, *sequence), (*sequence, tags), strict=True)
        following = sum(float(transitions[step]) for step in steps)
        return total(log_probs, sequence) + following

    found = tuple(best_tags(log_probs, following(transitions)))
    best = max(
        weighed(other) for other in product(range(tags), repeat=words) if legal(other)
    )
    assert legal(found)
    assert weighed(found) == best


@given(arrays(np.float32, (30, 7), elements=st.floats(-20, 0, width=32)))
def test_long_texts_stay_legal(log_probs: Scores) -> None:
    """Whatever the scores, the sequence is legal."""
    assert legal(tuple(best_tags(log_probs)))


def test_no_words() -> None:
    """A text without words has no tags."""
    assert best_tags(np.zeros((0, 5), np.float32)) == []


@pytest.mark.parametrize(
    ("tags", "entities"),
    [
        ([], []),
        ([0, 0], []),
        ([1], [(0, 0, 0)]),
        ([1, 2, 2, 0], [(0, 0, 2)]),
        ([1, 1], [(0, 0, 0), (0, 1, 1)]),
        ([0, 3, 4, 1, 0, 3], [(1, 1, 2), (0, 3, 3), (1, 5, 5)]),
        ([5, 6, 5, 6], [(2, 0, 1), (2, 2, 3)]),
    ],
)
def test_runs(tags: list[int], entities: list[tuple[int, int, int]]) -> None:
    """An entity runs from its B over all I that follow."""
    assert runs(tags) == entities


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4), st.integers(0, 2))))
def test_runs_undo_tagging(parts: list[tuple[int, int, int]]) -> None:
    """Entities written as tags and read back are the same entities."""
    tags: list[int] = []
    entities = []
    for entity, length, gap in parts:
        entities.append((entity, len(tags), len(tags) + length - 1))
        tags += [1 + 2 * entity] + [2 + 2 * entity] * (length - 1) + [0] * gap
    assert runs(tags) == entities
