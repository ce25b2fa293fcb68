"""Prometheus metrics: the numbers of the health topic, on a loopback port.

Read when they are asked for, so that nothing is counted twice. Which metric a number is
stands beside its field.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from functools import reduce
from inspect import isawaitable
from socket import SOCK_STREAM, getaddrinfo
from typing import Any, TypeVar
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import structlog
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.exposition import ThreadingWSGIServer
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector as Registrable

from agent import __version__
from agent.protocol.figures import (
    Counter,
    Gauge,
    Histogram,
    Info,
    Metric,
    Quantile,
    notes,
)
from agent.protocol.health import Health

WAIT_S = 5.0  # for the event loop, which has better things to do

T = TypeVar("T")
Samples = Iterator[tuple[tuple[str, ...], float]]
log = structlog.get_logger()


class Collector:
    """Turns the health of one daemon into metrics."""

    def __init__(self, health: Callable[[], Health]) -> None:
        """`health` is called in the thread of whoever asks."""
        self._health = health

    def collect(self) -> Iterator[Family]:
        """Yield every metric family once."""
        yield InfoMetricFamily("slm_agent", "Version", {"version": __version__})
        yield from families(self._health(), "slm")


def families(health: Any, prefix: str) -> Iterable[Family]:
    """Return the metrics of a health, by what stands beside its fields.

    A number that is not known has none.
    """
    by_name: dict[str, Family] = {}
    for way, note in notes(type(health)):
        value = reduce(lambda inner, name: inner and getattr(inner, name), way, health)
        if value is not None and isinstance(note, Metric):
            name = f"{prefix}_{note.name}"
            _add(by_name.setdefault(name, _family(name, note)), note, value)
    return by_name.values()


def _family(name: str, note: Metric) -> Family:
    match note:
        case Gauge():
            return GaugeMetricFamily(name, note.help, labels=note.labels)
        case Counter():
            return CounterMetricFamily(name, note.help, labels=note.labels)
        case Quantile():
            seconds = f"{name}_seconds"
            return GaugeMetricFamily(seconds, note.help, labels=["quantile"])
        case Histogram():
            return HistogramMetricFamily(name, note.help)
        case Info():
            return InfoMetricFamily(name, note.help, labels=[note.label])


def _add(family: Any, note: Metric, value: Any) -> None:
    match note:
        case Gauge():
            for labels, number in _samples(value):
                family.add_metric(labels, number)
        case Counter():
            numbers = _zeros(note, value) | dict(_samples(value))
            for labels, number in numbers.items():
                family.add_metric(labels, number)
        case Quantile():
            family.add_metric([note.quantile], value / 1000)
        case Histogram():
            buckets = [*value.le.items(), ("+Inf", value.count)]
            family.add_metric([], buckets, value.sum_s)
        case Info():
            for label, word in value.items():
                family.add_metric([label], {note.word: word})


def _zeros(note: Counter, value: Any) -> dict[tuple[str, ...], float]:
    """Return the numbers that are there before anything is counted."""
    if not note.values:
        return {}
    outer = [(key,) for key in value] if len(note.labels) > 1 else [()]
    return {(*keys, last): 0 for keys in outer for last in note.values}


def _samples(value: Any, labels: tuple[str, ...] = ()) -> Samples:
    """Yield the numbers that are known, each with the keys it is found by."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, tuple):
        value = dict.fromkeys(value, 1)
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _samples(inner, (*labels, key))
    elif value is not None:
        yield labels, value


@contextmanager
def served(
    address: str,
    port: int,
    health: Callable[[], T] | Callable[[], Awaitable[T]],
    collector: Callable[[Callable[[], T]], Registrable],
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
    health: Callable[[], T] | Callable[[], Awaitable[T]],
) -> Callable[[], T]:
    """Ask in the event loop's thread, to which all that is counted belongs."""
    loop = asyncio.get_running_loop()

    async def found() -> T:
        said = health()
        return await said if isawaitable(said) else said

    def ask() -> T:
        return asyncio.run_coroutine_threadsafe(found(), loop).result(WAIT_S)

    return ask
