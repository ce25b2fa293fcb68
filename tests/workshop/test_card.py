"""The card says what the bundle is worth, as the calibration has it."""

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the extra `workshop` is not installed")
pytest.importorskip("onnx", reason="the extra `workshop` is not installed")

from agent.bundle import CALIBRATION, read_calibration
from agent.calibration import Calibration, Threshold
from agent.manifest import read_manifest
from agent.scoring import scoreboard
from agent.types import Guarantee
from agent.workshop.card import WRONG, Encoding, Measured, write_card
from agent.workshop.recipe import Recipe
from agent.workshop.scoring import Figures, certifiable

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


def test_card_says_what_it_is(card: str) -> None:
    """Both tiers, the layers, where negatives come from, and how to build it again."""
    assert "hashed n-grams (2^10), then 2 layers of tiny_encoder" in card
    assert "4 labels, 2 entity types" in card
    assert "other/{split}.jsonl" in card
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
    figures = Figures(alone=nothing, cascade=nothing, kept_outside=None)
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
