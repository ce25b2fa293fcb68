"""`slm-agent run`: the daemon."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli.options import CONFIG

if TYPE_CHECKING:
    from agent.config.load import Config


@click.command()
@CONFIG
def run(config: Path | None) -> None:
    """Run the daemon until SIGTERM."""
    from agent.core import log
    from agent.daemon import process

    log.configure("info")

    def told(config: "Config") -> None:
        log.set_level(config.agent.log.level)
        log.hash_ids(wanted=config.agent.log.ids == "hash")

    asyncio.run(process.run(config, told))
