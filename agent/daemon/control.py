"""Control over MQTT: requests on `slm/<device>/request/<name>`, one response each.

Whoever may publish there controls the device: see to it in the broker's access list. A
request is for now: neither a retained one is answered nor one that ran before.
"""

import asyncio
import re
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import structlog
from pydantic_core import to_json

from agent import __version__
from agent.core.errors import ConfigError, TooLarge, Undelivered, Unreadable
from agent.core.log import LEVELS, set_level
from agent.core.types import Message
from agent.daemon.history import RECENT, History
from agent.inference.engine import Engine
from agent.inference.pipeline import Pipeline
from agent.mqtt.link import Link
from agent.protocol.messages import Topics, decision_object, iso
from agent.protocol.payload import checked
from agent.protocol.strict_json import strict_json

WAITING = 16  # requests; more are dropped
LARGEST = 2**20  # bytes of a request
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")

log = structlog.get_logger()


class BadControlRequest(Exception):
    """A request that makes no sense; the message says why."""


class Control:
    """Owns the requests that wait."""

    def __init__(
        self,
        topics: Topics,
        link: Link,
        engine: Engine,
        pipelines: Sequence[Pipeline],
        recent: History,
        reload: Callable[[], Awaitable[None]],
        begun: deque[str],
        unusable: Callable[[str], list[dict[str, str]]],
    ) -> None:
        """`reload` takes the configuration anew; it raises ConfigError.

        `begun` are the ids of requests that ran, also before a reload. `unusable` tells
        what was wrong with upstream's answers to a message.
        """
        self._topics = topics
        self._link = link
        self._engine = engine
        self._pipelines: Mapping[str, Pipeline] = {p.name: p for p in pipelines}
        self._recent = recent
        self._reload = reload
        self._begun = begun
        self._unusable = unusable
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
        broken = message.defect or message.cut
        if known or broken or message.retained or not NAME.fullmatch(name):
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
            topic = self._topics.response(name)
            try:
                try:
                    puback = await connection.publish(topic, response)
                except TooLarge:
                    puback = await connection.publish(topic, TOO_LONG)
                await puback
            except Undelivered as error:
                log.warning("response_not_published", request=name, why=str(error))

    async def answer(self, name: str, payload: bytes) -> bytes:
        """Return the response to a request."""
        transaction = None
        try:
            request = _object(payload)
            transaction = request.get("transaction")
            data = await self._known.get(name, self._unknown)(request)
        except (BadControlRequest, ConfigError) as error:
            log.warning("request_refused", request=name, why=str(error))
            return _refusal(str(error), transaction)
        log.info("request", request=name)
        response = {"status": "ok", "data": data}
        return to_json(response | _echoed(transaction))

    async def _unknown(self, _said: Mapping[str, Any]) -> dict[str, Any]:
        raise BadControlRequest(f"no such request; there are: {', '.join(self._known)}")

    async def _ping(self, _said: Mapping[str, Any]) -> dict[str, Any]:
        return {"version": __version__, "time": iso(datetime.now(UTC))}

    async def _load_again(self, _said: Mapping[str, Any]) -> dict[str, Any]:
        await self._reload()
        return {}

    async def _try(self, request: Mapping[str, Any]) -> dict[str, Any]:
        pipeline = self._pipelines.get(_string(request, "pipeline"))
        if pipeline is None:
            known = ", ".join(self._pipelines)
            raise BadControlRequest(f"pipeline: no such; there are: {known}")
        try:
            text = checked(_string(request, "text"), pipeline.reader.max_chars)
        except Unreadable as why:
            raise BadControlRequest(f"text: {why.reason}: {why.detail}") from why
        decision = await self._engine.ask(pipeline, text)
        return {
            "pipeline": pipeline.name,
            **decision_object(decision),
            "threshold": pipeline.policy.threshold,
            "model": pipeline.bundle.id,
        }

    async def _explain(self, request: Mapping[str, Any]) -> dict[str, Any]:
        wanted = _string(request, "id")
        handled = self._recent.find(wanted)
        if handled is None:
            raise BadControlRequest(
                f"id: not among the last {RECENT} messages since the process began"
            )
        unusable = self._unusable(wanted)
        return {"id": wanted, **handled.explained(), "unusable_answers": unusable}

    async def _log_level(self, request: Mapping[str, Any]) -> dict[str, Any]:
        level = _string(request, "level")
        if level not in LEVELS:
            raise BadControlRequest(f"level: is none of {', '.join(LEVELS)}")
        set_level(level)
        return {"level": level}


def _refusal(why: str, transaction: Any = None) -> bytes:
    return to_json({"status": "error", "data": {}, "error": why} | _echoed(transaction))


def _echoed(transaction: Any) -> dict[str, Any]:
    return {} if transaction is None else {"transaction": transaction}


TOO_LONG = _refusal("the response is too long for the broker")


def _object(payload: bytes) -> dict[str, Any]:
    if len(payload) > LARGEST:
        raise BadControlRequest(f"{len(payload)} bytes, at most {LARGEST} are read")
    if not payload.strip():
        return {}
    try:
        value = strict_json(payload)
    except ValueError as error:
        raise BadControlRequest("the payload is no JSON") from error
    if not isinstance(value, dict):
        raise BadControlRequest("the payload is no JSON object")
    return value


def _string(request: Mapping[str, Any], key: str) -> str:
    value = request.get(key)
    if not isinstance(value, str):
        raise BadControlRequest(f"{key}: must be given, as a string")
    return value
