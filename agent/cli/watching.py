"""`slm-agent tap` and `top`: what devices say, as they say it."""

import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from agent.cli.tables import plain
from agent.config.load import Config
from agent.core.errors import Undelivered
from agent.core.types import Message
from agent.daemon.assembly import endpoint
from agent.mqtt.connection import Connection

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from rich.table import Table

OLD_S = 90.0  # a health that was not repeated for so long is shown as old
QUIET_S = 0.5  # of silence end what is retained,
SETTLED_S = 5.0  # or so much time, where devices speak all the while
CLEAR = "\x1b[H\x1b[2J"  # a terminal
HEADINGS = (
    *("device", "status", "received", "local %", "p50 ms", "p99 ms", "in hand"),
    *("outbox", "calls", "MB", "alerts"),
)


class ReceivedMessage:
    """Owns what came by a connection and nobody has seen yet."""

    def __init__(self, connection: Connection, came: asyncio.Queue[Message]) -> None:
        """`came` is filled by the connection."""
        self._ended = connection.ended
        self._came = came

    async def get(self) -> Message:
        """Return the next message; raises Undelivered once no more can come."""
        next_one = asyncio.ensure_future(self._came.get())
        try:
            waits: set[asyncio.Future[Any]] = {next_one, self._ended}
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if not next_one.done():
                raise Undelivered(self._ended.result().why)
            return next_one.result()
        finally:
            next_one.cancel()


@asynccontextmanager
async def listening(
    config: Config, filters: Sequence[str]
) -> "AsyncIterator[ReceivedMessage]":
    """Hear topics by a connection of our own; raises Undelivered."""
    known = endpoint(config)
    aside = replace(
        known,
        client_id=f"{known.client_id}-watch-{time.time_ns() % 100_000}",
        session_expiry_s=0,
        will=None,
    )
    came: asyncio.Queue[Message] = asyncio.Queue()

    def hear(message: Message) -> None:
        message.ack()
        came.put_nowait(message)

    connection = Connection(aside, 0, None, hear)
    await connection.open()
    try:
        await connection.subscribe(filters)
        yield ReceivedMessage(connection, came)
    finally:
        await connection.close()


async def tap(
    config: Config, device: str, pipeline: str, limit: int | None, *, as_json: bool
) -> None:
    """Print results and dead letters as they come; `limit` ends it."""
    filters = [f"slm/{device}/{kind}/{pipeline}" for kind in ("result", "deadletter")]
    async with listening(config, filters) as heard:
        shown = 0
        while limit is None or shown < limit:
            message = await heard.get()
            shown += 1
            print(  # noqa: T201
                message.payload.decode("utf-8", "replace")
                if as_json
                else line(message),
                flush=True,
            )


def line(message: Message) -> str:
    """Return a result or dead letter in one line for eyes; never its text."""
    try:
        shown = _line(from_json(message.payload))
    except (ValueError, TypeError, KeyError, AttributeError):  # anybody may publish
        shown = f"{message.topic}: {len(message.payload)} bytes, no result"
    return _printable(shown)


def _printable(shown: str) -> str:
    """Keep what others wrote from speaking to the terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in shown)


def _line(said: dict[str, Any]) -> str:
    where = f"{said.get('device')}/{said.get('pipeline')}"
    if "status" not in said:
        return f"{where}  dead letter: {said.get('reason')}  {said.get('id')}"
    score = said.get("score")
    entities = [f"{e['label']}={e['text']}" for e in said.get("entities", [])]
    shown = [
        where,
        said["status"] if said.get("final", True) else "provisional",
        str(said.get("label")),
        "" if score is None else f"{score:.2f}",
        f"by {said.get('by')}",
        said.get("reason") or "",
        ", ".join(entities),
        f"{said['ms']['total']:.1f} ms",
        said.get("id", ""),
    ]
    return "  ".join(part for part in shown if part)


@dataclass(slots=True)
class FleetView:
    """What is known of each device."""

    status: dict[str, str] = field(default_factory=dict)
    health: dict[str, dict[str, Any]] = field(default_factory=dict)
    heard: dict[str, float] = field(default_factory=dict)

    def take(self, message: Message) -> None:
        """Take a status or health."""
        _, device, kind = message.topic.split("/", 2)
        if kind == "status":
            self.status[device] = message.payload.decode("utf-8", "replace")
            return
        try:
            said = from_json(message.payload)
        except ValueError:
            return
        if isinstance(said, dict):
            self.health[device] = {k: v for k, v in said.items() if _is_fit(k, v)}
            self.heard[device] = time.monotonic()

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield a row for each device, in the order of their names."""
        for device in sorted({*self.status, *self.health}):
            said = self.health.get(device, {})
            outbox, upstream = said.get("outbox") or {}, said.get("upstream") or {}
            age = time.monotonic() - self.heard.get(device, 0.0)
            yield {
                "device": device,
                "status": self.status.get(device, "?"),
                "old": age > OLD_S,
                "received": said.get("received"),
                "percent_local": said.get("percent_local"),
                "ms_p50": said.get("ms_p50"),
                "ms_p99": said.get("ms_p99"),
                "in_hand": said.get("in_hand"),
                "outbox": outbox.get("waiting"),
                "calls_today": _calls(upstream.get("spent_today")),
                "rss_bytes": said.get("rss_bytes"),
                "alerts": said.get("alerts", []),
            }


async def top(config: Config, device: str, *, once: bool, as_json: bool) -> None:
    """Show all devices, live; `once` shows what is retained and ends."""
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


async def _settle(heard: ReceivedMessage, fleet: FleetView) -> None:
    """Take all that is retained: it comes at once after the subscription."""
    with suppress(TimeoutError):
        async with asyncio.timeout(SETTLED_S):
            while True:
                async with asyncio.timeout(QUIET_S):
                    fleet.take(await heard.get())


def _is_fit(key: str, value: object) -> bool:
    """Tell whether a figure can be shown: anybody may publish."""
    if key == "alerts":
        return isinstance(value, list) and all(isinstance(name, str) for name in value)
    if key in {"outbox", "upstream"}:
        return isinstance(value, dict)
    return isinstance(value, int | float)


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
            _printable(row["device"]),
            _printable(status),
            *(_cell(row[key]) for key in (*keys, "calls_today")),
            _cell(memory and memory / 1e6),
            _printable(", ".join(row["alerts"])),
        )


def _calls(spent: object) -> object:
    return spent.get("calls") if isinstance(spent, dict) else None


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.1f}"
    return str(value) if isinstance(value, int) else ""
