"""`slm-agent eval`: how good a pipeline is on labelled data."""

import json
import sys
from pathlib import Path

import click

from agent.cli.options import CONFIG, FILE, JSON, OWN, running
from agent.core.errors import ConfigError


@click.command("eval")
@click.argument("pipeline")
@click.argument("data", type=FILE)
@CONFIG
@OWN
@JSON
@click.option(
    "--predictions", type=FILE, metavar="OUT.jsonl", help="Write each prediction."
)
def eval_(
    pipeline: str,
    data: Path,
    config: Path | None,
    predictions: Path | None,
    *,
    own: bool,
    as_json: bool,
) -> None:
    """Score PIPELINE on labelled DATA, one text at a time.

    DATA is JSON Lines: {"text": ..., "label": ... | null, "spans": [{"start", "end",
    "label"}] | null}, offsets in characters, end exclusive. Texts without a label do
    not count for accuracy, and those without spans not for entities. A line that is no
    such object ends it: figures are of all lines or none.
    """
    from agent.evaluation import evaluate
    from agent.evaluation.examples import read_examples
    from agent.inference.pipeline import open_pipelines

    examples = read_examples(data)
    [opened] = open_pipelines(running(config, pipeline, own=own))
    bar = click.progressbar(length=len(examples), label=pipeline, file=sys.stderr)
    with bar:
        figures, decisions = evaluate.evaluate(opened, examples, lambda: bar.update(1))
    if predictions:
        lines = [
            json.dumps(evaluate.prediction_line(decision), ensure_ascii=False)
            for decision in decisions
        ]
        try:
            predictions.write_text("\n".join(lines) + "\n", "utf-8")
        except OSError as error:
            raise ConfigError(f"{predictions}: {error.strerror or error}") from error
    if as_json:
        click.echo(json.dumps(figures))
        return
    for key, value in figures.items():
        click.echo(f"{key:18} {value}")
