"""`slm-agent top`: how all devices on the broker are."""

import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.options import CONFIG, JSON, OWN, running
from agent.cli.tables import plain
from agent.core.types import Message
from agent.core.words import printable

if TYPE_CHECKING:
    from rich.table import Table

    from agent.config.load import Config
    from agent.mqtt.side_connection import SideConnection
    from agent.protocol.health import Health

OLD_S = 90.0  # a health that was not repeated for so long is shown as old
QUIET_S = 0.5  # of silence end what is retained,
SETTLED_S = 5.0  # or so much time, where devices speak all the while
CLEAR = "\x1b[H\x1b[2J"  # a terminal
HEADINGS = (
    *("device", "status", "received", "local %", "p50 ms", "p99 ms", "in hand"),
    *("outbox", "calls", "MB", "alerts"),
)


@click.command()
@CONFIG
@OWN
@JSON
@click.option("--device", default="+", help="Only this one; default all.")
@click.option("--once", is_flag=True, help="Show what is known now, and end.")
def top(
    config: Path | None, device: str, *, own: bool, once: bool, as_json: bool
) -> None:
    """Show how all devices on the broker are, live.

    What they say of themselves every half minute: share resolved locally, latencies,
    what waits, upstream calls, memory, alerts. --json prints one object a device, once.
    """
    found = running(config, own=own)
    with suppress(KeyboardInterrupt):
        asyncio.run(watch(found, device, once=once, as_json=as_json))


@dataclass(slots=True)
class FleetView:
    """What is known of each device."""

    status: dict[str, str] = field(default_factory=dict)
    health: dict[str, "Health"] = field(default_factory=dict)
    heard: dict[str, float] = field(default_factory=dict)

    def take(self, message: Message) -> None:
        """Take a status or health."""
        _, device, kind = message.topic.split("/", 2)
        if kind == "status":
            self.status[device] = message.payload.decode("utf-8", "replace")
            return
        from pydantic_core import from_json

        from agent.protocol.health import understood

        try:
            said = from_json(message.payload)
        except ValueError:
            return
        if isinstance(said, dict):
            self.health[device] = understood(said)
            self.heard[device] = time.monotonic()

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield a row for each device, in the order of their names."""
        from agent.protocol.health import Health

        for device in sorted({*self.status, *self.health}):
            health = self.health.get(device, Health())
            outbox, upstream = health.outbox, health.upstream
            age = time.monotonic() - self.heard.get(device, 0.0)
            yield {
                "device": device,
                "status": self.status.get(device, "?"),
                "old": age > OLD_S,
                "received": health.received,
                "percent_local": health.percent_local,
                "ms_p50": health.ms_p50,
                "ms_p99": health.ms_p99,
                "in_hand": health.in_hand,
                "outbox": outbox and outbox.waiting,
                "calls_today": upstream and upstream.spent_today.calls,
                "rss_bytes": health.rss_bytes,
                "alerts": list(health.alerts),
            }


async def watch(config: "Config", device: str, *, once: bool, as_json: bool) -> None:
    """Show all devices, live; `once` shows what is retained and ends."""
    from agent.cli.listening import listening

    filters = [f"slm/{device}/{kind}" for kind in ("status", "health")]
    fleet = FleetView()
    async with listening(config, filters) as heard:
        if once or as_json:
            await _settle(heard, fleet)
            rows = list(fleet.rows())
            if as_json:
                for row in rows:
                    print(json.dumps(row), flush=True)  # noqa: T201
            else:
                with _shown(fleet):
                    pass
            return
        with _shown(fleet) as show:
            while True:
                fleet.take(await heard.get())
                show()


async def _settle(heard: "SideConnection", fleet: FleetView) -> None:
    """Take all that is retained: it comes at once after the subscription."""
    with suppress(TimeoutError):
        async with asyncio.timeout(SETTLED_S):
            while True:
                async with asyncio.timeout(QUIET_S):
                    fleet.take(await heard.get())


@contextmanager
def _shown(fleet: FleetView) -> Iterator[Callable[[], None]]:
    """Show the devices, and again at each call; without rich in plain columns."""
    if find_spec("rich") is None:
        show = partial(_print, fleet)
        show()
        yield show
        return
    from rich.live import Live

    with Live(_table(fleet), screen=False, auto_refresh=False) as live:

        def update() -> None:
            live.update(_table(fleet), refresh=True)

        update()
        yield update


def _print(fleet: FleetView) -> None:
    if sys.stdout.isatty():
        sys.stdout.write(CLEAR)
    sys.stdout.write(plain(HEADINGS, list(_cells(fleet))))
    sys.stdout.flush()


def _table(fleet: FleetView) -> "Table":
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for name in HEADINGS:
        words = name in {"device", "status", "alerts"}
        table.add_column(
            name,
            justify="left" if words else "right",
            style="red" if name == "alerts" else None,
        )
    for device, status, *others in _cells(fleet):
        colour = "green" if status == "online" else "yellow"
        table.add_row(
            escape(device), f"[{colour}]{escape(status)}", *map(escape, others)
        )
    return table


def _cells(fleet: FleetView) -> Iterator[tuple[str, ...]]:
    """Yield what stands below the headings."""
    for row in fleet.rows():
        status = "old" if row["old"] and row["status"] == "online" else row["status"]
        keys = ("received", "percent_local", "ms_p50", "ms_p99", "in_hand", "outbox")
        memory = row["rss_bytes"]
        yield (
            printable(row["device"]),
            printable(status),
            *(_cell(row[key]) for key in (*keys, "calls_today")),
            _cell(memory and memory / 1e6),
            printable(", ".join(row["alerts"])),
        )


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.1f}"
    return str(value) if isinstance(value, int) else ""
