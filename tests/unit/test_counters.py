"""Counts: what health tells is what happened."""

from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.types import (
    Decision,
    Outcome,
    Prediction,
    Reason,
    Resolved,
    Tier,
    Timing,
    Unresolved,
)
from agent.protocol.health import CasesHealth
from agent.telemetry.counters import RECENT, Counters, percentiles

GUESS = Prediction(Tier.ENCODER, "lamp_on", 0.9)


def counted(*totals: float) -> Counters:
    """Return counts of resolved results that took so many milliseconds."""
    counters = Counters()
    for total in totals:
        counters.result("home", Resolved(GUESS, None), Timing(0, 0, total))
    return counters


def test_nothing_yet() -> None:
    """Before the first message all is empty, and there is no latency."""
    counters = Counters()
    assert counters.by_pipeline() == {}
    assert percentiles(counters.latencies) == (None, None)
    assert counters.cases() == CasesHealth(took=counters.case_took.durations())
    assert set(counters.took.durations().le.values()) == {0}


def test_outcomes() -> None:
    """Every outcome is counted by pipeline, by tier and by reason."""
    counters = counted(1.0, 1.0)
    timing = Timing(0, 0, 1.0)
    counters.result("home", Unresolved(Reason.LOW_CONFIDENCE, GUESS), timing)
    counters.result("other", Unresolved(Reason.MODEL_FAILED), timing)
    counters.dead_letter("home", Reason.EMPTY)
    assert counters.by_pipeline() == {
        "home": {"dead_letter": 1, "resolved": 2, "unresolved": 1},
        "other": {"unresolved": 1},
    }
    assert counters.by == {"encoder": 2}
    assert counters.unresolved == {"low_confidence": 1, "model_failed": 1}
    assert counters.dead_letters == {"empty": 1}


@pytest.mark.parametrize(
    ("totals", "p50", "p99"),
    [
        ([3.0], 3.0, 3.0),
        ([1.0, 2.0], 1.5, 1.99),
        ([float(n) for n in range(101)], 50.0, 99.0),
    ],
)
def test_latency(totals: list[float], p50: float, p99: float) -> None:
    """Quantiles are interpolated between what was measured."""
    assert percentiles(counted(*totals).latencies) == (p50, p99)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50))
def test_latency_is_never_worse_than_the_worst(totals: list[float]) -> None:
    """No quantile lies beyond what was measured."""
    p50, p99 = percentiles(counted(*totals).latencies)
    assert p50 is not None
    assert p50 == pytest.approx(median(totals), abs=1e-3)
    assert p50 <= p99 <= max(totals) + 1e-3


def test_latency_is_of_recent_messages() -> None:
    """Only the last thousand count, so memory is bounded and health is of today."""
    counters = counted(*[100.0] * RECENT, *[1.0] * RECENT)
    assert len(counters.latencies) == RECENT
    assert percentiles(counters.latencies)[1] == 1.0


OPEN = Unresolved(Reason.LOW_CONFIDENCE, GUESS)
ASKED = Prediction(Tier.UPSTREAM, "lamp_on", None)


def test_no_shares_of_nothing() -> None:
    """Before the first message nobody knows, and dead letters say nothing."""
    counters = Counters()
    counters.dead_letter("home", Reason.EMPTY)
    assert counters.share("resolved") is None
    assert counters.share("escalated") is None


@given(
    st.lists(st.sampled_from(["here", "open", "up"]), min_size=1, max_size=30),
    st.lists(
        st.tuples(
            st.sampled_from([Resolved(ASKED, None, Reason.POLICY), OPEN]),
            st.sampled_from(Outcome),
        ),
        max_size=30,
    ),
)
def test_shares_are_of_the_messages_of_this_process(
    local: list[str], ends: list[tuple[Decision, Outcome]]
) -> None:
    """However cases end, be they those of a process before, or answers too long."""
    counters = Counters()
    for what in local:
        decision = Resolved(GUESS, None) if what == "here" else OPEN
        counters.result("home", decision, Timing(0, 0, 1), escalated=what == "up")
    for decision, outcome in ends:
        counters.case("home", decision, outcome, Timing(0, 0, 1))
    assert counters.share("resolved") == round(local.count("here") / len(local), 4)
    assert counters.share("escalated") == round(local.count("up") / len(local), 4)


@pytest.mark.parametrize("escalated", [False, True])
def test_a_model_that_failed_is_known(*, escalated: bool) -> None:
    """Also where upstream answers in its stead: a version on probation is to blame."""
    counters = Counters()
    failed = Unresolved(Reason.MODEL_FAILED)
    counters.result("home", failed, Timing(0, 0, 1), escalated=escalated)
    counters.case("home", Resolved(ASKED, None), Outcome.ANSWERED, Timing(0, 0, 1))
    assert counters.model_failed == 1


def test_who_could_read_nothing() -> None:
    """A pipeline counts if so many messages came, and all were dead letters."""
    counters = Counters()
    for pipeline, number in {"few": 2, "all": 3, "most": 3}.items():
        for _ in range(number):
            counters.dead_letter(pipeline, Reason.NOT_JSON)
    counters.result("most", OPEN, Timing(0, 0, 1))
    counters.result("fine", OPEN, Timing(0, 0, 1))
    assert counters.unread(3) == {"all"}
