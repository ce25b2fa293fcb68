"""Prometheus metrics of a broker: the numbers of its health topic."""

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.metrics_core import Metric

from agent.telemetry.metrics import Health, labelled, quantiles

# name, key in health, help
COUNTERS = (
    ("received", "received", "Cases received"),
    ("calls", "calls", "Calls to models"),
    ("repairs", "repairs", "Calls that asked for a better answer"),
    ("cache_hits", "cache_hits", "Cases answered from the cache"),
    ("duplicates", "duplicates", "Cases that came again"),
    ("answered_by_others", "answered_by_others", "Cases that others of the group had"),
    ("undeliverable", "undeliverable", "Replies that MQTT refused"),
    ("input_tokens", "input_tokens", "Tokens sent"),
    ("output_tokens", "output_tokens", "Tokens received"),
    ("cost", "cost", "Money, in the currency of the prices"),
)
BY = (
    ("cases", "outcome", "cases", "Ended cases by outcome"),
    ("answers", "model", "answers", "Answers by model"),
    ("failures", "failure", "failures", "Failed calls, as <model>: <trouble>"),
)
GAUGES = (
    ("in_flight", "in_flight", "Cases in hand"),
    ("store_bytes", "store_bytes", "Bytes of state on disk"),
)


class BrokerCollector:
    """Turns the health of one broker into metrics."""

    def __init__(self, health: Health) -> None:
        """`health` is called in the thread of whoever asks."""
        self._health = health

    def collect(self) -> Iterator[Metric]:
        """Yield every metric family once."""
        health = self._health()
        about = {"version": health["version"], "group": health["group"]}
        yield InfoMetricFamily("slm_broker", "Version and group", about)
        for name, key, said in COUNTERS:
            yield CounterMetricFamily(f"slm_broker_{name}", said, health[key])
        for name, label, key, said in BY:
            numbers = health[key]
            yield labelled(CounterMetricFamily, f"broker_{name}", said, label, numbers)
        for name, key, said in GAUGES:
            yield GaugeMetricFamily(f"slm_broker_{name}", said, health[key])
        yield from _standing(health)
        yield quantiles(
            "broker_latency", "Arrival to reply", health, "ms_p50", "ms_p99"
        )


def _standing(health: Mapping[str, Any]) -> Iterator[Metric]:
    """Yield who else is there, whether a reload was refused, and what may be spent."""
    others = len(health["others"])
    yield GaugeMetricFamily("slm_broker_others", "Others of the group", others)
    yield GaugeMetricFamily(
        "slm_broker_reload_refused",
        "1 while the last reload stands refused",
        int(health["reload_refused"] is not None),
    )
    yield labelled(
        GaugeMetricFamily,
        *("broker_budget_left", "What is left of the day's budget", "unit"),
        health["budget_left"],
    )
