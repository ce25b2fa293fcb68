"""Rescue: damage to the outbox makes no budget larger."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from agent.config.section import Limit
from agent.outbox import SCHEMA, spending
from agent.outbox.recovery import rescue
from agent.outbox.spending import Spend
from agent.outbox.store import Store

TODAY, YESTERDAY = "2026-11-28", "2026-11-27"
LIMITS = [Limit("", 10, 9000, None), Limit("home", None, None, 50)]
SPENT = Spend(3, 1000, 40)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return an outbox in which something was spent, on two days."""
    path = tmp_path / "outbox.db"
    with closing(opened(path)) as store:
        for day in (YESTERDAY, TODAY):
            change = partial(spending.reserve, day=day, limits=LIMITS, wanted=SPENT)
            store._put(change, writes=True).result()
    return path


def opened(path: Path) -> Store:
    """Open an outbox as the daemon does."""
    return Store(path, SCHEMA, 2**20, partial(rescue, TODAY, LIMITS))


def harm_an_index(path: Path) -> None:
    """Clear a page that has nothing to do with spending."""
    with closing(sqlite3.connect(path)) as db:
        [[page]] = db.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'cases_deadline'"
        )
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(bytes(4096))


def harm_everything(path: Path) -> None:
    """Leave nothing."""
    path.write_bytes(b"this is no database" * 300)


@pytest.mark.parametrize(
    ("harm", "device", "home"),
    [
        (harm_an_index, SPENT, SPENT),
        (harm_everything, Spend(10, 9000, 0), Spend(0, 0, 50)),
    ],
)
def test_spent_today(
    path: Path, harm: Callable[[Path], None], device: Spend, home: Spend
) -> None:
    """What was spent today is read from the damaged file, else all that is limited.

    It stays so over the next start.
    """
    harm(path)
    with closing(opened(path)) as store:
        assert store.set_aside
    with closing(opened(path)) as store:
        assert store.set_aside is None
        by_scope = partial(spending.by_scope, day=TODAY)
        found = store._put(by_scope, writes=False).result()
        before = partial(spending.by_scope, day=YESTERDAY)
        assert store._put(before, writes=False).result() == {}
    assert found == {"": device, "home": home}
