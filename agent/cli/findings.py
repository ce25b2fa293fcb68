"""How findings are printed: a line each, for people or programs."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from agent.daemon.checks import Finding


def print_finding(finding: "Finding", *, as_json: bool) -> None:
    """Print a finding."""
    if as_json:
        click.echo(json.dumps(asdict(finding), ensure_ascii=False))
        return
    colours = {"ok": "green", "warning": "yellow", "error": "red"}
    level = click.style(f"{finding.level:8}", fg=colours[finding.level])
    click.echo(f"{level}{finding.subject}: {finding.detail}")
