"""`slm-agent doctor`: whether everything around the daemon is as it needs it."""

import asyncio
import sys
from pathlib import Path

import click

from agent.cli.findings import print_finding
from agent.cli.options import CONFIG, JSON, OWN


@click.command()
@CONFIG
@OWN
@JSON
def doctor(config: Path | None, *, own: bool, as_json: bool) -> None:
    """Look at everything around the daemon: broker, access, disk, clock, runtime.

    Beside a running daemon, without disturbing it; `check` looks at the files only.
    Exit status 2 if something is wrong, 0 with warnings.
    """
    from agent.core.findings import Finding
    from agent.daemon.diagnosis import examine
    from agent.fleet.status import fleet_status

    async def all_of() -> list[Finding]:
        findings = []
        async for finding in examine(fleet_status(config, own=own)):
            print_finding(finding, as_json=as_json)
            findings.append(finding)
        return findings

    if any(finding.level == "error" for finding in asyncio.run(all_of())):
        sys.exit(2)
