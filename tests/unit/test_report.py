"""The report of eval: intervals, what is worst, the curve, and how it is shown."""

from collections.abc import Sequence
from html.parser import HTMLParser

import pytest

from agent.cli.eval_report import html_report, text_report
from agent.core.types import Entity, Prediction, Reason, Resolved, Tier, Unresolved
from agent.evaluation.breakdown import (
    MOST,
    POINTS,
    CurvePoint,
    EntityRow,
    LabelRow,
    breakdown,
)
from agent.evaluation.examples import Example, Span
from agent.evaluation.intervals import intervals, ratio, wilson
from agent.evaluation.scoring import ScoredAnswer

LABELS = frozenset({"on", "off", "dim"})


def scored(
    true: str | None,
    said: str,
    confidence: float,
    *,
    resolved: bool = True,
    text: str = "the text",
) -> ScoredAnswer:
    """Return an answer to a text with a label."""
    guess = Prediction(Tier.LINEAR, said, confidence, ())
    decision = (
        Resolved(guess, None) if resolved else Unresolved(Reason.LOW_CONFIDENCE, guess)
    )
    return ScoredAnswer(Example(text=text, label=true), decision, confidence)


def spans(true: Sequence[str], said: Sequence[str]) -> ScoredAnswer:
    """Return an answer to a text whose entities are its letters."""
    text = "abcdef"
    wanted = tuple(Span(start=n, end=n + 1, label=v) for n, v in enumerate(true) if v)
    got = tuple(Entity(v, text[n], n, n + 1, 0.9) for n, v in enumerate(said) if v)
    decision = Resolved(Prediction(Tier.LINEAR, None, None, got, 0.9), None)
    return ScoredAnswer(Example(text=text, spans=wanted), decision, 0.9)


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [  # Newcombe, Statistics in Medicine 17 (1998), table I
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_the_interval_of_a_share(hits: int, n: int, low: float, high: float) -> None:
    """Shares have Wilson's interval, as published."""
    assert wilson(hits, n) == pytest.approx((low, high), abs=5e-5)
    mirrored = wilson(n - hits, n)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=5e-5)
    assert wilson(0, 0) is None


def test_the_interval_of_a_ratio() -> None:
    """Where all texts weigh the same, a ratio of sums is a mean with its own spread."""
    found = ratio([(1, 1)] * 90 + [(0, 1)] * 10)
    spread = 1.959964 * (0.9 * 0.1 / 99) ** 0.5
    assert found == pytest.approx((0.9 - spread, 0.9 + spread))
    assert ratio([(1, 1)]) is None
    assert ratio([(0, 0), (0, 0)]) is None
    assert ratio([(2, 2)] * 5) == (1.0, 1.0)
    few, many = ratio([(1, 2), (2, 2)] * 5), ratio([(1, 2), (2, 2)] * 500)
    assert few
    assert many
    assert few[1] - few[0] > 9 * (many[1] - many[0])


def test_which_figures_have_an_interval() -> None:
    """Every share of the report has one, where the data says something about it."""
    answers = [scored("on", "on", 0.9), scored("oos", "on", 0.5, resolved=False)]
    found = intervals(answers, LABELS)
    assert found["accuracy"] == wilson(2, 2)
    assert found["coverage"] == wilson(1, 2)
    assert found["in_scope_accuracy"] == wilson(1, 1)
    assert found["out_of_scope_kept"] == wilson(1, 1)
    assert "span_f1" not in found
    marked = [spans(["a", "b"], ["a", "x"]), spans(["a"], ["a"])]
    assert set(intervals(marked, LABELS)) == {"coverage", "span_f1", "resolved_span_f1"}


ANSWERS = [
    *[scored("on", "on", 0.9)] * 8,
    *[scored("on", "off", 0.8)] * 2,
    *[scored("off", "on", 0.7, resolved=False)] * 3,
    scored("dim", "dim", 0.6),
    scored("oos", "dim", 0.95, text="outside"),
    scored("oos", "dim", 0.3, resolved=False),
]


def test_what_is_worst() -> None:
    """Labels that are surely bad come first, and what they are taken for."""
    found = breakdown(ANSWERS, LABELS)
    assert found.labels == (
        LabelRow("off", 3, 0, 0, "on"),
        LabelRow("oos", 2, 1, 1, "dim"),
        LabelRow("on", 10, 8, 10, "off"),
    )
    assert found.confusions == (("off", "on", 3), ("on", "off", 2), ("oos", "dim", 1))
    texts = [(text.true, text.said, text.resolved) for text in found.texts]
    assert texts[0] == ("oos", "dim", True)
    assert texts[1] == ("on", "off", True)
    assert texts[-1] == ("off", "on", False)


def test_the_curve() -> None:
    """The error among the surest, equally sure ones together."""
    found = breakdown(ANSWERS, LABELS).curve
    n = len(ANSWERS)
    assert found == (
        CurvePoint(1 / n, 1.0, 0.95),
        CurvePoint(9 / n, 1 / 9, 0.9),
        CurvePoint(11 / n, 3 / 11, 0.8),
        CurvePoint(14 / n, 6 / 14, 0.7),
        CurvePoint(15 / n, 6 / 15, 0.6),
        CurvePoint(1.0, 6 / 16, 0.3),
    )
    many = [scored("on", "on", number / 5000) for number in range(5000)]
    curve = breakdown(many, LABELS).curve
    assert len(curve) <= POINTS + 1
    assert curve[-1].coverage == 1.0


def test_entities_that_are_worst() -> None:
    """Types with most errors first; texts show the entities that differ."""
    answers = [spans(["a", "b", "c"], ["a", "b", "a"]), spans(["a"], ["a"])] * 20
    found = breakdown(answers, frozenset())
    assert found.entities == (EntityRow("a", 40, 60, 40), EntityRow("c", 20, 0, 0))
    assert found.labels == found.confusions == ()
    assert len(found.texts) == MOST
    assert (found.texts[0].true, found.texts[0].said) == ("c=c", "a=c")


FIGURES = {
    "pipeline": "home",
    "model": "home@1",
    "n": 16,
    "accuracy": 0.625,
    "in_scope_accuracy": None,
    "coverage": 0.75,
    "in_scope_coverage": None,
    "out_of_scope_kept": 0.5,
    "resolved_accuracy": 0.75,
    "span_f1": None,
    "resolved_span_f1": None,
    "span_f2": None,
    "missed": None,
    "hit": None,
    "aurc": 0.25,
    "ece": None,
    "entity_ece": None,
    "by_tier": {"linear": 16},
    "texts_per_s": 512.0,
    "ms_p50": 1.5,
    "ms_p99": 2.5,
    "intervals": {"accuracy": [0.3864, 0.8152]},
}
NASTY = "<script>\x1b[2J</script>"


def test_the_report_as_text() -> None:
    """Percentages with their intervals, in 80 columns, without terminal commands."""
    answers = [*ANSWERS, scored("on", "off", 0.99, text=NASTY + "x" * 200)]
    lines = list(text_report(FIGURES, breakdown(answers, LABELS)))
    text = "\n".join(lines)
    assert all(len(line) <= 80 for line in lines)
    assert "\x1b" not in text
    assert ["label", "right", "62.5", "%", "38.6", "-", "81.5"] in map(str.split, lines)
    for words in ("worst labels", "confusions", "wrong, though sure", "100%", "AURC"):
        assert words in text
    assert "entities" not in text


class Tags(HTMLParser):
    """Counts the tags of a page, and sees that each is closed."""

    def __init__(self) -> None:
        """Nothing is open."""
        super().__init__()
        self.seen: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Open one; nothing is loaded from anywhere."""
        self.seen.append(tag)
        assert not {"src", "href"} & dict(attrs).keys()
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, _: list[tuple[str, str | None]]) -> None:
        """Count one that is closed already."""
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Close one."""
        assert self.open.pop() == tag


def test_the_report_as_a_page() -> None:
    """The page is well formed, holds nothing active, and draws the curve."""
    answers = [*ANSWERS, scored("on", "off", 0.99, text=NASTY)]
    page = html_report(FIGURES, breakdown(answers, LABELS), f"{NASTY}.jsonl")
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert "script" not in tags.seen
    assert tags.seen.count("polyline") == 1
    assert tags.seen.count("table") == 4
    assert "62.5 %" in page
    nothing = breakdown([], LABELS)
    assert "polyline" not in html_report(FIGURES, nothing, "x").partition("</style>")[2]
