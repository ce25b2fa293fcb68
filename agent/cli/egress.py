"""`slm-agent egress`: what left the device, by its ledger."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli import tables
from agent.cli.options import CONFIG, JSON
from agent.core.words import printable

if TYPE_CHECKING:
    from agent.outbox.ledger import LedgerEntry

HASH_SHOWN = 12  # characters of a hash, in tables


@click.command()
@CONFIG
@JSON
@click.option(
    "--last", type=click.IntRange(min=1), help="Only so many; in a table 50 by default."
)
@click.option("--verify", is_flag=True, help="Check the chain instead of listing it.")
def egress(
    config: Path | None, last: int | None, *, as_json: bool, verify: bool
) -> None:
    """Show what left the device, and prove that nobody changed the list.

    One entry for each request upstream, written before it leaves: when, for which
    message, to whom, how many bytes, what was hidden in them, and their SHA-256. Never
    a text. It may be read while the daemon runs.

    Each entry's hash covers the entry before. --verify makes all of them anew: exit
    status 1 if one was changed or is missing. Keep the last hash, which it prints,
    somewhere else: who can write the file can write another chain, but none in which
    your hash stands.

    \b
      slm-agent egress                          a table of the last 50
      slm-agent egress --json | jq .redactions  one object a line, all of them
      slm-agent egress --verify                 for a daily job
    """  # noqa: D301  \b is click's mark of a paragraph to leave as it is
    from agent.config.load import load
    from agent.outbox import OUTBOX, ledger_reading

    path = load(config).agent.state.dir / OUTBOX
    if verify:
        verdict = ledger_reading.judged(path)
        click.echo(json.dumps(asdict(verdict)) if as_json else str(verdict))
        sys.exit(1 if verdict.problem else 0)
    if as_json:
        for entry in ledger_reading.listed(path, last):
            click.echo(json.dumps(line(entry), ensure_ascii=False))
        return
    show(list(ledger_reading.listed(path, last or 50)))


def line(entry: "LedgerEntry") -> dict[str, Any]:
    """Return an entry for programs: all that its hash is made of, and when in words."""
    from agent.protocol.messages import iso

    at = datetime.fromtimestamp(entry.egress.at, UTC)
    return {
        "number": entry.number,
        "time": iso(at),
        **asdict(entry.egress),
        "previous": entry.previous,
        "hash": entry.hash,
    }


def show(entries: "Sequence[LedgerEntry]") -> None:
    """Print entries as a table."""
    tables.show(
        ("no.", "time", "pipeline", "case", "to", "bytes", "hidden", "sha256"),
        [_cells(entry) for entry in entries],
    )


def _cells(entry: "LedgerEntry") -> tuple[str, ...]:
    from agent.protocol.messages import iso

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
    return tuple(printable(cell) for cell in cells)
