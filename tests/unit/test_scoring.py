"""Scoring: the figures of `eval`, against their definitions."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.types import Entity, Prediction, Reason, Resolved, Tier, Unresolved
from agent.evaluation.examples import Example, Span
from agent.evaluation.scoring import (
    ScoredAnswer,
    aurc,
    calibration_error,
    scoreboard,
    span_f1,
)

KNOWN = frozenset({"on", "off"})
Spans = list[tuple[int, int, str]]


def answer(
    true: str | None,
    said: str | None,
    score: float = 0.9,
    *,
    resolved: bool = True,
    spans: tuple[tuple[int, int, str], ...] = (),
    found: tuple[tuple[int, int, str], ...] = (),
) -> ScoredAnswer:
    """Return an answer to a text whose truth is known."""
    text = "x" * 100
    true_spans = tuple(Span(start=s, end=e, label=n) for s, e, n in spans)
    entities = tuple(Entity(n, text[s:e], s, e, score) for s, e, n in found)
    guess = Prediction(Tier.ENCODER, said, score, entities)
    return ScoredAnswer(
        Example(text=text, label=true, spans=true_spans),
        Resolved(guess, None) if resolved else Unresolved(Reason.LOW_CONFIDENCE, guess),
        score,
    )


def test_labels() -> None:
    """Accuracy is over all texts, `resolved_accuracy` over those resolved."""
    found = scoreboard(
        [
            answer("on", "on"),
            answer("on", "off"),
            answer("off", "off", resolved=False),
            answer("off", "on", resolved=False),
        ],
        KNOWN,
    )
    assert (found.n, found.accuracy, found.coverage) == (4, 0.5, 0.5)
    assert found.resolved_accuracy == 0.5
    assert found.by_tier == {"encoder": 4}


@pytest.mark.parametrize(("resolved", "accuracy"), [(True, 0.0), (False, 1.0)])
def test_label_the_bundle_does_not_know(*, resolved: bool, accuracy: float) -> None:
    """A text out of scope is right only if it was left unresolved."""
    found = scoreboard([answer("dance", "on", resolved=resolved)], KNOWN)
    assert found.accuracy == accuracy


def test_scope() -> None:
    """What is in scope and what is not are also counted apart."""
    found = scoreboard(
        [
            answer("on", "on"),
            answer("on", "off"),
            answer("off", "off", resolved=False),
            answer("off", "off"),
            answer("dance", "on", resolved=False),
            answer("dance", "on"),
            answer("sing", "on", resolved=False),
        ],
        KNOWN,
    )
    assert (found.in_scope_accuracy, found.in_scope_coverage) == (0.75, 0.75)
    assert found.out_of_scope_kept == pytest.approx(2 / 3)
    inside = scoreboard([answer("on", "on")], KNOWN)
    assert (inside.in_scope_accuracy, inside.out_of_scope_kept) == (1.0, None)
    assert scoreboard([answer(None, None)], KNOWN).in_scope_coverage is None


@pytest.mark.parametrize(
    ("spans", "found", "f2"),
    [
        ([(0, 10, "a")], [(0, 10, "a")], 1.0),
        ([(0, 10, "a")], [(0, 7, "a")], 1.0),
        ([(0, 10, "a")], [(0, 6, "a")], 0.0),
        ([(0, 7, "a")], [(0, 10, "a")], 1.0),
        ([(0, 10, "a")], [(0, 10, "b")], 0.0),
        ([(0, 10, "a"), (20, 30, "a")], [(0, 10, "a")], 5 / 9),  # one missed
        ([(0, 10, "a")], [(0, 10, "a"), (20, 30, "a")], 5 / 6),  # one too many
        ([(0, 10, "a")], [(0, 10, "a"), (0, 9, "a")], 5 / 6),  # found once
        ([], [(0, 10, "a")], None),
    ],
)
def test_span_f2(spans: Spans, found: Spans, f2: float | None) -> None:
    """The same label, seven tenths of both together, and misses weigh four times."""
    one = answer(None, None, spans=tuple(spans), found=tuple(found))
    assert scoreboard([one], KNOWN).span_f2 == f2


def test_characters() -> None:
    """What is missed of entities, and hit of all else, whatever it is called."""
    found = scoreboard(
        [
            answer(None, None, spans=((0, 20, "a"),), found=((10, 25, "b"),)),
            answer(None, None, found=((0, 4, "a"), (2, 5, "a"))),
        ],
        KNOWN,
    )
    assert found.missed == 0.5  # 10 of 20
    assert found.hit == pytest.approx(10 / 180)


def test_lines_without_spans_say_nothing_of_entities() -> None:
    """What is found there is neither right nor wrong."""
    said = answer("on", "on", spans=((0, 4, "a"),), found=((0, 4, "a"),))
    silent = answer("on", "on", found=((0, 9, "a"),))
    silent = replace(silent, example=Example(text="x" * 100, label="on"))
    both, alone = scoreboard([said, silent], KNOWN), scoreboard([said], KNOWN)
    assert both.accuracy == 1.0
    for key in (
        "span_f1",
        "span_f2",
        "missed",
        "hit",
        "entity_ece",
        "resolved_span_f1",
    ):
        assert getattr(both, key) == getattr(alone, key), key
    nothing = scoreboard([replace(silent, example=Example(text="x"))], KNOWN)
    assert (nothing.span_f1, nothing.hit, nothing.aurc) == (None, None, None)


def test_model_that_failed() -> None:
    """An answer without a guess is wrong, and no tier's."""
    example = Example(text="x", label="on", spans=(Span(start=0, end=1, label="a"),))
    failed = ScoredAnswer(example, Unresolved(Reason.MODEL_FAILED), 0.0)
    found = scoreboard([failed], KNOWN)
    assert (found.accuracy, found.span_f1, found.coverage) == (0.0, 0.0, 0.0)
    assert found.by_tier == {"none": 1}


@pytest.mark.parametrize(
    ("spans", "found", "f1"),
    [
        (((0, 4, "a"),), ((0, 4, "a"),), 1.0),
        (((0, 4, "a"),), ((0, 5, "a"),), 0.0),  # exact boundaries
        (((0, 4, "a"),), ((0, 4, "b"),), 0.0),  # and label
        (((0, 4, "a"), (5, 6, "b")), ((0, 4, "a"),), 2 / 3),
        (((0, 4, "a"),), ((0, 4, "a"), (5, 6, "b")), 2 / 3),
        (((0, 4, "a"),), (), 0.0),
        ((), (), None),
    ],
)
def test_span_f1(
    spans: tuple[tuple[int, int, str], ...],
    found: tuple[tuple[int, int, str], ...],
    f1: float | None,
) -> None:
    """An entity counts if boundaries and label are the true ones."""
    assert span_f1([answer(None, None, spans=spans, found=found)]) == f1


def test_span_f1_is_micro() -> None:
    """Entities of all texts are pooled: a text with many counts for many."""
    many = tuple((n, n + 1, "a") for n in range(9))
    answers = [
        answer(None, None, spans=many, found=many),
        answer(None, None, spans=((0, 4, "a"),), found=((0, 3, "a"),)),
    ]
    assert span_f1(answers) == pytest.approx(2 * 9 / 20)


@pytest.mark.parametrize(
    ("confidences", "errors", "area"),
    [
        ([0.9, 0.8], [False, False], 0.0),
        ([0.9, 0.8], [True, True], 1.0),
        ([0.9, 0.8], [False, True], (0 + 1 / 2) / 2),
        ([0.9, 0.8], [True, False], (1 + 1 / 2) / 2),
        ([0.8, 0.9], [True, False], (0 + 1 / 2) / 2),
        ([0.5, 0.5], [True, False], (1 / 2 + 1 / 2) / 2),  # no order among equals
        ([], [], None),
    ],
)
def test_aurc(confidences: list[float], errors: list[bool], area: float | None) -> None:
    """The mean over k of the error among the k surest (Geifman et al. 2019)."""
    assert aurc(confidences, errors) == area


@given(
    st.lists(
        st.tuples(st.sampled_from([0.1, 0.5, 0.9]), st.booleans()), min_size=1
    ).flatmap(lambda rows: st.tuples(st.just(rows), st.permutations(rows)))
)
def test_order_of_the_data_does_not_matter(
    orders: tuple[list[tuple[float, bool]], list[tuple[float, bool]]],
) -> None:
    """Shuffled data has the same area: equals share their errors."""
    answers, shuffled = orders
    one = aurc([c for c, _ in answers], [e for _, e in answers])
    other = aurc([c for c, _ in shuffled], [e for _, e in shuffled])
    assert one == pytest.approx(other)


@pytest.mark.parametrize(
    ("claims", "gap"),
    [
        ([(1.0, True)], 0.0),
        ([(1.0, False)], 1.0),
        ([(0.5, True), (0.5, False)], 0.0),
        ([(0.9, True), (0.1, False)], 0.1),
        ([(0.81, True), (0.85, False), (0.1, False)], (0.66 + 0.1) / 3),
    ],
)
def test_calibration_error(claims: list[tuple[float, bool]], gap: float) -> None:
    """Scores of one bin are compared with how often they were right."""
    assert calibration_error(claims) == pytest.approx(gap)


def test_nothing_to_score() -> None:
    """Without data there are no figures, and no division by zero."""
    found = scoreboard([], KNOWN)
    assert (found.n, found.coverage, found.accuracy, found.aurc) == (0, 0.0, None, None)


def test_entities_only() -> None:
    """Without labels the error that ranks answers is any difference in the entities."""
    span = ((0, 4, "a"),)
    found = scoreboard(
        [answer(None, None, 0.9, spans=span, found=span), answer(None, None, 0.5)],
        frozenset(),
    )
    assert (found.accuracy, found.ece, found.aurc) == (None, None, 0.0)
