"""What tap makes of what it hears: anybody may publish anything."""

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import pytest

from agent.cli.tap import line
from agent.core.errors import Undelivered
from agent.core.types import Message
from agent.mqtt.connection import Ended
from agent.mqtt.side_connection import SideConnection
from harness.tiny import arrived

if TYPE_CHECKING:
    from agent.mqtt.connection import Connection

pytestmark = pytest.mark.timeout(10)
RESULT: dict[str, Any] = {
    "device": "pi",
    "pipeline": "home",
    "topic": "home/hall",
    "status": "resolved",
    "final": True,
    "label": "on",
    "score": 0.9,
    "by": "linear",
    "reason": None,
    "id": "m",
    "entities": [{"label": "place", "text": "hall"}],
    "ms": {"total": 2.0},
}
SHOWN = "pi/home  home/hall  resolved  on  0.90  by linear  place=hall  2.0 ms  m"


def said(value: object, topic: str = "slm/pi/result/home") -> Message:
    """Return a message with this JSON."""
    return arrived(json.dumps(value).encode(), topic=topic)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (RESULT, SHOWN),
        (RESULT | {"final": False}, SHOWN.replace("resolved", "provisional")),
        (
            {"device": "pi", "reason": "empty"},
            "pi/None  None  dead letter: empty  None",
        ),
        (
            RESULT | {"label": "\x1b[2J"},
            SHOWN.replace("on ", "\N{REPLACEMENT CHARACTER}[2J "),
        ),
        ([], "no result"),
        (1, "no result"),
        (None, "no result"),
        ({"status": 1}, "no result"),
        ("x", "no result"),
        (RESULT | {"entities": [1]}, "no result"),
        (RESULT | {"ms": None}, "no result"),
        (RESULT | {"score": "high"}, "no result"),
    ],
)
def test_one_line_whatever_comes(value: object, shown: str) -> None:
    """A result in a line; what is none is said to be none, and nothing stops."""
    assert shown in line(said(value))
    assert "\x1b" not in line(said(value))


def test_no_json_is_no_result() -> None:
    """Bytes are counted, not shown."""
    message = arrived(b"\xff\xff", topic="t")
    time = f"{message.received_at.astimezone():%H:%M:%S}"
    assert line(message) == f"{time}  t: 2 bytes, no result"


@dataclass
class Road:
    """A connection that ends when the test says so."""

    ended: "asyncio.Future[Ended]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


async def test_who_listens_hears_of_the_end() -> None:
    """A connection that is lost is an error, not silence for ever."""
    came: asyncio.Queue[Message | Ended] = asyncio.Queue()
    road = Road()
    heard = SideConnection(cast("Connection", road), came)
    came.put_nowait(said(1))
    assert (await heard.get()).payload == b"1"
    came.put_nowait(said(2))
    road.ended.set_result(Ended("broken"))
    await asyncio.sleep(0)
    assert [message.payload for message in heard.waiting()] == [b"2"]
    for _ in range(2):
        with pytest.raises(Undelivered, match="broken"):
            await heard.get()
