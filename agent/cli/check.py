"""`slm-agent check`: everything that can be known before the daemon starts."""

import json
import sys
from itertools import chain
from pathlib import Path

import click

from agent.cli.findings import print_finding
from agent.cli.options import CONFIG, JSON, OWN


@click.command()
@CONFIG
@OWN
@JSON
@click.option(
    "--schema", is_flag=True, help="Print the JSON Schema of each kind of file."
)
def check(config: Path | None, *, own: bool, as_json: bool, schema: bool) -> None:
    """Check configuration, bundles, probes and example cases.

    Of what runs here: in a fleet that is the version applied, over the own files.
    Nothing is connected. Exit status 2 if anything is wrong.
    """
    from agent.config.load import schemas

    if schema:
        from agent.broker.config import BrokerFile

        broker_schema = {"broker.toml": BrokerFile.model_json_schema()}
        click.echo(json.dumps(schemas() | broker_schema, indent=2))
        return
    from agent.daemon.checks import check as findings
    from agent.daemon.checks import membership
    from agent.fleet.status import fleet_status

    failed = False
    status = fleet_status(config, own=own)
    for finding in chain(membership(status), findings(status.config)):
        failed |= finding.level == "error"
        print_finding(finding, as_json=as_json)
    if failed:
        sys.exit(2)
