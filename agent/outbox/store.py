"""A file that outlives loss of power: one writer thread, one commit for all who wait.

SQLite in WAL mode with synchronous=FULL: what `write` returned for is on the disk.
Whenever the thread is free it takes every change that waits, runs each in a savepoint
of its own, and commits once: an idle device commits at once, a loaded one shares the
price of a sync. There are no timers.

Deleting needs room, too: in the log (-wal) and, at its checkpoint, in the file. So the
file may not grow to the bound itself, the log is kept short, and a spare file holds
room on the disk, to be given up when others have filled it.
"""

import asyncio
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from agent.core.errors import ConfigError
from agent.outbox.disk_reserve import NO_ROOM, Spare
from agent.outbox.quarantine import put_aside, remove_older

T = TypeVar("T")
Database = sqlite3.Connection  # what a change works on; it neither begins nor commits

GROUP = 128  # most changes of one transaction
LOG_BYTES = 512 * 1024  # the log is cut to this after a checkpoint
SLACK = 256  # free pages that the file keeps: they will be wanted again
RETURNED = 64  # free pages given back to the disk with one transaction

BIRTH = {  # can only be set before there are tables
    "page_size": "4096",
    "auto_vacuum": "INCREMENTAL",
    "journal_mode": "WAL",
}
PRAGMAS = {
    "synchronous": "FULL",  # a commit is on the disk when it returns
    "wal_autocheckpoint": "50",  # pages: a short log leaves room to delete in
    "temp_store": "MEMORY",  # savepoints need no second place that may be full
    "secure_delete": "ON",  # texts that are gone are overwritten
}


DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
REFUSED = {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY}

Failed = sqlite3.Error  # a disk that fails; trying again may help


class Full(Exception):
    """There is no room: the file's bound (max_page_count) or the disk."""


class Closed(Exception):
    """The store is closed; the change was not made."""


class _Damaged(Exception):
    """The file was damaged; it is put aside."""

    def __init__(self, aside: Path) -> None:
        super().__init__(str(aside))
        self.aside = aside


@dataclass(frozen=True, slots=True)
class StoreSpace:
    """Bytes that the file may have at most, and those of them in free pages."""

    most: int
    free: int


@dataclass(frozen=True, slots=True)
class _Job:
    work: Callable[[sqlite3.Connection], Any]
    writes: bool
    answer: Future[Any]


class Store:
    """Owns the file and its only connection, which lives in a thread of its own."""

    set_aside: Path | None
    """Where a damaged file went at opening, else None."""
    removed: int
    """How many damaged files of before were removed at opening."""

    def __init__(
        self,
        path: Path,
        schema: str,
        max_bytes: int,
        rescue: Callable[[Path, Database], None] = lambda _damaged, _fresh: None,
    ) -> None:
        """Open or create the file; blocks for the check of all its pages.

        `schema` is SQL that may run again (IF NOT EXISTS) and sets `PRAGMA
        user_version`. `max_bytes` bounds file, log and spare together, but for a log
        that one large transaction makes longer for a while. A damaged file is renamed
        and a fresh one begun, to which `rescue` may bring what that one still tells.
        Raises ConfigError for a file that may not be used, such as one of a later
        version, Full, and sqlite3.Error where trying again may help.
        """
        log_bytes = min(LOG_BYTES, max_bytes // 4)
        self._path = path
        self._log = Path(f"{path}-wal")
        self._spare = Spare(Path(f"{path}-spare"), log_bytes)
        self.set_aside = None
        self.removed = 0
        try:
            self._db = self._opened(schema)
        except _Damaged as damaged:
            self.set_aside = damaged.aside
            self._db = self._opened(schema, partial(rescue, damaged.aside))
            self.removed = remove_older(path)
        _pragma(self._db, f"journal_size_limit={log_bytes}")
        self._pages = (max_bytes - 2 * log_bytes) // _pragma(self._db, "page_size")
        self._bound()
        self._jobs: deque[_Job] = deque()
        self._closing = False
        self._busy_since: float | None = None
        self._wake = threading.Condition()
        # No reason to keep a process from ending: it may be killed at any time.
        self._thread = threading.Thread(target=self._work, name="store", daemon=True)
        self._thread.start()

    async def write(self, change: Callable[[sqlite3.Connection], T]) -> T:
        """Run a change and return what it returned, once that is on the disk.

        What it raises undoes all it did, and nothing else, and is raised here. It may
        run twice, in the store's thread, and must touch nothing but the database; it
        neither commits nor calls `executescript`, which does. Cancelling waits for
        nothing: the change is made or not. Raises Full, Closed, and sqlite3.Error for
        a disk that fails.
        """
        return await asyncio.wrap_future(self._put(change, writes=True))

    async def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Run a query, which sees all that is committed and can change nothing."""
        return await asyncio.wrap_future(self._put(query, writes=False))

    @property
    def bytes(self) -> int:
        """How many bytes the file and its log take."""
        size = 0
        for path in (self._path, self._log):
            with suppress(FileNotFoundError):
                size += path.stat().st_size
        return size

    def busy_s(self) -> float:
        """Return for how many seconds the thread has been at one thing; 0: idle."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    def close(self) -> None:
        """Finish what waits and close the file; later callers get Closed. Blocks."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    def _opened(
        self, schema: str, first: Callable[[Database], None] = lambda _: None
    ) -> sqlite3.Connection:
        try:
            return _open(self._path, schema, first)
        except Full:
            if not self._spare.give_up():
                raise
            return _open(self._path, schema, first)

    def _put(
        self, work: Callable[[sqlite3.Connection], T], *, writes: bool
    ) -> Future[T]:
        answer: Future[T] = Future()
        with self._wake:
            if self._closing:
                raise Closed(self._path.name)
            self._jobs.append(_Job(work, writes, answer))
            self._wake.notify()
        return answer

    def _work(self) -> None:
        while jobs := self._take():
            alive = [job for job in jobs if job.answer.set_running_or_notify_cancel()]
            changes = [job for job in alive if job.writes]
            if changes:
                self._write(changes)
            for job in alive:
                if not job.writes:
                    self._read(job)
        self._db.close()

    def _take(self) -> list[_Job]:
        """Wait for jobs and take all there are, up to a group; none: time to close."""
        self._busy_since = None
        with self._wake:
            self._wake.wait_for(lambda: self._jobs or self._closing)
            return [self._jobs.popleft() for _ in range(min(GROUP, len(self._jobs)))]

    def _write(self, jobs: Sequence[_Job]) -> None:
        self._busy_since = time.monotonic()
        try:
            answers = self._commit(jobs)
        except BaseException as error:  # noqa: BLE001
            # Whatever it is, those who wait must hear of it, and the thread must live.
            full = self._lacks_room(error)
            if full and self._spare.give_up():
                self._write(jobs)  # there is room to delete now
            elif full and len(jobs) > 1:
                for job in jobs:  # who has no need of room is not to suffer
                    self._write([job])
            else:
                for job in jobs:
                    job.answer.set_exception(Full(str(error)) if full else error)
        else:
            for answer in answers:
                answer()

    def _commit(self, jobs: Sequence[_Job]) -> list[Callable[[], None]]:
        """Run changes in one transaction; return the answers that may be given now."""
        roomy = self._bound()
        if not roomy:
            # What the log holds goes into the file, and the log begins anew: so it
            # needs no more of the disk than it has.
            _pragma(self._db, "wal_checkpoint(PASSIVE)")
        self._db.execute("BEGIN IMMEDIATE")
        try:
            answers = [self._attempt(job) for job in jobs]
            if roomy:
                self._shrink()
            self._db.execute("COMMIT")
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        return answers

    def _bound(self) -> bool:
        """Say how far the file may grow; return whether the disk has room."""
        roomy = self._spare.keep()
        # Less than the pages there are means: no more than there are.
        _pragma(self._db, f"max_page_count={self._pages if roomy else 1}")
        return roomy

    def _attempt(self, job: _Job) -> Callable[[], None]:
        """Run one change; return how to tell its caller."""
        self._db.execute("SAVEPOINT change")
        try:
            value = job.work(self._db)
        except BaseException as error:
            # SQLite itself may have undone the whole transaction for want of room.
            if self._lacks_room(error) or not self._db.in_transaction:
                raise
            self._db.execute("ROLLBACK TO change")
            self._db.execute("RELEASE change")
            return partial(job.answer.set_exception, error)
        self._db.execute("RELEASE change")
        return partial(job.answer.set_result, value)

    def _lacks_room(self, error: BaseException) -> bool:
        """Tell whether the file or the disk is full, or a quota spent."""
        return _is_full(error) or (_is_unwritten(error) and self._spare.is_denied())

    def _read(self, job: _Job) -> None:
        self._busy_since = time.monotonic()
        try:
            _pragma(self._db, "query_only=ON")
            value = job.work(self._db)
        except BaseException as error:  # noqa: BLE001
            job.answer.set_exception(error)  # the caller's, whatever it is
        else:
            job.answer.set_result(value)
        finally:
            _pragma(self._db, "query_only=OFF")

    def _shrink(self) -> None:
        """Give free pages back, a few at a time, once an outage is over."""
        free = _pragma(self._db, "freelist_count")
        if free > SLACK and 2 * free > _pragma(self._db, "page_count"):
            for _ in range(RETURNED):  # sqlite3 steps this pragma once, for one page
                _pragma(self._db, "incremental_vacuum(1)")


def room(db: sqlite3.Connection) -> StoreSpace:
    """Return how far the file may grow.

    What comes in must stop before what goes out does: whoever adds asks first.
    """
    page: int = _pragma(db, "page_size")
    most: int = _pragma(db, "max_page_count")
    used: int = _pragma(db, "page_count") - _pragma(db, "freelist_count")
    return StoreSpace(most * page, (most - used) * page)


def _pragma(db: sqlite3.Connection, pragma: str) -> Any:
    row = db.execute(f"PRAGMA {pragma}").fetchone()
    return row[0] if row else None


def _is_full(error: BaseException) -> bool:
    code = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF == sqlite3.SQLITE_FULL or code == sqlite3.SQLITE_IOERR_SHMSIZE


def _is_unwritten(error: BaseException) -> bool:
    """Tell whether a write failed; SQLite says so where a quota is spent, too."""
    return getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_IOERR_WRITE


def _open(
    path: Path, schema: str, first: Callable[[Database], None]
) -> sqlite3.Connection:
    """Open the file, check every page, and bring it to the schema.

    `first` is the first change in a file that is new.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # the log gets its mode
        with ExitStack() as undo:
            db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            undo.callback(db.close)
            if _is_damaged(db):
                # Before it is closed: closing would remove the log.
                raise _Damaged(put_aside(path))
            _bring_to(db, schema, path, first)
            undo.pop_all()
            return db
    except OSError as error:
        if error.errno in NO_ROOM:
            raise Full(f"{path}: {error.strerror}") from error
        raise ConfigError(f"{path}: {error.strerror}") from error
    except sqlite3.Error as error:
        if _is_full(error):
            raise Full(f"{path}: {error}") from error
        if error.sqlite_errorcode & 0xFF in REFUSED:
            raise ConfigError(f"{path}: {error}") from error
        raise


def _is_damaged(db: sqlite3.Connection) -> bool:
    try:
        for name, value in (BIRTH | PRAGMAS).items():
            _pragma(db, f"{name}={value}")
        # Not quick_check: an index that disagrees with its table would be found later,
        # and again after each restart.
        return bool(_pragma(db, "integrity_check(1)") != "ok")
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF in DAMAGE:
            return True
        raise


def _bring_to(
    db: sqlite3.Connection, schema: str, path: Path, first: Callable[[Database], None]
) -> None:
    sample = sqlite3.connect(":memory:")
    sample.executescript(schema)
    ours = _pragma(sample, "user_version")
    sample.close()
    found = _pragma(db, "user_version")
    if found > ours:
        raise ConfigError(
            f"{path}: written by a later version of slm-agent ({found}, here {ours})"
        )
    if found < ours or not found:
        db.executescript(f"BEGIN IMMEDIATE;\n{schema};")
        if not found:
            first(db)
        db.execute("COMMIT")
