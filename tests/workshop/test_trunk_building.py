"""From the data of two members to a trunk and two bundles that stand on it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the extra `workshop` is not installed")
pytest.importorskip("transformers", reason="the extra `workshop` is not installed")
pytest.importorskip("onnx", reason="the extra `workshop` is not installed")

import numpy as np
import onnx
import onnxruntime
import torch

from agent.core.errors import BundleError, ConfigError
from agent.core.types import Guarantee, Tier
from agent.inference.bundle import failed_probes, open_bundle
from agent.inference.manifest import read_manifest, read_trunk
from agent.workshop.bundle import trunk_building
from agent.workshop.bundle.bundle_writer import replaced_together
from agent.workshop.bundle.trunk_building import read_plan, train_plan, train_trunk
from agent.workshop.command import build
from agent.workshop.data.recipe import (
    Recipe,
    TrunkRecipe,
    find_recipe,
    read_any,
    read_members,
)
from agent.workshop.export.export import export_heads, export_trunk
from agent.workshop.training.network import SharedTrunk
from agent.workshop.training.training import Lesson

pytestmark = pytest.mark.filterwarnings("ignore")  # those of the exporters

LAMPS = "lamps"  # understands; learns from labels
TRUNK = "tongue"
ALARMS = "alarms"  # classifies only, and has a teacher
SCHEDULE = {"batch": 16, "encoder_rate": 3e-3, "head_rate": 3e-3, "averaging": 0.9}


def _silent(*_: object) -> None:
    pass


@pytest.fixture(scope="module")
def shelf(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the data of both: that of one has no spans, but `oos`."""
    folder = tmp_path_factory.mktemp("shelf")
    shutil.copytree(data, folder / LAMPS)
    (folder / ALARMS).mkdir()
    for name in ("train", "valid"):
        lines = (data / f"{name}.jsonl").read_text().splitlines()
        rows = [json.loads(line) | {"spans": []} for line in lines]
        rows += [{"text": f"the bank owes {n} dollars", "label": "oos"} for n in "abc"]
        text = "\n".join(json.dumps(row) for row in rows)
        (folder / ALARMS / f"{name}.jsonl").write_text(text)
    return folder


@pytest.fixture(scope="module")
def members(recipe: Callable[..., Recipe]) -> list[Recipe]:
    """Return the recipes of two members."""

    def one(name: str, training: dict[str, int], **more: object) -> Recipe:
        made = recipe(training, trunk=TRUNK, data={"folder": name}, **more)
        return made.model_copy(
            update={"about": made.about.model_copy(update={"name": name})}
        )

    strange = [{"file": "lamps/other/{split}.jsonl"}]
    linear = {"bits": 10, "epochs": 5}
    outside = {"others": strange, "share": 0.3}
    return [
        one(LAMPS, {}, linear=linear, outside=outside),
        one(ALARMS, {"teachers": 1, "epochs": 2}, linear=linear, outside=outside),
    ]


def trunk_recipe(epochs: int) -> TrunkRecipe:
    """Return the recipe of a tiny trunk."""
    return TrunkRecipe.model_validate(
        {
            "about": {
                "name": TRUNK,
                "version": "0.1.0",
                "description": "A trunk for tests.",
                "licence": "none",
                "sources": ["made by the test"],
            },
            "trunk": {"members": [LAMPS, ALARMS]},
            "vocabulary": {"frequent": 5},
            "pretrained": {"package": "tiny_encoder", "max_tokens": 32, "stride": 8},
            "training": {**SCHEDULE, "epochs": epochs, "masked": 0.02},
        }
    )


@pytest.fixture(scope="module")
def models(
    encoder_package: Path,
    shelf: Path,
    members: list[Recipe],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Return a folder with the trunk and both bundles, trained once."""
    out = tmp_path_factory.mktemp("out") / "models"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(encoder_package)
        train_trunk(trunk_recipe(6), members, shelf, out, _silent)
    return out


@pytest.mark.parametrize("name", [LAMPS, ALARMS])
def test_members_answer(models: Path, name: str) -> None:
    """Each bundle is verified, calibrated, repeats its probes, and knows its task."""
    bundle = open_bundle(models / name, threads=1)
    assert bundle.calibrated
    assert failed_probes(bundle) == []
    assert [stage.by for stage in bundle.stages] == [Tier.LINEAR, Tier.ENCODER]
    assert bundle.manifest.scores["accuracy"] > 0.9
    [found] = bundle.predict(["turn off the green lamp please"])
    assert found.label == "lamp_off"
    spans = [(e.label, e.text) for e in found.entities]
    assert spans == ([("lamp", "green")] if name == LAMPS else [])
    assert found.outside is not None  # by the linear tier


def test_one_encoder_on_disk(models: Path) -> None:
    """The trunk has encoder and tokenizer; bundles have heads, and list its hashes."""
    trunk = read_trunk(models / TRUNK)
    files = {"encoder.onnx", "encoder.onnx.data", "tokenizer.json", "README.md"}
    assert set(trunk.files) == files
    assert {path.name for path in models.iterdir()} == {TRUNK, LAMPS, ALARMS}
    for name in (LAMPS, ALARMS):
        manifest = read_manifest(models / name)
        own = {file for file in manifest.files if not file.startswith("../")}
        assert "heads.onnx" in own
        assert not own & files - {"README.md"}
        for file in files - {"README.md"}:
            assert manifest.files[f"../{TRUNK}/{file}"] == trunk.files[file]
        assert any("tongue 0.1.0, the trunk" in line for line in manifest.sources)


def test_heads_are_int8(models: Path) -> None:
    """No head multiplies by floating-point weights."""
    for name, products in ((LAMPS, 3), (ALARMS, 1)):
        graph = onnx.load(models / name / "heads.onnx").graph
        kinds = [node.op_type for node in graph.node]
        assert kinds.count("MatMulInteger") == products
        assert not {"Gemm", "MatMul"} & set(kinds)


def test_both_precisions_are_told(models: Path) -> None:
    """The trunk's card has what int8 costs each member."""
    scores = read_trunk(models / TRUNK).scores
    card = (models / TRUNK / "README.md").read_text()
    for figure in ("lamps_accuracy", "lamps_span_f1", "alarms_accuracy"):
        exact, small = scores[f"{figure}_fp32"], scores[figure]
        assert exact == pytest.approx(small, abs=0.1)
        assert f"| {exact:.4f} | {small:.4f} |" in card
    assert "alarms_span_f1" not in scores


def test_cards_name_each_other(models: Path) -> None:
    """A reader of one card finds the others, and how to make all of them."""
    card = (models / TRUNK / "README.md").read_text()
    assert "[lamps](../lamps/README.md), [alarms](../alarms/README.md)" in card
    assert "`alarms` learned the mean opinion of 1 networks" in card
    assert "$" not in card
    for name in (LAMPS, ALARMS):
        own = (models / name / "README.md").read_text()
        assert "heads on the trunk [tongue](../tongue/README.md): 2 layers" in own
        assert "slm-agent train tongue.toml --data DIR" in own
        assert "taught the linear tier what is out of scope" in own
        assert "$" not in own


def test_certificates_are_those_of_its_own_data(models: Path) -> None:
    """A calibration counts the validation texts, and one in ten from outside."""
    made = open_bundle(models / ALARMS, threads=1).calibration
    assert 203 < made.fitted_on + made.certified_on <= 203 / 0.9
    assert made.tables.keys() == {Guarantee.LABEL}


def test_trunk_of_another_run_is_refused(models: Path, tmp_path: Path) -> None:
    """Bundles and trunk that were not made together do not answer together."""
    shutil.copytree(models, tmp_path / "models")
    shutil.copy(
        tmp_path / "models" / LAMPS / "heads.onnx",
        tmp_path / "models" / TRUNK / "encoder.onnx",
    )
    with pytest.raises(BundleError, match="sha256"):
        open_bundle(tmp_path / "models" / LAMPS, 1)


@pytest.mark.usefixtures("tiny")
def test_trunk_and_heads_are_the_whole_network(
    shelf: Path, members: list[Recipe], tmp_path: Path
) -> None:
    """Exported apart and asked in turn, they say what the whole does, padded or not."""
    plan = read_plan(trunk_recipe(1), members, shelf)
    trunk = train_plan(plan, tmp_path, _silent)
    export_trunk(trunk.encoder, tmp_path / "trunk.onnx")
    below = onnxruntime.InferenceSession(tmp_path / "trunk.onnx")
    ids = torch.randint(5, trunk.encoder.config.vocab_size, (4, 12))
    mask = torch.ones_like(ids)
    mask[1, 7:] = mask[3, 2:] = 0
    ids *= mask
    feed = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
    [hidden] = below.run(["hidden"], feed)
    for name in (LAMPS, ALARMS):
        network = trunk.member(name)
        path = tmp_path / f"{name}.onnx"
        export_heads(network, path)
        heads = onnxruntime.InferenceSession(path)
        names = [output.name for output in heads.get_outputs()]
        feed = {"hidden": hidden, "attention_mask": mask.numpy()}
        with torch.no_grad():
            whole = network(ids, mask)
        for output, found in zip(names, heads.run(names, feed), strict=True):
            expected = whole[output].numpy().reshape(found.shape)
            if output == "tag_logits":
                expected, found = expected[mask == 1], found[mask == 1]  # noqa: PLW2901
            np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.usefixtures("tiny")
def test_interrupted_run_goes_on(
    shelf: Path,
    members: list[Recipe],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A run that dies after an epoch continues there, to the same weights.

    Teachers are not asked again.
    """
    ends: list[SharedTrunk] = []

    def finish(_part: Path, _plan: object, trunk: SharedTrunk, _report: object) -> None:
        ends.append(trunk)

    monkeypatch.setattr(trunk_building, "finish_plan", finish)
    reached: dict[str, list[int]] = {}

    def run(name: str, report: Callable[..., None]) -> None:
        train_trunk(trunk_recipe(2), members, shelf, tmp_path / name, report)

    run("whole", lambda stage, done, *_: reached.setdefault(stage, []).append(done))
    assert list(reached) == ["alarms: teacher 1", "alarms: opinions", "training"]
    epoch = reached["training"][-1] // 2

    def die(stage: str, done: int, *_: object) -> None:
        if stage == "training" and done == epoch + 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("cut", die)
    resumed: list[tuple[str, int]] = []
    run("cut", lambda stage, done, *_: resumed.append((stage, done)))
    assert resumed[0] == ("training", epoch + 1)
    whole, cut = (dict(trunk.named_parameters()) for trunk in ends)
    assert whole.keys() == cut.keys()
    for name, weight in whole.items():
        assert torch.equal(weight, cut[name]), name
    assert not list(tmp_path.rglob("*.pt"))


@pytest.mark.usefixtures("tiny")
def test_batches_are_of_one_member_each(
    shelf: Path,
    members: list[Recipe],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Members take turns in no order; only one with teachers hears an opinion.

    No lesson has texts from outside: a trunk does not learn them.
    """
    lessons: dict[str, Lesson] = {}
    order: list[int] = []
    step = trunk_building.train_together.__globals__["_Run"].step

    def watched(self: object, pupil: object, batch: object) -> float:
        order.append(pupil.lesson.known.tags)  # type: ignore[attr-defined]
        return step(self, pupil, batch)

    def together(trunk: SharedTrunk, given: dict[str, Lesson], *rest: object) -> None:
        lessons.update(given)
        honest(trunk, given, *rest)  # type: ignore[arg-type]

    honest = trunk_building.train_together
    monkeypatch.setattr(trunk_building, "train_together", together)
    monkeypatch.setitem(
        honest.__globals__,
        "_Run",
        type("Run", (honest.__globals__["_Run"],), {"step": watched}),
    )
    train_plan(read_plan(trunk_recipe(1), members, shelf), tmp_path, _silent)
    turns = "".join("tl"[tags == 0] for tags in order[-30:])
    assert "tl" in turns
    assert "lt" in turns
    assert lessons[LAMPS].opinions is None
    opinions = lessons[ALARMS].opinions
    assert opinions is not None
    assert opinions.shape == (240, 4)
    assert opinions.sum(1) == pytest.approx(torch.ones(240), abs=1e-4)
    for lesson in lessons.values():
        assert lesson.negatives is None
        assert lesson.known.outside is None


def test_all_or_nothing(tmp_path: Path) -> None:
    """Folders take their places together, or none does."""
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "old").touch()
    with pytest.raises(FileExistsError), replaced_together(tmp_path, "set") as part:
        [(part / "one").mkdir() for _ in range(2)]
    assert (tmp_path / "one" / "old").exists()
    with replaced_together(tmp_path, "set") as part:
        for name in ("one", "two"):
            (part / name).mkdir()
            (part / name / "new").touch()
    found = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*"))
    assert found == ["one", "one/new", "two", "two/new"]


# -- recipes


@pytest.mark.parametrize("name", ["home", "assistant", "support", "media"])
def test_members_are_made_by_their_trunk(name: str, tmp_path: Path) -> None:
    """Asked for a member alone, the workshop names the command that makes it."""
    with pytest.raises(ConfigError, match=f"{name} .*: slm-agent train english"):
        build(name, tmp_path)


def test_shipped_trunk_has_its_members() -> None:
    """The shipped recipes fit together; those that classify only have teachers."""
    path = find_recipe("english")
    recipe = read_any(path)
    assert isinstance(recipe, TrunkRecipe)
    found = {r.about.name: r.training.teachers for r in read_members(path, recipe)}
    assert found == {"home": 0, "assistant": 2, "support": 2, "media": 0}


def test_member_must_agree(tmp_path: Path) -> None:
    """A recipe that stands on nothing, or on another trunk, is no member."""
    about = '[about]\nname = "{}"\nversion = "1"\ndescription = "A test."\n'
    about += 'licence = "none"\nsources = []\n'
    (tmp_path / "one.toml").write_text(about.format("one"))
    path = tmp_path / "t.toml"
    path.write_text(about.format("t") + '[trunk]\nmembers = ["one"]\n')
    with pytest.raises(ConfigError, match=r'one\.toml: says no `trunk = "t"`'):
        build(str(path), tmp_path)
    path.write_text(about.format("t") + "[trunk]\nmembers = []\n")
    with pytest.raises(ConfigError, match="members"):
        build(str(path), tmp_path)
