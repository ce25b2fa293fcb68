"""One file of labelled lines becomes a folder that runs."""

import json
import tomllib
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the extra `workshop` is not installed")
pytest.importorskip("transformers", reason="the extra `workshop` is not installed")
pytest.importorskip("onnx", reason="the extra `workshop` is not installed")
pytest.importorskip("faker", reason="the extra `workshop` is not installed")

from agent.config.load import load
from agent.core.errors import ConfigError
from agent.core.types import Resolved
from agent.daemon.checks import check
from agent.evaluation.evaluate import answer
from agent.evaluation.examples import Example, Span, read_examples
from agent.inference.pipeline import open_pipelines
from agent.workshop import own
from agent.workshop.data.recipe import Recipe
from agent.workshop.own import Own, own_pipeline, recipe_for
from agent.workshop.own_lines import split

pytestmark = pytest.mark.filterwarnings("ignore")  # those of the exporters

HEADS = ("red", "old", "big", "left", "new", "blue", "hall", "tall")
TAILS = ("desk", "door", "room", "shelf", "bench", "floor", "bed", "cellar", "wall")
WORDINGS = {
    "lamp_on": "turn on the {} lamp",
    "lamp_off": "turn off the {} lamp please",
    "alarm_set": "wake me at {}",
    "alarm_query": "is there an alarm at {} ?",
}


def _lines() -> Iterator[dict[str, Any]]:
    for label, wording in WORDINGS.items():
        for words in map(" ".join, product(HEADS, TAILS)):
            start = wording.index("{")
            span = {"start": start, "end": start + len(words), "label": "thing"}
            yield {"text": wording.format(words), "label": label, "spans": [span]}
    for one, other in product(("who won", "buy me", "sing of"), TAILS):
        yield {"text": f"{one} a {other}", "label": "oos"}


def _file(folder: Path, lines: list[dict[str, Any]]) -> Path:
    path = folder / "lines.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


def _silent(*_: object) -> None:
    pass


@pytest.fixture(scope="module")
def made(
    encoder_package: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Own, list[str]]:
    """Return what was made of the lines above with the tiny encoder."""
    folder = tmp_path_factory.mktemp("own")
    honest = recipe_for

    def tiny_recipe(*given: Any) -> str:
        text = honest(*given)
        text = text.replace("[pretrained]", '[pretrained]\npackage = "tiny_encoder"')
        return text.replace("[training]", "[training]\nencoder_rate = 2e-3")

    warnings: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(encoder_package)
        patch.setattr(own, "recipe_for", tiny_recipe)
        patch.setattr(own, "STEPS", 150)
        path = _file(folder, list(_lines()))
        result = own_pipeline(path, "desk", folder / "out", _silent, warnings.append)
    return result, warnings


def test_folder_passes_check(made: tuple[Own, list[str]]) -> None:
    """`slm-agent check` finds nothing wrong, and has cases to run."""
    result, warnings = made
    findings = list(check(load(result.folder / "agent.toml")))
    assert {finding.level for finding in findings} == {"ok"}
    assert any("example cases pass" in finding.detail for finding in findings)
    assert warnings == []


def test_pipeline_answers(made: tuple[Own, list[str]]) -> None:
    """What the lines taught is resolved; what they say is out of scope is not."""
    result, _ = made
    [pipeline] = open_pipelines(load(result.folder / "agent.toml"))
    assert pipeline.name == "desk"
    assert pipeline.filters == ("desk/+/message",)
    known = answer(pipeline, "turn off the red door lamp please")
    assert isinstance(known, Resolved)
    assert known.prediction.label == "lamp_off"
    assert [e.text for e in known.prediction.entities] == ["red door"]
    assert not isinstance(answer(pipeline, "sing of a tall door"), Resolved)


def test_what_is_promised_is_certified(made: tuple[Own, list[str]]) -> None:
    """The pipeline's max_error is one that the calibration has a threshold for."""
    result, _ = made
    text = (result.folder / "pipelines" / "desk.toml").read_text()
    written = tomllib.loads(text)
    assert written["decide"]["max_error"] == result.max_error
    assert written["kind"] == "understand"
    assert result.certified
    [pipeline] = open_pipelines(load(result.folder / "agent.toml"))
    assert pipeline.policy.error_bound is not None
    assert pipeline.policy.error_bound <= result.max_error
    told = "\n".join(result.lines())
    assert f"at most {result.max_error:.1%} of the resolved texts" in told
    assert "slm-agent try desk" in told


def test_split_and_recipe_are_kept(made: tuple[Own, list[str]]) -> None:
    """With what lies in the folder the bundle can be built again, and otherwise."""
    result, _ = made
    recipe = Recipe.model_validate(
        tomllib.loads((result.folder / "recipe.toml").read_text())
    )
    assert recipe.about.name == "desk"
    assert recipe.outside is not None
    parts = [
        (result.folder / recipe.data.folder / name).read_text().splitlines()
        for name in ("train.jsonl", "valid.jsonl")
    ]
    assert [len(part) for part in parts] == [result.taught, result.validated]
    assert sum(map(len, parts)) == len(list(_lines()))


def test_nothing_is_overwritten(made: tuple[Own, list[str]]) -> None:
    """A folder that has a pipeline already is left as it is."""
    result, _ = made
    lines = result.folder.parent / "lines.jsonl"
    with pytest.raises(ConfigError, match=r"agent\.toml: is there already"):
        own_pipeline(lines, "desk", result.folder, _silent)


def _examples(count: int) -> list[Example]:
    return [Example(text=f"text number {n}", label=f"l{n % 4}") for n in range(count)]


def test_split_is_a_matter_of_the_text() -> None:
    """Order and repetition change nothing, and no text is on both sides."""
    examples = _examples(400)
    shouted = [
        Example(text=f"  {e.text.upper()} ", label=e.label) for e in examples[:50]
    ]
    train, valid = split([*examples, *shouted])
    assert len(train) + len(valid) == 450
    sides = [{" ".join(e.text.casefold().split()) for e in s} for s in (train, valid)]
    assert not sides[0] & sides[1]
    backwards = split([*examples, *shouted][::-1])
    assert (train[::-1], valid[::-1]) == backwards


@pytest.mark.parametrize(("count", "low", "high"), [(200, 70, 110), (5000, 1400, 1600)])
def test_few_lines_validate_with_more(count: int, low: int, high: int) -> None:
    """About 30 % validate, and up to 45 % where there are few lines."""
    assert low < len(split(_examples(count))[1]) < high


def test_every_label_is_taught() -> None:
    """A label never ends up on the validating side alone."""
    rare = [Example(text=f"rare {n}", label=f"r{n // 2}") for n in range(200)]
    train, _ = split(rare)
    assert {e.label for e in train} == {e.label for e in rare}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (list(_lines())[:199], "199 different texts are too few"),
        (list(_lines())[:100] * 3, "100 different texts are too few"),
        (
            [*_lines(), {"text": "odd one", "label": "odd"}],
            "labels with one example: odd",
        ),
        ([*_lines(), {"text": "x", "label": 3}], r"lines\.jsonl:316: label"),
        ([*_lines(), {"text": " ", "label": "lamp_on"}], "example 316: empty"),
        ([{"text": f"text {n}"} for n in range(300)], "neither labels nor spans"),
        (
            [{"text": f"text {n}", "label": "oos"} for n in range(300)],
            "neither labels nor spans",
        ),
    ],
)
def test_unfit_lines_are_refused(
    lines: list[dict[str, Any]], said: str, tmp_path: Path
) -> None:
    """What cannot become a pipeline is an error with counts, before any training."""
    with pytest.raises(ConfigError, match=said):
        own_pipeline(_file(tmp_path, lines), "desk", tmp_path / "out", _silent)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["", "a desk", "../desk", "x" * 65])
def test_unfit_names_are_refused(name: str, tmp_path: Path) -> None:
    """A name is what topics, files and manifests can carry."""
    path = _file(tmp_path, list(_lines()))
    with pytest.raises(ConfigError, match="letters, digits"):
        own_pipeline(path, name, tmp_path / "out", _silent)


class Trained(Exception):
    """Instead of a training."""


@pytest.fixture
def _no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_training(*_: object) -> None:
        raise Trained

    monkeypatch.setattr(own, "train_bundle", no_training)


@pytest.mark.usefixtures("_no_training")
def test_a_frequent_text_teaches_once_and_certifies_as_often(tmp_path: Path) -> None:
    """The certificate is about what arrives, as often as it does, labels as given."""
    lines = list(_lines())
    often = [*lines[:20] * 30, *lines, {**lines[0], "label": "lamp_off"}]
    with pytest.raises(Trained):
        own_pipeline(_file(tmp_path, often), "desk", tmp_path / "out", _silent)
    taught, held = (
        read_examples(tmp_path / "out" / "data" / f"{part}.jsonl")
        for part in ("train", "valid")
    )
    come = Counter(line["text"] for line in often)
    validate = Counter(example.text for example in held)
    assert validate == {text: come[text] for text in validate}
    assert max(validate.values()) > 30
    teach = Counter(example.text for example in taught)
    assert teach == dict.fromkeys(come.keys() - validate.keys(), 1)


@pytest.mark.usefixtures("_no_training")
def test_thin_data_is_warned_of(tmp_path: Path) -> None:
    """What will not be good is said before the training, which goes on."""
    lines = list(_lines())
    lines += [{"text": f"rare {n}", "label": "rare"} for n in range(3)]
    lines += [{**lines[0], "label": "lamp_off"}, lines[1]]
    warnings: list[str] = []
    with pytest.raises(Trained):
        own_pipeline(
            _file(tmp_path, lines), "desk", tmp_path / "out", _silent, warnings.append
        )
    told = "\n".join(warnings)
    assert "1 repeated texts have another label" in told
    assert "a few examples only of label rare 3" in told


@pytest.mark.parametrize(
    ("examples", "steps"), [(350, (1200, 1500)), (8000, (2000, 2500))]
)
def test_schedule_suits_the_size(examples: int, steps: tuple[int, int]) -> None:
    """Few lines are gone through often, many at least eight times."""
    taught = _examples(examples)
    recipe = Recipe.model_validate(tomllib.loads(recipe_for("x", "f", taught, taught)))
    rows = examples * (1 + (recipe.outside.share if recipe.outside else 0))
    made = recipe.training.epochs * -(-rows // recipe.training.batch)
    assert steps[0] <= made <= steps[1]
    assert recipe.training.epochs >= 8
    assert recipe.pretrained.layers == 3
    assert recipe.levels == 1


def test_recipe_suits_the_lines() -> None:
    """Without labels no linear tier; entities in entities are levels; long windows."""
    inner, outer = Span(start=2, end=3, label="a"), Span(start=0, end=5, label="b")
    spoken = Example(text="a b c" + " word" * 60, spans=(inner, outer))
    text = recipe_for("x", 'odd "name".jsonl', [spoken] * 200, [spoken])
    recipe = Recipe.model_validate(tomllib.loads(text))
    assert recipe.linear is None
    assert recipe.outside is None
    assert recipe.levels == 2
    assert recipe.pretrained.max_tokens == 128


def test_cases_are_the_surest(made: tuple[Own, list[str]]) -> None:
    """Cases are right answers of all labels, and none that is barely sure."""
    result, _ = made
    path = result.folder / "pipelines" / "desk.cases.jsonl"
    cases = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(cases) == 8
    assert {case["label"] for case in cases} == set(WORDINGS)
    truth = {line["text"]: line for line in _lines()}
    assert all(truth[case["text"]]["label"] == case["label"] for case in cases)
    [pipeline] = open_pipelines(load(result.folder / "agent.toml"))
    scores = []
    for case in cases:
        said = answer(pipeline, case["text"]).prediction
        assert said is not None
        scores.append(said.score or 0)
    threshold = pipeline.policy.threshold or 0
    assert min(scores) > threshold
