"""`slm-agent tap` and `top`: what devices say, as they say it."""

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from agent.config import Config
from agent.errors import ConfigError
from agent.mqtt import Connection
from agent.types import Message
from agent.wiring import endpoint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from rich.table import Table

Heard = asyncio.Queue[Message]
OLD_S = 90.0  # a health that was not repeated for so long is shown as old


@asynccontextmanager
async def listening(config: Config, filters: Sequence[str]) -> "AsyncIterator[Heard]":
    """Hear topics by a connection of our own; raises Undelivered."""
    known = endpoint(config)
    aside = replace(
        known,
        client_id=f"{known.client_id}-watch-{time.time_ns() % 100_000}",
        session_expiry_s=0,
        will=None,
    )
    heard: Heard = asyncio.Queue()

    def hear(message: Message) -> None:
        message.ack()
        heard.put_nowait(message)

    connection = Connection(aside, 0, None, hear)
    await connection.open()
    try:
        await connection.subscribe(filters)
        yield heard
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
        said = from_json(message.payload)
    except ValueError:
        return f"{message.topic}: {len(message.payload)} bytes, no JSON"
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
class Fleet:
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
            self.health[device] = said
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
                "calls_today": (upstream.get("spent_today") or {}).get("calls"),
                "rss_bytes": said.get("rss_bytes"),
                "alerts": said.get("alerts", []),
            }


async def top(config: Config, device: str, *, once: bool, as_json: bool) -> None:
    """Show all devices, live; `once` shows what is retained and ends."""
    filters = [f"slm/{device}/{kind}" for kind in ("status", "health")]
    fleet = Fleet()
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


async def _settle(heard: Heard, fleet: Fleet) -> None:
    """Take all that is retained: it comes at once after the subscription."""
    while True:
        try:
            async with asyncio.timeout(0.5):
                fleet.take(await heard.get())
        except TimeoutError:
            return


@contextmanager
def _shown(fleet: Fleet) -> Iterator[Any]:
    try:
        from rich.live import Live
    except ImportError:
        raise ConfigError(
            "tables are missing: pip install 'slm-agent[demo]' (or use --json)"
        ) from None
    with Live(_table(fleet), screen=False, auto_refresh=False) as live:

        def show() -> None:
            live.update(_table(fleet), refresh=True)

        show()
        yield show


def _table(fleet: Fleet) -> "Table":
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    numbers = ("received", "local %", "p50 ms", "p99 ms", "in hand", "outbox", "calls")
    table.add_column("device")
    table.add_column("status")
    for name in (*numbers, "MB"):
        table.add_column(name, justify="right")
    table.add_column("alerts", style="red")
    for row in fleet.rows():
        status = "old" if row["old"] and row["status"] == "online" else row["status"]
        keys = ("received", "percent_local", "ms_p50", "ms_p99", "in_hand", "outbox")
        memory = row["rss_bytes"]
        table.add_row(
            row["device"],
            f"[green]{status}" if status == "online" else f"[yellow]{status}",
            *(_cell(row[key]) for key in (*keys, "calls_today")),
            _cell(memory and memory / 1e6),
            ", ".join(row["alerts"]),
        )
    return table


def _cell(value: float | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.1f}"
