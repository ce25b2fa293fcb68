"""The store: one commit for all who wait, told only when it is done."""

import asyncio
import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agent.core.errors import ConfigError
from agent.outbox import store as module
from agent.outbox.store import Closed, Database, Full, Store, room

SCHEMA = """
CREATE TABLE IF NOT EXISTS notes (number INTEGER PRIMARY KEY, word TEXT, body BLOB);
CREATE INDEX IF NOT EXISTS notes_word ON notes (word);
PRAGMA user_version = 3;
"""
MAX_BYTES = 2**20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the store lies."""
    return tmp_path / "state" / "store.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    """Return an open store."""
    store = Store(path, SCHEMA, MAX_BYTES)
    yield store
    store.close()


def note(word: str, size: int = 0) -> Callable[[Database], int]:
    """Return a change that adds a row and returns its number."""

    def change(db: Database) -> int:
        return int(
            db.execute(
                "INSERT INTO notes (word, body) VALUES (?, zeroblob(?)) RETURNING *",
                (word, size),
            ).fetchall()[0][0]
        )

    return change


async def fill(store: Store, size: int) -> int:
    """Write until the store is full; return how many rows it took."""
    for count in range(10_000):
        try:
            await store.write(note("much", size))
        except Full:
            return count
    raise AssertionError("never full")


def erase(db: Database) -> None:
    """Delete everything."""
    db.execute("DELETE FROM notes")


def words(db: Database) -> list[str]:
    """Return all words, in order."""
    return [word for (word,) in db.execute("SELECT word FROM notes ORDER BY number")]


def fail(db: Database) -> None:
    """Change something and fail."""
    note("half")(db)
    raise LookupError("of the change")


def put(store: Store, *changes: Callable[[Database], object]) -> list[Future[object]]:
    """Let changes wait together, so that they make one group."""
    with store._wake:  # reentrant; the thread looks only when we are done
        return [store._put(change, writes=True) for change in changes]


def on_disk(path: Path) -> list[str]:
    """Return what another process would see."""
    db = sqlite3.connect(path)
    try:
        return words(db)
    finally:
        db.close()


def pragma(name: str) -> Callable[[Database], object]:
    """Return a query for a setting."""
    return lambda db: db.execute(f"PRAGMA {name}").fetchone()[0]


class Disk:
    """A connection whose disk fails at what it is told to."""

    def __init__(self, db: Database) -> None:
        """Stand in for a connection."""
        self.db = db
        self.broken = ""
        self.seen: list[str] = []

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        """Run a statement, or fail."""
        self.seen.append(sql)
        if self.broken and sql.startswith(self.broken):
            raise sqlite3.OperationalError("disk I/O error")
        return self.db.execute(sql, *values)

    def __getattr__(self, name: str) -> Any:
        """Do all else as the connection does."""
        return getattr(self.db, name)


@pytest.fixture
def disk(store: Store) -> Disk:
    """Return the store's disk, to be broken; changes get it as their database."""
    disk = Disk(store._db)
    store._db = disk  # type: ignore[assignment]
    return disk


async def test_a_change_returns_when_it_is_committed(store: Store, path: Path) -> None:
    """Once `write` returns, any other process sees the change."""
    assert await store.write(note("one")) == 1
    assert on_disk(path) == ["one"]
    assert await store.read(words) == ["one"]


async def test_settings(store: Store) -> None:
    """A commit is synced, and the log is short: what mqtt brokers get an ack for."""
    assert await store.read(pragma("journal_mode")) == "wal"
    assert await store.read(pragma("synchronous")) == 2  # FULL
    assert await store.read(pragma("wal_autocheckpoint")) == 50
    assert await store.read(pragma("secure_delete")) == 1
    assert await store.read(pragma("auto_vacuum")) == 2  # INCREMENTAL


async def test_who_waits_together_commits_together(store: Store, disk: Disk) -> None:
    """All changes that wait are one transaction: a sync is paid for once."""
    changes = put(store, *(note(str(n)) for n in range(100)))
    assert [future.result() for future in changes] == list(range(1, 101))
    assert disk.seen.count("COMMIT") == 1


async def test_groups_are_bounded(store: Store, disk: Disk) -> None:
    """However many wait, a transaction and its log stay small."""
    changes = put(store, *(note(str(n)) for n in range(2 * module.GROUP + 1)))
    assert len({future.result() for future in changes}) == len(changes)
    assert disk.seen.count("COMMIT") == 3


async def test_what_fails_undoes_itself_only(store: Store, path: Path) -> None:
    """An error of one change is its caller's, and leaves the rest of the group."""
    one, failed, two = put(store, note("one"), fail, note("two"))
    assert isinstance(failed.exception(), LookupError)
    assert (one.result(), two.result()) == (1, 2)
    assert on_disk(path) == ["one", "two"]


async def test_a_wrong_statement_is_its_callers(store: Store, path: Path) -> None:
    """An error of SQLite in one change leaves the rest of the group, too."""
    one, failed, two = put(
        store, note("one"), lambda db: db.execute("nonsense"), note("two")
    )
    assert isinstance(failed.exception(), sqlite3.OperationalError)
    assert (one.result(), two.result()) == (1, 2)
    assert on_disk(path) == ["one", "two"]


async def test_the_error_is_raised_where_it_is_awaited(store: Store) -> None:
    """The caller of a change gets what it raised."""
    with pytest.raises(LookupError, match="of the change"):
        await store.write(fail)
    assert await store.read(words) == []


async def test_a_failing_disk_is_told_to_all(
    store: Store, disk: Disk, path: Path
) -> None:
    """If the commit fails, nobody hears that it was done, and the store goes on."""
    disk.broken = "COMMIT"
    told = put(store, note("one"), note("two"))
    assert [type(future.exception()) for future in told] == 2 * [
        sqlite3.OperationalError
    ]
    assert on_disk(path) == []
    disk.broken = ""
    await store.write(note("three"))
    assert on_disk(path) == ["three"]


async def test_a_read_changes_nothing(store: Store, path: Path) -> None:
    """A query that writes is refused; afterwards writes work."""
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        await store.read(note("one"))
    await store.write(note("two"))
    assert on_disk(path) == ["two"]


async def test_a_read_sees_what_came_before_it(store: Store) -> None:
    """A query sees changes that were waiting when it came."""
    with store._wake:
        written = asyncio.ensure_future(store.write(note("one")))
        read = asyncio.ensure_future(store.read(words))
        await asyncio.sleep(0)  # both are put
    assert await read == ["one"]
    await written


async def test_cancelled_before_its_turn(store: Store) -> None:
    """A change whose caller gave up before its turn is not made."""
    with store._wake:
        task = asyncio.ensure_future(store.write(note("one")))
        await asyncio.sleep(0)  # it is put
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await store.write(note("two"))
    assert await store.read(words) == ["two"]


def test_a_loop_that_is_gone(store: Store, path: Path) -> None:
    """Whoever waits in a loop that was closed is missed by nobody."""
    loop = asyncio.new_event_loop()
    with store._wake:
        waiting = asyncio.wrap_future(store._put(note("one"), writes=True), loop=loop)
        loop.close()
    assert put(store, note("two"))[0].result() == 2
    assert not waiting.done()
    assert on_disk(path) == ["one", "two"]


async def test_closing(path: Path) -> None:
    """What waits is finished; who comes later hears that it is too late."""
    store = Store(path, SCHEMA, MAX_BYTES)
    told = put(store, *(note(str(n)) for n in range(module.GROUP + 1)))
    store.close()
    store.close()  # once more does no harm
    assert all(future.done() for future in told)
    assert len(on_disk(path)) == len(told)
    with pytest.raises(Closed, match=r"store\.db"):
        await store.write(note("late"))
    with pytest.raises(Closed, match=r"store\.db"):
        await store.read(words)


async def test_bytes(store: Store, path: Path) -> None:
    """What is on the disk is counted, with what is only in the log yet."""
    await store.write(note("one", 20_000))
    log = Path(f"{path}-wal").stat().st_size
    assert log > 20_000
    assert store.bytes == path.stat().st_size + log


async def test_the_log_is_cut(store: Store, path: Path) -> None:
    """A log that one large change made long is short again soon."""
    log = Path(f"{path}-wal")
    await store.write(note("much", 400_000))
    assert log.stat().st_size > 400_000
    for _ in range(2):
        await store.write(note("one"))
    assert log.stat().st_size <= MAX_BYTES // 4


async def test_private(store: Store, path: Path) -> None:
    """Only the daemon's user may read what is kept, in the log neither."""
    await store.write(note("one"))
    for name in ("", "-wal", "-spare"):
        assert Path(f"{path}{name}").stat().st_mode & 0o777 == 0o600


# -- no room


async def test_the_bound(store: Store) -> None:
    """A file at its bound takes no more; what is deleted makes room again."""
    count = await fill(store, 5000)
    assert count > 50
    assert store.bytes <= MAX_BYTES
    await store.write(erase)
    for _ in range(count):
        await store.write(note("again", 5000))


async def test_full_is_only_who_needs_room(store: Store, path: Path) -> None:
    """Of a group in a full file, each is tried alone: what fits is done."""
    before = await fill(store, 50_000)
    wide, small, failed, erased = put(
        store, note("wide", 50_000), note("small"), fail, erase
    )
    assert isinstance(wide.exception(), Full)
    assert small.result() == before + 1
    assert isinstance(failed.exception(), LookupError)
    assert erased.exception() is None
    assert on_disk(path) == []


async def test_room(store: Store) -> None:
    """How far the file may grow counts what was freed."""
    empty = await store.read(room)
    assert empty.most == MAX_BYTES // 2  # the rest is for the log and the spare
    assert 0.9 * empty.most < empty.free < empty.most
    await store.write(note("much", 100_000))
    filled = await store.read(room)
    assert 95_000 < empty.free - filled.free < 110_000
    await store.write(erase)
    assert await store.read(room) == empty


async def test_a_full_disk(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk the file does not grow, and what is in it can be removed."""
    await store.write(note("before", 50_000))
    store.close()
    Path(f"{path}-spare").unlink()
    monkeypatch.setattr(module.Spare, "_free", lambda _: 1000)
    store = Store(path, SCHEMA, MAX_BYTES)
    size = (await store.read(room)).most
    with pytest.raises(Full):
        await store.write(note("more", 50_000))
    await store.write(erase)
    await store.write(note("instead", 40_000))
    assert (await store.read(room)).most == size
    assert not Path(f"{path}-spare").exists()
    monkeypatch.undo()
    await store.write(note("more", 50_000))
    assert on_disk(path) == ["instead", "more"]
    assert Path(f"{path}-spare").stat().st_size == MAX_BYTES // 4
    store.close()


@pytest.mark.parametrize("why", [errno.EDQUOT, errno.EIO])
async def test_a_spent_quota(
    store: Store, monkeypatch: pytest.MonkeyPatch, why: int
) -> None:
    """A quota that is spent is a full disk, though SQLite calls it an I/O error."""

    def refused(_db: Database) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE
        raise error

    def nothing(*_: object) -> None:
        raise OSError(why, os.strerror(why))

    monkeypatch.setattr(os, "posix_fallocate", nothing)
    with pytest.raises(Full if why == errno.EDQUOT else sqlite3.OperationalError):
        await store.write(refused)
    monkeypatch.undo()
    await store.write(note("later"))


async def test_pages_return(path: Path) -> None:
    """After an outage the file gives back to the disk what it needs no more."""
    store = Store(path, SCHEMA, 2**24)
    for _ in range(20):
        await store.write(note("much", 400_000))
    large = path.stat().st_size
    await store.write(erase)
    for n in range(40):  # it takes a while, so that nobody waits for it
        await store.write(note(str(n)))
    store.close()
    assert large > 8_000_000
    assert path.stat().st_size < 4_000_000
    assert len(on_disk(path)) == 40


async def test_small_files_keep_their_pages(store: Store, path: Path) -> None:
    """Pages that are soon needed again are not given back."""
    await store.write(note("much", 400_000))
    await store.write(erase)
    await store.write(note("one"))
    store.close()
    assert path.stat().st_size > 400_000


# -- at opening


async def test_opened_again(path: Path) -> None:
    """What was written is there at the next start, killed or closed."""
    killed = Store(path, SCHEMA, MAX_BYTES)
    await killed.write(note("one"))
    store = Store(path, SCHEMA, MAX_BYTES)  # the other never closed
    assert store.set_aside is None
    assert await store.read(words) == ["one"]
    store.close()
    killed.close()


def garbage(content: bytearray) -> None:
    """Be no database at all."""
    content[:] = b"not a database at all" * 100


def cut(content: bytearray) -> None:
    """Lose the end."""
    del content[2 * 4096 + 100 :]


def blank(content: bytearray) -> None:
    """Lose a page in the middle."""
    content[2 * 4096 : 3 * 4096] = bytes(4096)


def disagree(content: bytearray) -> None:
    """Have another word in the index than in the table."""
    at = content.index(b"needle", content.index(b"needle") + 6)
    content[at : at + 6] = b"noodle"


@pytest.mark.parametrize("harm", [garbage, cut, blank, disagree])
async def test_damaged(path: Path, harm: Callable[[bytearray], None]) -> None:
    """A damaged file is put aside, as it is, and a fresh one begun."""
    store = Store(path, SCHEMA, MAX_BYTES)
    for n in range(50):
        await store.write(note("needle" if n == 25 else "hay", 1000))
    store.close()
    content = bytearray(path.read_bytes())
    harm(content)
    path.write_bytes(content)
    log = Path(f"{path}-wal")
    log.write_bytes(b"whatever is in it")
    store = Store(path, SCHEMA, MAX_BYTES)
    assert await store.read(words) == []
    await store.write(note("new"))
    store.close()
    aside = store.set_aside
    assert aside is not None
    assert aside.parent == path.parent
    assert aside.name.startswith("store.db.damaged-2")
    assert aside.read_bytes()[4096:] == content[4096:]  # SQLite may touch the header
    assert on_disk(path) == ["new"]


async def test_the_log_goes_with_its_file(path: Path) -> None:
    """What a damaged file had not taken from its log yet is put aside with it."""
    store = Store(path, SCHEMA, MAX_BYTES)
    await store.write(note("before", 300_000))
    await store.write(note("one"))
    log = Path(f"{path}-wal").read_bytes()
    assert b"one" in log
    store.close()
    path.write_bytes(b"x" * path.stat().st_size)
    Path(f"{path}-wal").write_bytes(log)
    store = Store(path, SCHEMA, MAX_BYTES)
    assert await store.read(words) == []
    store.close()
    assert store.set_aside
    assert Path(f"{store.set_aside}-wal").read_bytes() == log


async def test_damaged_again(path: Path) -> None:
    """Of what was put aside the newest three stay, and it is told how many went."""
    path.parent.mkdir(exist_ok=True)
    removed = []
    for number in range(5):
        path.write_bytes(b"%d" % number * 5000)
        Path(f"{path}-wal").write_bytes(b"a log")
        store = Store(path, SCHEMA, MAX_BYTES)
        removed.append(store.removed)
        store.close()
    assert removed == [0, 0, 0, 1, 1]
    kept = sorted(path.parent.glob("*.damaged-*Z"))
    assert [aside.read_bytes()[:1] for aside in kept] == [b"2", b"3", b"4"]
    assert len(list(path.parent.glob("*.damaged-*Z-wal"))) == 3


async def test_rescue(path: Path) -> None:
    """What is brought over is there as soon as the fresh file is; and only then."""
    path.parent.mkdir(exist_ok=True)
    seen: list[Path] = []

    def rescue(damaged: Path, fresh: Database) -> None:
        seen.append(damaged)
        note("saved")(fresh)

    Store(path, SCHEMA, MAX_BYTES, rescue).close()
    assert not seen
    path.write_bytes(b"x" * 5000)
    store = Store(path, SCHEMA, MAX_BYTES, rescue)
    assert seen == [store.set_aside]
    assert await store.read(words) == ["saved"]
    store.close()
    store = Store(path, SCHEMA, MAX_BYTES, rescue)
    assert len(seen) == 1
    store.close()


async def test_rescue_and_birth_are_one(path: Path) -> None:
    """A fresh file is not there without what was to be brought over."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x" * 5000)

    def stumble(_damaged: Path, fresh: Database) -> None:
        note("half")(fresh)
        raise LookupError

    with pytest.raises(LookupError):
        Store(path, SCHEMA, MAX_BYTES, stumble)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT * FROM sqlite_master").fetchall() == []


async def test_a_later_version(path: Path) -> None:
    """A file of a later version is the operator's to decide on, and stays as it is."""
    Store(path, SCHEMA, MAX_BYTES).close()
    earlier = SCHEMA.replace("= 3", "= 2")
    with pytest.raises(ConfigError, match=r"store\.db: .*later version.*\(3, here 2\)"):
        Store(path, earlier, MAX_BYTES)
    assert not list(path.parent.glob("*damaged*"))
    store = Store(path, SCHEMA, MAX_BYTES)
    await store.write(note("one"))
    store.close()


async def test_an_earlier_version(path: Path) -> None:
    """A file of an earlier version gets what is new in the schema."""
    store = Store(path, SCHEMA, MAX_BYTES)
    await store.write(note("one"))
    store.close()
    later = SCHEMA.replace("= 3", "= 4") + "; CREATE TABLE IF NOT EXISTS more (a)"
    store = Store(path, later, MAX_BYTES)
    assert await store.read(words) == ["one"]
    assert await store.read(pragma("user_version")) == 4
    await store.write(lambda db: db.execute("INSERT INTO more VALUES (1)").fetchall())
    store.close()


def test_no_place(path: Path) -> None:
    """A folder that is none is the operator's to change."""
    path.parent.write_text("a file")
    with pytest.raises(ConfigError, match=r"store\.db"):
        Store(path, SCHEMA, MAX_BYTES)


def test_no_room_at_all(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk without room for a new file is full, which may pass."""

    def full(*_: object) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(Full, match="No space left"):
        Store(path, SCHEMA, MAX_BYTES)
