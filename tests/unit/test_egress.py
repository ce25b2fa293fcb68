"""What left the device: shown and verified beside a daemon that goes on writing."""

import hashlib
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.cli import egress
from agent.cli.main import cli
from agent.core.errors import ConfigError
from agent.outbox import SCHEMA, ledger, ledger_reading
from agent.outbox.ledger import Egress
from agent.outbox.readonly import read_only
from agent.outbox.store import Store


def sent(number: int) -> Egress:
    """Return what a request leaves in the ledger."""
    return Egress(
        at=1_790_000_000.0 + number,
        pipeline="home",
        case=f"m-{number}",
        transport="http",
        to="https://llm.example/v1",
        bytes=1000 + number,
        sha256=hashlib.sha256(str(number).encode()).hexdigest(),
        redactions={"PERSON": 2, "AGE": 1} if number % 2 else {},
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the outbox of the device is to be."""
    return tmp_path / "outbox.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[Store]:
    """Return the daemon's store with five entries, open all the time."""
    opened = Store(path, SCHEMA, 2**20)
    for number in range(1, 6):
        await opened.write(lambda db, n=number: ledger.record(db, sent(n)))
    yield opened
    opened.close()


def asked(path: Path, *arguments: str) -> tuple[int, str]:
    """Return exit status and output of the command on the device of this outbox."""
    config = path.parent / "agent.toml"
    config.write_text('[state]\ndir = "."\n')
    result = CliRunner().invoke(
        cli, ["egress", "--config", str(config), *arguments], catch_exceptions=False
    )
    return result.exit_code, result.output


def damage(path: Path, sql: str) -> None:
    """Change the file as somebody would who has access to it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for (trigger,) in db.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        ).fetchall():
            db.execute(f"DROP TRIGGER {trigger}")
        db.execute(sql)


@pytest.mark.parametrize("arguments", [[], ["--json"], ["--summary"]])
def test_no_outbox_yet(path: Path, arguments: list[str]) -> None:
    """Where there is none, nothing left: that is said, and no outbox is made."""
    status, output = asked(path, *arguments)
    assert status == 0
    assert output.startswith("nothing left this device: ")
    assert str(path) in output
    assert "state.dir" in output
    assert not path.exists()


def test_no_outbox_to_verify(path: Path) -> None:
    """A chain that is not there proves nothing."""
    with pytest.raises(ConfigError, match=r"no outbox yet.*state\.dir"):
        asked(path, "--verify")


@pytest.mark.parametrize("arguments", [[], ["--summary"]])
def test_an_empty_ledger(path: Path, arguments: list[str]) -> None:
    """An outbox from which nothing was sent says the same."""
    Store(path, SCHEMA, 2**20).close()
    assert asked(path, *arguments) == (0, "nothing left this device\n")


@pytest.mark.usefixtures("store")
def test_the_summary(path: Path) -> None:
    """By day and pipeline: requests, bytes, what was hidden."""
    status, output = asked(path, "--summary", "--json")
    assert status == 0
    assert [json.loads(line) for line in output.splitlines()] == [
        {
            "day": "2026-09-21",
            "pipeline": "home",
            "requests": 5,
            "bytes": 5015,
            "hidden": 9,
        }
    ]
    _, output = asked(path, "--summary")
    assert output.splitlines()[1].split() == ["2026-09-21", "home", "5", "5015", "9"]


@pytest.mark.usefixtures("store")
def test_at_80_columns(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A narrow terminal gets whole rows, of what matters most."""
    monkeypatch.setattr("agent.cli.tables.columns", lambda: 80)
    _, output = asked(path)
    lines = output.splitlines()
    assert len(lines) == 6
    assert all(len(line) <= 80 for line in lines)
    assert "1 AGE, 2 PERSON" in lines[-1]
    assert "llm.example" not in output


@pytest.mark.parametrize("content", [b"", b"no database" * 1000])
def test_what_is_no_outbox(path: Path, content: bytes) -> None:
    """Another file is an error of one line, not a traceback."""
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"outbox\.db"):
        asked(path, "--json")


@pytest.mark.usefixtures("store")
def test_for_programs(path: Path) -> None:
    """One object a line, oldest first, with all that a hash is made of."""
    status, output = asked(path, "--json")
    lines = [json.loads(line) for line in output.splitlines()]
    assert status == 0
    assert [line["number"] for line in lines] == [1, 2, 3, 4, 5]
    assert lines[0]["time"] == "2026-09-21T14:13:21.000Z"
    assert lines[0]["redactions"] == {"PERSON": 2, "AGE": 1}
    for line in lines:
        previous, digest = line.pop("previous"), line.pop("hash")
        del line["time"]
        written = json.dumps(line, sort_keys=True, separators=(",", ":"))
        assert hashlib.sha256((previous + written).encode()).hexdigest() == digest


@pytest.mark.usefixtures("store")
def test_for_people(path: Path) -> None:
    """A table: when, which message, to whom, how much, what was hidden."""
    status, output = asked(path)
    assert status == 0
    rows = output.splitlines()
    assert len(rows) == 6
    for part in ("5 ", "2026-09-21T14:13:25", "m-5", "http https://llm.example/v1"):
        assert part in rows[-1]
    assert "1005" in rows[-1]
    assert "2 PERSON" in rows[-1]


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("arguments", [["--json"], []])
def test_only_the_last(path: Path, arguments: list[str]) -> None:
    """`--last` leaves out the older ones, and more than there are is all."""
    _, two = asked(path, "--last", "2", *arguments)
    assert ("m-4" in two, "m-5" in two, "m-3" in two) == (True, True, False)
    _, nine = asked(path, "--last", "9", *arguments)
    assert "m-1" in nine


@pytest.mark.usefixtures("store")
def test_pages(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are read at once, each is told once."""
    monkeypatch.setattr(ledger_reading, "PAGE", 2)
    entries = list(ledger_reading.listed(path))
    assert [entry.number for entry in entries] == [1, 2, 3, 4, 5]
    assert all(b.previous == a.hash for a, b in pairwise(entries))


async def test_what_was_written_meanwhile(path: Path, store: Store) -> None:
    """Who reads slowly sees what the daemon writes, and does not keep it from it."""
    seen = []
    for entry in ledger_reading.listed(path):
        seen.append(entry.number)
        if entry.number == 5:
            await store.write(lambda db: ledger.record(db, sent(6)))
    assert seen == [1, 2, 3, 4, 5, 6]


async def test_terminals_get_no_commands(
    path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """The id of a message is the producer's, and may be anything."""
    odd = Egress(1.0, "home", "\x1b[2J[b]\r\n", "mqtt", "t", 1, "00" * 32, {})
    await store.write(lambda db: ledger.record(db, odd))
    egress.show(list(ledger_reading.listed(path, 1)))
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "[2J[b]" in shown


@pytest.mark.usefixtures("store")
def test_a_chain_that_holds(path: Path) -> None:
    """It says so, and which hash to keep elsewhere."""
    with read_only(path) as db:
        _, digest = ledger.head(db)
    assert asked(path, "--verify") == (
        0,
        f"the chain holds; entry 5, hash {digest}\n",
    )
    _, output = asked(path, "--verify", "--json")
    assert json.loads(output) == {"problem": None, "number": 5, "hash": digest}


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE ledger SET bytes = 1 WHERE number = 3",
        "DELETE FROM ledger WHERE number = 3",
        "DELETE FROM ledger WHERE number = 5",
        "DELETE FROM ledger",
    ],
)
def test_a_chain_that_was_touched(path: Path, sql: str) -> None:
    """An entry that was changed or is missing is named, with exit status 1."""
    damage(path, sql)
    status, output = asked(path, "--verify")
    assert status == 1
    assert "the chain is broken: entry" in output
    status, output = asked(path, "--verify", "--json")
    assert status == 1
    assert json.loads(output)["problem"].startswith("entry")


async def test_a_moment_of_the_file(path: Path, store: Store) -> None:
    """What is written while the chain is checked is no gap in it."""
    with read_only(path) as db:
        before = ledger.head(db)
        await store.write(lambda db: ledger.record(db, sent(6)))
        assert ledger.verify(db) is None
        assert ledger.head(db) == before
    assert ledger_reading.judged(path).number == 6


@pytest.mark.usefixtures("store")
def test_reading_writes_nothing(path: Path) -> None:
    """Not even by mistake."""
    with pytest.raises(ConfigError, match="readonly"), read_only(path) as db:
        db.execute("DELETE FROM ledger_ends")


def test_reading_after_the_daemon(path: Path) -> None:
    """Nobody needs to run for the ledger to be read, nor to have closed it."""
    Store(path, SCHEMA, 2**20).close()
    assert list(ledger_reading.listed(path)) == []
    assert ledger_reading.judged(path) == ledger_reading.EgressVerdict(
        None, 0, "00" * 32
    )
    assert str(ledger_reading.judged(path)).startswith("the chain holds; entry 0")
