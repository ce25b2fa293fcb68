"""The outbox on a real disk: its process killed, its disk full."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from agent.outbox import SCHEMA, cases, ledger
from agent.outbox.cases import AddVerdict, CaseRow
from agent.outbox.store import Database, Full, Store

KILLS = 8
# Forty writers at once, so that there are groups; each says what it was told.
WRITER = """
import asyncio, os, sys
from pathlib import Path
from agent.outbox import SCHEMA, cases, ledger
from agent.outbox.store import Store

def add(key):
    def change(db):
        for name in (key, "twin-" + key):
            cases.add(db, cases.CaseRow(name, b"body" * 200, "home", 0, 9e9, 0), 1.0)
        ledger.record(db, ledger.Egress(1.0, "home", key, "http", "x", 1, "ab", {}))
    return change

async def main(life):
    store = Store(Path(sys.argv[1]), SCHEMA, 2**25)
    assert store.set_aside is None
    async def writer(name):
        for number in range(100_000):
            key = f"{life}-{name}-{number}"
            await store.write(add(key))
            os.write(1, f"{key}\\n".encode())
    await asyncio.gather(*map(writer, range(40)))

asyncio.run(main(sys.argv[2]))
"""


def row(key: str) -> CaseRow:
    """Return a case of usual size."""
    return CaseRow(key, bytes(600), "home", 0, 9e9, 0)


def live(path: Path, life: int) -> set[str]:
    """Write until killed; return the keys that were told to be durable."""
    told: set[str] = set()
    command = [sys.executable, "-c", WRITER, str(path), str(life)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout
        for line in writer.stdout:
            told.add(line.strip())
            if len(told) == 150:
                writer.send_signal(signal.SIGKILL)
            # and read on: what was told before the end counts, too
    assert writer.returncode == -signal.SIGKILL
    return told


async def test_kill_nine(tmp_path: Path) -> None:
    """Killed in the midst of group commits: what was told is there, and no halves."""
    path = tmp_path / "outbox.db"
    told = set().union(*(live(path, life) for life in range(KILLS)))
    store = Store(path, SCHEMA, 2**25)
    assert store.set_aside is None
    found = {row.key for row in await store.read(lambda db: cases.waiting(db, 10**6))}
    assert await store.read(ledger.verify) is None
    number, _ = await store.read(ledger.head)
    store.close()
    assert len(told) >= KILLS * 150
    assert told <= found
    whole = {key for key in found if not key.startswith("twin-")}
    assert found - whole == {f"twin-{key}" for key in whole}
    assert number == len(whole)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of four megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    try:
        made = subprocess.run(mount, capture_output=True, text=True, check=False)
        why = made.stderr.strip()
    except FileNotFoundError:
        why = "there is no mount here"
    if why:
        pytest.skip(f"a small disk cannot be made: {why}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


async def crowd(store: Store, name: str) -> list[str]:
    """Add cases until there is no room; return their keys."""
    keys: list[str] = []
    while True:
        key = f"{name}-{len(keys)}"
        try:
            await store.write(partial(cases.add, row=row(key), now=1.0))
        except Full:
            return keys
        keys.append(key)


def fill(path: Path) -> None:
    """Take all the room that the disk has left."""
    with path.open("wb", 0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def end(db: Database, key: str) -> None:
    """End a case."""
    assert cases.finish(db, key, "topic", bytes(500))
    cases.forget(db, key, 2.0)


@pytest.mark.parametrize("max_bytes", [2**21, 2**26], ids=["bound", "disk"])
async def test_full_disk(small_disk: Path, max_bytes: int) -> None:
    """Nothing comes into a full outbox, all that is in it goes out, and then it works.

    Whether its own bound or the disk is reached first, and with not a byte left that
    others have not taken.
    """
    store = Store(small_disk / "outbox.db", SCHEMA, max_bytes)
    keys = await crowd(store, "first")
    assert len(keys) > 700
    fill(small_disk / "others")
    assert os.statvfs(small_disk).f_bavail == 0
    for key in keys:
        await store.write(partial(end, key=key))
    assert (await store.read(cases.stats)).waiting == 0
    assert store.set_aside is None

    (small_disk / "others").unlink()
    again = await crowd(store, "again")
    assert len(again) > len(keys) // 2
    store.close()
    store = Store(small_disk / "outbox.db", SCHEMA, max_bytes)
    assert store.set_aside is None
    assert (await store.read(cases.stats)).waiting == len(again)
    store.close()


@pytest.mark.parametrize("end_of", ["killed", "closed"])
async def test_started_on_a_full_disk(small_disk: Path, end_of: str) -> None:
    """On a disk that became full since it ended, it starts and works off what it has.

    What was closed in order has neither log nor shared memory to begin with: then the
    spare file makes room for them.
    """
    before = Store(small_disk / "outbox.db", SCHEMA, 2**21)
    keys = await crowd(before, "first")
    if end_of == "closed":
        before.close()
    fill(small_disk / "others")
    store = Store(small_disk / "outbox.db", SCHEMA, 2**21)
    assert store.set_aside is None
    for key in keys:
        await store.write(partial(end, key=key))
    new = partial(cases.add, row=row("new"), now=1.0)
    assert await store.write(new) is AddVerdict.NEW
    store.close()
    before.close()


def test_no_disk_at_all(small_disk: Path) -> None:
    """A disk without a single byte is full, not damaged, and may have room later."""
    fill(small_disk / "others")
    with pytest.raises(Full):
        Store(small_disk / "outbox.db", SCHEMA, 2**21)
    (small_disk / "others").unlink()
    Store(small_disk / "outbox.db", SCHEMA, 2**21).close()
