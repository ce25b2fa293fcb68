"""From data to a bundle that the daemon's own code opens and trusts."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the extra `workshop` is not installed")
pytest.importorskip("transformers", reason="the extra `workshop` is not installed")
pytest.importorskip("onnx", reason="the extra `workshop` is not installed")

import torch

from agent.bundle import failed_probes, open_bundle
from agent.errors import ConfigError
from agent.workshop import building, training
from agent.workshop.building import train_bundle
from agent.workshop.recipe import Recipe

pytestmark = pytest.mark.filterwarnings("ignore")  # those of the exporters

LONG = "turn on the kitchen lamp and " * 20 + "wake me at seven"


def _recipe(**training_: object) -> Recipe:
    return Recipe.model_validate(
        {
            "about": {
                "name": "tiny",
                "version": "0.1.0",
                "description": "A test.",
                "licence": "none",
                "sources": ["made by the test"],
            },
            "pretrained": {"package": "tiny_encoder", "max_tokens": 32, "stride": 8},
            "vocabulary": {"frequent": 5},
            "training": {
                "epochs": 8,
                "batch": 16,
                "encoder_rate": 3e-3,
                "head_rate": 3e-3,
                "averaging": 0.9,
                "masked": 0.02,
                **training_,
            },
            "probes": ["turn on the kitchen lamp", "wake me at noon", LONG, "\u2603!"],
        }
    )


def _silent(*_: object) -> None:
    pass


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Keep tiny matrices on one core: sharing them out costs more than they do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny(encoder_package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the tiny encoder importable."""
    monkeypatch.syspath_prepend(encoder_package)


@pytest.fixture(scope="module")
def built(
    encoder_package: Path, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return a bundle that was trained once for this module."""
    out = tmp_path_factory.mktemp("models") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(encoder_package)
        train_bundle(_recipe(), data, out, _silent)
    return out


def test_bundle_answers(built: Path) -> None:
    """The finished bundle is verified, repeats its probes, and has learnt the task."""
    bundle = open_bundle(built, threads=1)
    assert failed_probes(bundle) == []
    assert bundle.probes
    assert bundle.manifest.scores["accuracy"] > 0.9
    assert bundle.manifest.scores["span_f1"] > 0.8
    [found] = bundle.predict(["turn off the green lamp please"])
    assert found.label == "lamp_off"
    assert [(e.label, e.text) for e in found.entities] == [("lamp", "green")]


def test_manifest_lists_everything(built: Path) -> None:
    """Every file but the manifest is listed, and nothing else lies in the folder."""
    manifest = json.loads((built / "manifest.json").read_text())
    present = {path.name for path in built.iterdir()} - {"manifest.json"}
    assert set(manifest["files"]) == present
    assert present >= {"encoder.onnx", "encoder.onnx.data", "README.md"}
    assert not built.with_name("tiny.training").exists()


def test_graph_names_no_path(built: Path) -> None:
    """The exporter's stack traces, with paths of this machine, are not shipped."""
    graph = (built / "encoder.onnx").read_bytes()
    assert b"site-packages" not in graph
    assert b".py" not in graph


@pytest.mark.usefixtures("tiny")
def test_same_seed_same_bundle(built: Path, data: Path) -> None:
    """A second run with the same recipe and data answers the same."""
    again = built.with_name("again")
    train_bundle(_recipe(), data, again, _silent)
    assert (again / "probes.jsonl").read_text() == (built / "probes.jsonl").read_text()
    shutil.rmtree(again)


@pytest.mark.usefixtures("tiny")
def test_interrupted_run_goes_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that dies after an epoch continues there, to the same weights."""
    ends: list[dict[str, torch.Tensor]] = []

    def keep(_part: Path, piece: building.Workpiece, _report: object) -> None:
        ends.append({k: v.clone() for k, v in piece.network.state_dict().items()})

    monkeypatch.setattr(building, "finish", keep)
    recipe = _recipe(epochs=3)
    train_bundle(recipe, data, tmp_path / "whole", _silent)
    steps = 0

    def die(*_: object) -> None:
        nonlocal steps
        steps += 1
        if steps == 25:  # in the second epoch of 15 steps each
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_bundle(recipe, data, tmp_path / "cut", die)
    resumed: list[int] = []
    train_bundle(recipe, data, tmp_path / "cut", lambda _s, d, *_: resumed.append(d))
    assert resumed[0] == 16
    for name, weight in ends[0].items():
        assert torch.equal(weight, ends[1][name]), name


@pytest.mark.parametrize("missing", ["label", "spans"])
@pytest.mark.usefixtures("tiny")
def test_one_task_only(missing: str, data: Path, tmp_path: Path) -> None:
    """Data without labels, or without spans, makes a bundle without that head."""
    for name in ("train", "valid"):
        lines = (data / f"{name}.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        kept = [{k: v for k, v in row.items() if k != missing} for row in rows]
        text = "\n".join(json.dumps(row) for row in kept)
        (tmp_path / f"{name}.jsonl").write_text(text)
    train_bundle(_recipe(epochs=2), tmp_path, tmp_path / "out", _silent)
    bundle = open_bundle(tmp_path / "out", threads=1)
    [found] = bundle.predict(["turn on the green lamp"])
    assert (found.label is None) == (missing == "label")
    assert bool(bundle.manifest.entities) == (missing != "spans")


def test_missing_package_is_named(data: Path, tmp_path: Path) -> None:
    """Without the pretrained encoder the operator is told what to install."""
    recipe = _recipe()
    absent = recipe.pretrained.model_copy(update={"package": "no_such_package"})
    with pytest.raises(ConfigError, match="no_such_package"):
        train_bundle(
            recipe.model_copy(update={"pretrained": absent}),
            data,
            tmp_path / "out",
            _silent,
        )


def test_schedule_rises_and_falls() -> None:
    """The learning rate warms up to its full value and ends at nothing."""
    factor = training._cosine(10, 100)
    assert factor(0) == pytest.approx(0.1)
    assert factor(10) == pytest.approx(1.0)
    assert factor(100) == pytest.approx(0.0)
