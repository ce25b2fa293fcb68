"""`slm-agent demo`: the whole system on an embedded broker."""

import asyncio
import sys
from pathlib import Path

import click

from agent.cli.options import FILE, JSON


@click.command()
@click.option(
    "--messages",
    type=FILE,
    metavar="FILE",
    help="Text (a message a line) or .jsonl (with `text`); default: shipped samples.",
)
@click.option("--once", is_flag=True, help="End after the last result.")
@JSON
def demo(messages: Path | None, *, once: bool, as_json: bool) -> None:
    """Show the whole system on an embedded broker.

    In a terminal it goes on with what you type. Exit status 0 only if every message
    ended in exactly one final result.
    """
    from agent.cli import demo_session

    texts = demo_session.read_messages(messages)
    sys.exit(asyncio.run(demo_session.run(texts, once=once, as_json=as_json)))
