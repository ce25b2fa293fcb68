"""What stands behind `check` and `eval`: labelled data, cases, one answer at a time."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.__main__ import cli
from agent.bundle import Bundle
from agent.check import Case, CaseEntity, differences
from agent.decide import Policy
from agent.errors import ConfigError
from agent.evaluate import answer, evaluate, prediction_line
from agent.examples import Example, Span, read_examples
from agent.jsonl import read_records
from agent.pipeline import Pipeline
from agent.text import Reader
from agent.types import Entity, Prediction, Reason, Resolved, Task, Tier, Unresolved

GUESS = Prediction(
    Tier.ENCODER, "lamp_on", 0.95, (Entity("place", "kitchen", 0, 7, 0.99),)
)


@pytest.fixture
def pipeline(bundle: Bundle) -> Pipeline:
    """Return a pipeline that asks the tiny bundle for everything."""
    return Pipeline(
        name="home",
        tasks=frozenset(Task),
        filters=("home/+/utterance",),
        reader=Reader(max_chars=100),
        bundle=bundle,
        policy=Policy(Task.CLASSIFY, 0.9),
        result_topic="result",
        dead_letter_topic="dead",
    )


@pytest.mark.parametrize(
    ("line", "example"),
    [
        ('{"text": "a"}', Example(text="a")),
        ('{"text": "a", "label": null, "spans": []}', Example(text="a")),
        ('{"text": "a", "label": "on", "source": "x"}', Example(text="a", label="on")),
        (
            '{"text": "🦊 b", "spans": [{"start": 2, "end": 3, "label": "l"}]}',
            Example(text="🦊 b", spans=(Span(start=2, end=3, label="l"),)),
        ),
    ],
)
def test_labelled_data(tmp_path: Path, line: str, example: Example) -> None:
    """One JSON object a line; unknown keys and empty lines are nobody's business."""
    path = tmp_path / "data.jsonl"
    path.write_text(f"\n{line}\n\n{line}\n")
    assert read_examples(path) == [example, example]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"text": "a"}\n{"text": 1}\n', "data.jsonl:2: text "),
        ('{"label": "a"}', "data.jsonl:1: text "),
        ("rubbish", "data.jsonl:1: "),
        (
            '{"text": "ab", "spans": [{"start": 1, "end": 3, "label": "l"}]}',
            "span 1-3 is not in the text",
        ),
        (
            '{"text": "ab", "spans": [{"start": 1, "end": 1, "label": "l"}]}',
            "span 1-1 is not in the text",
        ),
        ("", "no examples"),
    ],
)
def test_wrong_labelled_data(tmp_path: Path, content: str, said: str) -> None:
    """An error names the file, the line and the key."""
    path = tmp_path / "data.jsonl"
    path.write_text(content)
    with pytest.raises(ConfigError, match=said):
        read_examples(path)


@pytest.mark.parametrize(
    ("text", "decision"),
    [
        ("", Unresolved(Reason.EMPTY)),
        ("x" * 101, Unresolved(Reason.TOO_LONG)),
        ("a\0b", Unresolved(Reason.CONTROL_CHARACTERS)),
    ],
)
def test_unreadable_text_is_unresolved(
    pipeline: Pipeline, text: str, decision: Unresolved
) -> None:
    """What the daemon would send to the dead letters, `eval` counts as unresolved."""
    assert answer(pipeline, text) == decision


def test_evaluate(pipeline: Pipeline) -> None:
    """The figures of the contract are there, and the decisions in order."""
    examples = [
        Example(text="turn on", label="lamp_on"),
        Example(text="turn off", label="lamp_on"),
        Example(
            text="hello kitchen",
            label="chat",
            spans=(Span(start=6, end=13, label="place"),),
        ),
        Example(text="the", label="dance"),
    ]
    figures, decisions = evaluate(pipeline, examples, lambda: None)
    labels = [d.prediction and d.prediction.label for d in decisions]
    assert labels[:3] == ["lamp_on", "lamp_off", "chat"]
    assert figures["n"] == 4
    assert figures["accuracy"] == 0.75  # the unknown label was left unresolved
    assert figures["span_f1"] == 1.0
    assert figures["coverage"] == 0.75
    assert figures["resolved_accuracy"] == pytest.approx(2 / 3, abs=1e-4)
    assert figures["by_tier"] == {"encoder": 4}
    contract = {"n", "accuracy", "span_f1", "coverage", "resolved_accuracy", "aurc"}
    contract |= {"resolved_span_f1", "texts_per_s", "ms_p50", "ms_p99", "by_tier"}
    assert contract <= figures.keys()
    json.dumps(figures, allow_nan=False)


def test_prediction_line() -> None:
    """A line of --predictions is the object of the contract."""
    span = {"label": "place", "start": 0, "end": 7, "score": 0.99}
    assert prediction_line(Unresolved(Reason.LOW_CONFIDENCE, GUESS)) == {
        "status": "unresolved",
        "by": "encoder",
        "label": "lamp_on",
        "score": 0.95,
        "spans": [span],
        "reason": "low_confidence",
    }


@pytest.mark.parametrize(
    ("case", "said"),
    [
        (Case(text="x"), []),
        (Case(text="x", status="resolved", label="lamp_on"), []),
        (Case(text="x", entities=(CaseEntity(label="place", text="kitchen"),)), []),
        (Case(text="x", label="chat"), ["label is lamp_on, expected chat"]),
        (Case(text="x", status="unresolved"), ["status is resolved"]),
        (Case(text="x", entities=()), ["entities is"]),
        (
            Case(text="x", entities=(CaseEntity(label="place", text="bed"),)),
            ["entities is"],
        ),
        (Case(text="x", status="unresolved", label="chat"), ["status", "label"]),
    ],
)
def test_cases(case: Case, said: list[str]) -> None:
    """A case compares what it names, and says what came out otherwise."""
    found = list(differences(case, Resolved(GUESS, None)))
    assert len(found) == len(said)
    assert all(words in line for words, line in zip(said, found, strict=True))


def test_wrong_cases(tmp_path: Path) -> None:
    """A case with a key that is none is refused, with file and line."""
    path = tmp_path / "home.cases.jsonl"
    path.write_text('{"text": "a"}\n{"text": "a", "lable": "x"}\n')
    with pytest.raises(ConfigError, match=r"home\.cases\.jsonl:2: "):
        read_records(path, Case, "cases")


@pytest.mark.parametrize("separator", ["\u2028", "\u0085"])
def test_line_separators_in_texts(tmp_path: Path, separator: str) -> None:
    """Only a line feed ends a line of JSON Lines; texts may hold Unicode's others."""
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps({"text": f"a{separator}b"}, ensure_ascii=False))
    assert len(read_examples(path)) == 1


def test_help_keeps_its_examples_apart() -> None:
    """The first steps in `--help` are a line each, not one paragraph."""
    shown = CliRunner().invoke(cli, ["--help"]).output
    lines = [line.strip() for line in shown.splitlines()]
    assert "First steps:" in lines
    assert [line.split()[:2] for line in lines if line.startswith("slm-agent ")] == [
        ["slm-agent", command] for command in ("demo", "try", "check", "run")
    ]
