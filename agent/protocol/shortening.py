"""What becomes of JSON objects that are too large for the broker's packets."""

import base64
import hashlib
from bisect import bisect_right
from collections.abc import Mapping
from typing import Any

from pydantic_core import to_json

from agent.core.types import Reason

Document = dict[str, Any]
CUT = "..."  # stands where text is cut


def without_entities(result: Mapping[str, Any]) -> Document:
    """Return a result that nobody may take for the whole: unresolved, and bare."""
    return {
        **result,
        "status": "unresolved",
        "entities": [],
        "reason": Reason.TOO_LONG.value,
        "error_bound": None,
    }


def letter_of(result: Mapping[str, Any], original: bytes) -> Document:
    """Return the dead letter of a result that is too large without entities, too."""
    return {
        "v": result["v"],
        "id": result["id"],
        "device": result["device"],
        "pipeline": result["pipeline"],
        "topic": result["topic"],
        "reason": Reason.TOO_LONG.value,
        "detail": "the broker takes no packet as large as the result",
        "payload": base64.b64encode(original).decode("ascii"),
        "truncated": False,
        "bytes": len(original),
        "sha256": hashlib.sha256(original).hexdigest(),
        "time": result["received_at"],
    }


def shortened_letter(letter: Mapping[str, Any], room: int) -> bytes:
    """Encode a dead letter in at most `room` bytes; what was cut says so.

    The original gives way first, then the topic it came by. An id of 256 characters
    and all names fit into `agent.mqtt.connection.LEAST_PACKET`.
    """
    cut = {**letter, "truncated": True, "payload": ""}
    fits = max(0, room - len(to_json(cut))) // 4 * 4  # base64: 4 letters, 3 bytes
    cut["payload"] = letter["payload"][:fits]
    payload = to_json(cut)
    if len(payload) <= room:
        return payload
    cut |= {"detail": "", "topic_truncated": True}
    return to_json(cut | {"topic": _cut(letter["topic"], room, cut | {"topic": ""})})


def shortened(document: Mapping[str, Any], room: int) -> bytes:
    """Encode an object in at most `room` bytes, without the largest of its parts.

    `left_out` names those that are missing; a text is cut. Empty: nothing fits.
    """
    kept: Document = {**document, "left_out": []}
    while len(kept) > 1:
        sizes = {k: len(to_json(v)) for k, v in kept.items() if k != "left_out"}
        largest = max(sizes, key=sizes.__getitem__)
        value = kept[largest]
        if isinstance(value, str):
            text = _cut(value, room, kept | {largest: ""})
            if text:
                return to_json(kept | {largest: text})
        del kept[largest]
        kept["left_out"] = [*kept["left_out"], largest]
        if len(payload := to_json(kept)) <= room:
            return payload
    return b""


def _cut(text: str, room: int, around: Mapping[str, Any]) -> str:
    """Return how much of a text fits into `room` bytes beside an object, as JSON."""
    left = room - len(to_json(around))

    def size(characters: int) -> int:
        return len(to_json(text[:characters] + CUT)) - 2

    fits = bisect_right(range(len(text)), left, key=size)
    return text[: fits - 1] + CUT if fits else ""
