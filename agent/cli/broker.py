"""`slm-agent broker`: the upstream side."""

import asyncio
from pathlib import Path

import click


@click.command()
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="broker.toml; default /etc/slm-agent/broker.toml.",
)
def broker(config: Path | None) -> None:
    """Run the upstream side: cases in, a language model asked, answers out.

    For a server, with the extra `broker`: docs/install.md.
    """
    from agent.broker import main
    from agent.core import log

    log.configure("info")
    asyncio.run(main.run(config))
