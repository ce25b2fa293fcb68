"""`slm-agent bench`: what this machine does with the `home` pipeline."""

import asyncio
import json
from pathlib import Path

import click

from agent.cli.options import FILE, JSON


@click.command()
@JSON
@click.option(
    "--messages",
    type=click.IntRange(min=2),
    default=2000,
    show_default=True,
    help="Size of the burst.",
)
@click.option("--out", type=FILE, help="Write the figures there, too.")
def bench(messages: int, out: Path | None, *, as_json: bool) -> None:
    """Measure throughput, latency and memory on this machine.

    The real daemon behind a real broker (Mosquitto if it is installed, else the
    embedded one), with the `home` pipeline.
    """
    from agent.cli import benchmark

    figures = asyncio.run(benchmark.run(messages))
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
    if as_json:
        click.echo(json.dumps(figures))
        return
    for section, values in figures.items():
        click.echo(click.style(section, bold=True))
        for key, value in values.items():
            click.echo(f"  {key:26} {value}")
