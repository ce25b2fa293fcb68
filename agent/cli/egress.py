"""`slm-agent egress`: what left the device, by its ledger."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent.cli import tables
from agent.core.errors import ConfigError
from agent.outbox import ledger
from agent.outbox.ledger import LedgerEntry
from agent.outbox.readonly import read_only
from agent.protocol.messages import iso

PAGE = 1000  # entries that are read at once
HASH_SHOWN = 12  # characters of a hash, in tables


@dataclass(frozen=True, slots=True)
class EgressVerdict:
    """Whether the chain holds, and its last entry: noted elsewhere, it is a witness."""

    problem: str | None
    number: int
    hash: str

    def __str__(self) -> str:
        """Say it in one line."""
        if self.problem:
            return f"the chain is broken: {self.problem}"
        return f"the chain holds; entry {self.number}, hash {self.hash}"


def listed(path: Path, last: int | None = None) -> Iterator[LedgerEntry]:
    """Yield the entries, oldest first, or only the last so many; raises ConfigError."""
    _exists(path)
    after = 0
    if last is not None:
        with read_only(path) as db:
            after = max(0, ledger.head(db)[0] - last)
    # A page at a time: whoever reads slowly is not to keep the daemon's log from
    # being cut.
    while entries := _page(path, after):
        yield from entries
        after = entries[-1].number


def judged(path: Path) -> EgressVerdict:
    """Check the chain of all entries that are kept; raises ConfigError."""
    _exists(path)
    with read_only(path) as db:
        number, digest = ledger.head(db)
        return EgressVerdict(ledger.verify(db), number, digest)


def line(entry: LedgerEntry) -> dict[str, Any]:
    """Return an entry for programs: all that its hash is made of, and when in words."""
    at = datetime.fromtimestamp(entry.egress.at, UTC)
    return {
        "number": entry.number,
        "time": iso(at),
        **asdict(entry.egress),
        "previous": entry.previous,
        "hash": entry.hash,
    }


def show(entries: Sequence[LedgerEntry]) -> None:
    """Print entries as a table."""
    tables.show(
        ("no.", "time", "pipeline", "case", "to", "bytes", "hidden", "sha256"),
        [_cells(entry) for entry in entries],
    )


def _page(path: Path, after: int) -> list[LedgerEntry]:
    with read_only(path) as db:
        return ledger.entries(db, after, PAGE)


def _exists(path: Path) -> None:
    try:
        path.stat()
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: there is no outbox yet: nothing was sent upstream, or it lies "
            "elsewhere (state.dir)"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error


def _cells(entry: LedgerEntry) -> tuple[str, ...]:
    said = entry.egress
    hidden = ", ".join(f"{number} {kind}" for kind, number in said.redactions.items())
    cells = (
        str(entry.number),
        iso(datetime.fromtimestamp(said.at, UTC)),
        said.pipeline,
        said.case,
        f"{said.transport} {said.to}",
        str(said.bytes),
        hidden or "-",
        said.sha256[:HASH_SHOWN],
    )
    return tuple(_printable(cell) for cell in cells)


def _printable(text: str) -> str:
    """Return a text that no terminal takes for a command: ids are the producers'."""
    return "".join(
        char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text
    )
