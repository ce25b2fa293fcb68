"""What stands behind `check` and `eval`: labelled data, cases, one answer at a time."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.cli.main import cli
from agent.config.load import load
from agent.core.errors import ConfigError
from agent.core.findings import Finding
from agent.core.jsonl import read_records
from agent.core.types import (
    Entity,
    Guarantee,
    Prediction,
    Reason,
    Resolved,
    Task,
    Tier,
    Unresolved,
)
from agent.daemon.checks import CaseEntity, ExampleCase, check, differences
from agent.evaluation.evaluate import answer, evaluate, prediction_line
from agent.evaluation.examples import Example, Span, read_examples
from agent.inference.bundle import Bundle
from agent.inference.decide import Policy
from agent.inference.pipeline import Pipeline
from agent.protocol.payload import Reader
from harness.tiny import seal, write_bundle, write_calibration

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
        policy=Policy(Guarantee.LABEL, 0.9),
        result_topic="result",
        dead_letter_topic="dead",
    )


@pytest.mark.parametrize(
    ("line", "example"),
    [
        ('{"text": "a"}', Example(text="a")),
        ('{"text": "a", "label": null, "spans": null}', Example(text="a")),
        ('{"text": "a", "spans": []}', Example(text="a", spans=())),
        ('{"text": "a", "label": "on"}', Example(text="a", label="on")),
        (
            '{"text": "🦊 b", "spans": [{"start": 2, "end": 3, "label": "l"}]}',
            Example(text="🦊 b", spans=(Span(start=2, end=3, label="l"),)),
        ),
    ],
)
def test_labelled_data(tmp_path: Path, line: str, example: Example) -> None:
    """One JSON object a line; empty lines are nobody's business."""
    path = tmp_path / "data.jsonl"
    path.write_text(f"\n{line}\n\n{line}\n")
    assert read_examples(path) == [example, example]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"text": "a"}\n{"text": 1}\n', "data.jsonl:2: text: "),
        ('{"label": "a"}', "data.jsonl:1: text: must be given"),
        ("rubbish", "data.jsonl:1: is no JSON object: .*each line is an object"),
        ('{"text": "a", "lable": "b"}', "lable: unknown key, did you mean 'label'?"),
        (
            '{"text": "ab", "spans": [{"start": 0, "end": 1, "lbl": "l"}]}',
            "data.jsonl:1: spans.0.label: must be given",
        ),
        (
            '{"text": "ab", "spans": [{"start": 1, "end": 3, "label": "l"}]}',
            "data.jsonl:1: span 1-3 is not in the text",
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
    scored = evaluate(pipeline, examples, lambda: None)
    figures, decisions = scored.figures, [a.decision for a in scored.answers]
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
    """A line of --predictions is the object of the contract, with what is true."""
    span = {"label": "place", "start": 0, "end": 7, "score": 0.99}
    example = Example(text="kitchen", spans=(Span(start=0, end=7, label="place"),))
    assert prediction_line(example, Unresolved(Reason.LOW_CONFIDENCE, GUESS)) == {
        "status": "unresolved",
        "by": "encoder",
        "label": "lamp_on",
        "score": 0.95,
        "spans": [span],
        "reason": "low_confidence",
        "text": "kitchen",
        "gold": {"label": None, "spans": [{"label": "place", "start": 0, "end": 7}]},
    }


@pytest.mark.parametrize(
    ("case", "said"),
    [
        (ExampleCase(text="x"), []),
        (ExampleCase(text="x", status="resolved", label="lamp_on"), []),
        (
            ExampleCase(
                text="x", entities=(CaseEntity(label="place", text="kitchen"),)
            ),
            [],
        ),
        (ExampleCase(text="x", label="chat"), ["label is lamp_on, expected chat"]),
        (ExampleCase(text="x", status="unresolved"), ["status is resolved"]),
        (ExampleCase(text="x", entities=()), ["entities is"]),
        (
            ExampleCase(text="x", entities=(CaseEntity(label="place", text="bed"),)),
            ["entities is"],
        ),
        (ExampleCase(text="x", status="unresolved", label="chat"), ["status", "label"]),
    ],
)
def test_cases(case: ExampleCase, said: list[str]) -> None:
    """A case compares what it names, and says what came out otherwise."""
    found = list(differences(case, Resolved(GUESS, None)))
    assert len(found) == len(said)
    assert all(words in line for words, line in zip(said, found, strict=True))


def test_wrong_cases(tmp_path: Path) -> None:
    """A case with a key that is none is refused, with file and line."""
    path = tmp_path / "home.cases.jsonl"
    path.write_text('{"text": "a"}\n{"text": "a", "lable": "x"}\n')
    with pytest.raises(ConfigError, match=r"home\.cases\.jsonl:2: "):
        read_records(path, ExampleCase, "cases")


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


def checked(
    tmp_path: Path, max_error: float | str = 0.05, mode: str = "warn"
) -> list[Finding]:
    """Return what `check` finds of a pipeline over the bundle in `models`."""
    folder = tmp_path / "pipelines"
    folder.mkdir()
    (folder / "home.toml").write_text(
        'input = {topics = ["home/+/utterance"]}\nmodel = {bundle = "tiny"}\n'
        f"decide = {{max_error = {max_error}}}\n"
    )
    (folder / "home.cases.jsonl").write_text('{"text": "turn on", "label": "lamp_on"}')
    path = tmp_path / "agent.toml"
    path.write_text(
        f'models = {{dir = "models", on_mismatch = "{mode}"}}\n'
        'pipelines = {dir = "pipelines"}\n'
    )
    return list(check(load(path)))


def test_check(tmp_path: Path) -> None:
    """Of a sound bundle there is only good to say, and what is promised is said."""
    write_bundle(tmp_path / "models" / "tiny", cascade=True)
    findings = checked(tmp_path)
    assert {finding.level for finding in findings} == {"ok"}
    said = "\n".join(finding.detail for finding in findings)
    assert "at most 0.05 of the resolved messages have a wrong label" in said
    assert "1 probes answer as expected" in said
    assert "1 example cases pass" in said


def test_check_tells_what_cannot_be_promised(tmp_path: Path) -> None:
    """An error that the data could not carry is named, and the least it could."""
    write_bundle(tmp_path / "models" / "tiny")
    [warning] = [f for f in checked(tmp_path, 0.01) if f.level != "ok"]
    assert (warning.level, warning.subject) == ("warning", "home")
    for words in ("max_error 0.01", "nothing is resolved locally", "0.02"):
        assert words in warning.detail


@pytest.mark.parametrize(
    ("min_score", "level", "words"),
    [
        (0.4, "ok", "certified with 95% confidence"),
        (0.6, "ok", "texts; min_score 0.6 resolves fewer"),
        (0.999, "warning", "min_score 0.999 is stricter than all that was tried"),
    ],
)
def test_check_tells_what_min_score_does(
    tmp_path: Path, min_score: float, level: str, words: str
) -> None:
    """A stricter score than the error demands is named, and where it proves nothing."""
    write_bundle(tmp_path / "models" / "tiny")
    findings = checked(tmp_path, f"0.05, min_score = {min_score}")
    [found] = [f for f in findings if f.subject == "home" and "wrong label" in f.detail]
    assert found.level == level
    assert words in found.detail
    assert ("min_score" in found.detail) is (min_score > 0.5)


@pytest.mark.parametrize(
    ("changes", "subjects"),
    [
        ({"fingerprint": "0" * 64}, ["tiny@1.0.0", "home"]),
        ({"certified": False}, ["home"]),
    ],
)
def test_check_warns_of_a_bound_that_does_not_hold(
    tmp_path: Path, changes: dict[str, object], subjects: list[str]
) -> None:
    """A calibration of something else or on made-up texts certifies nothing here."""
    write_bundle(tmp_path / "models" / "tiny")
    write_calibration(tmp_path / "models" / "tiny", **changes)
    findings = [f for f in checked(tmp_path) if f.level != "ok"]
    assert [(f.level, f.subject) for f in findings] == [
        ("warning", subject) for subject in subjects
    ]
    assert "not certified" in findings[-1].detail


def test_check_finds_flipped_probes(tmp_path: Path) -> None:
    """A probe that comes out otherwise on this machine is an error, named."""
    folder = write_bundle(tmp_path / "models" / "tiny")
    path = folder / "probes.jsonl"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"label": "chat"}))
    seal(folder)
    [error] = [f for f in checked(tmp_path) if f.level == "error"]
    assert error.subject == "tiny@1.0.0"
    assert "lamp_on, expected chat" in error.detail
