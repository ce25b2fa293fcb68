"""Loss of power: whatever the disk had not synced may be there, torn, or gone.

The outbox's own code runs on a SQLite whose file system is recorded. At each crash
point the files are built again from what was synced and a random part of what was not,
and opened as at a start. It is assumed that a disk which says it has synced, has.
"""

import asyncio
import random
import sqlite3
import types
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import apsw
import pytest

from agent.config.section import Limit
from agent.outbox import SCHEMA, answers, cases, ledger, opening, spending, store
from agent.outbox.cases import CaseRow
from agent.outbox.ledger import Egress
from agent.outbox.spending import Spend
from agent.outbox.store import Store

CRASHES = 400
SECTOR = 512  # bytes that a disk writes whole or not at all
MAX_BYTES = 2**21
MADE = 100  # cases; when all are made, the outbox drains
TABLES = (
    "cases",
    "cases_totals",
    "tombstones",
    "answers",
    "ledger",
    "ledger_ends",
    "spending",
    "reservations",
)
DAY = "2026-11-23"
LIMITS = [Limit("", 1000, None, None), Limit("home", None, None, 10**9)]

Dump = dict[str, list[tuple[Any, ...]]]
Change = Callable[[Any], object]


@pytest.fixture
def memory() -> Iterator[Path]:
    """Return a folder in memory, if there is one: here no sync needs to be real."""
    shared = Path("/dev/shm")  # noqa: S108
    with TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        yield Path(folder)


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes that went to a file, at an offset."""

    file: str
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncate:
    """A file that was cut."""

    file: str
    size: int


@dataclass(frozen=True, slots=True)
class Sync:
    """A file that was synced."""

    file: str


@dataclass(frozen=True, slots=True)
class Delete:
    """A file that was removed; the order of names is kept by the file system."""

    file: str


@dataclass(frozen=True, slots=True)
class Told:
    """The changes of a group were told to be durable; there are `states` by now."""

    states: int


Event = Write | Truncate | Sync | Delete | Told


class RecordedFile(apsw.VFSFile):
    """A file that notes what is done to it."""

    def __init__(
        self, events: list[Event], name: apsw.URIFilename | str, flags: list[int]
    ) -> None:
        """Open it in the file system below."""
        path = name if isinstance(name, str) else name.filename()
        self._events = events
        self._name = Path(path).name
        super().__init__("", name, flags)

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802
        """Note a write."""
        self._events.append(Write(self._name, offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        """Note a cut."""
        self._events.append(Truncate(self._name, newsize))
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802
        """Note a sync."""
        self._events.append(Sync(self._name))
        super().xSync(flags)


class RecordedDisk(apsw.VFS):
    """A file system that notes what is done to its files."""

    def __init__(self, events: list[Event]) -> None:
        """Register it, under a name of its own, above the default one."""
        self._events = events
        self.name = f"recorded-{id(self)}"
        super().__init__(self.name, "")

    def xOpen(self, name: Any, flags: list[int]) -> RecordedFile:  # noqa: N802
        """Open a file that notes."""
        return RecordedFile(self._events, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: FBT001, N802
        """Note a removal."""
        self._events.append(Delete(Path(filename).name))
        super().xDelete(filename, syncdir)


class Connection(apsw.Connection):
    """As much of sqlite3.Connection as the store uses and apsw has not."""

    def executescript(self, script: str) -> None:
        """Run all statements."""
        for _ in self.execute(script):
            pass


def recorded_sqlite3(events: list[Event]) -> types.SimpleNamespace:
    """Return what the store takes for the module sqlite3."""
    disk = RecordedDisk(events)

    def connect(path: Path | str, **_: object) -> Connection:
        return Connection(str(path), vfs=disk.name)

    return types.SimpleNamespace(**{**vars(sqlite3), "connect": connect})


def dump(db: Any) -> Dump:
    """Return every row of every table."""
    return {t: list(db.execute(f"SELECT * FROM {t}")) for t in TABLES}  # noqa: S608


def together(store: Store, changes: list[Change]) -> None:
    """Write changes as one group, and wait until all are told."""
    with store._wake:  # reentrant: the thread finds all of them at once
        told: list[Future[object]] = [store._put(c, writes=True) for c in changes]
    for future in told:
        assert future.exception() is None or isinstance(future.exception(), Stumble)


class Stumble(Exception):
    """Raised by a change that must leave no trace."""


@dataclass
class Workload:
    """What an outbox goes through: changes that belong together, in random groups."""

    dice: random.Random
    made: int = 0
    waiting: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    booked: dict[str, int] = field(default_factory=dict)

    def group(self) -> list[Change]:
        """Return the changes of the next group."""
        return [self._change() for _ in range(self.dice.randint(1, 12))]

    def _change(self) -> Change:
        if self.ended and self.dice.random() < 0.3:
            gone = [self.ended.pop(0) for _ in self.ended[:3]]
            return lambda db: [cases.forget(db, key, 1.0) for key in gone]
        if self.asked and self.dice.random() < 0.5:
            key = self.asked.pop()
            self.ended.append(key)
            return lambda db: answer(db, key, self.booked[key])
        if self.waiting and self.dice.random() < 0.5:
            key = self.waiting.pop(0)
            self.asked.append(key)
            return lambda db: self.booked.update({key: ask(db, key)})
        if self.made >= MADE or self.dice.random() < 0.1:
            return stumble
        twins = [f"{self.made:032x}", f"{self.made + 1:032x}"]
        self.made += 2
        self.waiting += twins
        size = self.dice.choice([100, 700, 9000, 30_000])
        return lambda db: [cases.add(db, row(key, size), 1.0) for key in twins]


def row(key: str, size: int) -> CaseRow:
    """Return a case."""
    return CaseRow(key, key.encode() * (size // 32), "home", int(key, 16) % 3, 9e9, 0)


def ask(db: Any, key: str) -> int:
    """Book a call: budget, ledger and attempt, all or nothing."""
    number = spending.reserve(db, DAY, LIMITS, Spend(1, 500, 70))
    assert number is not None
    ledger.record(
        db, Egress(1.5, "home", key, "mqtt", "slm/upstream", 99, "ab" * 32, {"A": 1})
    )
    cases.tried(db, key)
    return number


def answer(db: Any, key: str, reservation: int) -> None:
    """End a case: books, cache and final result, all or nothing."""
    spending.settle(db, reservation, Spend(1, 321, 45))
    answers.remember(db, key, key.encode(), 1.0, 20)
    assert cases.finish(db, key, "slm/pi/result/home", b"answer " * 40)


def stumble(db: Any) -> None:
    """Do something and fail."""
    cases.add(db, row("f" * 32, 5000), 1.0)
    raise Stumble


def record(folder: Path, groups: int) -> tuple[list[Event], list[Dump]]:
    """Run the workload on a recorded disk; return what happened, and each state."""
    events: list[Event] = []
    states: list[Dump] = []
    workload = Workload(random.Random(7))  # noqa: S311
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opening, "sqlite3", recorded_sqlite3(events))
        patch.setattr(store, "SLACK", 8)  # so that the file gives pages back
        for _ in range(2):  # the second finds a file that was closed in order
            opened = Store(folder / "outbox.db", SCHEMA, MAX_BYTES)
            for number in range(groups // 2):
                if number or states:
                    together(opened, workload.group())
                states.append(opened._put(dump, writes=False).result())
                events.append(Told(len(states)))
            opened.close()
    return events, states


@dataclass
class Disk:
    """What is synced, and what is not yet, in order."""

    synced: dict[str, bytearray] = field(default_factory=dict)
    pending: dict[str, list[Write | Truncate]] = field(default_factory=dict)

    def take(self, event: Event) -> None:
        """Follow one event."""
        match event:
            case Write() | Truncate():
                self.pending.setdefault(event.file, []).append(event)
            case Sync():
                content = self.synced.setdefault(event.file, bytearray())
                for change in self.pending.pop(event.file, []):
                    apply(content, change)
            case Delete():
                self.synced.pop(event.file, None)
                self.pending.pop(event.file, None)

    def after_loss_of_power(self, dice: random.Random) -> dict[str, bytearray]:
        """Return the files as they may be found: unsynced sectors there or not."""
        files = {name: bytearray(content) for name, content in self.synced.items()}
        for name, changes in self.pending.items():
            content = files.setdefault(name, bytearray())
            for change in changes:
                for part in survivors(change, dice):
                    apply(content, part)
        return files


def survivors(
    change: Write | Truncate, dice: random.Random
) -> Iterator[Write | Truncate]:
    """Yield what of a change that was not synced is on the disk: all, some or none."""
    fate = dice.random()
    if fate < 0.4:
        yield change
    elif fate < 0.7 and isinstance(change, Write):
        start = 0
        while start < len(change.data):
            offset = change.offset + start
            end = start + SECTOR - offset % SECTOR
            if dice.random() < 0.5:
                yield Write(change.file, offset, change.data[start:end])
            start = end


def apply(content: bytearray, change: Write | Truncate) -> None:
    """Do to a file's content what was done to the file."""
    if isinstance(change, Truncate):
        del content[change.size :]
        return
    end = change.offset + len(change.data)
    content.extend(bytes(max(0, end - len(content))))
    content[change.offset : end] = change.data


async def recovered(folder: Path) -> tuple[Path | None, Dump, str | None]:
    """Start on what is there; return where it was put, all rows, and what is wrong."""
    opened = Store(folder / "outbox.db", SCHEMA, MAX_BYTES)
    try:
        found = await opened.read(dump)
        wrong = await opened.read(ledger.verify)
        await opened.write(lambda db: cases.add(db, row("e" * 32, 700), 2.0))
        assert (await opened.read(cases.stats)).oldest is not None
    finally:
        opened.close()
    return opened.set_aside, found, wrong


def crash_all(
    events: list[Event], states: list[Dump], folder: Path, crashes: int
) -> Counter[str]:
    """Lose power at many points; count what was found."""
    dice = random.Random(11)  # noqa: S311
    points = set(dice.sample(range(len(events)), min(crashes, len(events))))
    disk = Disk()
    told = 0
    found: Counter[str] = Counter()
    for point, event in enumerate(events):
        if isinstance(event, Told):
            told = event.states
        else:
            disk.take(event)
        if point not in points:
            continue
        place = folder / str(point)
        place.mkdir()
        for name, content in disk.after_loss_of_power(dice).items():
            (place / name).write_bytes(content)
        aside, state, wrong = asyncio.run(recovered(place))
        # What was told is there; the group in the making, wholly or not at all. With
        # nothing told yet, the file is as good as new.
        expected = states[max(told - 1, 0) : told + 1]
        if aside:
            found["damaged"] += 1
        elif state in expected:
            found["as told"] += 1
        elif state in states:
            found["lost"] += 1
        else:
            found["halves"] += 1
        found["ledger"] += wrong is not None
    return found


def test_nothing_is_lost(memory: Path) -> None:
    """What a write returned for outlives any loss of power, and no half of a change."""
    events, states = record(memory, 60)
    syncs = sum(isinstance(event, Sync) for event in events)
    assert len(events) > 2 * CRASHES
    assert syncs > 60
    sizes = [event.size for event in events if isinstance(event, Truncate)]
    assert min(sizes) < max(sizes) > sizes[-1]  # it gave pages back, too
    found = crash_all(events, states, memory, CRASHES)
    assert +found == {"as told": CRASHES}


def test_the_simulation_finds_losses(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a sync at each commit the same crashes lose what was told."""
    monkeypatch.setitem(opening.PRAGMAS, "synchronous", "NORMAL")
    events, states = record(memory, 60)
    found = crash_all(events, states, memory, CRASHES // 4)
    assert found["lost"] > CRASHES // 16
    assert found["halves"] == found["damaged"] == 0  # NORMAL is consistent, not durable
