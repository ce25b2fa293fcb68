"""`slm-agent egress --dry-run`: what would leave of a text."""

import json
from pathlib import Path

import click

from agent.cli.options import running
from agent.core.words import printable


def show_would_leave(
    text: str, pipeline: str, config: Path | None, *, as_json: bool
) -> None:
    """Print what would leave of a text; with JSON the request, or null."""
    from agent.daemon.opened import finder_of, transport_of
    from agent.escalation.dry_run import Leaving, Staying, would_leave
    from agent.inference.pipeline import open_pipelines
    from agent.protocol.cases import encode_request

    loaded = running(config, pipeline, own=False)
    [opened] = open_pipelines(loaded)
    finder = finder_of(loaded, [opened])
    match would_leave(opened, text, finder, loaded.agent.device.id):
        case Staying(why) if as_json:
            click.echo("null")
        case Staying(why):
            click.echo(f"nothing leaves: {why}")
        case Leaving(request, _) if as_json:
            document = json.loads(encode_request(request))
            click.echo(json.dumps(document, ensure_ascii=False))
        case Leaving(request, hidden):
            transport = transport_of(loaded)
            if transport is None:
                raise AssertionError("a case that leaves, and no way out")
            click.echo(f"to        {transport.name} {printable(transport.to)}")
            click.echo(f"text      {printable(hidden.text)}")
            for placeholder, words in hidden.hidden.items():
                click.echo(f"hidden    {placeholder} = {printable(words)!r}")
            guess = json.dumps(request.guess, ensure_ascii=False)
            click.echo(f"guess     {printable(guess)}")
            click.echo(
                "with      labels, entity types and their meanings; --json has all"
            )
