"""The egress ledger, read beside the daemon that writes it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from agent.core.errors import ConfigError
from agent.outbox import ledger
from agent.outbox.ledger import LedgerEntry
from agent.outbox.readonly import read_only

PAGE = 1000  # entries that are read at once


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


@dataclass(frozen=True, slots=True)
class EgressDay:
    """What left on a day (UTC) for a pipeline; `hidden` counts redactions."""

    day: str
    pipeline: str
    requests: int
    bytes: int
    hidden: int


def by_day(entries: Iterable[LedgerEntry]) -> list[EgressDay]:
    """Add entries up by day and pipeline, the oldest day first."""
    sums: dict[tuple[str, str], tuple[int, int, int]] = {}
    for entry in entries:
        egress = entry.egress
        day = datetime.fromtimestamp(egress.at, UTC).date().isoformat()
        requests, size, hidden = sums.get((day, egress.pipeline), (0, 0, 0))
        sums[day, egress.pipeline] = (
            requests + 1,
            size + egress.bytes,
            hidden + sum(egress.redactions.values()),
        )
    return [EgressDay(*key, *values) for key, values in sorted(sums.items())]


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
