"""Options that several commands share, and loading what runs here."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.core.errors import ConfigError
from agent.core.words import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.config.load import Config
    from agent.evaluation.examples import Example

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

TEXT_COLUMN = click.option(
    "--text-column", metavar="NAME", help="Of a .csv or .tsv file; default text."
)
LABEL_COLUMN = click.option(
    "--label-column", metavar="NAME", help="Of a .csv or .tsv file; default label."
)


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


def warn_of_unknown(
    config: "Config", pipeline: str, examples: "Sequence[Example]"
) -> None:
    """Say on standard error which labels and entity types the bundle does not know."""
    from agent.evaluation.examples import unknown_entities, unknown_labels
    from agent.inference.manifest import read_manifest

    manifest = read_manifest(config.bundle_dir(pipeline))
    lines: list[str] = []
    if manifest.labels:
        lines += unknown_labels(examples, manifest.labels)
    if manifest.entities:
        lines += unknown_entities(examples, manifest.entities)
    for line in lines:
        click.echo(f"warning: {printable(line)}", err=True)


def write(path: Path, text: str) -> None:
    """Write a file that was asked for; raises ConfigError."""
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
