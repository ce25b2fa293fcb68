"""Prometheus metrics: the numbers of the health topic, on a loopback port.

Read when they are asked for, so that nothing is counted twice.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from socket import SOCK_STREAM, getaddrinfo
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import structlog
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.exposition import ThreadingWSGIServer
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector as Registrable

from agent import __version__

WAIT_S = 5.0  # for the event loop, which has better things to do
Health = Callable[[], Mapping[str, Any]]

log = structlog.get_logger()

# name, key in health, help
GAUGES = (
    ("in_hand", "in_hand", "Messages between arrival and the last word on them"),
    ("in_hand_max", "in_hand_max", "Most messages in hand"),
    ("in_hand_bytes", "in_hand_bytes", "Payload bytes in hand"),
    ("in_hand_bytes_max", "in_hand_bytes_max", "Most payload bytes in hand"),
    ("in_hand_oldest_seconds", "in_hand_oldest_s", "Age of the oldest message in hand"),
    ("resident_memory_bytes", "rss_bytes", "Resident memory"),
    ("temperature_celsius", "temperature_c", "Temperature of the processor"),
    ("throttled", "throttled", "Bits of the Raspberry Pi's firmware; 0 is fine"),
    ("load1", "load_1m", "Load average of the last minute"),
    ("disk_free_bytes", "disk_free_bytes", "Free space where the state is"),
    ("disk_bytes", "disk_bytes", "Size of the disk where the state is"),
    ("clock_wrong", "clock_wrong", "1 while the clock cannot be right"),
    ("uptime_seconds", "uptime_s", "Since the start or the last reload"),
    ("share_local", "share_local", "Share of the messages resolved on the device"),
    ("share_escalated", "share_escalated", "Share of the messages sent upstream"),
)
COUNTERS = (
    ("received", "received", "Messages received"),
    ("unrouted", "unrouted", "Messages that no pipeline wanted"),
    ("lost", "lost", "QoS 0 messages whose result the broker refused"),
    ("refused", "refused", "Times that the broker refused a result"),
    ("dropped_qos0", "dropped_qos0", "QoS 0 messages dropped for want of room"),
    ("left_to_broker", "left_to_broker", "QoS 1 messages left unacknowledged"),
    ("connects", "connects", "Connections made"),
    ("takeovers", "takeovers", "Times that another client took our id"),
)
BY = (
    ("unresolved", "reason", "unresolved", "Unresolved messages by reason"),
    ("dead_letters", "reason", "dead_letters", "Dead letters by reason"),
    ("resolved_by", "tier", "by", "Resolved messages by who answered"),
)
OUTBOX = (
    ("outbox_waiting", "waiting", "Cases that wait for an answer"),
    ("outbox_unpublished", "unpublished", "Final results not yet published"),
    ("outbox_bytes", "bytes", "Bytes of the outbox on disk"),
    ("outbox_bytes_max", "bytes_max", "Most bytes of the outbox on disk"),
    ("outbox_filled", "filled", "Share of the room for cases that is taken"),
    ("outbox_oldest_seconds", "oldest_s", "Age of the oldest case"),
)
UPSTREAM = (
    ("upstream_calls", "calls", "Calls that were answered"),
    ("upstream_tokens", "tokens", "Tokens in and out"),
    ("upstream_cost", "cost", "Money, in the currency of the prices"),
    ("upstream_unavailable", "unavailable", "Attempts that nobody answered"),
    ("upstream_invalid_answers", "invalid_answers", "Answers that broke a rule"),
    ("upstream_from_cache", "from_cache", "Cases answered from the cache"),
    ("upstream_late_replies", "late_replies", "Replies that came too late"),
)

BUDGET = (
    ("spent_today", "spent_today", "Spent today (UTC)"),
    ("budget_left", "left_today", "What is left of the day's budget"),
)


class Collector:
    """Turns the health of one daemon into metrics."""

    def __init__(self, health: Health) -> None:
        """`health` is called in the thread of whoever asks."""
        self._health = health

    def collect(self) -> Iterator[Metric]:
        """Yield every metric family once."""
        health = self._health()
        yield InfoMetricFamily("slm_agent", "Version", {"version": __version__})
        for name, key, said in GAUGES:
            yield from _gauge(name, said, health.get(key))
        for name, key, said in COUNTERS:
            yield from _counter(name, said, health.get(key))
        messages = CounterMetricFamily(
            "slm_messages", "Messages by outcome", labels=["pipeline", "outcome"]
        )
        for pipeline, outcomes in health["pipelines"].items():
            for outcome, number in outcomes.items():
                messages.add_metric([pipeline, outcome], number)
        yield messages
        for name, label, key, said in BY:
            yield labelled(CounterMetricFamily, name, said, label, health[key])
        yield labelled(
            GaugeMetricFamily,
            *("heard_seconds", "Since the last message", "pipeline", health["heard_s"]),
        )
        yield quantiles("latency", "Arrival to publish", health, "ms_p50", "ms_p99")
        yield from _alerts(health)
        yield from _upstream(health)


def _gauge(name: str, said: str, value: float | None) -> Iterator[Metric]:
    if value is not None:
        yield GaugeMetricFamily(f"slm_{name}", said, value)


def _counter(name: str, said: str, value: float | None) -> Iterator[Metric]:
    if value is not None:
        yield CounterMetricFamily(f"slm_{name}", said, value)


def labelled(
    family: type[CounterMetricFamily] | type[GaugeMetricFamily],
    name: str,
    said: str,
    label: str,
    numbers: Mapping[str, float | None],
) -> Metric:
    """Return a family with a sample for each number that there is, by its label."""
    found = family(f"slm_{name}", said, labels=[label])
    for value, number in numbers.items():
        if number is not None:
            found.add_metric([value], number)
    return found


def quantiles(
    name: str, said: str, health: Mapping[str, Any], p50: str, p99: str
) -> Metric:
    """Return a family in seconds of two keys of health in milliseconds."""
    family = GaugeMetricFamily(
        f"slm_{name}_seconds", f"{said}, of the last messages", labels=["quantile"]
    )
    for quantile, key in (("0.5", p50), ("0.99", p99)):
        if health.get(key) is not None:
            family.add_metric([quantile], health[key] / 1000)
    return family


def _alerts(health: Mapping[str, Any]) -> Iterator[Metric]:
    alerts = GaugeMetricFamily("slm_alert", "Active alerts", labels=["alert"])
    for name in health["alerts"]:
        alerts.add_metric([name], 1)
    yield alerts
    models = InfoMetricFamily("slm_model", "Calibrated models", labels=["bundle"])
    for bundle, fingerprint in health["fingerprints"].items():
        models.add_metric([bundle], {"fingerprint": fingerprint})
    yield models


def _upstream(health: Mapping[str, Any]) -> Iterator[Metric]:
    outbox, upstream = health.get("outbox"), health.get("upstream")
    if outbox:
        for name, key, said in OUTBOX:
            yield from _gauge(name, said, outbox[key])
    cases = health.get("cases")
    if cases:
        family = CounterMetricFamily(
            "slm_cases", "Ended cases by outcome", labels=["outcome"]
        )
        for outcome, number in cases.items():
            if not outcome.startswith("ms_"):
                family.add_metric([outcome], number)
        yield family
        yield quantiles(
            "case_latency", "Arrival to final result", cases, "ms_p50", "ms_p99"
        )
    if upstream:
        for name, key, said in UPSTREAM:
            yield from _counter(name, said, upstream[key])
        yield from _money(upstream)


def _money(upstream: Mapping[str, Any]) -> Iterator[Metric]:
    """Yield what was spent today and what is left, in calls, tokens and money."""
    yield from _gauge(
        "upstream_cost_if_all",
        "Money, had every message been asked about upstream",
        upstream["cost_if_all_upstream"],
    )
    for name, key, said in BUDGET:
        yield labelled(GaugeMetricFamily, name, said, "unit", upstream[key])
    for name, key, said in BUDGET:
        family = GaugeMetricFamily(
            f"slm_pipeline_{name}", said, labels=["pipeline", "unit"]
        )
        for pipeline, units in upstream[f"{key}_by"].items():
            for unit, value in units.items():
                if value is not None:
                    family.add_metric([pipeline, unit], value)
        yield family


@contextmanager
def served(
    address: str,
    port: int,
    health: Callable[[], Mapping[str, Any] | Awaitable[Mapping[str, Any]]],
    collector: Callable[[Health], Registrable] = Collector,
) -> Iterator[None]:
    """Serve metrics while the context lasts; port 0: not at all.

    `health` is asked in the event loop, `collector` makes metrics of it. A port that is
    taken is a warning: the daemon has better things to do.
    """
    if port == 0:
        yield
        return
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector(_in_loop(health)))
    try:
        server = _server(address, port, registry)
    except (OSError, ValueError) as error:  # ValueError: an address that is none
        log.warning("no_metrics", address=address, port=port, why=str(error))
        yield
        return
    # The loop waits for whoever asks; a thread that serves would wake twice a second.
    loop = asyncio.get_running_loop()
    loop.add_reader(server.fileno(), server.handle_request)
    try:
        yield
    finally:
        loop.remove_reader(server.fileno())
        server.server_close()


def _server(address: str, port: int, registry: CollectorRegistry) -> WSGIServer:
    """Listen; each request is answered in a thread of its own. Raises OSError."""
    [(family, *_, place), *_] = getaddrinfo(address, port, type=SOCK_STREAM)

    class Server(ThreadingWSGIServer):
        address_family = family
        timeout = 0  # `handle_request` is called when there is one

    handler = make_wsgi_app(registry)
    server = make_server(str(place[0]), port, handler, Server, _Silent)
    server.socket.setblocking(False)  # noqa: FBT003  who asked may be gone again
    return server


class _Silent(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing: whoever looks every few seconds is no news."""


def _in_loop(
    health: Callable[[], Mapping[str, Any] | Awaitable[Mapping[str, Any]]],
) -> Health:
    """Ask in the event loop's thread, to which all that is counted belongs."""
    loop = asyncio.get_running_loop()

    async def said() -> Mapping[str, Any]:
        found = health()
        return found if isinstance(found, Mapping) else await found

    def ask() -> Mapping[str, Any]:
        return asyncio.run_coroutine_threadsafe(said(), loop).result(WAIT_S)

    return ask
