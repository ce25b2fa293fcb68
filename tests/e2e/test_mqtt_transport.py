"""Asking by MQTT: properties, matching of replies, and what the broker keeps."""

import asyncio
import contextlib
import hashlib
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agent.core.types import Message
from agent.escalation.mqtt import MqttTransport
from agent.escalation.transport import Rejected, Unavailable
from agent.escalation.transports import open_transport
from agent.mqtt import link
from agent.mqtt.endpoint import Endpoint
from agent.protocol.cases import LONGEST_ANSWER, Reply, Request
from harness.proxy import PUBACK, PUBLISH, Fate, Proxy, Way, all_drop, all_pass, kind
from harness.stage import BROKER, Mosquitto
from harness.upstreams import Asked, Says, ScriptedBroker, mqtt_upstream, reply

LONG_S = 30.0  # never waited for
YES, NO = {"label": "light_on"}, {"label": "light_off"}
ASKED = Request(
    id="m-1",
    device="pi",
    pipeline="home",
    text="turn it off",
    labels={"light_on": "turn on", "light_off": "turn off"},
    redacted=2,
    deadline_ms=int((time.time() + 3600) * 1000),
)


@pytest.fixture
def upstream(broker: Mosquitto) -> Iterator[ScriptedBroker]:
    """Run an upstream that answers yes."""
    with ScriptedBroker(broker.port, lambda _asked: Says(answer=YES)) as running:
        yield running


@asynccontextmanager
async def connected(port: int, version: int = 5) -> AsyncIterator[MqttTransport]:
    """Run a transport, connected when the block begins."""
    own = Endpoint(f"mqtt://127.0.0.1:{port}", "device", version=version)
    transport = open_transport(mqtt_upstream(), "pi", own)
    assert isinstance(transport, MqttTransport)
    run = asyncio.ensure_future(transport.run())
    await transport._link.connection()
    yield transport
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run


async def ask(
    transport: MqttTransport, timeout_s: float = LONG_S, **more: Any
) -> Reply:
    """Ask once."""
    asked = ASKED.model_copy(update=more)
    return await transport.ask(asked, transport.encode(asked, 400), timeout_s)


async def test_properties(broker: Mosquitto, upstream: ScriptedBroker) -> None:
    """A request carries all that MQTT 5 has a place for, and each attempt its name."""
    async with connected(broker.port) as transport:
        for _ in range(2):
            await ask(transport, timeout_s=20)
    first, second = upstream.asked
    assert first.where == "slm/upstream/home"
    assert first.response_topic == "slm/pi/answer"
    assert first.content_type == "application/json"
    assert first.expiry_s
    assert 15 < first.expiry_s <= 20
    schema = json.dumps(ASKED.schema_, separators=(",", ":"), ensure_ascii=False)
    assert dict(first.head) == {
        "id": "m-1",
        "device": "pi",
        "schema": hashlib.sha256(schema.encode()).hexdigest(),
        "redacted": "2",
    }
    assert schema.encode() in first.body  # of which that is the hash
    names = {first.correlation, second.correlation}
    assert len(names) == 2
    assert all(name and len(name) == 16 for name in names)


@pytest.mark.parametrize(("left_s", "most"), [(5, 5), (-5, 1)])
async def test_expiry(
    broker: Mosquitto, upstream: ScriptedBroker, left_s: int, most: int
) -> None:
    """No request outlives the deadline of its message in a queue of the broker."""
    deadline = int((time.time() + left_s) * 1000)
    async with connected(broker.port) as transport:
        await ask(transport, deadline_ms=deadline)
    assert 0 < (upstream.asked[0].expiry_s or 0) <= most


async def test_mqtt_3(broker: Mosquitto) -> None:
    """By MQTT 3.1.1 the payload alone says who asks and where to reply."""
    with ScriptedBroker(
        broker.port, lambda _asked: Says(answer=YES), version=4
    ) as upstream:
        async with connected(broker.port, version=4) as transport:
            assert (await ask(transport)).answer == YES
    [asked] = upstream.asked
    assert (asked.response_topic, asked.correlation) == (None, None)
    assert asked.document["reply_to"] == "slm/pi/answer"


async def test_upstream_speaks_mqtt_3(broker: Mosquitto) -> None:
    """An upstream that knows no properties still finds the way back."""
    with ScriptedBroker(broker.port, lambda _asked: Says(answer=YES), version=4):
        async with connected(broker.port) as transport:
            assert (await ask(transport)).answer == YES


# -- nobody


async def test_nobody_listens(broker: Mosquitto) -> None:
    """Where nobody subscribed nobody was asked, and that is known at once."""
    async with connected(broker.port) as transport:
        with pytest.raises(Unavailable, match="nobody subscribed") as unavailable:
            await ask(transport)
        assert not unavailable.value.maybe_paid
        with ScriptedBroker(broker.port, lambda _asked: Says(answer=YES)):
            assert (await ask(transport)).answer == YES


async def test_refused(tmp_path: Path) -> None:
    """A broker whose rules forbid asking took nothing."""
    settings = BROKER + "acl_file {folder}/rules\n"
    broker = Mosquitto(tmp_path / "broker", settings)
    (tmp_path / "broker" / "rules").write_text("topic read slm/pi/answer\n")
    with contextlib.closing(broker):
        broker.start()
        async with connected(broker.port) as transport:
            with pytest.raises(Unavailable, match="Not authorized") as unavailable:
                await ask(transport)
    assert not unavailable.value.maybe_paid


async def test_too_large(tmp_path: Path) -> None:
    """What the broker will not carry is never sent: it would hang up, each time."""
    broker = Mosquitto(tmp_path / "broker", BROKER + "max_packet_size 3000\n")
    with contextlib.closing(broker):
        broker.start()
        with ScriptedBroker(broker.port, lambda _asked: Says(answer=YES)) as upstream:
            async with connected(broker.port) as transport:
                for size in (0, 1900, 1990, 2080, 2170, 2260, 2600):
                    with contextlib.suppress(Rejected):
                        await ask(transport, text="x" * size)
                with pytest.raises(Rejected, match="larger than 3000 bytes"):
                    await ask(transport, text="x" * 3000)
                assert transport._link.counters.connects == 1
    assert len(upstream.asked) > 1


# -- whose reply?


async def test_late_reply_meets_the_next_attempt(
    broker: Mosquitto, upstream: ScriptedBroker
) -> None:
    """A late reply is not taken for the answer to the next attempt of the same id."""
    upstream.script = lambda _asked: None
    async with connected(broker.port) as transport:
        with pytest.raises(Unavailable):
            await ask(transport, timeout_s=0.2)

        def script(asked: Asked) -> None:
            upstream.reply(upstream.asked[0], Says(answer=NO))
            upstream.reply(asked, Says(answer=YES))

        upstream.script = script
        assert (await ask(transport)).answer == YES
        assert transport.late == 1


async def test_reply_without_correlation(
    broker: Mosquitto, upstream: ScriptedBroker
) -> None:
    """Who does not echo the correlation is known by the id."""

    def script(asked: Asked) -> None:
        upstream.reply(replace(asked, correlation=None), Says(answer=YES))

    upstream.script = script
    async with connected(broker.port) as transport:
        assert (await ask(transport)).answer == YES


@pytest.mark.parametrize("correlation", [b"", b"x", bytes(16)])
async def test_wrong_correlation(
    broker: Mosquitto, upstream: ScriptedBroker, correlation: bytes
) -> None:
    """A reply to something else is not ours, though the id be right."""

    def script(asked: Asked) -> None:
        upstream.reply(replace(asked, correlation=correlation), Says(answer=NO))
        upstream.reply(asked, Says(answer=YES))

    upstream.script = script
    async with connected(broker.port) as transport:
        assert (await ask(transport)).answer == YES
        assert transport.late == 1


async def test_wrong_id(broker: Mosquitto, upstream: ScriptedBroker) -> None:
    """A reply about another message is not ours, though the correlation be right."""
    other = b'{"id": "m-9", "status": "ok", "answer": {"label": "light_off"}}'

    def script(asked: Asked) -> None:
        upstream.reply(asked, Says(raw=other))
        upstream.reply(asked, Says(answer=YES))

    upstream.script = script
    async with connected(broker.port) as transport:
        assert (await ask(transport)).answer == YES
        assert transport.late == 1


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        (b"", "Invalid JSON: EOF"),
        (b"{", "Invalid JSON: EOF"),
        (b"[]", "must be an object"),
        (b'{"status": "ok"}', "id: must be given"),
        (b'{"id": "m-1", "status": "fine"}', "status: must be"),
        (b'{"id": "m-1", "status": "ok", "usage": -1}', "usage: "),
    ],
)
async def test_broken_reply(
    broker: Mosquitto, upstream: ScriptedBroker, payload: bytes, error: str
) -> None:
    """A reply that is surely ours, and broken, ends the waiting, with the reason."""
    upstream.script = lambda _asked: Says(raw=payload)
    async with connected(broker.port) as transport:
        found = await ask(transport)
        assert (found.id, found.status, found.answer) == ("m-1", "error", None)
        assert error in (found.error or "")
        assert transport.late == 0


async def test_overlong_reply(broker: Mosquitto) -> None:
    """A reply beyond all measure is not read: by MQTT 3.1.1 nothing keeps it away."""
    raw = reply(Says(answer="x" * LONGEST_ANSWER), "m-1")
    upstream = ScriptedBroker(broker.port, lambda _asked: Says(raw=raw), version=4)
    with upstream:
        async with connected(broker.port, version=4) as transport:
            with pytest.raises(Unavailable, match="no answer in"):
                await ask(transport, timeout_s=1)
            upstream.script = lambda _asked: Says(answer=YES)
            assert (await ask(transport, id="m-2")).answer == YES
            assert transport.late == 1


async def test_said_twice(broker: Mosquitto, upstream: ScriptedBroker) -> None:
    """The second reply to one attempt is counted, and never an answer to another."""

    def script(asked: Asked) -> Says:
        upstream.reply(asked, Says(answer=YES))
        return Says(answer=NO)

    upstream.script = script
    async with connected(broker.port) as transport:
        assert (await ask(transport)).answer == YES
        upstream.script = lambda _asked: Says(answer=YES)
        assert (await ask(transport, id="m-2")).answer == YES
        assert transport.late == 1


def heard(correlation: bytes | None, answer: Any) -> Message:
    """Return a reply to the message, as it comes from the connection."""
    return Message(
        topic="slm/pi/answer",
        payload=reply(Says(answer=answer), "m-1"),
        qos=1,
        id="r-1",
        seq=1,
        epoch=1,
        received_at=datetime.now(UTC),
        arrived=0.0,
        ack=lambda: None,
        correlation=correlation,
    )


async def test_said_twice_at_once(broker: Mosquitto, upstream: ScriptedBroker) -> None:
    """The second of two replies in one read is counted, though the first still waits.

    Whoever waits for the first had no turn yet.
    """
    upstream.script = lambda _asked: None
    async with connected(broker.port) as transport:
        asking = asyncio.ensure_future(ask(transport))
        await asyncio.to_thread(upstream.wait_asked, 1)
        for answer in (YES, NO):
            transport._heard(heard(upstream.asked[0].correlation, answer))
        assert (await asking).answer == YES
        assert transport.late == 1


async def test_bare_replies(broker: Mosquitto, upstream: ScriptedBroker) -> None:
    """A reply without correlation is nobody's while two wait for the same id.

    Once one of them has its answer, it is the other's.
    """
    upstream.script = lambda _asked: None
    async with connected(broker.port) as transport:
        asking = [asyncio.ensure_future(ask(transport)) for _ in range(2)]
        await asyncio.to_thread(upstream.wait_asked, 2)
        transport._heard(heard(None, NO))
        assert transport.late == 1
        transport._heard(heard(upstream.asked[0].correlation, NO))
        transport._heard(heard(None, YES))
        replies = await asyncio.gather(*asking)
        assert sorted(one.answer["label"] for one in replies) == [
            "light_off",
            "light_on",
        ]
        assert transport.late == 1


async def test_replies_are_acknowledged(
    broker: Mosquitto, upstream: ScriptedBroker
) -> None:
    """What was handed over does not come again, be it wanted or not."""
    upstream.script = lambda _asked: None
    async with connected(broker.port) as transport:
        with pytest.raises(Unavailable):
            await ask(transport, timeout_s=0.2)
        await asyncio.to_thread(upstream.wait_asked, 1)
        upstream.reply(upstream.asked[0], Says(answer=NO))
        upstream.script = lambda _asked: Says(answer=YES)
        await ask(transport)
        assert transport.late == 1
    async with connected(broker.port) as transport:
        await ask(transport)
        assert transport.late == 0


async def test_reply_to_an_earlier_life(
    broker: Mosquitto, upstream: ScriptedBroker
) -> None:
    """A reply that came while we were away is counted when we are back."""
    upstream.script = lambda _asked: None
    async with connected(broker.port) as transport:
        with pytest.raises(Unavailable):
            await ask(transport, timeout_s=0.2)
    await asyncio.to_thread(upstream.wait_asked, 1)
    upstream.reply(upstream.asked[0], Says(answer=NO))
    upstream.script = lambda _asked: Says(answer=YES)
    async with connected(broker.port) as transport:
        assert (await ask(transport)).answer == YES
        assert transport.late == 1


# -- a broken connection


async def test_cut_before_the_reply(upstream: ScriptedBroker, proxy: Proxy) -> None:
    """Once the broker has a request, its reply survives a cut: it is paid once."""

    def gate(way: Way, packet: bytes) -> Fate:
        if way is Way.DEVICE or kind(packet) != PUBLISH:
            return Fate.PASS
        proxy.gate = all_pass
        return Fate.CUT

    proxy.gate = gate
    async with connected(proxy.port) as transport:
        assert (await ask(transport)).answer == YES
        await transport._link.connection()
        assert transport._link.counters.connects == 2
        assert transport.late == 0
    assert len(upstream.asked) == 1


@pytest.mark.parametrize("packet", [PUBLISH, PUBACK])
async def test_cut_before_the_broker_says(
    upstream: ScriptedBroker, proxy: Proxy, packet: int
) -> None:
    """Whether a request arrived cannot be known without its PUBACK: maybe paid."""

    def gate(way: Way, found: bytes) -> Fate:
        if kind(found) != packet or (packet == PUBLISH) != (way is Way.DEVICE):
            return Fate.PASS
        proxy.gate = all_pass
        return Fate.CUT

    proxy.gate = gate
    async with connected(proxy.port) as transport:
        with pytest.raises(Unavailable, match="connection lost") as unavailable:
            await ask(transport)
        assert unavailable.value.maybe_paid
        await transport._link.connection()
        assert (await ask(transport, id="m-2")).answer == YES
    assert len(upstream.asked) == (1 if packet == PUBLISH else 2)


async def test_silent_network(upstream: ScriptedBroker, proxy: Proxy) -> None:
    """A network that swallows everything ends an attempt at its timeout."""
    async with connected(proxy.port) as transport:
        proxy.gate = all_drop
        with pytest.raises(Unavailable, match="no answer in") as unavailable:
            await ask(transport, timeout_s=0.3)
        assert unavailable.value.maybe_paid
        proxy.gate = all_pass
    assert not upstream.asked


async def test_disconnected(
    upstream: ScriptedBroker,
    proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without a connection nobody is asked, now or later; it comes back by itself."""
    monkeypatch.setattr(link, "backoff", lambda _attempt: 0.05)
    async with connected(proxy.port) as transport:
        connection = await transport._link.connection()
        proxy.cut()
        await asyncio.shield(connection.ended)
        await asyncio.sleep(0)  # the link's turn
        with pytest.raises(Unavailable, match="not connected") as unavailable:
            await ask(transport)
        assert not unavailable.value.maybe_paid
        proxy.restore()
        await transport._link.connection()
        assert (await ask(transport, id="m-2")).answer == YES
    assert [asked.document["id"] for asked in upstream.asked] == ["m-2"]


async def test_over_before_it_was_sent(
    broker: Mosquitto, upstream: ScriptedBroker
) -> None:
    """A connection that ended the moment before took nothing."""
    async with connected(broker.port) as transport:
        connection = await transport._link.connection()
        connection.abandon("gone")  # and the link had no turn to see it
        with pytest.raises(Unavailable, match="connection lost: gone") as unavailable:
            await ask(transport)
        assert not unavailable.value.maybe_paid
    assert not upstream.asked


# -- turns


async def test_turns_end_with_the_timeout(broker: Mosquitto) -> None:
    """By 3.1.1 one waits for another about the same message, but not for ever."""
    with ScriptedBroker(broker.port, lambda _asked: None, version=4) as upstream:
        async with connected(broker.port, version=4) as transport:
            first = asyncio.ensure_future(ask(transport))
            await asyncio.to_thread(upstream.wait_asked, 1)
            with pytest.raises(Unavailable) as unavailable:
                await ask(transport, timeout_s=0.2)
            assert not unavailable.value.maybe_paid  # it was never sent
            first.cancel()
            upstream.script = lambda _asked: Says(answer=YES)
            assert (await ask(transport)).answer == YES
            await asyncio.wait([first])
    assert len(upstream.asked) == 2
