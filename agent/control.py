"""Control over MQTT: requests on `slm/<device>/request/<name>`, one response each.

Whoever may publish there controls the device: see to it in the broker's access list.
"""

import asyncio
import hashlib
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import structlog
from pydantic_core import from_json, to_json

from agent import __version__
from agent.engine import Engine, Parcel
from agent.errors import ConfigError, Undelivered, Unreadable
from agent.link import Link
from agent.log import LEVELS, set_level
from agent.pipeline import Pipeline
from agent.text import checked
from agent.types import Message
from agent.wire import Topics, decision_object, guess_object, iso

RECENT = 1000  # messages that can be explained
WAITING = 16  # requests; more are refused at once
TEXT_MAX = 10_000  # characters of a text that `explain` keeps

log = structlog.get_logger()


class BadRequest(Exception):
    """A request that makes no sense; the message says why."""


@dataclass(frozen=True, slots=True)
class Handled:
    """What is remembered of a message that was answered."""

    parcel: Parcel
    sha256: str
    text: str | None


class Recent:
    """The last messages, so that their results can be explained."""

    def __init__(self, pipelines: Sequence[Pipeline]) -> None:
        """`pipelines` say of which messages the text may be told."""
        self._open = {p.result_topic for p in pipelines if p.explains_text}
        self._handled: deque[Handled] = deque(maxlen=RECENT)

    def add(self, parcel: Parcel) -> None:
        """Remember a message and what came of it."""
        payload = parcel.message.payload
        shown = any(topic in self._open for topic, _ in parcel.sends)
        text = payload[:TEXT_MAX].decode("utf-8", "replace") if shown else None
        digest = hashlib.sha256(payload).hexdigest()
        message = _without_payload(parcel.message)
        kept = Parcel(message, parcel.sends, parcel.cases)
        self._handled.append(Handled(kept, digest, text))

    def find(self, result: str) -> Handled | None:
        """Return the last message with a result or case of this id."""
        quoted = b'"id":' + to_json(result)
        for handled in reversed(self._handled):
            parcel = handled.parcel
            if any(case.id == result for case in parcel.cases):
                return handled
            if any(quoted in payload[:400] for _, payload in parcel.sends):
                return handled
        return None


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
    ) -> None:
        """`reload` takes the configuration anew; it raises ConfigError."""
        self._topics = topics
        self._link = link
        self._engine = engine
        self._pipelines: Mapping[str, Pipeline] = {p.name: p for p in pipelines}
        self._recent = recent
        self._reload = reload
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
        """Take a message if it is a request; a retained or old one is none."""
        if not message.topic.startswith(self._prefix):
            return False
        message.ack()  # a request is for now: nobody wants it after a crash
        if self._waiting.full():
            log.warning("request_dropped", topic=message.topic)
        else:
            self._waiting.put_nowait(message)
        return True

    async def run(self) -> None:
        """Answer until cancelled."""
        while True:
            message = await self._waiting.get()
            name = message.topic.removeprefix(self._prefix)
            response = await self.answer(name, message.payload)
            connection = await self._link.connection()
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
            response = {"status": "error", "data": {}, "error": str(error)}
        else:
            log.info("request", request=name)
            response = {"status": "ok", "data": data}
        if transaction is not None:
            response["transaction"] = transaction
        return to_json(response)

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
        parcel = handled.parcel
        return {
            "id": wanted,
            "topic": parcel.message.topic,
            "received_at": iso(parcel.message.received_at),
            "payload_sha256": handled.sha256,
            "text": handled.text,
            "results": [self._explained(from_json(p)) for _, p in parcel.sends],
            "cases": [
                {
                    "pipeline": case.pipeline,
                    "reason": case.reason.value,
                    **guess_object(case.guess),
                    "decided_by": self._decided_by(case.pipeline, case.reason.value),
                    "deadline": iso(case.deadline),
                }
                for case in parcel.cases
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
        key = DECIDERS.get(reason or "", "decide.max_error")
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
    "uncalibrated": "models.on_mismatch (agent.toml)",
}


def _object(payload: bytes) -> dict[str, Any]:
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


def _without_payload(message: Message) -> Message:
    return replace(message, payload=b"", ack=_nothing)


def _nothing() -> None:
    """Acknowledge nothing: this is a memory."""
