"""How findings are printed: a line each, for people or programs."""

import json
from dataclasses import asdict

import click

from agent.core.findings import Finding
from agent.core.words import printable

COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}


def print_finding(finding: Finding, *, as_json: bool) -> None:
    """Print a finding, and the devices it is about where something is wrong there."""
    if as_json:
        click.echo(json.dumps(asdict(finding), ensure_ascii=False))
        return
    level = click.style(f"{finding.level:8}", fg=COLOURS[finding.level])
    about = f" ({finding.about})" if finding.level != "ok" and finding.about else ""
    click.echo(level + printable(f"{finding.subject}: {finding.detail}{about}"))
