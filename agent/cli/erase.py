"""`slm-agent erase`: what the device holds of somebody, gone."""

import json
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import click

from agent.cli.options import CONFIG, JSON

FORMATS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]


@click.command()
@click.option("--id", "message", default="", help="The id of a message.")
@click.option(
    "--before", type=click.DateTime(FORMATS), help="All that is older; a time in UTC."
)
@CONFIG
@JSON
def erase(
    message: str, before: datetime | None, config: Path | None, *, as_json: bool
) -> None:
    """Erase texts, results and cached answers that the device still holds.

    Of a message that is erased no result is published. The egress ledger stays: it
    holds no words. What the MQTT broker, consumers and upstream hold is theirs to
    erase. Stop the daemon first; docs/data.md says what is stored, and for how long.

    \b
      systemctl stop slm-agent
      slm-agent erase --id 01J9ZQ...
      slm-agent erase --before 2026-11-01
    """  # noqa: D301  \b is click's mark of a paragraph to leave as it is
    if not message and not before:
        raise click.UsageError("give --id or --before")
    from agent.config.load import load
    from agent.core.ownership import owned
    from agent.outbox import OUTBOX, erasing

    folder = load(config).agent.state.dir
    until = before.replace(tzinfo=UTC).timestamp() if before else 0.0
    with owned(folder):
        gone = erasing.erase(
            folder / OUTBOX, time.time(), message=message, before=until
        )
    if as_json:
        click.echo(json.dumps(asdict(gone)))
        return
    click.echo(
        f"erased: {gone.cases} waiting cases, {gone.results} unpublished results, "
        f"{gone.answers} cached answers, {gone.damaged_files} damaged files"
    )
    if gone.unsearched:
        click.echo(
            f"{gone.unsearched} damaged files in {folder} cannot be searched and may "
            "hold more; --before erases those that are older"
        )
