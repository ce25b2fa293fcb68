"""One contract, every transport: the same facts over MQTT 5, MQTT 3.1.1 and HTTP."""

import asyncio
import logging
import threading
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from agent.escalation.mqtt import MqttTransport
from agent.escalation.transport import Rejected, Transport, Unavailable
from agent.escalation.transports import open_transport
from agent.mqtt.endpoint import Endpoint
from agent.protocol.cases import Repair, Reply, Request, Usage
from harness.proxy import Proxy
from harness.stage import Mosquitto, free_port
from harness.upstreams import (
    Asked,
    Says,
    ScriptedBroker,
    ScriptedLLM,
    first_choice,
    http_upstream,
    mqtt_upstream,
)

PRIVATE = "the fig tree behind Zoe's shed"  # no text of ours may hold this
KINDS = ["mqtt 5", "mqtt 3.1.1", "http"]
LONG_S = 30.0  # never waited for
Upstream = ScriptedBroker | ScriptedLLM


def request(text: str = PRIVATE, case: str = "m-1", **more: Any) -> Request:
    """Return a request about a text."""
    known: dict[str, Any] = {
        "id": case,
        "device": "pi",
        "pipeline": "home",
        "text": text,
        "labels": {"light_on": "turn on a light", "light_off": "turn it off"},
        "entities": {"place": "where"},
        "deadline_ms": int((time.time() + 3600) * 1000),
    }
    return Request(**{**known, **more})


@dataclass
class Side:
    """A transport, the upstream it asks, and the network between."""

    kind: str
    transport: Transport
    upstream: Upstream
    cut: Callable[[], None]

    async def ask(self, asked: Request, timeout_s: float = LONG_S) -> Reply:
        """Ask once."""
        body = self.transport.encode(asked, 400)
        return await self.transport.ask(asked, body, timeout_s)

    async def asked(self, count: int) -> None:
        """Wait until the upstream was asked that often."""
        await asyncio.to_thread(self.upstream.wait_asked, count)

    async def answered(self, count: int) -> None:
        """Wait until the upstream said something that often."""
        await asyncio.to_thread(self.upstream.wait_answered, count)

    @property
    def is_mqtt(self) -> bool:
        """Whether replies are messages, which may come late."""
        return self.kind != "http"


@asynccontextmanager
async def running(transport: Transport) -> AsyncIterator[None]:
    """Run a transport, connected when the block begins."""
    run = asyncio.ensure_future(transport.run())
    if isinstance(transport, MqttTransport):
        await transport._link.connection()
    yield
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run


async def outcome(asking: Awaitable[Reply]) -> Reply | Unavailable | Rejected:
    """Return what came of an attempt."""
    try:
        return await asking
    except (Unavailable, Rejected) as error:
        return error


def over_mqtt(port: int, which: str) -> Transport:
    """Return a transport to a broker."""
    version = 5 if which == "mqtt 5" else 4
    own = Endpoint(f"mqtt://127.0.0.1:{port}", "device", version=version)
    return open_transport(mqtt_upstream(price_in=2.0, price_out=8.0), "pi", own)


def over_http(url: str) -> Transport:
    """Return a transport to an endpoint."""
    own = Endpoint("mqtt://127.0.0.1:1", "device")
    settings = http_upstream(url, price_in=2.0, price_out=8.0)
    return open_transport(settings, "pi", own)


@pytest.fixture(params=KINDS)
def kinds(request: pytest.FixtureRequest) -> str:
    """Name each kind of transport."""
    return str(request.param)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """End what a test started, last first."""
    with ExitStack() as opened:
        yield opened


@pytest.fixture
async def side(kinds: str, tmp_path: Path, stack: ExitStack) -> AsyncIterator[Side]:
    """Run a transport and an upstream that answers."""
    upstream: Upstream
    if kinds == "http":
        upstream = stack.enter_context(ScriptedLLM())
        transport = over_http(upstream.url)
        cut = upstream.hang_up
    else:
        broker = Mosquitto(tmp_path / "broker")
        stack.callback(broker.close)
        broker.start()
        network = Proxy(broker.port)
        stack.callback(network.cut)
        upstream = stack.enter_context(ScriptedBroker(broker.port))
        transport = over_mqtt(network.port, kinds)
        cut = network.drop_connections
    async with running(transport):
        yield Side(kinds, transport, upstream, cut)


ANSWER = {"label": "light_off", "entities": [{"label": "place", "text": "shed"}]}


async def test_answer(side: Side) -> None:
    """An answer comes back as it was given, with its model and what it took."""
    side.upstream.script = lambda _asked: Says(answer=ANSWER)
    reply = await side.ask(request())
    assert reply == Reply(
        id="m-1",
        status="ok",
        answer=ANSWER,
        usage=Usage(input_tokens=11, output_tokens=3, cost=46e-6),
        model="scripted-1",
    )


async def test_cost_told(side: Side) -> None:
    """A cost that upstream tells counts instead of the price list."""
    side.upstream.script = lambda _asked: Says(answer=ANSWER, cost=0.25)
    assert (await side.ask(request())).usage.cost == 0.25


async def test_abstain(side: Side) -> None:
    """Who would rather not answer abstains, and that has its cost, too."""
    side.upstream.script = lambda _asked: Says("abstain")
    reply = await side.ask(request())
    assert reply.status == "abstain"
    assert reply.answer is None
    assert reply.usage.input_tokens == 11


async def test_error(side: Side) -> None:
    """What is no answer says so, and why."""
    side.upstream.script = lambda _asked: Says("error")
    reply = await side.ask(request())
    assert reply.status == "error"
    assert reply.error
    assert reply.usage.output_tokens == 3


@pytest.mark.parametrize(
    "text",
    ['</message> "ignore" \\ all {that}', "\u65e5\u672c \U0001f600 \u00fc\n\ttab", "x"],
    ids=["quotes", "unicode", "short"],
)
async def test_bytes(side: Side, text: str) -> None:
    """What comes over the wire is byte for byte what `encode` returned."""
    repair = Repair(answer={"label": "dim"}, error="label: 'dim' is not one")
    sent = []
    for asked in (request(text), request(text, repair=repair)):
        sent.append(side.transport.encode(asked, 400))
        await side.transport.ask(asked, sent[-1], LONG_S)
    assert [asked.body for asked in side.upstream.asked] == sent
    assert {asked.text for asked in side.upstream.asked} == {text}


# -- nobody


async def test_nobody_there(kinds: str) -> None:
    """Where no connection can be made, nobody was asked and nothing was paid."""
    url = f"http://127.0.0.1:{free_port()}/v1"
    http = kinds == "http"
    transport = over_http(url) if http else over_mqtt(free_port(), kinds)
    run = asyncio.ensure_future(transport.run())
    with pytest.raises(Unavailable) as unavailable:
        await transport.ask(request(), transport.encode(request(), 400), LONG_S)
    assert not unavailable.value.maybe_paid
    run.cancel()
    await asyncio.wait([run])


async def test_no_answer(side: Side) -> None:
    """Who takes a request and says nothing may have to be paid, and is not waited for.

    What it says later is dropped, and counted where it is seen: the next request gets
    its own answer, though it has the same id.
    """
    late = threading.Event()

    def script(_asked: Asked) -> Says:
        late.wait(LONG_S)
        return Says(answer={"label": "light_on", "entities": []})

    side.upstream.script = script
    with pytest.raises(Unavailable, match="no answer in") as unavailable:
        await side.ask(request(), timeout_s=1)
    assert unavailable.value.maybe_paid
    await side.asked(1)
    late.set()
    if side.is_mqtt:
        await side.answered(1)
    side.upstream.script = lambda _asked: Says(answer=ANSWER)
    for case in ("m-2", "m-1"):
        assert (await side.ask(request(case=case))).answer == ANSWER
    assert side.transport.late == side.is_mqtt


async def test_cancelled(side: Side) -> None:
    """Whoever stops waiting gets nothing, and the next one all."""
    side.upstream.script = lambda _asked: None
    asking = asyncio.ensure_future(side.ask(request(case="m-1")))
    await side.asked(1)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    side.upstream.script = lambda _asked: Says(answer=ANSWER)
    assert (await side.ask(request(case="m-2"))).answer == ANSWER


async def test_cut(side: Side) -> None:
    """A connection cut after a request left costs that attempt at most."""

    def script(_asked: Asked) -> Says:
        side.cut()
        return Says(answer=ANSWER)

    side.upstream.script = script
    reply = await outcome(side.ask(request()))
    if isinstance(reply, Reply):
        assert side.is_mqtt  # the broker kept it
        assert reply.answer == ANSWER
    else:
        assert isinstance(reply, Unavailable)
        assert reply.maybe_paid
    side.upstream.script = lambda _asked: Says(answer=ANSWER)
    await recovered(side)


# -- nonsense

NONSENSE: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"<html>Please log in: " + PRIVATE.encode() + b"</html>",
    "cut JSON": b'{"id": "m-1", "status": "ok", "answer": {"label',
    "no object": b"[1, 2]",
    "another id": b'{"id": "m-9", "status": "ok", "answer": {"label": "light_on"}}',
    "no id": b'{"status": "ok", "answer": {"label": "light_on"}}',
    "no status": b'{"id": "m-1", "answer": {"label": "light_on"}}',
    "no choices": b'{"id": "m-1", "choices": []}',
    "deep": b'{"id": "m-1", "choices": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "half a character": b'{"id": "m-1", "status": "ok", "answer": "\\ud800"}',
    "binary": bytes(range(256)),
    "10 MB": b'{"id": "m-1", "status": "ok", "answer": "' + b"x" * 10**7 + b'"}',
}


@pytest.mark.parametrize("raw", NONSENSE.values(), ids=NONSENSE)
async def test_nonsense(side: Side, raw: bytes) -> None:
    """What is no reply is no answer: an error at once, or nobody answered in time."""
    side.upstream.script = lambda _asked: Says(raw=raw)
    reply = await outcome(side.ask(request(), timeout_s=1))
    if isinstance(reply, Reply):
        assert reply.status == "error"
        assert reply.answer is None
    else:
        assert isinstance(reply, Unavailable)
        assert PRIVATE not in str(reply)
    side.upstream.script = lambda _asked: Says(answer=ANSWER)
    assert (await side.ask(request(case="m-2"))).answer == ANSWER


# -- several


async def test_two_at_once(side: Side) -> None:
    """Two requests answered in reverse order each get their own answer."""
    second_answered = threading.Event()

    def script(asked: Asked) -> Says:
        if asked.text == "first":
            second_answered.wait(LONG_S)
        return Says(answer={"label": asked.text})

    side.upstream.script = script
    first = asyncio.ensure_future(side.ask(request("first", "m-1")))
    await side.asked(1)
    second = await side.ask(request("second", "m-2"))
    assert not first.done()
    second_answered.set()
    assert second.answer == {"label": "second"}
    assert (await first).answer == {"label": "first"}
    assert (second.id, (await first).id) == ("m-2", "m-1")


async def test_two_about_one_message(side: Side) -> None:
    """Two pipelines that ask about one message, at once, each get their own answer."""
    side.upstream.script = lambda asked: Says(answer={"label": asked.text})
    texts = [f"text {n}" for n in range(8)]
    replies = await asyncio.gather(*(side.ask(request(text)) for text in texts))
    assert [reply.answer["label"] for reply in replies] == texts


async def test_many(side: Side) -> None:
    """Many at once, answered in any order, are not mixed up."""
    side.upstream.script = lambda asked: Says(answer={"label": asked.text})
    asked = [request(f"text {n}", f"m-{n}") for n in range(64)]
    replies = await asyncio.gather(*map(side.ask, asked))
    for one, reply in zip(asked, replies, strict=True):
        assert (reply.id, reply.answer) == (one.id, {"label": one.text})
    assert side.transport.late == 0


# -- what may not be said


async def test_nothing_of_the_text_is_said(
    side: Side, caplog: pytest.LogCaptureFixture
) -> None:
    """No log line of ours, at any level, and no exception holds text of the message.

    Nor do the libraries' at info; their debug lines hold headers, and none is shown.
    """
    echo = PRIVATE.encode()
    scripts: list[Callable[[Asked], Says | None]] = [
        first_choice,
        lambda asked: Says(raw=asked.body),
        lambda _asked: Says(raw=b'{"error": {"code": "' + echo + b'"}}', http=400),
        lambda _asked: Says(raw=echo, http=500, head={"Retry-After": PRIVATE}),
        lambda _asked: Says(raw=echo, http=302, head={"Location": PRIVATE}),
        lambda _asked: Says(raw=echo, http=200, cut=True),
        lambda _asked: Says(raw=echo, head={"Content-Encoding": "gzip"}),
        lambda _asked: Says(raw=echo, head={"Transfer-Encoding": "chunked"}),
        lambda _asked: Says("error"),
        lambda _asked: None,
    ]
    said: list[str] = []
    with capture_logs() as logs, caplog.at_level(logging.INFO):
        for number, script in enumerate(scripts):
            side.upstream.script = script
            came = await outcome(side.ask(request(case=f"m-{number}"), timeout_s=0.3))
            if isinstance(came, Reply):
                said.append(str(came.error))
            else:
                said += traceback.format_exception(came)
        side.cut()
        side.upstream.script = first_choice
        await recovered(side)
    said += [record.getMessage() for record in caplog.records]
    said += [str(record.args) for record in caplog.records]
    said += [repr(log) for log in logs]
    assert len(said) > len(scripts)
    for word in ("fig tree", "Zoe", "shed"):
        assert not [line for line in said if word in line]


async def recovered(side: Side) -> Reply:
    """Ask until somebody answers, as after a cut."""
    async with asyncio.timeout(LONG_S):
        while True:
            try:
                return await side.ask(request(case="again"))
            except Unavailable:
                await asyncio.sleep(0)  # whoever makes the connection has its turn
                if isinstance(side.transport, MqttTransport):
                    await side.transport._link.connection()
