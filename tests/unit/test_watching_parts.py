"""What tap and top make of what they hear: anybody may publish anything."""

import asyncio
import json
import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import pytest
from rich.console import Console

from agent.cli.tables import plain
from agent.cli.tap import line
from agent.cli.top import CLEAR, HEADINGS, FleetView, _cells, _settle, _shown, _table
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
SHOWN = "pi/home  resolved  on  0.90  by linear  place=hall  2.0 ms  m"


def said(value: object, topic: str = "slm/pi/result/home") -> Message:
    """Return a message with this JSON."""
    return arrived(json.dumps(value).encode(), topic=topic)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (RESULT, SHOWN),
        (RESULT | {"final": False}, SHOWN.replace("resolved", "provisional")),
        ({"device": "pi", "reason": "empty"}, "pi/None  dead letter: empty  None"),
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
    assert line(arrived(b"\xff\xff", topic="t")) == "t: 2 bytes, no result"


@pytest.mark.parametrize(
    "health",
    [
        {},
        [],
        {
            "alerts": None,
            "rss_bytes": "many",
            "outbox": 1,
            "upstream": {"spent_today": 1},
        },
        {"alerts": ["[/red]", "[bold"], "ms_p50": [], "received": {}},
        {"alerts": [1], "upstream": {"spent_today": {"calls": "x"}}},
    ],
)
def test_top_shows_whatever_comes(health: object) -> None:
    """A device that says odd things has a row, and the others theirs."""
    fleet = FleetView()
    fleet.take(said({"received": 5, "ms_p50": 1.25}, "slm/good/health"))
    fleet.take(said(health, "slm/[red]odd[bold/health"))
    fleet.take(replace(arrived(b"\xff[/]"), topic="slm/[red]odd[bold/status"))
    console = Console(width=200)
    with console.capture() as capture:
        console.print(_table(fleet))
    for shown in (capture.get(), plain(HEADINGS, list(_cells(fleet)))):
        assert "good" in shown
        assert "1.2" in shown
        assert "[red]odd[bold" in shown
        assert "\x1b" not in shown


@pytest.mark.parametrize("terminal", [False, True])
def test_top_without_rich(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, *, terminal: bool
) -> None:
    """Where rich is not installed the columns are plain, and anew on a terminal."""
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setattr("agent.cli.top.find_spec", lambda _: None)
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    fleet = FleetView()
    fleet.take(said({"received": 5, "rss_bytes": 2e6}, "slm/pi/health"))
    with _shown(fleet) as show:
        first = capsys.readouterr().out
        fleet.take(replace(arrived(b"online"), topic="slm/pi/status"))
        show()
    second = capsys.readouterr().out
    assert first.startswith(CLEAR) is second.startswith(CLEAR) is terminal
    headings, row = first.removeprefix(CLEAR).splitlines()
    assert headings.split("  ")[:3] == ["device", "status", "received"]
    assert row.split() == ["pi", "?", "5", "2.0"]
    assert row.index("2.0") == headings.index("MB")
    assert second.splitlines()[-1].startswith("pi      online  5")


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


async def test_top_settles_though_devices_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Hundreds of devices leave no silence to wait for."""
    monkeypatch.setattr("agent.cli.top.SETTLED_S", 0.2)
    came: asyncio.Queue[Message | Ended] = asyncio.Queue()

    async def speak() -> None:
        while True:
            came.put_nowait(said({}, "slm/pi/health"))
            await asyncio.sleep(0.01)

    speaking = asyncio.ensure_future(speak())
    fleet = FleetView()
    await _settle(SideConnection(cast("Connection", Road()), came), fleet)
    speaking.cancel()
    assert list(fleet.health) == ["pi"]
