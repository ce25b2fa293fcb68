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


def test_every_kind(bundle: Bundle) -> None:
    """Secrets, numbers, handles, lists, commands, scripts, logs: little is missed, hit.

    Written by hand with the patterns, so these bars are the least, not a forecast.
    """
    examples = read_examples(HERE / "privacy_kinds.jsonl")
    found = score(bundle, examples)
    assert len(examples) >= 300
    assert (found.missed or 0) <= 0.06
    assert (found.hit or 0) <= 0.05


@pytest.mark.parametrize(
    "kind",
    ["scripts", "secrets", "ids", "handles", "digits", "coords", "url", "spoken"],
)
def test_each_kind_of_pattern(bundle: Bundle, kind: str) -> None:
    """No kind hides behind the others."""
    lines = read_examples(HERE / "privacy_kinds.jsonl")
    own = [e for e in lines if any(span.label == kind for span in e.marked)]
    assert len(own) >= 2
    assert (score(bundle, own).missed or 0) <= 0.1


def test_logs_stay_readable(bundle: Bundle) -> None:
    """Time stamps and numbers of machines are not taken for somebody's."""
    lines = read_examples(HERE / "privacy_kinds.jsonl")
    logs = [e for e in lines if e.text.startswith(("2024-", "Mar ", "[2024", '{"ts'))]
    assert len(logs) >= 9
    assert (score(bundle, logs).hit or 0) <= 0.05
