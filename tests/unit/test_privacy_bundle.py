"""The shipped bundle `privacy` on texts of our own that nothing was trained on."""

from pathlib import Path

import pytest

from agent.core.types import Resolved
from agent.evaluation.examples import Example, read_examples
from agent.evaluation.scoring import Scoreboard, ScoredAnswer, scoreboard
from agent.inference.bundle import Bundle, open_bundle

HERE = Path(__file__).parent
SHIPPED = HERE.parent.parent / "models" / "privacy"


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """Open the bundle as it ships."""
    return open_bundle(SHIPPED, 1)


def score(bundle: Bundle, examples: list[Example]) -> Scoreboard:
    """Score all that is found, sure or not."""
    texts = [example.text for example in examples]
    answers = [
        ScoredAnswer(example, Resolved(said, None), said.entities_score or 0.0)
        for example, said in zip(examples, bundle.predict(texts), strict=True)
    ]
    return scoreboard(answers, frozenset())


def test_unseen_texts(bundle: Bundle) -> None:
    """Written by hand before the model was made: little is missed, little hit."""
    examples = read_examples(HERE / "privacy_texts.jsonl")
    found = score(bundle, examples)
    assert len(examples) >= 150
    assert (found.span_f2 or 0) >= 0.92
    assert (found.missed or 0) <= 0.01
    assert (found.hit or 0) <= 0.02


def test_ordinary_words_are_left_alone(bundle: Bundle) -> None:
    """Of the texts in which nothing is personal, hardly a character is hit."""
    examples = read_examples(HERE / "privacy_texts.jsonl")
    harmless = [example for example in examples if not example.marked]
    assert len(harmless) >= 25
    assert (score(bundle, harmless).hit or 0) <= 0.01
