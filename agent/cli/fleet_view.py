"""What `slm-agent top` knows of the devices on a broker, and how it is laid out.

Nothing here waits or prints. Anybody may publish anything: what cannot be shown is left
out, and no device keeps another from its row.
"""

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agent.core.types import Message
from agent.core.words import printable

if TYPE_CHECKING:
    from agent.protocol.health import Health

OLD_S = 90.0  # seconds: a health that was not repeated for as long is old
KINDS = ("status", "health", "fleet")  # topics below slm/<device>
ALERTS_WIDTH = 16  # least
DEVICE_WIDTH = 24  # most
SORTS = ("problems", "device", "received", "local", "p99", "outbox", "calls")
# Of a rollout: whether somebody should look.
TROUBLED = frozenset({"refused", "rolled_back"})
UNSETTLED = frozenset({"held", "probation"})


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """A device as it is shown; None: it did not say."""

    device: str
    status: str
    old: bool = False
    received: float | None = None
    percent_local: float | None = None
    ms_p50: float | None = None
    ms_p99: float | None = None
    in_hand: float | None = None
    outbox: float | None = None
    calls_today: float | None = None
    rss_bytes: float | None = None
    alerts: tuple[str, ...] = ()
    fleet_version: int | None = None
    rollout: str | None = None

    @property
    def state(self) -> str:
        """The status in a word; an old health makes doubtful what is said."""
        return "old" if self.old and self.status == "online" else self.status

    @property
    def rank(self) -> int:
        """How urgently somebody should look; 0 first."""
        if self.state == "offline":
            return 0
        if self.alerts or self.rollout in TROUBLED:
            return 1
        if self.state == "old":
            return 2
        return 3 if self.state != "online" or self.rollout in UNSETTLED else 4

    def matches(self, words: str) -> bool:
        """Tell whether every word stands in something that the row says."""
        text = (
            f"{self.device} {self.state} {self.rollout or ''} {' '.join(self.alerts)}"
        )
        return all(word in text.lower() for word in words.lower().split())


@dataclass(slots=True)
class FleetView:
    """What each device said last, and when."""

    status: dict[str, str] = field(default_factory=dict)
    health: dict[str, "Health"] = field(default_factory=dict)
    fleet: dict[str, dict[str, Any]] = field(default_factory=dict)
    heard: dict[str, float] = field(default_factory=dict)

    def take(self, message: Message, now: float) -> None:
        """Take a status, a health or a fleet report; an empty one ends what was said.

        `now` is in seconds, of any clock that goes forward.
        """
        from agent.protocol.health import understood

        _, device, kind = message.topic.split("/", 2)
        if not message.payload:
            self._forget(device, kind)
            return
        self.heard.setdefault(device, now)
        payload = _parsed(message.payload)
        if kind == "status":
            self.status[device] = message.payload.decode("utf-8", "replace")
        elif kind == "health" and isinstance(payload, dict):
            self.health[device] = understood(payload)
            self.heard[device] = now
        elif kind == "fleet" and isinstance(payload, dict):
            self.fleet[device] = payload

    def _forget(self, device: str, kind: str) -> None:
        match kind:
            case "status":
                self.status.pop(device, None)
            case "health":
                self.health.pop(device, None)
            case _:
                self.fleet.pop(device, None)

    def rows(self, now: float) -> list[DeviceRow]:
        """Return a row for each device, in the order of their names."""
        devices = sorted({*self.status, *self.health, *self.fleet})
        return [self._row(device, now) for device in devices]

    def _row(self, device: str, now: float) -> DeviceRow:
        from agent.protocol.health import Health

        health, fleet = self.health.get(device, Health()), self.fleet.get(device, {})
        outbox, upstream = health.outbox, health.upstream
        state, version = fleet.get("state"), fleet.get("applied")
        return DeviceRow(
            device=device,
            status=self.status.get(device, "?"),
            old=now - self.heard[device] > OLD_S,
            received=health.received,
            percent_local=health.percent_local,
            ms_p50=health.ms_p50,
            ms_p99=health.ms_p99,
            in_hand=health.in_hand,
            outbox=outbox.waiting if outbox else None,
            calls_today=upstream.spent_today.calls if upstream else None,
            rss_bytes=health.rss_bytes,
            alerts=tuple(health.alerts),
            fleet_version=version if isinstance(version, int) else None,
            rollout=state if isinstance(state, str) and state != "none" else None,
        )


def _parsed(payload: bytes) -> object:
    from pydantic_core import from_json

    try:
        return from_json(payload)
    except ValueError:
        return None


# -- the layout

Cell = Callable[[DeviceRow], str]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of figures: how wide, and how soon it goes where there is no room."""

    name: str
    width: int
    rank: int  # the largest goes first
    cell: Cell


def _figure(value: float | None) -> str:
    if isinstance(value, float):
        return f"{value:.1f}"
    return "" if value is None else str(value)


COLUMNS = (
    Column("status", 7, 0, lambda row: row.state),
    Column("received", 8, 6, lambda row: _figure(row.received)),
    Column("local%", 6, 1, lambda row: _figure(row.percent_local)),
    Column("p50 ms", 6, 8, lambda row: _figure(row.ms_p50)),
    Column("p99 ms", 7, 2, lambda row: _figure(row.ms_p99)),
    Column("in hand", 7, 9, lambda row: _figure(row.in_hand)),
    Column("outbox", 6, 3, lambda row: _figure(row.outbox)),
    Column("calls", 6, 5, lambda row: _figure(row.calls_today)),
    Column("MB", 6, 7, lambda row: _figure(row.rss_bytes and row.rss_bytes / 1e6)),
    Column("fleet", 5, 4, lambda row: _figure(row.fleet_version)),
    Column("rollout", 11, 4, lambda row: (row.rollout or "").replace("_", " ")),
)
WORDS = {"status", "rollout"}  # to the left


def arranged(
    rows: Iterable[DeviceRow], sort: str = "problems", words: str = ""
) -> list[DeviceRow]:
    """Return the rows that have all `words`, sorted; equal ones by name.

    By a figure the largest come first, but of `local` the smallest.
    """
    keys: dict[str, Callable[[DeviceRow], float]] = {
        "problems": lambda row: row.rank,
        "device": lambda _: 0,
        "received": lambda row: -(row.received or 0),
        "local": lambda row: 101 if row.percent_local is None else row.percent_local,
        "p99": lambda row: -(row.ms_p99 or 0),
        "outbox": lambda row: -(row.outbox or 0),
        "calls": lambda row: -(row.calls_today or 0),
    }
    matching = [row for row in rows if row.matches(words)]
    return sorted(matching, key=lambda row: (keys[sort](row), row.device))


def summary(rows: Sequence[DeviceRow]) -> str:
    """Say in one line how all devices are."""
    states = Counter(row.state for row in rows)
    alerts = sum(bool(row.alerts) for row in rows)
    parts = [f"{len(rows)} devices", f"{states.pop('online', 0)} online"]
    parts += [
        f"{number} {'not heard yet' if state == '?' else printable(state)[:12]}"
        for state, number in states.most_common(3)
    ]
    parts += [f"{alerts} with alerts"] if alerts else []
    waiting, calls = (
        (
            sum(int(value or 0) for value in values)
            for values in zip(*((r.outbox, r.calls_today) for r in rows), strict=True)
        )
        if rows
        else (0, 0)
    )
    parts += [f"{waiting} cases wait"] if waiting else []
    parts += [f"{calls} calls today"] if calls else []
    return ", ".join(parts) + _versions(rows)


def _versions(rows: Sequence[DeviceRow]) -> str:
    """Say how far a fleet version has come."""
    versions = Counter(r.fleet_version for r in rows if r.fleet_version is not None)
    if not versions:
        return ""
    most = sorted(versions.items(), reverse=True)[:3]
    return "; fleet " + ", ".join(f"{number} x v{version}" for version, number in most)


def laid_out(rows: Sequence[DeviceRow], width: int) -> tuple[str, list[str]]:
    """Return the headings and a line for each row, none wider than `width`."""
    device = max([6, *(min(DEVICE_WIDTH, len(row.device)) for row in rows)])
    columns = list(COLUMNS)
    while columns and _needed(device, columns) > width:
        columns.remove(max(columns, key=lambda column: column.rank))
    rest = max(1, width - _needed(device, columns) + ALERTS_WIDTH)
    names = {column.name: column.name for column in columns}
    heading = _line("device", device, columns, names, "alerts", rest)
    lines = [
        _line(
            row.device,
            device,
            columns,
            {column.name: column.cell(row) for column in columns},
            _named(row.alerts, rest),
            rest,
        )
        for row in rows
    ]
    return heading, lines


def _needed(device: int, columns: Sequence[Column]) -> int:
    return device + sum(column.width + 1 for column in columns) + 2 + ALERTS_WIDTH


def _line(
    device: str,
    device_width: int,
    columns: Sequence[Column],
    cells: dict[str, str],
    alerts: str,
    rest: int,
) -> str:
    parts = [fitted(device, device_width).ljust(device_width)]
    for column in columns:
        cell = fitted(cells[column.name], column.width)
        left = column.name in WORDS
        parts.append(cell.ljust(column.width) if left else cell.rjust(column.width))
    return f"{' '.join(parts)}  {fitted(alerts, rest)}".rstrip()


def _named(alerts: Sequence[str], width: int) -> str:
    """Name as many alerts as there is room for, and count the others."""
    for shown in range(len(alerts), 0, -1):
        more = f" +{len(alerts) - shown}" if shown < len(alerts) else ""
        text = ", ".join(alerts[:shown]) + more
        if len(text) <= width or shown == 1:
            return text
    return ""


def fitted(text: str, width: int) -> str:
    """Return a text of at most so many columns of a terminal, in one line."""
    narrow = "".join(
        "?" if unicodedata.east_asian_width(char) in "WF" else char
        for char in printable(text[: width + 1])
    )
    return (
        narrow
        if len(narrow) <= width
        else f"{narrow[: width - 1]}\N{HORIZONTAL ELLIPSIS}"
    )
