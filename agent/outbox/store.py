"""A database that survives loss of power: one writer thread, grouped commits.

SQLite in WAL mode with synchronous=FULL: a change is on the disk when `write` returns.
Whenever the thread is free, it takes all changes that wait, runs each in a savepoint of
its own, and commits once. So an idle device commits at once, and on a loaded one many
changes share one sync. There are no timers.

Deleting needs room as well: in the log (-wal) and, at a checkpoint, in the file. So the
file stays below the bound, the log is kept short, and a spare file reserves room on the
disk, which is given back when other programs have filled the disk.
"""

import asyncio
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from agent.core.errors import ConfigError
from agent.core.quarantine import remove_older
from agent.outbox.disk_reserve import NO_ROOM, Spare
from agent.outbox.opening import SetAside, open_database, pragma

T = TypeVar("T")
Database = sqlite3.Connection  # for a change, which neither begins nor commits

GROUP = 128  # most changes in one transaction
LOG_BYTES = 512 * 1024  # the log is cut to this after a checkpoint
SLACK = 256  # free pages that the file keeps for later
RETURNED = 64  # free pages given back to the disk with one transaction


REFUSED = {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY}

Failed = sqlite3.Error  # the disk fails; trying again may help


class Full(Exception):
    """There is no room, in the bound of the file (max_page_count) or on the disk."""


class Closed(Exception):
    """The store is closed; the change was not made."""


@dataclass(frozen=True, slots=True)
class StoreSpace:
    """The most bytes that the file may have, and how many of them are free."""

    most: int
    free: int


@dataclass(frozen=True, slots=True)
class _Job:
    work: Callable[[sqlite3.Connection], Any]
    writes: bool
    answer: Future[Any]


class Store:
    """Owns the file and its only connection, which a thread of its own uses."""

    set_aside: Path | None
    """The new path of a damaged file that was renamed at opening, else None."""
    removed: int
    """How many older damaged files were removed at opening."""

    def __init__(
        self,
        path: Path,
        schema: str,
        max_bytes: int,
        rescue: Callable[[Path, Database], None] = lambda _damaged, _fresh: None,
    ) -> None:
        """Open or create the file; blocks while all its pages are checked.

        `schema` is SQL that may run again (IF NOT EXISTS) and sets `PRAGMA
        user_version`. `max_bytes` bounds file, log and spare file together, except that
        one large transaction may make the log longer for a while. A damaged file is
        renamed and a new one is begun; `rescue(damaged, new)` may copy what can still
        be read. Raises ConfigError for a file that may not be used, such as one of a
        later version, Full, and sqlite3.Error where trying again may help.
        """
        log_bytes = min(LOG_BYTES, max_bytes // 4)
        self._path = path
        self._log = Path(f"{path}-wal")
        self._spare = Spare(Path(f"{path}-spare"), log_bytes)
        self.set_aside = None
        self.removed = 0
        try:
            self._db = self._opened(schema)
        except SetAside as damaged:
            self.set_aside = damaged.aside
            self._db = self._opened(schema, partial(rescue, damaged.aside))
            self.removed = remove_older(path)
        pragma(self._db, f"journal_size_limit={log_bytes}")
        self._pages = (max_bytes - 2 * log_bytes) // pragma(self._db, "page_size")
        self._bound()
        self._jobs: deque[_Job] = deque()
        self._closing = False
        self._busy_since: float | None = None
        self._wake = threading.Condition()
        # A daemon thread need not be joined: the process may be killed at any time.
        self._thread = threading.Thread(target=self._work, name="store", daemon=True)
        self._thread.start()

    async def write(self, change: Callable[[sqlite3.Connection], T]) -> T:
        """Run a change and return its value, once the change is on the disk.

        If the change raises, its effects are undone, no others are, and the exception
        is raised here. The change runs in the store's thread, may run twice, and must
        touch nothing but the database. It must neither commit nor call `executescript`,
        which commits. Cancelling does not wait: the change is made or not. Raises Full,
        Closed, and sqlite3.Error if the disk fails.
        """
        return await asyncio.wrap_future(self._put(change, writes=True))

    async def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Run a query and return its value.

        The query sees all that is committed and can change nothing. Raises Closed, and
        what the query raises.
        """
        return await asyncio.wrap_future(self._put(query, writes=False))

    @property
    def bytes(self) -> int:
        """The size of the file and its log, in bytes."""
        size = 0
        for path in (self._path, self._log):
            with suppress(FileNotFoundError):
                size += path.stat().st_size
        return size

    def busy_s(self) -> float:
        """Return for how many seconds the thread has run one job; 0 if it is idle."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    def close(self) -> None:
        """Finish the waiting jobs, close the file; blocks. Later calls get Closed."""
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
        """Wait for jobs and return all, up to GROUP; an empty list means: close."""
        self._busy_since = None
        with self._wake:
            self._wake.wait_for(lambda: self._jobs or self._closing)
            return [self._jobs.popleft() for _ in range(min(GROUP, len(self._jobs)))]

    def _write(self, jobs: Sequence[_Job]) -> None:
        self._busy_since = time.monotonic()
        try:
            answers = self._commit(jobs)
        except BaseException as error:  # noqa: BLE001
            # Whatever it is, the callers must get it, and the thread must go on.
            full = self._lacks_room(error)
            if full and self._spare.give_up():
                self._write(jobs)  # now there is room to delete
            elif full and len(jobs) > 1:
                for job in jobs:  # those that need no room must not fail
                    self._write([job])
            else:
                for job in jobs:
                    job.answer.set_exception(Full(str(error)) if full else error)
        else:
            for answer in answers:
                answer()

    def _commit(self, jobs: Sequence[_Job]) -> list[Callable[[], None]]:
        """Run changes in one transaction; return functions that answer the callers."""
        roomy = self._bound()
        if not roomy:
            # Move the log into the file, so that the log starts again and needs no
            # more room on the disk than it has.
            pragma(self._db, "wal_checkpoint(PASSIVE)")
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
        """Set how far the file may grow; return whether the disk has room."""
        roomy = self._spare.keep()
        # A number below the present page count means: no new pages.
        pragma(self._db, f"max_page_count={self._pages if roomy else 1}")
        return roomy

    def _attempt(self, job: _Job) -> Callable[[], None]:
        """Run one change; return a function that answers its caller."""
        self._db.execute("SAVEPOINT change")
        try:
            value = job.work(self._db)
        except BaseException as error:
            # For want of room SQLite itself may have undone the whole transaction.
            if self._lacks_room(error) or not self._db.in_transaction:
                raise
            self._db.execute("ROLLBACK TO change")
            self._db.execute("RELEASE change")
            return partial(job.answer.set_exception, error)
        self._db.execute("RELEASE change")
        return partial(job.answer.set_result, value)

    def _lacks_room(self, error: BaseException) -> bool:
        """Tell whether the error means a full file, a full disk or a spent quota."""
        return _is_full(error) or (_is_unwritten(error) and self._spare.is_denied())

    def _read(self, job: _Job) -> None:
        self._busy_since = time.monotonic()
        try:
            pragma(self._db, "query_only=ON")
            value = job.work(self._db)
        except BaseException as error:  # noqa: BLE001
            job.answer.set_exception(error)  # for the caller, whatever it is
        else:
            job.answer.set_result(value)
        finally:
            pragma(self._db, "query_only=OFF")

    def _shrink(self) -> None:
        """Return free pages to the disk, a few at a time, after an outage."""
        free = pragma(self._db, "freelist_count")
        if free > SLACK and 2 * free > pragma(self._db, "page_count"):
            for _ in range(RETURNED):  # sqlite3 runs one step of this pragma: one page
                pragma(self._db, "incremental_vacuum(1)")


def room(db: sqlite3.Connection) -> StoreSpace:
    """Return how far the file may grow.

    Whoever adds a case asks first, because ending cases needs room as well.
    """
    page: int = pragma(db, "page_size")
    most: int = pragma(db, "max_page_count")
    used: int = pragma(db, "page_count") - pragma(db, "freelist_count")
    return StoreSpace(most * page, (most - used) * page)


def _is_full(error: BaseException) -> bool:
    code = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF == sqlite3.SQLITE_FULL or code == sqlite3.SQLITE_IOERR_SHMSIZE


def _is_unwritten(error: BaseException) -> bool:
    """Tell whether a write failed; SQLite reports a spent quota like this, too."""
    return getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_IOERR_WRITE


def _open(
    path: Path, schema: str, first: Callable[[Database], None]
) -> sqlite3.Connection:
    """Open the file, check every page, and apply the schema.

    `first` is the first change in a new file. Raises SetAside, Full, ConfigError and
    sqlite3.Error.
    """
    try:
        return open_database(path, schema, first)
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
