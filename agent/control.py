"""Control over MQTT: requests on `slm/<device>/request/<name>`, one response each.

Whoever may publish there controls the device: see to it in the broker's access list. A
request is for now: neither a retained one is answered nor one that ran before.
"""

import asyncio
import hashlib
import re
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import structlog
from pydantic_core import from_json, to_json

from agent import __version__
from agent.cases import Case
from agent.engine import ENVELOPE, Engine, Parcel
from agent.errors import ConfigError, Undelivered, Unreadable
from agent.link import Link
from agent.log import LEVELS, set_level
from agent.pipeline import Pipeline
from agent.text import checked
from agent.types import Message
from agent.wire import VERSION, Topics, decision_object, guess_object, iso

RECENT = 1000  # messages that can be explained
RECENT_BYTES = 8 * 2**20  # and what they may take
WAITING = 16  # requests; more are dropped
LARGEST = 2**20  # bytes of a request
TEXT_MAX = 10_000  # bytes of a text that `explain` keeps
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
ORIGINAL = b',"payload":"'  # in a dead letter; inside a JSON string it cannot stand

log = structlog.get_logger()


class BadRequest(Exception):
    """A request that makes no sense; the message says why."""


@dataclass(frozen=True, slots=True)
class Handled:
    """What is remembered of a message that was answered: `sends` are JSON objects."""

    topic: str
    received_at: datetime
    sha256: str
    text: str | None
    sends: tuple[bytes, ...]
    cases: tuple[Case, ...]  # without their texts

    @property
    def size(self) -> int:
        """How many bytes it takes, roughly."""
        return sum(map(len, self.sends)) + 2 * len(self.text or "")


class Recent:
    """The last messages, so that their results can be explained."""

    def __init__(self, pipelines: Sequence[Pipeline]) -> None:
        """`pipelines` say of which messages the text may be told."""
        self._open = {p.name for p in pipelines if p.explains_text}
        self._handled: deque[Handled] = deque()
        self._bytes = 0

    def add(self, parcel: Parcel) -> None:
        """Remember a message and what came of it, but for what was in it."""
        message, payload = parcel.message, parcel.message.payload
        text = None
        if self._open and any(name in self._open for name in _pipelines(parcel)):
            text = payload[:TEXT_MAX].decode("utf-8", "replace")
        handled = Handled(
            topic=message.topic,
            received_at=message.received_at,
            sha256=hashlib.sha256(payload).hexdigest(),
            text=text,
            sends=tuple(_without_original(sent) for _, sent in parcel.sends),
            cases=tuple(replace(case, text="") for case in parcel.cases),
        )
        self._handled.append(handled)
        self._bytes += handled.size
        while len(self._handled) > RECENT or self._bytes > RECENT_BYTES:
            self._bytes -= self._handled.popleft().size

    def find(self, result: str) -> Handled | None:
        """Return the last message with a result or case of this id."""
        start = b'{"v":%d,"id":%b,' % (VERSION, to_json(result))
        for handled in reversed(self._handled):
            if any(case.id == result for case in handled.cases):
                return handled
            if any(sent.startswith(start) for sent in handled.sends):
                return handled
        return None


def _pipelines(parcel: Parcel) -> list[str]:
    answered = [from_json(sent)["pipeline"] for _, sent in parcel.sends]
    return [*answered, *(case.pipeline for case in parcel.cases)]


def _without_original(sent: bytes) -> bytes:
    """Leave out what a dead letter carries."""
    head, found, _ = sent.partition(ORIGINAL)
    return head + b"}" if found else sent


class Control:
    """Owns the requests that wait."""

    def __init__(
        self,
        topics: Topics,
        link: Link,
        engine: Engine,
        pipelines: Sequence[Pipeline],
        recent: Recent,
        reload: Callable[[], Awaitable[None]],
        begun: deque[str],
    ) -> None:
        """`reload` takes the configuration anew; it raises ConfigError.

        `begun` are the ids of requests that ran, also before a reload.
        """
        self._topics = topics
        self._link = link
        self._engine = engine
        self._pipelines: Mapping[str, Pipeline] = {p.name: p for p in pipelines}
        self._recent = recent
        self._reload = reload
        self._begun = begun
        self._waiting: asyncio.Queue[Message] = asyncio.Queue(WAITING)
        self._prefix = topics.requests.removesuffix("+")
        self._known: Mapping[
            str, Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]]
        ] = {
            "ping": self._ping,
            "reload": self._load_again,
            "try": self._try,
            "explain": self._explain,
            "log_level": self._log_level,
        }

    def takes(self, message: Message) -> bool:
        """Take a message if it is a request, even one that is not answered.

        Its acknowledgement waits for those before it, maybe beyond a reload; then the
        broker sends it again.
        """
        if not message.topic.startswith(self._prefix):
            return False
        message.ack()  # a request is for now: nobody wants it after a crash
        known = message.again and message.id in self._begun
        name = message.topic.removeprefix(self._prefix)
        if known or message.retained or not NAME.fullmatch(name):
            log.warning("request_ignored", request=name[:64], retained=message.retained)
        elif self._waiting.full():
            log.warning("request_dropped", request=name)
        else:
            self._begun.append(message.id)
            self._waiting.put_nowait(message)
        return True

    async def run(self) -> None:
        """Answer until cancelled."""
        while True:
            message = await self._waiting.get()
            name = message.topic.removeprefix(self._prefix)
            response = await self.answer(name, message.payload)
            connection = await self._link.connection()
            if len(response) + ENVELOPE > connection.max_packet_bytes:
                response = _refusal("the response is too long for the broker")
            try:
                await (await connection.publish(self._topics.response(name), response))
            except Undelivered as error:
                log.warning("response_not_published", request=name, why=str(error))

    async def answer(self, name: str, payload: bytes) -> bytes:
        """Return the response to a request."""
        transaction = None
        try:
            said = _object(payload)
            transaction = said.get("transaction")
            data = await self._known.get(name, self._unknown)(said)
        except (BadRequest, ConfigError) as error:
            log.warning("request_refused", request=name, why=str(error))
            return _refusal(str(error), transaction)
        log.info("request", request=name)
        response = {"status": "ok", "data": data}
        return to_json(response | _echoed(transaction))

    async def _unknown(self, _said: Mapping[str, Any]) -> dict[str, Any]:
        raise BadRequest(f"no such request; there are: {', '.join(self._known)}")

    async def _ping(self, _said: Mapping[str, Any]) -> dict[str, Any]:
        return {"version": __version__, "time": iso(datetime.now(UTC))}

    async def _load_again(self, _said: Mapping[str, Any]) -> dict[str, Any]:
        await self._reload()
        return {}

    async def _try(self, said: Mapping[str, Any]) -> dict[str, Any]:
        pipeline = self._pipelines.get(_string(said, "pipeline"))
        if pipeline is None:
            known = ", ".join(self._pipelines)
            raise BadRequest(f"pipeline: no such; there are: {known}")
        try:
            text = checked(_string(said, "text"), pipeline.reader.max_chars)
        except Unreadable as why:
            raise BadRequest(f"text: {why.reason}: {why.detail}") from why
        decision = await self._engine.ask(pipeline, text)
        return {
            "pipeline": pipeline.name,
            **decision_object(decision),
            "threshold": pipeline.policy.threshold,
            "model": pipeline.bundle.id,
        }

    async def _explain(self, said: Mapping[str, Any]) -> dict[str, Any]:
        wanted = _string(said, "id")
        handled = self._recent.find(wanted)
        if handled is None:
            raise BadRequest(f"id: not among the last {RECENT} messages")
        return {
            "id": wanted,
            "topic": handled.topic,
            "received_at": iso(handled.received_at),
            "payload_sha256": handled.sha256,
            "text": handled.text,
            "results": [self._explained(from_json(sent)) for sent in handled.sends],
            "cases": [
                {
                    "pipeline": case.pipeline,
                    "reason": case.reason.value,
                    **guess_object(case.guess),
                    "decided_by": self._decided_by(case.pipeline, case.reason.value),
                    "deadline": iso(case.deadline),
                }
                for case in handled.cases
            ],
        }

    def _explained(self, result: dict[str, Any]) -> dict[str, Any]:
        shown = {key: result.get(key) for key in SHOWN}
        reason = result.get("reason")
        return {**shown, "decided_by": self._decided_by(result["pipeline"], reason)}

    def _decided_by(self, name: str, reason: str | None) -> dict[str, Any] | None:
        """Say which line of the configuration decided, and what it came to."""
        pipeline = self._pipelines.get(name)
        if pipeline is None:
            return None
        asked = "decide.min_score" if pipeline.floored else "decide.max_error"
        key = DECIDERS.get(reason or "", asked)
        return {
            "file": f"pipelines/{name}.toml",
            "key": key,
            "max_error": pipeline.max_error,
            "guarantee": pipeline.policy.guarantee,
            "threshold": pipeline.policy.threshold,
            "policy": pipeline.policy.road,
        }

    async def _log_level(self, said: Mapping[str, Any]) -> dict[str, Any]:
        level = _string(said, "level")
        if level not in LEVELS:
            raise BadRequest(f"level: is none of {', '.join(LEVELS)}")
        set_level(level)
        return {"level": level}


SHOWN = (
    *("pipeline", "status", "final", "by", "label", "score", "entities", "reason"),
    *("error_bound", "model", "ms", "detail"),
)
# What decides where it is not the threshold.
DECIDERS = {
    "missing_field": "fields",
    "invalid_field": "fields",
    "policy": "upstream.policy",
    "too_long": "input.max_chars",
    "not_utf8": "input.encoding",
    "unknown_encoding": "input.encoding",
    "not_json": "input.text",
    "wrong_type": "input.text",
    "uncalibrated": "models.on_mismatch (agent.toml)",
}


def _refusal(why: str, transaction: Any = None) -> bytes:
    return to_json({"status": "error", "data": {}, "error": why} | _echoed(transaction))


def _echoed(transaction: Any) -> dict[str, Any]:
    return {} if transaction is None else {"transaction": transaction}


def _object(payload: bytes) -> dict[str, Any]:
    if len(payload) > LARGEST:
        raise BadRequest(f"{len(payload)} bytes, at most {LARGEST} are read")
    if not payload.strip():
        return {}
    try:
        said = from_json(payload)
    except ValueError as error:
        raise BadRequest("the payload is no JSON") from error
    if not isinstance(said, dict):
        raise BadRequest("the payload is no JSON object")
    return said


def _string(said: Mapping[str, Any], key: str) -> str:
    value = said.get(key)
    if not isinstance(value, str):
        raise BadRequest(f"{key}: must be given, as a string")
    return value
