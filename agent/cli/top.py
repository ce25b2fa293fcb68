"""`slm-agent top`: how all devices on the broker are."""

import asyncio
import json
import shutil
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.fleet_view import (
    KINDS,
    SORTS,
    DeviceRow,
    FleetView,
    arranged,
    fitted,
    laid_out,
    summary,
)
from agent.cli.options import CONFIG, JSON, OWN, coloured, running

if TYPE_CHECKING:
    from agent.cli.screen import Screen
    from agent.config.load import Config
    from agent.mqtt.side_connection import SideConnection

REDRAW_S = 0.5
QUIET_S = 0.5  # of silence end what is retained,
SETTLED_S = 5.0  # or so much time, where devices speak all the while
WIDE = 160  # columns where there is no terminal
COLOURS = ("red", "red", "yellow", "yellow", None)  # by the rank of a row
HELP = "q quit  s sort  / filter  arrows, page keys scroll"


@click.command()
@CONFIG
@OWN
@JSON
@click.option("--device", default="+", help="Only this one; default all.")
@click.option("--once", is_flag=True, help="Show what is known now, and end.")
@click.option(
    "--sort",
    type=click.Choice(SORTS),
    default=SORTS[0],
    show_default=True,
    help="What comes first.",
)
@click.option(
    "--filter", "words", default="", help="Only rows with these words, as `disk_low`."
)
def top(
    config: Path | None,
    device: str,
    sort: str,
    words: str,
    *,
    own: bool,
    once: bool,
    as_json: bool,
) -> None:
    """Show how all devices on the broker are, live.

    What they say of themselves every half minute: share resolved locally, latencies,
    what waits, upstream calls, memory, alerts; and the fleet version they run.
    Devices with problems come first. --json prints one object a device, once.

    \b
    Keys: q quits, s sorts by the next column, / filters, arrows and page keys scroll.
    "?" is not heard yet; "old" was not repeated for a minute and a half.
    """  # noqa: D301  \b is click's mark of a paragraph to leave as it is
    settled = running(config, own=own)
    display = Display(sort, words)
    with suppress(KeyboardInterrupt):
        asyncio.run(watch(settled, device, display, once=once, as_json=as_json))


@dataclass(slots=True)
class Display:
    """What is shown of the rows, and what is being typed."""

    sort: str = SORTS[0]
    words: str = ""
    first: int = 0  # the first row that is shown
    typing: bool = False
    ended: bool = False

    def press(self, key: str, page: int) -> None:
        """Do what a key is for; `page` is how many rows are shown at once."""
        if self.typing:
            self._type(key)
            return
        steps = {"up": -1, "down": 1, "page up": -page, "page down": page}
        match key:
            case "q":
                self.ended = True
            case "s":
                self.sort = SORTS[(SORTS.index(self.sort) + 1) % len(SORTS)]
            case "/":
                self.typing, self.words = True, ""
            case "escape":
                self.words = ""
            case "home":
                self.first = 0
            case _:
                self.first += steps.get(key, 0)

    def _type(self, key: str) -> None:
        if key in {"enter", "escape"}:
            self.typing = False
            self.words = "" if key == "escape" else self.words
        elif key == "backspace":
            self.words = self.words[:-1]
        elif len(key) == 1 and key.isprintable():
            self.words += key

    def frame(self, rows: list[DeviceRow], columns: int, lines: int) -> list[str]:
        """Return the lines of a screen: summary, headings, rows, what keys do."""
        shown = arranged(rows, self.sort, self.words)
        room = max(1, lines - 3)
        self.first = max(0, min(self.first, len(shown) - room))
        page = shown[self.first : self.first + room]
        heading, body = laid_out(page, columns)
        hidden = len(shown) - len(page)
        where = f"  {self.first + 1}-{self.first + len(page)} of {len(shown)}"
        sort = f"sort {self.sort}"
        words = f"  filter {self.words}{'_' if self.typing else ''}"
        foot = sort + (words if self.words or self.typing else "")
        foot += (where if hidden else "") + f"  {HELP}"
        return [
            click.style(fitted(summary(rows), columns), bold=True),
            click.style(heading, underline=True),
            *map(_coloured, page, body),
            *[""] * (room - len(page)),
            click.style(fitted(foot, columns), dim=True),
        ]


async def watch(
    config: "Config", device: str, display: Display, *, once: bool, as_json: bool
) -> None:
    """Show all devices, live; `once` shows what is retained and ends."""
    from agent.cli.listening import listening

    filters = [f"slm/{device}/{kind}" for kind in KINDS]
    fleet = FleetView()
    async with listening(config, filters) as heard:
        if not (once or as_json) and sys.stdout.isatty():
            await _live(heard, fleet, display)
            return
        await _settle(heard, fleet)
    rows = arranged(fleet.rows(time.monotonic()), display.sort, display.words)
    if as_json:
        for row in rows:
            click.echo(json.dumps(_object(row)))
    else:
        _print(rows)


async def _live(heard: "SideConnection", fleet: FleetView, display: Display) -> None:
    """Draw twice a second, until a key ends it."""
    from agent.cli.screen import full_screen, keys

    with full_screen(sys.stdout) as screen:

        def press(key: str) -> None:
            display.press(key, screen.size.lines - 3)
            _draw(screen, fleet, display)

        with keys(press):
            while not display.ended:
                _draw(screen, fleet, display)
                await _listen(heard, fleet, REDRAW_S)


async def _listen(heard: "SideConnection", fleet: FleetView, seconds: float) -> None:
    """Take what comes for a while; raises Undelivered once no more can come."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(seconds):
            fleet.take(await heard.get(), time.monotonic())
    except TimeoutError:
        return
    await asyncio.sleep(max(0.0, began + seconds - time.monotonic()))
    for message in heard.waiting():
        fleet.take(message, time.monotonic())


def _draw(screen: "Screen", fleet: FleetView, display: Display) -> None:
    size = screen.size
    rows = fleet.rows(time.monotonic())
    lines = display.frame(rows, size.columns, size.lines)
    screen.show(lines if coloured() else [click.unstyle(line) for line in lines])


async def _settle(heard: "SideConnection", fleet: FleetView) -> None:
    """Take all that is retained: it comes at once after the subscription."""
    with suppress(TimeoutError):
        async with asyncio.timeout(SETTLED_S):
            while True:
                async with asyncio.timeout(QUIET_S):
                    fleet.take(await heard.get(), time.monotonic())


def _print(rows: list[DeviceRow]) -> None:
    terminal = sys.stdout.isatty()
    columns = shutil.get_terminal_size().columns if terminal else WIDE
    heading, body = laid_out(rows, columns)
    click.echo(summary(rows))
    click.echo(click.style(heading, underline=True))
    for row, line in zip(rows, body, strict=True):
        click.echo(_coloured(row, line))


def _coloured(row: DeviceRow, line: str) -> str:
    return click.style(line, fg=COLOURS[row.rank])


def _object(row: DeviceRow) -> dict[str, Any]:
    return asdict(row)
