"""From data to a bundle that the daemon's own code opens and trusts."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the extra `workshop` is not installed")
pytest.importorskip("transformers", reason="the extra `workshop` is not installed")
pytest.importorskip("onnx", reason="the extra `workshop` is not installed")

import torch

from agent.core.errors import ConfigError
from agent.core.types import Guarantee, Reason, Tier, Unresolved
from agent.inference.bundle import failed_probes, open_bundle
from agent.inference.decide import Policy, decide, passes
from agent.workshop.bundle import bundle_writer
from agent.workshop.bundle.building import train_bundle
from agent.workshop.data.material import read_material
from agent.workshop.data.recipe import Recipe
from agent.workshop.training import training
from agent.workshop.training.network import Network

pytestmark = pytest.mark.filterwarnings("ignore")  # those of the exporters


def _silent(*_: object) -> None:
    pass


def test_bundle_answers(built: Path) -> None:
    """The finished bundle is verified, repeats its probes, and has learnt the task."""
    bundle = open_bundle(built, threads=1)
    assert failed_probes(bundle) == []
    assert {probe.tier for probe in bundle.probes} == {0, 1}
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
    assert present >= {"encoder.onnx", "encoder.onnx.data", "linear.npz", "README.md"}
    assert not built.with_name("tiny.training").exists()


def test_calibration_is_the_bundles_own(built: Path) -> None:
    """The fingerprint that was calibrated is the one that the daemon computes."""
    bundle = open_bundle(built, threads=1)
    assert bundle.calibrated
    manifest = json.loads((built / "manifest.json").read_text())
    told = bundle_writer.fingerprint_of(built, manifest)
    assert told == bundle.manifest.fingerprint() == bundle.calibration.fingerprint


@pytest.mark.parametrize(
    "name", ["accuracy", "span_f1", "coverage", "resolved_accuracy"]
)
def test_both_precisions_are_told(built: Path, name: str) -> None:
    """The manifest has the figures of what ships, and of fp32 beside them."""
    scores = open_bundle(built, threads=1).manifest.scores
    assert 0 < scores[name] <= 1
    assert scores[f"{name}_fp32"] == pytest.approx(scores[name], abs=0.1)


def test_other_domains_are_unresolved(built: Path, data: Path) -> None:
    """Texts of another domain, none of which it has seen, are not answered.

    Nor are those in other languages; what it was taught is.
    """
    bundle = open_bundle(built, threads=1)
    row = bundle.calibration.threshold(Guarantee.LABEL, 0.05)
    assert row is not None
    forms = bundle.manifest.forms.allowing()
    policy = Policy(Guarantee.LABEL, row.threshold, forms=forms)

    def ask(texts: list[str]) -> list[Unresolved]:
        found = bundle.predict(texts, lambda p: passes(p, policy))
        decisions = [decide(prediction, policy) for prediction in found]
        return [d for d in decisions if isinstance(d, Unresolved)]

    lines = (data / "other" / "valid.jsonl").read_text().splitlines()
    strange = [json.loads(line)["text"] for line in lines] + ["wo ist mein geld"]
    unresolved = ask(strange)
    assert len(unresolved) == len(strange)
    assert Reason.OUT_OF_SCOPE in {decision.reason for decision in unresolved}
    assert ask(["wake me at noon", "turn on the kitchen lamp"]) == []


@pytest.mark.usefixtures("tiny")
def test_texts_from_outside_fit_but_do_not_certify(
    data: Path, cascade: Recipe, built: Path
) -> None:
    """All texts in the calibration's counts are of the mixture that it states."""
    material = read_material(cascade, data)
    assert {example.label for example in material.outside} == {"oos"}
    assert len(material.outside) == 20
    made = open_bundle(built, threads=1).calibration
    assert made.fitted_on + made.certified_on == len(material.field)


def test_graph_names_no_path(built: Path) -> None:
    """The exporter's stack traces, with paths of this machine, are not shipped."""
    graph = (built / "encoder.onnx").read_bytes()
    assert b"site-packages" not in graph
    assert b".py" not in graph


@pytest.mark.usefixtures("tiny")
def test_same_seed_same_bundle(built: Path, data: Path, cascade: Recipe) -> None:
    """A second run with the same recipe and data answers the same."""
    again = built.with_name("again")
    train_bundle(cascade, data, again, _silent)
    for name in ("probes.jsonl", "calibration.json"):
        assert (again / name).read_text() == (built / name).read_text()
    shutil.rmtree(again)


@pytest.mark.parametrize("teachers", [0, 2])
@pytest.mark.usefixtures("tiny")
def test_interrupted_run_goes_on(
    teachers: int,
    data: Path,
    recipe: Callable[..., Recipe],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A run that dies after an epoch continues there, to the same weights.

    So it does where teachers came first, with negatives drawn in every epoch.
    """
    ends: list[Network] = []
    monkeypatch.setattr(
        "agent.workshop.bundle.building.finish",
        lambda _part, _piece, network, _report: ends.append(network),
    )
    chosen = recipe(
        {"epochs": 2, "teachers": teachers},
        pretrained={"package": "tiny_encoder", "max_tokens": 32, "layers": 1},
        outside={},
    )
    reached: dict[str, list[int]] = {}
    train_bundle(
        chosen,
        data,
        tmp_path / "whole",
        lambda stage, done, *_: reached.setdefault(stage, []).append(done),
    )
    names = [*(f"teacher {number + 1}" for number in range(teachers)), "training"]
    assert list(reached) == names
    epoch = reached["training"][-1] // 2

    def die(stage: str, done: int, *_: object) -> None:
        if stage == "training" and done == epoch + 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_bundle(chosen, data, tmp_path / "cut", die)
    resumed: list[tuple[str, int]] = []
    train_bundle(
        chosen,
        data,
        tmp_path / "cut",
        lambda stage, done, *_: resumed.append((stage, done)),
    )
    assert resumed[0] == ("training", epoch + 1)
    whole, cut = (network.state_dict() for network in ends)
    for name, weight in whole.items():
        assert torch.equal(weight, cut[name]), name
    assert ends[0].encoder.config.num_hidden_layers == 1


@pytest.mark.usefixtures("tiny")
def test_student_learns_from_teachers(
    data: Path,
    recipe: Callable[..., Recipe],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where opinion is all that counts, the student says what the teachers say."""
    ends: list[Network] = []
    lessons: list[training.Lesson] = []
    honest = training.train

    def watched(network: Network, lesson: training.Lesson, *rest: object) -> None:
        lessons.append(lesson)
        honest(network, lesson, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("agent.workshop.bundle.building.train", watched)
    monkeypatch.setattr(
        "agent.workshop.bundle.building.finish",
        lambda _part, _piece, network, _report: ends.append(network),
    )
    chosen = recipe({"teachers": 1, "opinion": 1.0, "epochs": 6})
    train_bundle(chosen, data, tmp_path / "out", _silent)
    [student] = ends
    [teacher] = lessons[-1].teachers
    assert lessons[0].teachers == ()
    window = lessons[-1].tokenizer
    same = 0
    texts = [example.text for example in lessons[0].examples[:40]]
    for text in texts:
        ids = torch.tensor([window.encode(text).ids])
        with torch.no_grad():
            said = [n(ids, torch.ones_like(ids)) for n in (student, teacher)]
        one, other = (found["label_logits"].argmax().item() for found in said)
        same += one == other
    assert same >= 0.9 * len(texts)


@pytest.mark.parametrize("missing", ["label", "spans"])
@pytest.mark.usefixtures("tiny")
def test_one_task_only(
    missing: str, data: Path, recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    """Data without labels, or without spans, makes a bundle without that head."""
    for name in ("train", "valid"):
        lines = (data / f"{name}.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        kept = [{k: v for k, v in row.items() if k != missing} for row in rows]
        text = "\n".join(json.dumps(row) for row in kept)
        (tmp_path / f"{name}.jsonl").write_text(text)
    train_bundle(recipe({"epochs": 2}), tmp_path, tmp_path / "out", _silent)
    bundle = open_bundle(tmp_path / "out", threads=1)
    assert [stage.by for stage in bundle.stages] == [Tier.ENCODER]
    [found] = bundle.predict(["turn on the green lamp"])
    assert (found.label is None) == (missing == "label")
    assert bool(bundle.manifest.entities) == (missing != "spans")
    judged = Guarantee.ENTITIES if missing == "label" else Guarantee.LABEL
    assert list(bundle.calibration.tables) == [judged]


def test_missing_package_is_named(
    data: Path, recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    """Without the pretrained encoder the operator is told what to install."""
    chosen = recipe(pretrained={"package": "no_such_package"})
    with pytest.raises(ConfigError, match="no_such_package"):
        train_bundle(chosen, data, tmp_path / "out", _silent)


def test_schedule_rises_and_falls() -> None:
    """The learning rate warms up to its full value and ends at nothing."""
    factor = training._cosine(10, 100)
    assert factor(0) == pytest.approx(0.1)
    assert factor(10) == pytest.approx(1.0)
    assert factor(100) == pytest.approx(0.0)
