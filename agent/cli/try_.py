"""`slm-agent try`: one text, one answer, and why."""

import json
from pathlib import Path

import click

from agent.cli.options import CONFIG, JSON, OWN, running


@click.command("try")
@click.argument("pipeline")
@click.argument("text")
@CONFIG
@OWN
@JSON
def try_(
    pipeline: str, text: str, config: Path | None, *, own: bool, as_json: bool
) -> None:
    """Ask PIPELINE about one TEXT, and say why it answers as it does.

    Example: slm-agent try home "wake me up at seven"
    """
    from agent.evaluation import evaluate
    from agent.inference.pipeline import open_pipelines
    from agent.protocol.messages import decision_object

    [opened] = open_pipelines(running(config, pipeline, own=own))
    evaluate.answer(opened, "warm up")
    decision, ms = evaluate.timed(opened, text)
    said = {
        "pipeline": opened.name,
        "text": text,
        **decision_object(decision),
        "threshold": opened.policy.threshold,
        "model": opened.bundle.id,
        "ms": round(ms, 3),
    }
    if as_json:
        click.echo(json.dumps(said, ensure_ascii=False))
        return
    _print_answer(said)


def _print_answer(said: dict[str, object]) -> None:
    resolved = said["status"] == "resolved"
    status = click.style(str(said["status"]), fg="green" if resolved else "yellow")
    why = "" if resolved else f" ({said['reason']})"
    click.echo(f"status    {status}{why}")
    threshold = said["threshold"]
    limit = "no threshold" if threshold is None else f"threshold {threshold:.4f}"
    if said["label"] is not None:
        click.echo(f"label     {said['label']}  score {said['score']}, {limit}")
    elif said["score"] is not None:
        click.echo(f"entities  all right with {said['score']}, {limit}")
    entities = said["entities"]
    if isinstance(entities, list):
        for entity in entities:
            place = f"{entity['start']}-{entity['end']}"
            click.echo(
                f"entity    {entity['label']} = {entity['text']!r}  "
                f"at {place}, score {entity['score']}"
            )
    click.echo(f"by        {said['by']} of {said['model']}, {said['ms']} ms")
