"""The command line."""

import asyncio
import sys
from pathlib import Path

import click

from agent import __version__
from agent.config import load
from agent.errors import ConfigError

CONFIG = click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="agent.toml; default /etc/slm-agent/agent.toml, else built-in defaults.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="slm-agent")
def cli() -> None:
    """Understand text messages on the device."""


@cli.command()
@CONFIG
def run(config: Path | None) -> None:
    """Run the daemon."""
    from agent import app, log

    loaded = load(config)
    log.configure(loaded.agent.log.level)
    asyncio.run(app.run(loaded))


def main() -> None:
    """Entry point; operator errors end with status 2."""
    try:
        cli()
    except ConfigError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
