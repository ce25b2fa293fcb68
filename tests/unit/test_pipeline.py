"""Pipelines: what was asked for, by the threshold that the bundle knows."""

from dataclasses import replace
from pathlib import Path

import pytest
from tiny import arrived, seal, write_bundle

from agent.bundle import Calibration, Threshold
from agent.config import Config, load
from agent.decide import Policy
from agent.errors import ConfigError
from agent.pipeline import bundles_of, open_pipelines, policy
from agent.types import Entity, Prediction, Resolved, Task, Tier

GUESS = Prediction(
    Tier.ENCODER, "lamp_on", 0.95, (Entity("place", "kitchen", 0, 7, 0.99),)
)


def configured(tmp_path: Path, **pipelines: str) -> Config:
    """Return a configuration with these pipelines; `tiny` is the one bundle."""
    if not (tmp_path / "models" / "tiny").exists():
        write_bundle(tmp_path / "models" / "tiny")
    (tmp_path / "pipelines").mkdir(exist_ok=True)
    for name, toml in pipelines.items():
        (tmp_path / "pipelines" / f"{name}.toml").write_text(toml)
    path = tmp_path / "agent.toml"
    path.write_text(
        'device = {id = "pi-3"}\nmodels = {dir = "models"}\n'
        f'pipelines = {{dir = "pipelines", enable = {list(pipelines)}}}\n'
    )
    return load(path)


def toml(kind: str = "understand", more: str = "", bundle: str = "tiny") -> str:
    """Return a pipeline file."""
    return (
        f'kind = "{kind}"\ninput = {{topics = ["home/+/utterance"]}}\n'
        f'model = {{bundle = "{bundle}"}}\n{more}'
    )


def test_open(tmp_path: Path) -> None:
    """A pipeline is its file, its bundle, and topics with sensible names."""
    [pipeline] = open_pipelines(configured(tmp_path, home=toml()))
    assert pipeline.name == "home"
    assert pipeline.bundle.id == "tiny@1.0.0"
    assert pipeline.result_topic == "slm/pi-3/result/home"
    assert pipeline.dead_letter_topic == "slm/pi-3/deadletter/home"
    assert pipeline.policy == Policy(Task.CLASSIFY, 0.5)


def test_own_result_topic(tmp_path: Path) -> None:
    """A pipeline may say where its results go."""
    config = configured(tmp_path, home=toml(more='output = {topic = "intents"}'))
    [pipeline] = open_pipelines(config)
    assert pipeline.result_topic == "intents"
    assert pipeline.dead_letter_topic == "slm/pi-3/deadletter/home"


def test_one_bundle_is_loaded_once(tmp_path: Path) -> None:
    """Pipelines of one bundle share it."""
    config = configured(tmp_path, one=toml(), two=toml("classify"))
    one, two = open_pipelines(config)
    assert one.bundle is two.bundle
    assert bundles_of([one, two]) == {"tiny@1.0.0": one.bundle}


def test_two_bundles_of_one_name(tmp_path: Path) -> None:
    """Two folders that call themselves the same would be taken for one another."""
    write_bundle(tmp_path / "models" / "copy")
    seal(tmp_path / "models" / "copy", name="tiny")
    config = configured(tmp_path, one=toml(), two=toml(bundle="copy"))
    with pytest.raises(
        ConfigError, match=r"copy: another bundle is called tiny@1\.0\.0"
    ):
        open_pipelines(config)


@pytest.mark.parametrize(
    ("kind", "has", "said"),
    [
        ("understand", {"labels": []}, "wants the bundle tiny@1.0.0 to classify"),
        ("understand", {"entities": []}, "to extract"),
        ("classify", {"labels": []}, "to classify"),
        ("extract", {"entities": []}, "to extract"),
        ("classify", {"entities": []}, None),
        ("extract", {"labels": []}, None),
    ],
)
def test_bundle_must_be_able(
    tmp_path: Path, kind: str, has: dict[str, object], said: str | None
) -> None:
    """A pipeline cannot want what its bundle cannot do."""
    config = configured(tmp_path, home=toml(kind))
    seal(tmp_path / "models" / "tiny", **has)
    if said is None:
        assert len(open_pipelines(config)) == 1
    else:
        with pytest.raises(ConfigError, match=said):
            open_pipelines(config)


@pytest.mark.parametrize(
    ("kind", "label", "entities"),
    [("understand", "lamp_on", 1), ("classify", "lamp_on", 0), ("extract", None, 1)],
)
def test_judge(tmp_path: Path, kind: str, label: str | None, entities: int) -> None:
    """What a pipeline did not ask for is left out of its decisions."""
    [pipeline] = open_pipelines(configured(tmp_path, home=toml(kind)))
    decision = pipeline.judge(GUESS)
    assert isinstance(decision, Resolved)
    assert decision.prediction.label == label
    assert (decision.prediction.score is None) == (label is None)
    assert len(decision.prediction.entities) == entities


def table(*rows: tuple[float, float], certified: bool = False) -> Calibration:
    """Return a calibration of (max_error, threshold)."""
    return Calibration(
        method="threshold",
        certified=certified,
        on="label",
        data="none",
        n=1,
        table=[
            Threshold(max_error=e, threshold=t, coverage=0.5, error=e) for e, t in rows
        ],
    )


@pytest.mark.parametrize(
    ("kind", "max_error", "calibration", "expected"),
    [
        ("understand", 0.05, table((0.02, 0.9), (0.05, 0.5)), (Task.CLASSIFY, 0.5)),
        ("understand", 0.04, table((0.02, 0.9), (0.05, 0.5)), (Task.CLASSIFY, 0.9)),
        ("understand", 0.99, table((0.05, 0.5), (0.02, 0.9)), (Task.CLASSIFY, 0.5)),
        ("understand", 0.01, table((0.02, 0.9)), (Task.CLASSIFY, None)),
        ("classify", 0.05, table(), (Task.CLASSIFY, None)),
        ("extract", 0.05, table(), (Task.EXTRACT, 0.95)),
    ],
)
def test_policy(
    tmp_path: Path,
    kind: str,
    max_error: float,
    calibration: Calibration,
    expected: tuple[Task, float | None],
) -> None:
    """The threshold is that of the largest error which is still allowed."""
    config = configured(
        tmp_path, home=toml(kind, f"decide = {{max_error={max_error}}}")
    )
    assert policy(config.pipelines["home"], calibration) == Policy(*expected)


def test_certified_policy(tmp_path: Path) -> None:
    """A certified table's bound is claimed: that of the row, not what was asked."""
    config = configured(tmp_path, home=toml())
    found = policy(config.pipelines["home"], table((0.03, 0.7), certified=True))
    assert found == Policy(Task.CLASSIFY, 0.7, 0.03)


@pytest.mark.parametrize(
    ("own", "topic", "told", "wanted"),
    [
        (("home/+/utterance",), "home/x/utterance", None, True),
        (("$share/g/home/+/utterance",), "home/x/utterance", None, True),
        (("a", "home/#"), "home/x/utterance", None, True),
        (("home/+",), "home/x/utterance", None, False),
        (("home/#",), "home/x/utterance", ["home/+/utterance"], False),
        (("home/#",), "home/x/utterance", ["home/+/utterance", "home/#"], True),
        (("$share/g/a",), "a", ["$share/g/a"], True),
        (("a",), "a", ["$share/g/a"], False),
    ],
)
def test_wants(
    tmp_path: Path,
    own: tuple[str, ...],
    topic: str,
    told: list[str] | None,
    *,
    wanted: bool,
) -> None:
    """The broker's word on which filter matched counts; without it the topic does."""
    [pipeline] = open_pipelines(configured(tmp_path, home=toml()))
    message = arrived(topic=topic)
    assert replace(pipeline, filters=own).wants(message, told) is wanted
