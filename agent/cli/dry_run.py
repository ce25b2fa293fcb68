"""`slm-agent egress --dry-run`: what would leave of a text."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli.options import running
from agent.core.words import printable

if TYPE_CHECKING:
    from agent.escalation.dry_run import WouldLeave


def show_would_leave(
    text: str, pipeline: str, config: Path | None, *, as_json: bool
) -> None:
    """Print what would leave of a text; with JSON the request, or null."""
    from agent.daemon.opened import finder_of, transport_of
    from agent.escalation.dry_run import would_leave
    from agent.evaluation.evaluate import answer
    from agent.inference.pipeline import open_pipelines
    from agent.protocol.cases import encode_request

    loaded = running(config, pipeline, own=False)
    [opened] = open_pipelines(loaded)
    transport = transport_of(loaded)
    finder = finder_of(loaded, [opened])
    device = loaded.agent.device.id
    leaving = would_leave(opened, answer(opened, text), text, finder, device)
    if as_json:
        request = leaving.request and json.loads(encode_request(leaving.request))
        click.echo(json.dumps(request, ensure_ascii=False))
        return
    if leaving.request is None or transport is None:
        click.echo(f"nothing leaves: {_why(leaving, upstream=opened.plan is not None)}")
        return
    click.echo(f"to        {transport.name} {printable(transport.to)}")
    click.echo(f"text      {printable(leaving.hidden.text)}")
    for placeholder, words in leaving.hidden.hidden.items():
        click.echo(f"hidden    {placeholder} = {printable(words)!r}")
    guess = json.dumps(leaving.request.guess, ensure_ascii=False)
    click.echo(f"guess     {printable(guess)}")
    click.echo("with      labels, entity types and their meanings; --json shows all")


def _why(leaving: "WouldLeave", *, upstream: bool) -> str:
    from agent.core.types import Resolved

    if isinstance(leaving.decision, Resolved):
        return "it is resolved here"
    reason = leaving.decision.reason.value
    if upstream:
        return f"it stays unresolved ({reason}), as the pipeline's policy wants it"
    return f"it stays unresolved ({reason}); this pipeline has no upstream"
