"""What top makes of what it hears, and how it is laid out and drawn."""

import asyncio
import io
import json
import os
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import click
import pytest

from agent.cli.fleet_view import (
    OLD_S,
    SORTS,
    DeviceRow,
    FleetView,
    arranged,
    fitted,
    laid_out,
    summary,
)
from agent.cli.screen import Screen, split
from agent.cli.top import Display, _settle
from agent.core.types import Message
from agent.mqtt.side_connection import SideConnection
from harness.tiny import arrived

if TYPE_CHECKING:
    from agent.mqtt.connection import Connection, Ended

pytestmark = pytest.mark.timeout(10)
HEALTH: dict[str, Any] = {
    "received": 5,
    "percent_local": 91.25,
    "ms_p50": 1.25,
    "ms_p99": 8.5,
    "in_hand": 2,
    "outbox": {"waiting": 3},
    "upstream": {"spent_today": {"calls": 17}},
    "rss_bytes": 2e8,
    "alerts": ["disk_low"],
}


def said(value: object, topic: str) -> Message:
    """Return a message with this JSON."""
    return arrived(json.dumps(value).encode(), topic=topic)


def view(**devices: dict[str, Any]) -> FleetView:
    """Return a view that heard these devices at second 0: topics by their last part."""
    fleet = FleetView()
    for device, topics in devices.items():
        for kind, value in topics.items():
            message = said(value, f"slm/{device}/{kind}")
            if kind == "status":
                message = replace(message, payload=value.encode())
            fleet.take(message, 0.0)
    return fleet


def test_a_row() -> None:
    """What a device says in three topics is one row."""
    report = {"applied": 12, "desired": 13, "state": "rolled_back"}
    fleet = view(pi={"status": "online", "health": HEALTH, "fleet": report})
    assert fleet.rows(1.0) == [
        DeviceRow(
            device="pi",
            status="online",
            received=5,
            percent_local=91.25,
            ms_p50=1.25,
            ms_p99=8.5,
            in_hand=2,
            outbox=3,
            calls_today=17,
            rss_bytes=2e8,
            alerts=("disk_low",),
            fleet_version=12,
            rollout="rolled_back",
        )
    ]


def test_not_heard_yet_is_not_old() -> None:
    """A device is old when its health is not repeated, not before it came at all."""
    fleet = view(new={"status": "online"}, pi={"status": "online", "health": HEALTH})
    assert [row.state for row in fleet.rows(1.0)] == ["online", "online"]
    assert [row.state for row in fleet.rows(OLD_S + 1)] == ["old", "old"]
    fleet.take(said(HEALTH, "slm/pi/health"), OLD_S)
    assert [row.state for row in fleet.rows(OLD_S + 1)] == ["old", "online"]
    [row] = view(pi={"health": HEALTH}).rows(1.0)
    assert row.state == "?"


def test_a_device_that_was_taken_away() -> None:
    """Where the retained topics of a device are emptied, its row goes."""
    fleet = view(pi={"status": "offline", "health": HEALTH, "fleet": {}})
    for kind in ("status", "health", "fleet"):
        fleet.take(arrived(b"", topic=f"slm/pi/{kind}"), 1.0)
    assert fleet.rows(1.0) == []


@pytest.mark.parametrize(
    "odd",
    [
        {},
        [],
        1,
        {"alerts": None, "rss_bytes": "x", "outbox": 1, "upstream": {"spent_today": 1}},
        {"alerts": ["[/red]", "\x1b[2J"], "ms_p50": [], "received": {}},
        {"alerts": [1], "upstream": {"spent_today": {"calls": "x"}}, "received": True},
        {"received": 10**400, "ms_p50": 1e308},
    ],
)
def test_whatever_comes(odd: object) -> None:
    """A device that says odd things has a row, and the others theirs."""
    fleet = view(good={"health": HEALTH})
    for kind in ("health", "fleet"):
        fleet.take(said(odd, f"slm/[red]\x1b[2J\u6f22/{kind}"), 0.0)
    fleet.take(arrived(b"\xff[/]\x1b", topic="slm/[red]\x1b[2J\u6f22/status"), 0.0)
    fleet.take(arrived(b"{", topic="slm/good/health"), 0.0)
    fleet.take(arrived(b"{}", topic="slm/good/other"), 0.0)
    rows = fleet.rows(0.0)
    for width in (20, 40, 80, 200):
        lines = Display().frame(rows, width, 24)
        plain = [click.unstyle(line) for line in lines]
        assert all("\x1b" not in line and len(line) <= max(width, 50) for line in plain)
    assert "good" in "\n".join(plain)
    assert "[red]" in "\n".join(plain)


ROWS = [
    DeviceRow("b", "online", received=1, percent_local=50.0, ms_p99=3.0),
    DeviceRow("a", "online", received=9, percent_local=90.0, ms_p99=1.0),
    DeviceRow("offline", "offline"),
    DeviceRow("alert", "online", alerts=("disk_low",)),
    DeviceRow("refused", "online", rollout="refused", fleet_version=1),
    DeviceRow("old", "online", old=True, outbox=7),
    DeviceRow("trial", "online", rollout="probation", calls_today=5),
    DeviceRow("new", "?"),
]


@pytest.mark.parametrize(
    ("sort", "first"),
    [
        ("problems", ["offline", "alert", "refused", "old", "new", "trial", "a", "b"]),
        ("device", ["a", "alert", "b", "new"]),
        ("received", ["a", "b", "alert"]),
        ("local", ["b", "a", "alert"]),
        ("p99", ["b", "a", "alert"]),
        ("outbox", ["old", "a"]),
        ("calls", ["trial", "a"]),
    ],
)
def test_the_order(sort: str, first: list[str]) -> None:
    """Problems come first; by figures what is worst."""
    names = [row.device for row in arranged(ROWS, sort)]
    assert names[: len(first)] == first
    assert len(names) == len(ROWS)
    assert {sort for sort in SORTS if arranged(ROWS, sort)} == set(SORTS)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("disk_low", ["alert"]),
        ("OFFL", ["offline"]),
        ("old", ["old"]),
        ("probation", ["trial"]),
        ("online a", ["alert", "trial", "a"]),
        ("nothing", []),
        ("", [row.device for row in arranged(ROWS)]),
    ],
)
def test_the_filter(words: str, names: list[str]) -> None:
    """Every word must stand in the name, the state, the alerts or the rollout."""
    assert [row.device for row in arranged(ROWS, "problems", words)] == names


def test_the_summary() -> None:
    """One line says how all are."""
    assert summary(ROWS) == (
        "8 devices, 5 online, 1 offline, 1 old, 1 not heard yet, 1 with alerts, "
        "7 cases wait, 5 calls today; fleet 1 x v1"
    )
    assert summary([]) == "0 devices, 0 online"


@pytest.mark.parametrize("width", [80, 100, 200])
def test_the_layout(width: int) -> None:
    """At 80 columns a row has what an operator looks for, and none is cut."""
    rows = [
        DeviceRow(
            f"perth-line-{n}",
            "online",
            received=123_456,
            percent_local=91.2,
            ms_p50=2.2,
            ms_p99=12.5,
            in_hand=3,
            outbox=17,
            calls_today=340,
            rss_bytes=1.5e8,
            alerts=("disk_low", "upstream_gone", "clock_wrong"),
            fleet_version=12,
            rollout="rolled_back",
        )
        for n in range(3)
    ]
    heading, lines = laid_out(rows, width)
    assert all(len(line) <= width for line in (heading, *lines))
    for name in ("device", "status", "local%", "p99", "outbox", "fleet", "rollout"):
        assert name in heading
    for value in ("perth-line-0", "online", "91.2", "12.5", "17", "rolled back"):
        assert value in lines[0]
    assert "disk_low +2" in lines[0] or "upstream_gone" in lines[0]
    assert ("123456" in lines[0]) is (width > 80)
    assert heading.index("alerts") == lines[0].index("disk_low")
    assert re.search(r"p99 ms", heading)
    column = heading.index("p99 ms") + len("p99 ms")
    assert lines[0][:column].endswith("12.5")


def test_hundreds_of_rows_at_80_by_24() -> None:
    """A screen is as large as the terminal; keys scroll, sort and filter."""
    rows = [DeviceRow(f"pi-{n:03}", "online", received=n) for n in range(300)]
    display = Display()

    def shown() -> list[str]:
        lines = [click.unstyle(line) for line in display.frame(rows, 80, 24)]
        assert len(lines) == 24
        assert all(len(line) <= 80 for line in lines)
        return lines

    lines = shown()
    assert lines[0].startswith("300 devices, 300 online")
    assert lines[2].startswith("pi-000")
    assert "1-21 of 300" in lines[-1]
    for key, top in (
        ("down", "pi-001"),
        ("page down", "pi-022"),
        ("page up", "pi-001"),
        ("home", "pi-000"),
        ("up", "pi-000"),
        ("s", "pi-000"),
        ("s", "pi-299"),
    ):
        display.press(key, 21)
        assert shown()[2].startswith(top), key
    for key in ("/", "2", "9", "x", "backspace", "9", "enter"):
        display.press(key, 21)
    assert [line[:6] for line in shown()[2:4]] == ["pi-299", ""]
    assert "filter 299" in shown()[-1]
    display.press("escape", 21)
    for _ in range(40):
        display.press("page down", 21)
    assert shown()[22].startswith("pi-000")
    assert not display.ended
    display.press("q", 21)
    assert display.ended


@dataclass
class Terminal(io.StringIO):
    """Remembers what was written."""

    written: list[str] = field(default_factory=list)

    def write(self, text: str) -> int:
        """Remember it."""
        self.written.append(text)
        return len(text)


def test_only_what_changed_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """A screen that says the same writes nothing, another line only that line."""
    size = os.terminal_size((80, 3))
    monkeypatch.setattr(Screen, "size", property(lambda _: size))
    out = Terminal()
    screen = Screen(out)
    screen.show(["a", "b", "c", "beyond"])
    assert (
        out.written.pop() == "\x1b[2J\x1b[1;1Ha\x1b[K\x1b[2;1Hb\x1b[K\x1b[3;1Hc\x1b[K"
    )
    screen.show(["a", "b", "c"])
    assert out.written == []
    screen.show(["a", "x", "c"])
    assert out.written.pop() == "\x1b[2;1Hx\x1b[K"
    screen.show(["a"])
    assert out.written.pop() == "\x1b[2;1H\x1b[K\x1b[3;1H\x1b[K"
    size = os.terminal_size((90, 3))
    screen.show(["a"])
    assert out.written.pop().startswith("\x1b[2J")


def test_keys_by_their_names() -> None:
    """What a terminal sends for a key is one key, among others too."""
    assert list(split("s\x1b[A\x1b[5~\x1bq\x7f\ré")) == [
        "s",
        "up",
        "page up",
        "escape",
        "q",
        "backspace",
        "enter",
        "é",
    ]


def test_a_text_fits() -> None:
    """A cell is never wider than its column, and never a command."""
    assert fitted("abc", 3) == "abc"
    assert fitted("abcd", 3) == "ab\N{HORIZONTAL ELLIPSIS}"
    assert fitted("\u6f22\u5b57", 3) == "??"
    assert "\x1b" not in fitted("\x1b[2J", 9)


@dataclass
class Road:
    """A connection that ends when the test says so."""

    ended: "asyncio.Future[Ended]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


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
