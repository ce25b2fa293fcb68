"""Damaged state: read, set aside, gone on without, and told; whatever the damage."""

import asyncio
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from agent.broker.main import SCHEMA as BROKER_SCHEMA
from agent.broker.reply_store import latest
from agent.core.clock import Clock
from agent.core.quarantine import KEPT
from agent.daemon.discovery import COMPONENTS, told_before
from agent.fleet.resolve import stand_in
from agent.fleet.rollout import FleetDevice
from agent.fleet.state import FOLDER, STATE
from agent.mqtt.message_ids import IdTable
from agent.mqtt.subscriptions import FILE, obsolete, write_down
from agent.outbox import SCHEMA, cases, ledger, spending
from agent.outbox.cases import CaseRow
from agent.outbox.store import Store
from harness.damage import DAMAGES
from harness.fleets import Keys

NOBODY = 65_534
SEEDS = range(3)
MAX_BYTES = 2**20
HOME = b'{"homeassistant/device/slm_pi/config": {"slm_pi_p99": "sensor"}}'
TOML = 'version = 2\nunlisted = "accept"\nagent.engine.max_batch = 2\n'


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder that others may reach, too."""
    made = Path(tempfile.mkdtemp(prefix="slm-state-"))
    yield made
    shutil.rmtree(made)


@contextmanager
def as_nobody(folder: Path) -> Iterator[None]:
    """Be nobody, whose the folder is: root may read everything.

    All that is imported while one works has to be imported before.
    """
    if os.geteuid():
        yield
        return
    for path in (folder, *folder.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)


@dataclass(frozen=True)
class Fleet:
    """What a device knows of its fleet, and what its topic retains."""

    keys: Mapping[str, Ed25519PublicKey]
    signed: bytes


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    """Return a fleet; its keys are read while we may."""
    keys = Keys(tmp_path_factory.mktemp("keys"))
    return Fleet(keys.known, keys.signed(TOML))


# Each use starts as the daemon does, works, and returns what an alert would say.
Use = Callable[[Path], str]


def use_subscriptions(folder: Path) -> str:
    """Take back what is obsolete, and write down what is not."""
    gone, damage = obsolete(folder, ["a/+"])
    assert len(gone) <= 1  # of another text, at most one line is a filter
    write_down(folder, ["a/+"])
    assert obsolete(folder, []) == (["a/+"], "")
    write_down(folder, ["a/+", "b/#"])
    return damage


def use_components(folder: Path) -> str:
    """Read what Home Assistant was told, and write it anew."""
    before, damage = told_before(folder / COMPONENTS)
    assert set(before) <= {"homeassistant/device/slm_pi/config"} or not damage
    (folder / COMPONENTS).write_bytes(HOME)
    assert told_before(folder / COMPONENTS)[1] == ""
    return damage


def use_ids(folder: Path) -> str:
    """Name a message, and know it again after a crash."""
    path = folder / "inflight.ids"
    with IdTable(path) as table:
        name = table.name(1, redelivered=True, topic="a", payload=b"x")
        table.acknowledged(1)
        table.connection_ended()
        damage = table.damage
    with IdTable(path) as table:
        assert table.name(1, redelivered=True, topic="a", payload=b"x") == name
        assert table.damage == ""
    return damage


def use_fleet(folder: Path, fleet: Fleet) -> str:
    """Begin, take what the topic retains, and prove it; the next start has it."""

    def device() -> FleetDevice:
        return FleetDevice(
            folder / FOLDER,
            stand_in("pi"),
            fleet.keys,
            lambda _: None,
            0.0,
            Clock(lambda: 1e9, lambda: 0.0, "boot"),
        )

    running = device()
    damage = running.damage
    running.begin()
    outcome = running.offer(fleet.signed)
    if outcome.switch:
        running.switched()
    running.judge(None)
    running.rest()
    again = device()
    again.begin()
    assert again.damage == ""
    assert again.report()["applied"] == 2, again.report()
    return damage


def use_store(path: Path, schema: str, work: Callable[[Store], object]) -> str:
    """Open a store and work with it; the next start finds nothing wrong."""
    store = Store(path, schema, MAX_BYTES)
    damage = str(store.set_aside or "")
    work(store)
    store.close()
    again = Store(path, schema, MAX_BYTES)
    assert again.set_aside is None
    again.close()
    return damage


def outbox_work(store: Store) -> None:
    """Do with the outbox what the daemon does all day."""
    new = CaseRow("new", b"{}", "home", 1, 2e9, 0)

    async def work() -> None:
        def change(db: cases.sqlite3.Connection) -> None:
            cases.add(db, new, 1e9)
            cases.stats(db)
            cases.expired(db, 1e9, 10)
            cases.filled(db)
            cases.tried(db, "new")
            cases.finish(db, "new", "t", b"{}")
            cases.forget(db, "new", 1e9)
            spending.count(db, spending.today(), ["home"], spending.Spend(1, 1, 1))
            spending.by_scope(db, spending.today())
            ledger.head(db)

        await store.write(change)

    asyncio.run(work())


def replies_work(store: Store) -> None:
    """Ask the broker's store for its newest answer."""
    assert asyncio.run(store.read(latest)) >= 0


def use_outbox(folder: Path) -> str:
    """Use the outbox."""
    return use_store(folder / "outbox.db", SCHEMA, outbox_work)


def use_replies(folder: Path) -> str:
    """Use the broker's store."""
    return use_store(folder / "broker.db", BROKER_SCHEMA, replies_work)


def check(folder: Path, name: str, damage: str, seed: int, use: Use) -> str:
    """Use a state, damage a file of it, use it again, and a third time.

    Return what was told.
    """
    use(folder)
    path = next(folder.glob(name))
    DAMAGES[damage](path, random.Random(f"{name} {damage} {seed}"))  # noqa: S311
    with as_nobody(folder) if damage == "forbidden" else nullcontext():
        told = use(folder)
        assert use(folder) == ""
    aside = sorted(path.parent.glob(f"{path.name}.damaged-*"))
    silent = path.name.endswith((".signed.json", "-spare"))  # nothing is lost
    assert bool(told) is bool(aside) or silent, (told, aside)
    if told:
        assert aside[0].name in told
    return told


SURE = ["random", "deep list", "deep object", "huge", "folder", "pipe", "loop"]
SURE += ["forbidden"]  # damages that cannot pass for another state
FILES: list[tuple[str, Use]] = [
    (FILE, use_subscriptions),
    (COMPONENTS, use_components),
    ("inflight.ids", use_ids),
    ("outbox.db", use_outbox),
    ("outbox.db-spare", use_outbox),
    ("broker.db", use_replies),
]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(("name", "use"), FILES, ids=[name for name, _ in FILES])
def test_damaged(folder: Path, name: str, use: Use, damage: str, seed: int) -> None:
    """It is set aside and told, work goes on, and the next start finds nothing."""
    check(folder, name, damage, seed, use)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [f"{FOLDER}/{STATE}", f"{FOLDER}/*.signed.json"])
def test_damaged_fleet(
    folder: Path, fleet: Fleet, name: str, damage: str, seed: int
) -> None:
    """The fleet file that its topic retains is applied anew."""
    check(folder, name, damage, seed, lambda where: use_fleet(where, fleet))


@pytest.mark.parametrize(("name", "use"), FILES[:4], ids=[n for n, _ in FILES[:4]])
@pytest.mark.parametrize("damage", SURE)
def test_told(folder: Path, name: str, use: Use, damage: str) -> None:
    """What cannot be a state is told; a table of ids of nonsense is as good as none."""
    told = check(folder, name, damage, 1, use)
    nonsense = {"random", "deep list", "deep object", "huge"}
    no_harm = {"inflight.ids": nonsense, "outbox.db": {"huge"}}
    assert bool(told) is (damage not in no_harm.get(name, ()))


def test_a_file_in_place_of_the_fleet_folder(folder: Path, fleet: Fleet) -> None:
    """It is set aside, and the folder is made."""
    (folder / FOLDER).write_bytes(b"x")
    assert "damaged-" in use_fleet(folder, fleet)
    assert use_fleet(folder, fleet) == ""


@pytest.mark.parametrize("name", ["subscriptions.new", "fleet/state.new"])
def test_a_folder_in_place_of_what_is_written(
    folder: Path, fleet: Fleet, name: str
) -> None:
    """What is in the way of a new state is set aside."""
    (folder / name).mkdir(parents=True)
    assert use_subscriptions(folder) == ""
    assert use_fleet(folder, fleet) == ""


@pytest.mark.parametrize("ending", ["-wal", "-shm"])
def test_a_folder_in_place_of_the_log(folder: Path, ending: str) -> None:
    """The outbox is begun anew."""
    use_outbox(folder)
    (folder / f"outbox.db{ending}").unlink(missing_ok=True)
    (folder / f"outbox.db{ending}").mkdir()
    assert use_outbox(folder)
    assert use_outbox(folder) == ""


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE photos (id)",
        "CREATE TABLE cases (id); PRAGMA user_version = 2",
        "PRAGMA user_version = 2000000000",
        "PRAGMA user_version = -5",
    ],
)
def test_the_database_of_another_program(folder: Path, sql: str) -> None:
    """It is set aside where it is in the way of our tables."""
    db = cases.sqlite3.connect(folder / "outbox.db")
    db.executescript(sql)
    db.close()
    told = use_outbox(folder)
    assert bool(told) is ("photos" not in sql and "-5" not in sql)


def test_lost_tables(folder: Path) -> None:
    """A database of our version without a table of ours is set aside."""
    use_outbox(folder)
    db = cases.sqlite3.connect(folder / "outbox.db")
    db.execute("DROP TABLE tombstones")
    db.close()
    assert use_outbox(folder)


def test_only_the_newest_are_kept(folder: Path) -> None:
    """However often a file is damaged, what is set aside does not fill the disk."""
    for number in range(KEPT + 3):
        place = folder / FILE
        if number % 2:
            place.unlink(missing_ok=True)
            place.mkdir()
            (place / "file").write_bytes(b"x")
        else:
            place.write_bytes(b"\xff")
        assert use_subscriptions(folder)
    assert len(list(folder.glob("*.damaged-*"))) == KEPT


def test_what_cannot_be_set_aside(folder: Path) -> None:
    """A damaged file in a folder that may not be written is told, and not used."""
    obsolete(folder, [])
    (folder / FILE).write_bytes(b"\xff")
    folder.chmod(0o500)
    with as_nobody(folder):
        assert "cannot be set aside" in obsolete(folder, [])[1]
    folder.chmod(0o700)
