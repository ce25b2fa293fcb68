"""Which tags follow which, counted from examples."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra `workshop` is not installed")

from tokenizers import Tokenizer

from agent.evaluation.examples import Example, Span
from agent.workshop.data.catalogue import catalogue
from agent.workshop.training.transitions import transitions

# A time always stands last, a place never does.
EXAMPLES = [
    Example(
        text="kitchen lamp at seven",
        spans=(
            Span(start=0, end=7, label="place"),
            Span(start=16, end=21, label="time"),
        ),
    ),
    Example(text="turn on the lamp please"),
] * 20


@pytest.fixture
def tokenizer(encoder_package: Path) -> Tokenizer:
    """Return the tokenizer of the tiny encoder."""
    path = encoder_package / "tiny_encoder" / "model" / "tokenizer.json"
    return Tokenizer.from_file(str(path))


def test_what_was_seen_is_likelier(tokenizer: Tokenizer) -> None:
    """Pairs of tags that occur together are above zero, others below; finite all."""
    known = catalogue(EXAMPLES)
    [found] = transitions(EXAMPLES, tokenizer, known, caution=0.0)
    place, time, edge = 1, 3, known.tags
    assert found.shape == (edge + 1, edge + 1)
    assert np.isfinite(found).all()
    assert found[edge, place] > 0 > found[edge, time]  # first word
    assert found[time, edge] > 0 > found[place, edge]  # last word
    assert found[place, 0] > 0 > found[place, time]


def test_caution_is_taken_from_words_that_are_no_entity(tokenizer: Tokenizer) -> None:
    """Nothing but the step to `O` gets dearer, from every tag alike."""
    known = catalogue(EXAMPLES)
    calm, cautious = (
        transitions(EXAMPLES, tokenizer, known, caution) for caution in (0.0, 1.5)
    )
    difference = calm - cautious
    assert difference[:, :, 0] == pytest.approx(1.5)
    assert not difference[:, :, 1:].any()
