"""Delivery: published in order, acknowledged last, never lost."""

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import pytest

from agent.core.errors import Refused, Undelivered
from agent.core.types import Message
from agent.daemon.delivery import Delivery
from agent.inference.engine import Outgoing
from agent.protocol.messages import Topics
from agent.telemetry.alerts import Alerts
from agent.telemetry.counters import Counters
from agent.telemetry.rejected_topics import RESULT_REFUSED, RejectedTopics
from harness.tiny import arrived

if TYPE_CHECKING:
    from agent.mqtt.link import Link


pytestmark = pytest.mark.timeout(10)  # a step that waits has nothing to do


@dataclass
class Wire:
    """A connection whose PUBACKs the test gives."""

    sent: list[tuple[str, bytes]] = field(default_factory=list)
    answers: list["asyncio.Future[None]"] = field(default_factory=list)

    async def publish(self, topic: str, payload: bytes) -> "asyncio.Future[None]":
        """Note what is sent."""
        self.sent.append((topic, payload))
        self.answers.append(asyncio.get_running_loop().create_future())
        return self.answers[-1]


@dataclass
class Road:
    """A link that the test takes up and down."""

    wire: Wire = field(default_factory=Wire)
    again: set[str] = field(default_factory=set)
    hung_up: int = 0

    async def connection(self) -> Wire:
        """Return the connection."""
        return self.wire

    def comes_again(self, message: Message) -> bool:
        """Tell whether the broker will send it again."""
        return message.id in self.again

    def hang_up(self) -> None:
        """Count."""
        self.hung_up += 1


@dataclass
class Bench:
    """A delivery between fakes that are lists."""

    road: Road
    delivery: Delivery
    done: list[str]
    acked: list[int]
    counters: Counters
    alerts: Alerts

    def put(self, number: int, *topics: str, qos: int = 1) -> None:
        """Hand over the parcel of a message."""
        message = arrived(number=number, qos=qos, acked=self.acked)
        sends = tuple((topic, b"%d" % number) for topic in topics or ("result",))
        self.delivery.put(Outgoing(message, sends))


async def settle() -> None:
    """Let the callbacks of done futures run."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
def bench() -> Bench:
    """Return a delivery with nothing in hand."""
    road, counters = Road(), Counters()
    done: list[str] = []
    link = cast("Link", road)
    alerts = Alerts(link, Topics("pi"))
    rejected_topics = RejectedTopics(alerts, counters)
    delivery = Delivery(link, counters, rejected_topics, lambda m: done.append(m.id))
    return Bench(road, delivery, done, [], counters, alerts)


async def test_acknowledged_last(bench: Bench) -> None:
    """A message is acknowledged once the broker has taken all its results."""
    bench.put(1, "a", "b")
    await bench.delivery.deliver_once()
    assert bench.road.wire.sent == [("a", b"1"), ("b", b"1")]
    one, two = bench.road.wire.answers
    await settle()
    assert bench.acked == []
    two.set_result(None)
    await settle()
    assert (bench.acked, bench.done) == ([], [])
    one.set_result(None)
    await settle()
    assert (bench.acked, bench.done) == ([1], ["made-1"])


async def test_order_of_arrival(bench: Bench) -> None:
    """Whatever comes back late, the earliest message is published first."""
    for number in (3, 1, 2):
        bench.put(number)
    for _ in range(3):
        await bench.delivery.deliver_once()
    assert [payload for _, payload in bench.road.wire.sent] == [b"1", b"2", b"3"]


async def test_broken_connection_and_a_broker_that_remembers(bench: Bench) -> None:
    """If the broker sends the message again, the old parcel is forgotten, unacked."""
    bench.put(1)
    await bench.delivery.deliver_once()
    bench.road.wire.answers[0].set_exception(Undelivered("gone"))
    await settle()
    bench.road.again.add("made-1")
    await bench.delivery.deliver_once()
    assert len(bench.road.wire.sent) == 1
    assert (bench.acked, bench.done) == ([], ["made-1"])


async def test_broken_connection_and_a_broker_that_forgot(bench: Bench) -> None:
    """If the message exists only here, it is published by the next connection."""
    bench.put(1)
    await bench.delivery.deliver_once()
    bench.road.wire.answers[0].set_exception(Undelivered("gone"))
    await settle()
    assert bench.done == []
    await bench.delivery.deliver_once()
    bench.road.wire.answers[1].set_result(None)
    await settle()
    assert [payload for _, payload in bench.road.wire.sent] == [b"1", b"1"]
    assert (bench.acked, bench.done) == ([1], ["made-1"])


async def test_refused(bench: Bench) -> None:
    """A refused result is not acknowledged: hang up, and the broker sends it again."""
    bench.put(1)
    await bench.delivery.deliver_once()
    bench.road.wire.answers[0].set_exception(Refused("not authorised"))
    await settle()
    assert (bench.road.hung_up, bench.acked, bench.done) == (1, [], [])
    assert bench.counters.lost == 0


async def test_the_alert_of_a_refused_result(bench: Bench) -> None:
    """It stands, and refusals are counted, until one goes through on the same topic."""
    for number, topic in enumerate(["a", "b", "a"]):
        bench.put(number, topic, qos=0)
        await bench.delivery.deliver_once()
        bench.road.wire.answers[number].set_exception(Refused("no", topic))
    await settle()
    assert bench.alerts.active == [RESULT_REFUSED]
    assert bench.counters.summary()["refused"] == 3
    for number, topic in enumerate(["b", "c", "a"], 3):
        assert bench.alerts.active == [RESULT_REFUSED]
        bench.put(number, topic)
        await bench.delivery.deliver_once()
        bench.road.wire.answers[number].set_result(None)
        await settle()
    assert bench.alerts.active == []


async def test_refused_at_qos_0(bench: Bench) -> None:
    """Nobody would send a QoS 0 message again: it is lost, and counted."""
    bench.put(1, qos=0)
    await bench.delivery.deliver_once()
    bench.road.wire.answers[0].set_exception(Refused("not authorised"))
    await settle()
    assert (bench.road.hung_up, bench.done) == (0, ["made-1"])
    assert bench.counters.lost == 1


async def test_two_results_of_which_one_is_lost(bench: Bench) -> None:
    """Half a parcel delivered is a parcel not delivered."""
    bench.put(1, "a", "b")
    await bench.delivery.deliver_once()
    one, two = bench.road.wire.answers
    one.set_result(None)
    two.set_exception(Undelivered("gone"))
    await settle()
    assert (bench.acked, bench.done) == ([], [])
    await bench.delivery.deliver_once()
    assert [topic for topic, _ in bench.road.wire.sent] == ["a", "b", "a", "b"]
