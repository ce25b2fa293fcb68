"""Metrics: every figure of the health, and nothing of what is not there."""

import asyncio
import urllib.request

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from agent.cli.embedded import free_port
from agent.core.types import (
    Outcome,
    Prediction,
    Reason,
    Resolved,
    Tier,
    Timing,
    Unresolved,
)
from agent.protocol.health import (
    Amounts,
    FleetHealth,
    Health,
    OutboxHealth,
    UpstreamHealth,
)
from agent.telemetry.counters import Counters, percentiles
from agent.telemetry.metrics import Collector, served

pytestmark = pytest.mark.timeout(20)
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
BARE = Health(received=0, load_1m=0.5, clock_wrong=False)


def samples(text: str) -> Samples:
    """Return what Prometheus's own parser reads, each sample once."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def collected(health: Health) -> Samples:
    """Return the samples that are made of a health."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector(lambda: health))
    return samples(generate_latest(registry).decode())


def test_what_is_not_known_has_no_sample() -> None:
    """Without sensors, messages, outbox, upstream: neither zeros nor errors."""
    found = collected(BARE)
    names = {name for name, _ in found}
    assert found["slm_received_total", ()] == 0
    assert found["slm_load1", ()] == 0.5
    for absent in ("temperature", "resident", "share", "outbox", "budget", "latency"):
        assert not any(absent in name for name in names), names


def test_labelled_counters_begin_with_zero() -> None:
    """Before the first message each reason and outcome of a pipeline has its 0."""
    counters = Counters(["home"])
    found = collected(
        Health(
            pipelines=counters.by_pipeline(),
            cases=counters.cases(),
            upstream=UpstreamHealth(),
        )
    )
    ends = {"resolved", "unresolved", "escalated", "dead_letter"}
    numbers = {
        ("slm_messages_total", (("outcome", end), ("pipeline", "home"))) for end in ends
    }
    numbers |= {
        ("slm_unresolved_total", (("reason", "low_confidence"),)),
        ("slm_unresolved_total", (("reason", "missing_field"),)),
        ("slm_dead_letters_total", (("reason", "missing_field"),)),
        ("slm_dead_letters_total", (("reason", "poison"),)),
        ("slm_resolved_by_total", (("tier", "upstream"),)),
        ("slm_cases_total", (("outcome", "timeout"),)),
        ("slm_upstream_unusable_total", (("reason", "no_json"),)),
    }
    assert {found[number] for number in numbers} == {0}
    assert ("slm_dead_letters_total", (("reason", "negated"),)) not in found


def test_every_figure_is_there() -> None:
    """Counts by outcome, reason and tier, alerts, models, outbox, cases, budget."""
    counters = Counters()
    timing = Timing(0, 0, 2000)
    guess = Prediction(Tier.LINEAR, "on", 0.9)
    counters.result("home", Resolved(guess, None), timing)
    counters.result("home", Unresolved(Reason.OUT_OF_SCOPE), timing, escalated=True)
    counters.case("home", Unresolved(Reason.OUT_OF_SCOPE), Outcome.TIMEOUT, timing)
    p50, p99 = percentiles(counters.latencies)
    found = collected(
        Health(
            refused=2,
            pipelines=counters.by_pipeline(),
            by=counters.by,
            unresolved=counters.unresolved,
            ms_p50=p50,
            ms_p99=p99,
            took=counters.took.durations(),
            fleet=FleetHealth(7, ("applied",)),
            alerts=("disk_low",),
            fingerprints={'odd"name@1': "f"},
            cases=counters.cases(),
            outbox=OutboxHealth(waiting=2, filled=0.5),
            upstream=UpstreamHealth(
                late_replies=4,
                spent_today=Amounts(calls=3, tokens=4, money=0.5),
                spent_today_by={"home": Amounts(calls=2)},
                left_today=Amounts(calls=5),
                left_today_by={"home": Amounts(calls=3)},
            ),
        )
    )
    model = ("bundle", 'odd"name@1'), ("fingerprint", "f")
    assert found["slm_model_info", model] == 1
    assert found["slm_messages_total", (("outcome", "escalated"), ("pipeline", "home"))]
    assert found["slm_resolved_by_total", (("tier", "linear"),)] == 1
    assert found["slm_unresolved_total", (("reason", "out_of_scope"),)] == 1
    assert found["slm_cases_total", (("outcome", "timeout"),)] == 1
    assert found["slm_case_latency_seconds", (("quantile", "0.99"),)] == 2
    assert found["slm_latency_seconds", (("quantile", "0.5"),)] == 2
    bucket = "slm_duration_seconds_bucket"
    assert found[bucket, (("le", "1.0"),)] == 0
    assert found[bucket, (("le", "5.0"),)] == found[bucket, (("le", "+Inf"),)] == 2
    assert found["slm_duration_seconds_sum", ()] == 4
    assert found["slm_case_duration_seconds_count", ()] == 1
    assert found["slm_fleet_version", ()] == 7
    assert found["slm_fleet_state", (("state", "applied"),)] == 1
    assert found["slm_alert", (("alert", "disk_low"),)] == 1
    assert found["slm_refused_total", ()] == 2
    assert found["slm_budget_left", (("unit", "calls"),)] == 5
    assert found["slm_spent_today", (("unit", "money"),)] == 0.5
    left = "slm_pipeline_budget_left", (("pipeline", "home"), ("unit", "calls"))
    assert found[left] == 3
    spent = "slm_pipeline_spent_today", (("pipeline", "home"), ("unit", "calls"))
    assert found[spent] == 2
    assert found["slm_outbox_waiting", ()] == 2
    assert found["slm_upstream_late_replies_total", ()] == 4
    assert not any("oldest" in name for name, _ in found)
    assert ("slm_budget_left", (("unit", "money"),)) not in found


async def test_they_are_served_while_it_lasts() -> None:
    """Whoever asks is answered by the event loop; afterwards the port is free again."""
    port = free_port()

    def ask() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            text: str = answer.read().decode()
            return text

    for _ in range(2):  # as after a reload
        with served("127.0.0.1", port, lambda: BARE, Collector):
            assert samples(await asyncio.to_thread(ask))["slm_load1", ()] == 0.5
    with pytest.raises(OSError, match="refused"):
        await asyncio.to_thread(ask)


@pytest.mark.parametrize("address", ["no.such.host.invalid", "203.0.113.1"])
async def test_an_address_that_is_none_is_only_a_warning(address: str) -> None:
    """The daemon goes on without metrics."""
    with served(address, free_port(), lambda: BARE, Collector):
        await asyncio.sleep(0)


async def test_port_0_is_none() -> None:
    """Nothing is opened."""
    with served("127.0.0.1", 0, lambda: BARE, Collector):
        await asyncio.sleep(0)
