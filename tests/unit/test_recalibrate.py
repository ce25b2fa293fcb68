"""Recalibrating: the operator's texts, this device's answers, and what follows."""

import json
from pathlib import Path

import pytest

from agent.config.load import Config, load
from agent.core.errors import ConfigError
from agent.core.types import Guarantee, Reason, Resolved, Tier, Unresolved
from agent.evaluation.examples import Example, Span
from agent.evaluation.recalibrate import (
    missing_truth,
    recalibrate,
    write,
)
from agent.inference.bundle import read_calibration
from agent.inference.pipeline import open_pipelines
from harness.tiny import write_bundle

WORDS = ("turn", "the", "lamp", "in", "s", "cafe")


def examples(n: int) -> list[Example]:
    """Return texts that the tiny bundle understands, but for every tenth.

    Those say "on" and mean "off", as some people do.
    """
    made = []
    for i in range(n):
        filler = " ".join(WORDS[i // 6**k % 6] for k in range(4)).replace("cafe", "s")
        wanted, said = ("lamp_on", "on") if i % 2 else ("lamp_off", "off")
        if i % 10 == 0:
            said = "on"
        text, spans = f"{filler} {said}", ()
        if i % 3 == 0:
            text = f"{filler} {said} kitchen"
            spans = (Span(start=len(text) - 7, end=len(text), label="place"),)
        made.append(Example(text=text, label=wanted, spans=spans))
    return made


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Return a configuration with one pipeline over a cascade."""
    write_bundle(tmp_path / "models" / "tiny", cascade=True)
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "home.toml").write_text(
        'input = {topics = ["home/+/utterance"], max_chars = 100}\n'
        'model = {bundle = "tiny"}\ndecide = {max_error = 0.2}\n'
    )
    path = tmp_path / "agent.toml"
    path.write_text('models = {dir = "models"}\npipelines = {dir = "pipelines"}\n')
    return load(path)


def test_own_texts_change_what_is_promised(config: Config) -> None:
    """The file that is written is used from the next start on, with its own bounds."""
    asked: list[None] = []
    made = recalibrate(
        config, "home", examples(1200), "own.jsonl", lambda: asked.append(None)
    )
    assert len(asked) == 1200
    assert made.data == "own.jsonl"
    assert made.fitted_on + made.certified_on == 1200
    assert set(made.tables) == set(Guarantee)
    rows = {row.max_error: row for row in made.tables[Guarantee.LABEL]}
    assert 0.05 not in rows  # a tenth is wrong, and nothing tells which
    assert rows[0.15].error == pytest.approx(0.1, abs=0.03)

    place = config.calibration_file("home")
    write(made, place)
    assert read_calibration(place) == made
    [pipeline] = open_pipelines(config)
    assert pipeline.policy.error_bound == 0.2
    assert pipeline.bundle.calibrated
    certain, found = pipeline.answer(["turn on", "turn on in the kitchen"])
    assert isinstance(certain, Resolved)
    assert isinstance(found, Resolved)
    assert certain.prediction.by is Tier.LINEAR
    assert found.prediction.by is Tier.ENCODER
    assert certain.prediction.score == pytest.approx(0.9, abs=0.06)


def test_strange_texts_are_left_alone(config: Config) -> None:
    """What the operator calls out of scope is no longer answered."""
    strange = [
        Example(text=f"{'the ' * (i % 7)}lamp {'s' * (i // 7)}", label="oos")
        for i in range(150)
    ]
    data = [*examples(800), *strange]
    write(
        recalibrate(config, "home", data, "own.jsonl", lambda: None),
        config.calibration_file("home"),
    )
    [pipeline] = open_pipelines(config)
    left, taken = pipeline.answer(["the lamp", "turn on"])
    assert isinstance(left, Unresolved)
    assert left.reason is Reason.LOW_CONFIDENCE
    assert isinstance(taken, Resolved)


def test_what_no_line_says_is_not_promised(config: Config) -> None:
    """Lines of labels do for a pipeline that guarantees labels, and for no other."""
    data = [one.model_copy(update={"spans": None}) for one in examples(400)]
    assert missing_truth(config, "home", data) == {Guarantee.ENTITIES: "spans"}
    made = recalibrate(config, "home", data, "own.jsonl", lambda: None)
    assert set(made.tables) == {Guarantee.LABEL}
    old = read_calibration(config.bundle_dir("home") / "calibration.json")
    assert made.tiers[-1].entities == old.tiers[-1].entities
    assert old.tiers[-1].entities is not None
    spec = config.pipelines["home"]
    both = spec.decide.model_copy(update={"guarantee": "both"})
    config.pipelines["home"] = spec.model_copy(update={"decide": both})
    with pytest.raises(ConfigError, match="no line has spans, and the pipeline home"):
        recalibrate(config, "home", data, "own.jsonl", lambda: None)


def test_unreadable_text_is_named(config: Config) -> None:
    """A text that the pipeline would refuse is no example of what it answers."""
    data = [*examples(100), Example(text="x" * 101)]
    with pytest.raises(ConfigError, match=r"own\.jsonl: example 101: "):
        recalibrate(config, "home", data, "own.jsonl", lambda: None)


def test_too_few_texts(config: Config) -> None:
    """A handful of texts is refused before anything is written."""
    with pytest.raises(ConfigError, match="10 calibration texts are too few"):
        recalibrate(config, "home", examples(10), "own.jsonl", lambda: None)


def test_written_whole_or_not_at_all(config: Config, tmp_path: Path) -> None:
    """A folder that cannot be written to is the operator's to change; no part stays."""
    made = recalibrate(config, "home", examples(200), "own.jsonl", lambda: None)
    with pytest.raises(ConfigError, match="name another place with --out"):
        write(made, config.bundle_dir("home") / "manifest.json" / "x.json")
    place = tmp_path / "x.json"
    write(made, place)
    write(made, place)
    assert json.loads(place.read_text())["fingerprint"] == made.fingerprint
    assert [path.name for path in tmp_path.glob("x.json*")] == ["x.json"]
