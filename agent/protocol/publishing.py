"""Publish JSON of any size: where the broker takes less, what fits is published."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog
from pydantic_core import to_json

from agent.core.errors import TooLarge
from agent.protocol.messages import Topics
from agent.protocol.shortening import (
    Document,
    letter_of,
    shortened,
    shortened_letter,
    without_entities,
)

if TYPE_CHECKING:
    from agent.mqtt.connection import Connection

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Published:
    """Where something went, and the future of its PUBACK."""

    topic: str
    puback: "asyncio.Future[None]"


async def publish_ending(
    connection: "Connection",
    topic: str,
    payload: bytes,
    document: Callable[[], Document],
    original: bytes,
) -> Published | None:
    """Publish a result or a dead letter, of which `payload` is the encoded `document`.

    A result that is too large loses its entities; if that is not enough, it becomes a
    dead letter of the `original`. None: it was provisional, and is left out.
    """
    try:
        return Published(topic, await connection.publish(topic, payload))
    except TooLarge as error:
        del payload  # megabytes, maybe, and the document has as many
        whole, room = document(), error.room
        log.warning("too_large", id=whole["id"][:256], topic=topic, why=str(error))
    if "status" in whole:
        bare = to_json(without_entities(whole))
        if len(bare) <= room:
            return Published(topic, await connection.publish(topic, bare))
        if not whole["final"]:
            return None
        whole = letter_of(whole, original)
    place = Topics(whole["device"]).dead_letter(whole["pipeline"])
    if topic != place:
        topic = place
        try:
            return Published(topic, await connection.publish(topic, to_json(whole)))
        except TooLarge as error:
            room = error.room
    letter = shortened_letter(whole, room)
    return Published(topic, await connection.publish(topic, letter))


async def publish_object(
    connection: "Connection",
    topic: str,
    document: Mapping[str, Any],
    *,
    retain: bool = True,
) -> None:
    """Publish an object and wait for its PUBACK; raises Undelivered.

    Where it is too large, its largest parts are left out, or all of it; the log says so
    once for each connection and topic.
    """
    payload = to_json(document)
    try:
        puback = await connection.publish(topic, payload, retain=retain)
    except TooLarge as error:
        payload = shortened(document, error.room)
        if not payload:
            return
        puback = await connection.publish(topic, payload, retain=retain)
    await puback
