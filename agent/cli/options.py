"""Options that several commands share, and loading what runs here."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from agent.config.load import Config

CONFIG = click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="agent.toml; default /etc/slm-agent/agent.toml, else built-in defaults.",
)
OWN = click.option(
    "--own", is_flag=True, help="Of the device's own files, whatever its fleet says."
)
JSON = click.option("--json", "as_json", is_flag=True, help="For programs.")
FILE = click.Path(path_type=Path, dir_okay=False)


def coloured() -> bool:
    """Tell whether colours are wanted (no-color.org)."""
    return not os.environ.get("NO_COLOR")


def running(path: Path | None, pipeline: str = "", *, own: bool) -> "Config":
    """Load what runs here; in a fleet, say on standard error which version that is.

    Raises ConfigError.
    """
    from agent.fleet.status import fleet_status

    status = fleet_status(path, pipeline, own=own)
    if status.state is not None:
        click.echo(f"fleet: {status}", err=True)
    return status.config
