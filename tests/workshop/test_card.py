"""The card says what the bundle is worth, as the calibration has it."""

import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the extra `workshop` is not installed")
pytest.importorskip("onnx", reason="the extra `workshop` is not installed")

from agent.config.pipeline_file import PipelineFile
from agent.core.types import Guarantee
from agent.evaluation.scoring import scoreboard
from agent.inference.bundle import CALIBRATION, read_calibration
from agent.inference.calibration import Calibration, Threshold
from agent.inference.manifest import read_manifest
from agent.workshop.bundle.card import WRONG, Encoding, Measured, write_card
from agent.workshop.data.recipe import SHIPPED, Recipe, read_any, read_recipe
from agent.workshop.training.scoring import Figures, certifiable

PIPELINES = Path(__file__).resolve().parents[2] / "pipelines"

pytestmark = pytest.mark.filterwarnings("ignore")  # those of the exporters


@pytest.fixture(scope="module")
def card(built: Path) -> str:
    """Return the card of the bundle that has all there can be."""
    return (built / "README.md").read_text()


@pytest.mark.parametrize("guarantee", Guarantee)
def test_every_table_is_there(guarantee: Guarantee, card: str, built: Path) -> None:
    """What wrong means is said of each table, and each certified error is a row."""
    rows = read_calibration(built / CALIBRATION).tables[guarantee]
    head = f'Wrong means: {WRONG[guarantee]} (`guarantee = "{guarantee.value}"`).'
    _, _, below = card.partition(head)
    table = below.partition("Wrong means:")[0].partition("## ")[0]
    assert rows
    for row in rows:
        assert f"| {row.max_error:g} | {row.threshold:.4f} | " in table
    assert table.count("\n| ") == len(rows) + 1  # and the head


def test_both_precisions_have_a_column(card: str, built: Path) -> None:
    """The figures of the manifest stand in the card, int8 beside fp32."""
    scores = read_manifest(built).scores
    for name in ("accuracy", "span_f1", "coverage", "resolved_accuracy"):
        assert f"| {scores[f'{name}_fp32']:.4f} | {scores[name]:.4f} |" in card


def test_card_tells_of_the_whole_cascade(card: str, built: Path) -> None:
    """What `eval` counts is there beside the encoder alone, and what wrong means."""
    for name in (
        "label accuracy of the whole cascade",
        "span F1 of the whole cascade",
        "span F2 of the whole cascade (overlap 0.7)",
        "other characters hit",
        "characters of entities missed",
    ):
        assert re.search(rf"\| {re.escape(name)} \| [\d.]+ \| [\d.]+ \|", card)
    sources = read_manifest(built).sources
    assert "Out of scope: texts of our own; CC0" in sources


@pytest.mark.parametrize("name", sorted(path.stem for path in PIPELINES.glob("*.toml")))
def test_cards_are_for_what_runs(name: str) -> None:
    """A shipped recipe names the guarantee and the error of the pipeline that ships."""
    spec = PipelineFile.model_validate(
        tomllib.loads((PIPELINES / f"{name}.toml").read_text())
    )
    about = read_recipe(SHIPPED / f"{name}.toml").about
    default = Guarantee.ENTITIES if spec.kind == "extract" else Guarantee.LABEL
    assert (about.guarantee or default) == spec.guarantee
    assert about.max_error == spec.decide.max_error
    assert about.min_score == spec.decide.min_score


@pytest.mark.parametrize("name", sorted(path.stem for path in SHIPPED.glob("*.toml")))
def test_all_sources_are_named(name: str) -> None:
    """No text of other domains teaches without its source and licence in the card."""
    recipe = read_any(SHIPPED / f"{name}.toml")
    outside = recipe.outside if isinstance(recipe, Recipe) else None
    for other in outside.others if outside else ():
        assert re.search(
            r"; (CC BY 4\.0|CC BY 3\.0|CC BY-SA 4\.0|CC0|MIT)$", other.source
        )


def test_card_says_what_it_is(card: str) -> None:
    """Both tiers, the layers, where negatives come from, and how to build it again."""
    assert "hashed n-grams (2^10), then 2 layers of tiny_encoder" in card
    assert "4 labels, 2 entity types" in card
    assert "what is out of scope: other/train.jsonl, and generated ones" in card
    assert "`other/train.jsonl`, `other/valid.jsonl`" in card
    assert "- Out of scope: texts of our own; CC0" in card
    assert "{split}" not in card
    assert "slm-agent train RECIPE.toml --data DIR" in card
    assert "linear.npz" in card
    assert "$" not in card


def _calibration(rows: list[Threshold]) -> Calibration:
    return Calibration(
        fingerprint="0" * 64,
        runtime="none",
        data="none",
        fitted_on=30,
        certified_on=30,
        confidence=0.95,
        tiers=[],
        tables={Guarantee.LABEL: rows},
    )


ROW = Threshold(max_error=0.2, threshold=0.5, coverage=0.9, error=0.1)


@pytest.mark.parametrize(
    ("rows", "wanted", "kept"),
    [([ROW], 0.05, 0.2), ([ROW], 0.3, 0.3), ([], 0.05, None)],
)
def test_least_that_is_certified(
    rows: list[Threshold], wanted: float, kept: float | None
) -> None:
    """Figures are for the error wanted, or for the least the data can carry."""
    assert certifiable(_calibration(rows), Guarantee.LABEL, wanted) == kept


def test_nothing_certified_is_said(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    """A table without rows says so, and names the error its figures are for."""
    nothing = scoreboard([], frozenset())
    figures = Figures(alone=nothing, cascade=nothing)
    measured = Measured(
        exact=figures,
        quantised=figures,
        calibration=_calibration([]),
        guarantee=Guarantee.LABEL,
        max_error=0.05,
        labels=1,
        entities=0,
        encoding=Encoding("tiny_encoder", 1, 1, 32),
        train=1,
        valid=1,
    )
    write_card(tmp_path / "README.md", recipe(), measured)
    text = (tmp_path / "README.md").read_text()
    assert "| none can be certified | | | |" in text
    assert "at `max_error` 0.05 on the label" in text
