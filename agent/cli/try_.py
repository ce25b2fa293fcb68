"""`slm-agent try`: one text, one answer, and why."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli.options import CONFIG, JSON, OWN, running
from agent.core.words import printable

if TYPE_CHECKING:
    from agent.inference.pipeline import Pipeline


@click.command("try")
@click.argument("pipeline")
@click.argument("text", required=False)
@CONFIG
@OWN
@JSON
def try_(
    pipeline: str, text: str | None, config: Path | None, *, own: bool, as_json: bool
) -> None:
    """Ask PIPELINE about one TEXT, and say why it answers as it does.

    With - the texts are the lines of standard input; without TEXT you type them, and
    Ctrl-D ends.

    \b
      slm-agent try home "wake me up at seven"
      slm-agent try home - < texts.txt
      slm-agent try home
    """  # noqa: D301  \b is click's mark of a paragraph to leave as it is
    if text is None and not sys.stdin.isatty():
        raise click.UsageError("give TEXT, or - to read standard input")
    from agent.inference.pipeline import open_pipelines

    [opened] = open_pipelines(running(config, pipeline, own=own))
    _ask(opened, "warm up")
    for number, line in enumerate(_texts(text)):
        if number and not as_json:
            click.echo()
        answer = _ask(opened, line)
        if as_json:
            click.echo(json.dumps(answer, ensure_ascii=False))
        else:
            if text == "-":
                click.echo(f"text      {printable(line)}")
            _print_answer(answer)


def _texts(text: str | None) -> Iterator[str]:
    """Yield the texts to ask about; lines of nothing but white space are none."""
    if text is None:
        while typed := _read_line():
            if typed.strip():
                yield typed.strip()
    elif text == "-":
        for line in sys.stdin.buffer:
            if line.strip():
                yield line.decode("utf-8", "replace").rstrip("\r\n")
    else:
        yield text


def _read_line() -> str:
    """Return the next line that is typed; empty once there is none."""
    click.echo("> ", nl=False, err=True)
    line = sys.stdin.readline()
    if not line:
        click.echo(err=True)
    return line


def _ask(pipeline: "Pipeline", text: str) -> dict[str, object]:
    from agent.evaluation import evaluate
    from agent.protocol.messages import decision_object

    decision, ms = evaluate.timed(pipeline, text)
    return {
        "pipeline": pipeline.name,
        "text": text,
        **decision_object(decision),
        "threshold": pipeline.policy.threshold,
        "model": pipeline.bundle.id,
        "ms": round(ms, 3),
    }


def _print_answer(answer: dict[str, object]) -> None:
    resolved = answer["status"] == "resolved"
    status = click.style(str(answer["status"]), fg="green" if resolved else "yellow")
    why = "" if resolved else f" ({answer['reason']})"
    click.echo(f"status    {status}{why}")
    threshold = answer["threshold"]
    limit = "no threshold" if threshold is None else f"threshold {threshold:.4f}"
    if answer["label"] is not None:
        click.echo(f"label     {answer['label']}  score {answer['score']}, {limit}")
    elif answer["score"] is not None:
        click.echo(f"entities  all right with {answer['score']}, {limit}")
    if answer.get("form"):
        click.echo(f"form      {answer['form']}")
    entities = answer["entities"]
    if isinstance(entities, list):
        for entity in entities:
            place = f"{entity['start']}-{entity['end']}"
            click.echo(
                f"entity    {entity['label']} = {entity['text']!r}  "
                f"at {place}, score {entity['score']}"
            )
    click.echo(f"by        {answer['by']} of {answer['model']}, {answer['ms']} ms")
