"""Control: what is a request, and what is remembered of messages, at which size."""

import asyncio
import json
from collections import deque
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import pytest

from agent.core.errors import ConfigError, TooLarge
from agent.core.types import (
    Entity,
    Guarantee,
    Message,
    Prediction,
    Reason,
    Resolved,
    Routing,
    Tier,
    Timing,
)
from agent.daemon.control import LARGEST, WAITING, Control
from agent.daemon.history import RECENT, RECENT_BYTES, DecisionTerms, History
from agent.fleet.values import Sourced
from agent.inference.decide import Policy
from agent.inference.engine import Outgoing, Send
from agent.protocol.cases import Case
from agent.protocol.messages import Topics
from agent.protocol.payload import Reader
from harness.tiny import answered, arrived, unread

if TYPE_CHECKING:
    from agent.inference.engine import Engine
    from agent.mqtt.link import Link

pytestmark = pytest.mark.timeout(10)
BASE = "slm/pi/request/"


def terms(name: str, *, tells: bool = False, **more: Any) -> DecisionTerms:
    """Return the terms of a pipeline."""
    policy = Policy(Guarantee.LABEL, 0.8)
    key = "decide.max_error"
    return replace(DecisionTerms(name, Reader(), policy, 0.05, key, tells, {}), **more)


def recent(*known: DecisionTerms) -> History:
    """Return an empty memory that knows these pipelines, else `home`."""
    memory = History()
    memory.govern({each.pipeline: each for each in known or [terms("home")]})
    return memory


def outgoing(
    name: str = "m", pipeline: str = "home", payload: bytes = b"turn it on"
) -> Outgoing:
    """Return what comes of a message: one result."""
    return Outgoing(arrived(payload), (Send("out", answered(name, pipeline)),))


def case(name: str, text: str = "secret") -> Case:
    """Return a case."""
    now = datetime.now(UTC)
    reason, timing = Reason.LOW_CONFIDENCE, Timing(0, 0, 0)
    return Case(name, "home", "t", text, reason, None, "m", now, now, timing)


@pytest.mark.parametrize("name", ["m-1", "ü" * 256, '"quoted"', "\\", "a,b"])
def test_a_message_is_found_by_its_whole_id(name: str) -> None:
    """Whatever a producer calls it, and not by a part, nor by what else is said."""
    memory = recent(terms("home"))
    memory.add(outgoing(name))
    memory.add(outgoing("other"))
    found = memory.find(name)
    assert found
    assert found.sha256 == recent_sha()
    assert memory.find(name[:-1]) is None
    assert memory.find("home") is None


def recent_sha() -> str:
    """Return the hash of the usual payload."""
    memory = recent()
    memory.add(outgoing())
    found = memory.find("m")
    assert found
    return found.sha256


def test_the_last_of_two_is_found() -> None:
    """An id that came twice is explained as it was answered last."""
    memory = recent()
    memory.add(outgoing("m", payload=b"one"))
    memory.add(outgoing("m", payload=b"two"))
    found = memory.find("m")
    memory.add(outgoing("x", payload=b"two"))
    other = memory.find("x")
    assert found
    assert other
    assert found.sha256 == other.sha256


def test_a_case_is_found_and_its_text_is_not_kept() -> None:
    """The text of a case waits in the outbox, and nowhere else."""
    memory = recent(terms("home"))
    memory.add(Outgoing(arrived(b"secret"), (), (case("c"),)))
    found = memory.find("c")
    assert found
    assert "secret" not in repr(found)


def test_a_dead_letter_is_kept_without_what_it_carries() -> None:
    """Its original may be megabytes, and personal; the reason is all that is told."""
    message = arrived(b"\xff" * 1_000_000)
    letter = unread(message.payload)
    memory = recent(terms("home"))
    for _ in range(RECENT):
        memory.add(Outgoing(message, (Send("dead", letter),)))
    found = memory.find("m")
    assert found
    assert found.size < 1000
    [kept] = found.explained()["results"]
    assert kept["detail"] == letter.detail
    assert "payload" not in kept
    assert len(repr(found)) < 2000


def test_memory_is_bounded_in_number_and_bytes() -> None:
    """Neither many messages nor long ones make it grow beyond its bounds."""
    memory = recent(terms("home"))
    for number in range(RECENT + 5):
        memory.add(outgoing(f"m-{number}"))
    assert memory.find("m-4") is None
    assert memory.find("m-5")
    long = Entity("e", "x" * (RECENT_BYTES // 4), 0, 1, 1)
    guess = Prediction(Tier.ENCODER, None, None, (long,))
    large = Resolved(guess, None)
    for number in range(6):
        sent = Send("out", answered(f"l-{number}", decision=large))
        memory.add(Outgoing(arrived(), (sent,)))
    assert memory.find("l-2") is None
    assert memory.find("l-3")
    assert memory.find("m-5") is None


def test_only_a_pipeline_that_allows_it_tells_the_text() -> None:
    """Two pipelines may share a topic for results, but not their rules."""
    memory = recent(terms("open", tells=True), terms("closed"))
    memory.add(outgoing("o", "open"))
    memory.add(outgoing("c", "closed"))
    memory.add(Outgoing(arrived(b"hm"), (), (replace(case("u"), pipeline="open"),)))
    texts = [found and found.text for found in map(memory.find, ("o", "c", "u"))]
    assert texts == ["turn it on", None, "hm"]


@pytest.mark.parametrize(
    ("said", "key"),
    [
        ({"status": "resolved", "label": "on"}, "decide.max_error"),
        ({"status": "unresolved", "reason": "low_confidence"}, "decide.max_error"),
        ({"status": "unresolved", "reason": "out_of_scope"}, "decide.max_error"),
        ({"status": "unresolved", "reason": "missing_field"}, "fields"),
        ({"status": "unresolved", "reason": "invalid_field"}, "fields"),
        ({"status": "unresolved", "reason": "policy"}, "upstream.policy"),
        (
            {"status": "unresolved", "reason": "policy", "label": "up"},
            "upstream.labels.up",
        ),
        ({"status": "resolved", "label": "here"}, "upstream.labels.here"),
        ({"status": "unresolved", "reason": "uncalibrated"}, "models.on_mismatch"),
        ({"status": "unresolved", "reason": "model_failed"}, None),
        ({"status": "unresolved", "reason": "too_long"}, None),  # for the broker
        ({"reason": "too_long"}, "input.max_chars"),
        ({"reason": "not_utf8"}, "input.encoding"),
        ({"reason": "unknown_encoding"}, None),  # the sender named it
        ({"reason": "not_json"}, "input.id"),
        ({"reason": "missing_field"}, "input.text"),
        ({"reason": "wrong_type"}, "input.text"),
        ({"reason": "empty"}, None),
        ({"reason": "control_characters"}, None),
    ],
)
def test_each_reason_has_its_key(said: dict[str, Any], key: str | None) -> None:
    """Whoever changes the key that is named changes what becomes of such a message."""
    roads = {"up": Routing.ALWAYS_UPSTREAM, "here": Routing.ALWAYS_LOCAL}
    policy = Policy(Guarantee.LABEL, 0.8, routing_by_label=roads)
    known = terms("home", policy=policy, reader=Reader(id="id"))
    found = known.decided_by(said)
    place = "agent.toml" if key == "models.on_mismatch" else "pipelines/home.toml"
    assert (found["key"], found["file"]) == (key, place if key else None)


@pytest.mark.parametrize(
    ("origin", "file"),
    [
        ("local", "pipelines/home.toml"),
        ("shipped", "pipelines/home.toml"),
        ("perth", "fleet: perth"),
    ],
)
def test_a_fleet_layer_that_decided_is_named(origin: str, file: str) -> None:
    """Nobody looks for a value in a file where it does not stand."""
    values = {
        ("pipelines", "home", "decide", "max_error"): Sourced(0.1, origin),
        ("pipelines", "media", "decide", "max_error"): Sourced(0.2, "other"),
    }
    known = terms("home", values=values)
    assert known.decided_by({"status": "resolved"})["file"] == file
    aside = known.decided_by({"status": "unresolved", "reason": "missing_field"})
    assert aside["file"] == "pipelines/home.toml"


def test_memory_outlasts_a_reload_with_the_terms_of_then() -> None:
    """What decided is what was in force; texts are told only while that is allowed."""
    memory = recent(terms("home", tells=True))
    memory.add(outgoing("m"))
    memory.govern({"home": terms("home", tells=True, max_error=0.01)})
    kept = memory.find("m")
    assert kept
    assert kept.text
    assert kept.explained()["results"][0]["decided_by"]["max_error"] == 0.05
    memory.govern({"other": terms("other")})
    kept = memory.find("m")
    assert kept
    assert kept.text is None
    assert kept.explained()["results"][0]["pipeline"] == "home"


def test_a_case_is_explained_with_its_timings() -> None:
    """How long it waited and was thought about here is told of cases, too."""
    memory = recent()
    timed = replace(case("c"), timing=Timing(1.5, 20, 22))
    memory.add(Outgoing(arrived(b"hm"), (), (timed,)))
    found = memory.find("c")
    assert found
    [said] = found.explained()["cases"]
    assert said["ms"] == {"queue": 1.5, "predict": 20, "total": 22}
    assert said["decided_by"]["key"] == "decide.max_error"
    json.dumps(said)


@dataclass
class Line:
    """A link and its connection, whose publishes are a list; `room` is for payloads."""

    sent: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    room: int = 10**6
    full: asyncio.Event = field(default_factory=asyncio.Event)

    async def connection(self) -> "Line":
        """Return the connection."""
        return self

    async def publish(self, topic: str, payload: bytes) -> "asyncio.Future[None]":
        """Note what is sent, if there is room for it."""
        if len(payload) > self.room:
            raise TooLarge(topic, len(payload), self.room, self.room)
        self.sent.append((topic, json.loads(payload)))
        self.full.set()
        answer = asyncio.get_running_loop().create_future()
        answer.set_result(None)
        return answer


@dataclass
class Desk:
    """A control between lists."""

    road: Line = field(default_factory=Line)
    begun: deque[str] = field(default_factory=deque)
    reloads: list[str] = field(default_factory=list)
    error: str = ""

    def __post_init__(self) -> None:
        """Open it."""
        link, engine = cast("Link", self.road), cast("Engine", None)
        self.control = Control(
            Topics("pi"),
            link,
            engine,
            [],
            recent(),
            self.reload,
            self.begun,
            unusable=lambda _: [],
        )

    async def reload(self) -> None:
        """Reload, or refuse to."""
        self.reloads.append("now")
        if self.error:
            raise ConfigError(self.error)

    async def answered(self) -> tuple[str, dict[str, Any]]:
        """Run until something is answered, and return it."""
        running = asyncio.ensure_future(self.control.run())
        await self.road.full.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return self.road.sent[-1]


def request(name: str, payload: bytes = b"{}", **more: Any) -> Message:
    """Return a request as it arrives."""
    return replace(arrived(payload, topic=f"{BASE}{name}"), **more)


async def test_what_is_no_request_is_left_to_others() -> None:
    """A topic that only looks like it is not taken, nor acknowledged."""
    acked: list[int] = []
    assert not Desk().control.takes(arrived(topic="slm/pi/requests", acked=acked))
    assert not acked


@pytest.mark.parametrize(
    "message",
    [
        request("reload", retained=True),
        request(""),
        request("a" * 65),
        request("a" * 60_000),  # its answer would have no topic
        request("\N{BELL}"),
    ],
)
async def test_what_is_not_answered_is_acknowledged(message: Message) -> None:
    """A retained request would come for ever; a name that is none has no answer."""
    acked: list[int] = []
    desk = Desk()
    assert desk.control.takes(replace(message, ack=lambda: acked.append(1)))
    assert desk.control.takes(request("ping"))
    topic, _ = await desk.answered()
    assert topic == "slm/pi/response/ping"
    assert (acked, desk.reloads, len(desk.road.sent)) == ([1], [], 1)


async def test_a_request_that_ran_does_not_run_again() -> None:
    """Its acknowledgement may come after a reload; then the broker sends it again."""
    desk = Desk()
    desk.control.takes(request("reload"))
    await desk.answered()
    after = Desk(begun=desk.begun)
    after.control.takes(request("reload", again=True))
    after.control.takes(request("reload", again=True, id="missed"))
    await after.answered()
    assert (len(desk.reloads), len(after.reloads)) == (1, 1)


async def test_a_flood_of_requests_is_cut_short() -> None:
    """No more wait than can be answered; each is acknowledged all the same."""
    acked: list[int] = []
    desk = Desk()
    for number in range(1000):
        flood = request("ping", ack=lambda: acked.append(1), id=f"r-{number}")
        assert desk.control.takes(flood)
    assert len(acked) == 1000
    assert desk.control._waiting.qsize() == WAITING


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        (b"no", "is no JSON"),
        (b"\xff", "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b'{"transaction": "\\ud800"}', "is no JSON"),
        (b'{"transaction": NaN}', "is no JSON"),
        (b'{"transaction": [-Infinity]}', "is no JSON"),
        (b'{"transaction": 1e999}', "is no JSON"),
        (b"1", "no JSON object"),
        (b" " * (LARGEST + 1), "at most"),
    ],
)
async def test_any_payload_is_answered(payload: bytes, error: str) -> None:
    """What nests too deep, is no text or too long is refused, and nothing breaks."""
    said = json.loads(await Desk().control.answer("ping", payload))
    assert said["status"] == "error"
    assert error in said["error"]


async def test_a_refused_reload_says_why() -> None:
    """The error is the operator's own, the transaction the asker's."""
    desk = Desk(error="agent.toml: no such key")
    said = json.loads(await desk.control.answer("reload", b'{"transaction": [1]}'))
    assert (said["error"], said["transaction"]) == ("agent.toml: no such key", [1])


async def test_no_response_is_too_long_for_the_broker() -> None:
    """A broker hangs up on a packet beyond its limit, so none is sent."""
    desk = Desk()
    desk.road.room = 5000
    desk.control.takes(
        request("ping", json.dumps({"transaction": "x" * 9000}).encode())
    )
    _, said = await desk.answered()
    assert said == {
        "status": "error",
        "data": {},
        "error": "the response is too long for the broker",
    }
