"""Delivery: published in order, acknowledged last, never lost."""

import asyncio
import json
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import pytest
from pydantic_core import to_json

from agent.core.errors import Refused, TooLarge, Undelivered
from agent.core.types import Entity, Message, Reason, Resolved, Result, Timing
from agent.daemon.delivery import Delivery
from agent.inference.engine import Outgoing, Send
from agent.protocol.cases import Case
from agent.protocol.messages import Topics
from agent.telemetry.alerts import Alerts
from agent.telemetry.counters import Counters
from agent.telemetry.rejected_topics import RESULT_REFUSED, RejectedTopics
from harness.tiny import answered, arrived, unread

if TYPE_CHECKING:
    from agent.escalation.cases import Escalation
    from agent.mqtt.link import Link


pytestmark = pytest.mark.timeout(10)  # a step that waits has nothing to do


@dataclass
class Wire:
    """A connection whose PUBACKs the test gives."""

    sent: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    answers: list["asyncio.Future[None]"] = field(default_factory=list)
    room: int = 10**6  # for payloads

    async def publish(self, topic: str, payload: bytes) -> "asyncio.Future[None]":
        """Note what is sent, if there is room for it."""
        if len(payload) > self.room:
            raise TooLarge(topic, len(payload), self.room, self.room)
        self.sent.append((topic, json.loads(payload)))
        self.answers.append(asyncio.get_running_loop().create_future())
        return self.answers[-1]


@dataclass
class Road:
    """A link that the test takes up and down."""

    wire: Wire = field(default_factory=Wire)
    again: set[str] = field(default_factory=set)
    hung_up: int = 0
    connected: bool = True

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
        """Hand over what comes of a message: a result for each topic."""
        result = answered(str(number))
        sends = tuple(Send(topic, result) for topic in topics or ("result",))
        self.deliver(number, *sends, qos=qos)

    def deliver(self, number: int, *sends: Send, qos: int = 1) -> None:
        """Hand over what comes of a message."""
        message = arrived(b"\xff" * 5000, number=number, qos=qos, acked=self.acked)
        self.delivery.put(Outgoing(message, sends))

    def sent(self) -> list[tuple[str, str]]:
        """Return topic and id of all that was published."""
        return [(topic, said["id"]) for topic, said in self.road.wire.sent]


def question(topic: str) -> Case:
    """Return a case."""
    now, timing = datetime.now(UTC), Timing(0, 0, 0)
    return Case(
        "m", "home", topic, "hm", Reason.LOW_CONFIDENCE, None, "m", now, now, timing
    )


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
    assert bench.sent() == [("a", "1"), ("b", "1")]
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
    assert [name for _, name in bench.sent()] == ["1", "2", "3"]


async def test_broken_connection_and_a_broker_that_remembers(bench: Bench) -> None:
    """If the broker sends the message again, it is forgotten here, unacknowledged."""
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
    assert [name for _, name in bench.sent()] == ["1", "1"]
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
    assert bench.counters.refused == 3
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
    """What came of a message is delivered whole, or again."""
    bench.put(1, "a", "b")
    await bench.delivery.deliver_once()
    one, two = bench.road.wire.answers
    one.set_result(None)
    two.set_exception(Undelivered("gone"))
    await settle()
    assert (bench.acked, bench.done) == ([], [])
    await bench.delivery.deliver_once()
    assert [topic for topic, _ in bench.road.wire.sent] == ["a", "b", "a", "b"]


def large(entities: int = 100, **more: Any) -> Result:
    """Return a result that many entities make large."""
    entity = Entity("house_place", "kitchen", 21, 28, 0.98)
    guess = answered().decision.prediction
    assert guess
    guess = replace(guess, entities=(entity,) * entities)
    return answered(decision=Resolved(guess, 0.05), **more)


async def test_too_large_a_result_goes_without_entities(bench: Bench) -> None:
    """It says `too_long`, keeps its label, and nobody may act on it."""
    bench.road.wire.room = 2000
    bench.deliver(1, Send("result", large()))
    await bench.delivery.deliver_once()
    [(topic, said)] = bench.road.wire.sent
    assert (topic, said["id"], said["label"]) == ("result", "m", "lamp_on")
    assert (said["status"], said["reason"]) == ("unresolved", "too_long")
    assert (said["entities"], said["error_bound"]) == ([], None)
    bench.road.wire.answers[0].set_result(None)
    await settle()
    assert bench.acked == [1]


async def test_a_result_with_no_room_at_all_is_a_dead_letter(bench: Bench) -> None:
    """Where its topic alone is too long, the original goes, cut, and says so."""
    bench.road.wire.room = 1900
    bench.deliver(1, Send("result", answered(topic='"' * 2000)))
    await bench.delivery.deliver_once()
    [(topic, said)] = bench.road.wire.sent
    assert topic == "slm/pi/deadletter/home"
    assert (said["reason"], said["bytes"]) == ("too_long", 5000)
    assert (said["truncated"], said["topic_truncated"]) == (True, True)
    assert said["topic"].startswith('""""')
    assert bench.counters.dead_letters == {"too_long": 1}


async def test_too_large_a_dead_letter_is_cut(bench: Bench) -> None:
    """The original gives way first: as much of it goes as fits."""
    bench.road.wire.room = 2000
    bench.deliver(1, Send("dead", unread(b"\xff" * 5000)))
    await bench.delivery.deliver_once()
    [(topic, said)] = bench.road.wire.sent
    assert topic == "slm/pi/deadletter/home"
    assert (said["truncated"], said["bytes"]) == (True, 5000)
    assert 1990 <= len(to_json(said)) <= 2000
    assert "topic_truncated" not in said


async def test_a_provisional_result_that_does_not_fit_is_left_out(bench: Bench) -> None:
    """The final one follows, so it is no dead letter; the rest is acknowledged."""
    bench.road.wire.room = 500
    bench.deliver(1, Send("result", answered(topic="t" * 600, final=False), "key"))
    await bench.delivery.deliver_once()
    await settle()
    assert (bench.road.wire.sent, bench.acked) == ([], [1])


@dataclass
class Books:
    """An outbox whose commits the test makes."""

    keys: set[str] = field(default_factory=set)
    there: asyncio.Event = field(default_factory=asyncio.Event)
    commit: asyncio.Event = field(default_factory=asyncio.Event)

    async def known(self, keys: Collection[str]) -> frozenset[str]:
        """Return which are committed."""
        return frozenset(self.keys & set(keys))

    async def take(self, cases: Sequence[Case]) -> AsyncIterator[int]:
        """Commit when the test says so."""
        self.there.set()
        await self.commit.wait()
        self.keys |= {case.key for case in cases}
        yield len(cases)


async def test_provisional_then_committed_then_acknowledged(bench: Bench) -> None:
    """No final result can be before its case is, and that is after the provisional.

    A message that comes again says nothing provisional any more.
    """
    books = Books()
    bench.delivery._escalation = cast("Escalation", books)
    case = question("home/kitchen/utterance")
    sends = (Send("result", answered(final=False), case.key),)
    message = arrived(acked=bench.acked)
    committing = asyncio.ensure_future(bench.delivery.commit())
    bench.delivery.put(Outgoing(message, sends, (case,)))
    await bench.delivery.deliver_once()
    await settle()
    assert bench.sent() == [("result", "m")]
    assert not books.there.is_set()
    bench.road.wire.answers[0].set_result(None)
    await books.there.wait()
    await settle()
    assert bench.acked == []
    books.commit.set()
    await settle()
    assert (bench.acked, bench.done) == ([1], ["made-1"])
    bench.delivery.put(Outgoing(message, sends, (case,)))
    await bench.delivery.deliver_once()
    await settle()
    assert len(bench.road.wire.sent) == 1
    assert bench.acked == [1, 1]
    committing.cancel()
    await asyncio.gather(committing, return_exceptions=True)


async def test_several_cases_of_a_message_are_one(bench: Bench) -> None:
    """It is acknowledged when the last of its cases is in the outbox, not before."""

    class Slow(Books):
        async def take(self, cases: Sequence[Case]) -> AsyncIterator[int]:
            """Commit one after the other."""
            for _ in cases:
                self.there.set()
                await self.commit.wait()
                self.commit.clear()
                yield 1

    books = Slow()
    bench.delivery._escalation = cast("Escalation", books)
    committing = asyncio.ensure_future(bench.delivery.commit())
    for number, count in ((1, 2), (2, 1)):
        message = arrived(number=number, acked=bench.acked)
        cases = tuple(question(f"t/{number}/{n}") for n in range(count))
        bench.delivery.put(Outgoing(message, (), cases))
    acked = []
    for _ in range(3):
        await books.there.wait()
        books.there.clear()
        books.commit.set()
        await settle()
        acked.append(list(bench.acked))
    assert acked == [[], [1], [1, 2]]
    committing.cancel()
    await asyncio.gather(committing, return_exceptions=True)
