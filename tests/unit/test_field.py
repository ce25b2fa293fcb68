"""The hand-written texts of tests/field, and the script that asks about them."""

import importlib.util
import json
import random
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from agent.core.types import Entity, Prediction, Reason, Resolved, Tier, Unresolved
from agent.escalation.privacy_gate import redact

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "bench" / "field.py"
NAMES = ("home", "assistant", "support", "media")
NEW_TYPES = {"HANDLE", "SECRET", "ID_NUMBER", "LOCATION", "MAC"}


def opened() -> ModuleType:
    """Return bench/field.py as a module; bench is no package."""
    spec = importlib.util.spec_from_file_location("field_bench", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # pydantic looks its annotations up there
    spec.loader.exec_module(module)
    return module


field = opened()


def manifest(name: str) -> dict[str, list[str]]:
    """Return the manifest of a shipped bundle."""
    path = ROOT / "models" / name / "manifest.json"
    return json.loads(path.read_text("utf-8"))


@pytest.mark.parametrize("name", NAMES)
def test_sixty_of_each_kind(name: str) -> None:
    """Each pipeline has sixty texts or more of each kind, and of no other."""
    counts = Counter(line.kind for line in field.read_field(name))
    assert set(counts) == set(field.KINDS)
    assert min(counts.values()) >= 60


@pytest.mark.parametrize("name", NAMES)
def test_labels_are_the_bundles(name: str) -> None:
    """What is to be resolved has a label of the bundle, what is not has none."""
    labels, entities = manifest(name)["labels"], manifest(name)["entities"]
    for line in field.read_field(name):
        assert line.expect is not None
        assert line.label is None or line.label in labels, line.text
        assert {span.label for span in line.marked} <= set(entities), line.text
        if line.expect != "either":
            assert (line.label is not None) == (line.expect == "resolved"), line.text


@pytest.mark.parametrize("name", [*NAMES, "privacy", "maintenance"])
def test_no_text_stands_twice(name: str) -> None:
    """No text is written twice, whatever its case."""
    counts = Counter(line.text.casefold() for line in field.read_field(name))
    assert [text for text, times in counts.items() if times > 1] == []


@pytest.mark.parametrize("name", [*NAMES, "privacy", "maintenance"])
def test_spans_are_words(name: str) -> None:
    """No span begins or ends with white space, and no two of a text are the same."""
    for line in field.read_field(name):
        places = [(span.start, span.end) for span in line.marked]
        words = [line.text[start:end] for start, end in places]
        assert all(word == word.strip() for word in words), line.text
        assert len(set(places)) == len(places), line.text


def test_few_texts_are_debatable() -> None:
    """Of the four pipelines' texts hardly one in forty may end either way."""
    lines = [line for name in NAMES for line in field.read_field(name)]
    expected = Counter(line.expect for line in lines)
    assert expected["either"] <= expected.total() / 40


def test_privacy_has_every_type() -> None:
    """Each type that must be found is in the texts; of clean ones, dates at most."""
    lines = field.read_field("privacy")
    known = {*manifest("privacy")["entities"], *NEW_TYPES}
    clean = [line for line in lines if line.kind == "clean"]
    assert {span.label for line in lines for span in line.marked} == known
    assert {span.label for line in clean for span in line.marked} == {"DATE_TIME"}
    assert len(clean) >= 100
    assert len(lines) - len(clean) >= 320


def test_maintenance_has_every_class() -> None:
    """Work orders have the bundle's classes, and some have none."""
    lines = field.read_field("maintenance")
    classes = {span.label for line in lines for span in line.marked}
    assert classes == set(manifest("maintenance")["entities"])
    assert len(lines) >= 150
    assert {line.kind for line in lines if not line.marked} == {"nothing"}


# --- the script -----------------------------------------------------------------------


def resolved(text: str, label: str, gold: str | None = None) -> object:
    """Return an outcome that was resolved."""
    best = Prediction(by=Tier.ENCODER, label=label, score=0.9)
    return field.Outcome(field.Line(text=text, label=gold), Resolved(best, None))


def unresolved(text: str, reason: Reason, label: str, gold: str | None) -> object:
    """Return an outcome that was not, with its best guess."""
    best = Prediction(by=Tier.ENCODER, label=label, score=0.2)
    line = field.Line(text=text, label=gold, note="near")
    return field.Outcome(line, Unresolved(reason, best))


def test_talk_is_no_act() -> None:
    """A negated command resolved as a word about the conversation did nothing."""
    outcomes = [
        resolved("don't turn it off", "iot_hue_lightoff"),
        resolved("no, leave it", "general_negate"),
        unresolved("never", Reason.LOW_CONFIDENCE, "iot_hue_lightoff", None),
        unresolved("do not", Reason.OUT_OF_SCOPE, "iot_hue_lightoff", None),
    ]
    figures = field.form_figures(outcomes, "out_of_scope", field.TALK["home"])
    assert figures == {"n": 4, "resolved": 0.5, "acted": 0.25, "named": 0.5}


def test_requests_are_counted_three_ways() -> None:
    """Accuracy is of all best guesses, wrong of the resolved alone."""
    outcomes = [
        resolved("lights on", "on", "on"),
        resolved("lights out", "on", "off"),
        unresolved("light?", Reason.LOW_CONFIDENCE, "on", "on"),
        unresolved("lite", Reason.LOW_CONFIDENCE, "off", "on"),
    ]
    figures = field.request_figures(outcomes)
    shares = (figures["accuracy"], figures["coverage"], figures["wrong"])
    assert shares == (0.5, 0.5, 0.5)
    assert figures["span_f1"] is None


def test_outside_is_kept_by_note() -> None:
    """Each sort of text outside has its own share."""
    outcomes = [
        resolved("turn on the charm", "on"),
        unresolved("play dead", Reason.LOW_CONFIDENCE, "on", None),
    ]
    figures = field.outside_figures(outcomes)
    assert figures == {"n": 2, "kept": 0.5, "kept_by_note": {"other": 0.0, "near": 1.0}}


def test_hidden_characters_are_found_again() -> None:
    """Each hidden character has its type, those of the same words elsewhere as well."""
    text = "Ann Lee met Bo. Lee left."
    found = [
        Entity("PERSON", "Ann Lee", 0, 7, None),
        Entity("PERSON", "Bo", 12, 14, None),
        Entity("US_SSN", "Lee", 16, 19, None),
    ]
    kinds = field.covers(text, redact(text, found))
    assert kinds[:7] == ["PERSON"] * 7
    assert kinds[7:12] == [None] * 5
    assert kinds[12:14] == ["PERSON"] * 2
    assert kinds[16:19] == ["US_SSN"] * 3
    assert kinds[19:] == [None] * 6


def line(text: str, kind: str, *spans: tuple[int, int, str]) -> object:
    """Return a text of tests/field."""
    marked = [{"start": a, "end": b, "label": label} for a, b, label in spans]
    return field.Line.model_validate({"text": text, "kind": kind, "spans": marked})


def test_characters_are_counted() -> None:
    """White space counts as nothing; a clean text's date may be hidden as a date."""
    counts = field.Characters()
    counts.add(line("ab cd", "lower", (0, 2, "PERSON")), ["PERSON", *[None] * 4])
    assert counts.figures() == {"missed": 0.5, "hit": 0.0}
    clean = line("ab 12", "clean", (3, 5, "DATE_TIME"))
    counts.add(clean, [None, None, None, "DATE_TIME", "DATE_TIME"])
    assert counts.figures() == {"missed": 0.5, "hit": 0.0}
    counts.add(clean, [None, None, None, "US_SSN", None])
    assert counts.figures() == {"missed": 0.5, "hit": round(1 / 7, 4)}


def dice() -> random.Random:
    """Return dice that fall the same way each time."""
    return random.Random(13)  # noqa: S311


def test_a_typo_is_one_slip() -> None:
    """A mistyped text is at most one letter longer or shorter, the same each time."""
    text = "turn off the kitchen lights"
    first, second = dice(), dice()
    typos = [field.mistyped(text, first) for _ in range(200)]
    assert typos == [field.mistyped(text, second) for _ in range(200)]
    assert all(abs(len(typo) - len(text)) <= 1 for typo in typos)
    assert typos.count(text) < 20  # two equal letters can be swapped
    assert field.mistyped("on it", first) == "on it"


def test_a_missed_bar_is_marked() -> None:
    """The table marks what misses its bar, and says what it was."""
    bar = field.Bar("in scope", "pipelines/*/x", ">=", 0.97, (("support", 0.92),))
    figures = {"pipelines": {"home": {"x": 0.95}, "support": {"x": 0.95}}}
    before = {"pipelines": {"support": {"x": 0.9}}}
    assert field.cell(bar, "home", figures, before) == "0.950 !"
    assert field.cell(bar, "support", figures, before) == "0.900 > 0.950"
    assert field.cell(bar, "media", figures, before) == "-"
    assert field.limits(bar) == ">= 0.97, support 0.92"
    most = field.Bar("acted on", "pipelines/*/x", "<=", 0.95)
    assert field.cell(most, "home", figures, {}) == "0.950"
    figures["pipelines"]["home"]["x"] = 0.96
    assert field.cell(most, "home", figures, {}) == "0.960 !"


def test_every_bar_stands_on_a_figure() -> None:
    """Each row of the table has a figure in what was measured before."""
    path = ROOT / "bench" / "results" / "field-before.json"
    figures = json.loads(path.read_text("utf-8"))
    for bar in (*field.BARS, *field.SINGLE):
        assert field.at(figures, bar.path.replace("*", "home")) is not None, bar.what
