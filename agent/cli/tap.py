"""`slm-agent tap`: results and dead letters as they come."""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.options import CONFIG, JSON, OWN, running
from agent.core.types import Message
from agent.core.words import printable

if TYPE_CHECKING:
    from agent.config.load import Config


@click.command()
@CONFIG
@OWN
@JSON
@click.option("--device", default="+", help="Only this one; default all.")
@click.option("--pipeline", default="+", help="Only this one; default all.")
@click.option("--limit", type=int, help="End after so many.")
def tap(
    config: Path | None,
    device: str,
    pipeline: str,
    limit: int | None,
    *,
    own: bool,
    as_json: bool,
) -> None:
    """Show results and dead letters as they come, from all devices on the broker.

    A line each: when it came, device and pipeline, the topic of the message, what came
    out. --json prints them as they were published.

    Example: slm-agent tap --device pi-3 --json | jq .label
    """
    loaded = running(config, own=own)
    with suppress(KeyboardInterrupt):
        asyncio.run(print_messages(loaded, device, pipeline, limit, as_json=as_json))


async def print_messages(
    config: "Config", device: str, pipeline: str, limit: int | None, *, as_json: bool
) -> None:
    """Print results and dead letters as they come; `limit` ends it."""
    from agent.cli.listening import listening

    filters = [f"slm/{device}/{kind}/{pipeline}" for kind in ("result", "deadletter")]
    async with listening(config, filters) as heard:
        shown = 0
        while limit is None or shown < limit:
            message = await heard.get()
            shown += 1
            print(  # noqa: T201
                message.payload.decode("utf-8", "replace")
                if as_json
                else line(message),
                flush=True,
            )


def line(message: Message) -> str:
    """Return a result or dead letter in one line for eyes; never its text.

    The time is that of its arrival here, in the local time zone.
    """
    from pydantic_core import from_json

    try:
        shown = _line(from_json(message.payload))
    except (ValueError, TypeError, KeyError, AttributeError):  # anybody may publish
        shown = f"{message.topic}: {len(message.payload)} bytes, no result"
    return printable(f"{message.received_at.astimezone():%H:%M:%S}  {shown}")


def _line(fields: dict[str, Any]) -> str:
    where = f"{fields.get('device')}/{fields.get('pipeline')}  {fields.get('topic')}"
    if "status" not in fields:
        return f"{where}  dead letter: {fields.get('reason')}  {fields.get('id')}"
    score = fields.get("score")
    entities = [f"{e['label']}={e['text']}" for e in fields.get("entities", [])]
    shown = [
        where,
        fields["status"] if fields.get("final", True) else "provisional",
        str(fields.get("label")),
        "" if score is None else f"{score:.2f}",
        f"by {fields.get('by')}",
        fields.get("reason") or "",
        ", ".join(entities),
        f"{fields['ms']['total']:.1f} ms",
        fields.get("id", ""),
    ]
    return "  ".join(part for part in shown if part)
