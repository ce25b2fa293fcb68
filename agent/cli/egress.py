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
from agent.cli.dry_run import show_would_leave
from agent.cli.options import CONFIG, JSON
from agent.core.files import exists
from agent.core.words import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.outbox.ledger import LedgerEntry
    from agent.outbox.ledger_reading import EgressDay

HASH_SHOWN = 8  # characters of a hash, in tables


@click.command()
@CONFIG
@JSON
@click.option(
    "--last", type=click.IntRange(min=1), help="Only so many; in a table 50 by default."
)
@click.option("--verify", is_flag=True, help="Check the chain instead of listing it.")
@click.option(
    "--summary", is_flag=True, help="Add up by day (UTC) and pipeline instead."
)
@click.option("--dry-run", metavar="TEXT", help="Show what would leave of a text.")
@click.option("--pipeline", default="", help="The pipeline that reads it.")
def egress(
    config: Path | None,
    last: int | None,
    dry_run: str | None,
    pipeline: str,
    *,
    as_json: bool,
    verify: bool,
    summary: bool,
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
      slm-agent egress --summary                by day and pipeline
      slm-agent egress --verify                 for a daily job
      slm-agent egress --dry-run "tell Ann Lee I am late" --pipeline home
    """  # noqa: D301  \b is click's mark of a paragraph to leave as it is
    if dry_run is not None:
        if not pipeline:
            raise click.UsageError("--dry-run needs --pipeline NAME")
        show_would_leave(dry_run, pipeline, config, as_json=as_json)
        return
    from agent.config.load import load
    from agent.outbox import OUTBOX, ledger_reading

    path = load(config).agent.state.dir / OUTBOX
    if verify:
        verdict = ledger_reading.judged(path)
        click.echo(json.dumps(asdict(verdict)) if as_json else str(verdict))
        sys.exit(1 if verdict.problem else 0)
    if not exists(path):
        where = f"{path} is not there; does state.dir say where it is?"
        click.echo(f"nothing left this device: {where}", err=as_json)
        return
    if summary:
        days = ledger_reading.by_day(ledger_reading.listed(path, last))
        show_summary(days, as_json=as_json)
    elif as_json:
        for entry in ledger_reading.listed(path, last):
            click.echo(json.dumps(line(entry), ensure_ascii=False))
    else:
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
    """Print entries as a table; on a narrow terminal without message and address."""
    if not entries:
        click.echo("nothing left this device")
        return
    names = [
        name for name in CELLS if tables.columns() >= WIDE or name not in ONLY_WIDE
    ]
    rows = [[printable(CELLS[name](entry)) for name in names] for entry in entries]
    tables.show(names, rows)


def show_summary(days: "Sequence[EgressDay]", *, as_json: bool) -> None:
    """Print what left, by day and pipeline."""
    if as_json:
        for day in days:
            click.echo(json.dumps(asdict(day)))
        return
    if not days:
        click.echo("nothing left this device")
        return
    tables.show(
        ("day", "pipeline", "requests", "bytes", "hidden"),
        [
            (d.day, printable(d.pipeline), str(d.requests), str(d.bytes), str(d.hidden))
            for d in days
        ],
    )


def _hidden(entry: "LedgerEntry") -> str:
    kinds = entry.egress.redactions.items()
    return ", ".join(f"{number} {kind}" for kind, number in kinds) or "-"


def _time(entry: "LedgerEntry") -> str:
    return f"{datetime.fromtimestamp(entry.egress.at, UTC):%Y-%m-%dT%H:%M:%SZ}"


CELLS: "dict[str, Callable[[LedgerEntry], str]]" = {
    "no.": lambda entry: str(entry.number),
    "time": _time,
    "pipeline": lambda entry: entry.egress.pipeline,
    "case": lambda entry: entry.egress.case,
    "to": lambda entry: f"{entry.egress.transport} {entry.egress.to}",
    "bytes": lambda entry: str(entry.egress.bytes),
    "hidden": _hidden,
    "sha256": lambda entry: entry.egress.sha256[:HASH_SHOWN],
}
ONLY_WIDE = {"case", "to"}
WIDE = 120  # columns
