"""`slm-agent eval`: how good a pipeline is on labelled data."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli.options import (
    CONFIG,
    FILE,
    JSON,
    LABEL_COLUMN,
    OWN,
    TEXT_COLUMN,
    running,
    warn_of_unknown,
    write,
)

if TYPE_CHECKING:
    from agent.evaluation.evaluate import Evaluation


@click.command("eval")
@click.argument("pipeline")
@click.argument("data", type=FILE)
@CONFIG
@OWN
@JSON
@TEXT_COLUMN
@LABEL_COLUMN
@click.option(
    "--predictions",
    type=FILE,
    metavar="OUT.jsonl",
    help="Write each prediction, with its text and what is true.",
)
@click.option(
    "--report", type=FILE, metavar="OUT.html", help="Write the report as a page, too."
)
def eval_(
    pipeline: str,
    data: Path,
    config: Path | None,
    text_column: str | None,
    label_column: str | None,
    predictions: Path | None,
    report: Path | None,
    *,
    own: bool,
    as_json: bool,
) -> None:
    """Score PIPELINE on labelled DATA, one text at a time.

    DATA is JSON Lines: {"text": ..., "label": ... | null, "spans": [{"start", "end",
    "label"}] | null}, offsets in characters, end exclusive; or a .csv or .tsv file with
    the columns `text` and `label`. Texts without a label do not count for accuracy, and
    those without spans not for entities. A line that is no such object, or has another
    key, ends it: figures are of all lines or none.

    The report has percentages with their 95 % intervals, the worst labels and entities,
    confusions, how the error grows with coverage, and the texts that are wrong although
    the pipeline is sure. It shows texts of DATA.
    """
    from agent.evaluation.evaluate import evaluate
    from agent.evaluation.examples import Columns, read_examples
    from agent.inference.pipeline import open_pipelines

    examples = read_examples(data, Columns(text_column, label_column))
    loaded = running(config, pipeline, own=own)
    [opened] = open_pipelines(loaded)
    warn_of_unknown(loaded, pipeline, examples)
    bar = click.progressbar(length=len(examples), label=pipeline, file=sys.stderr)
    with bar:
        scored = evaluate(opened, examples, lambda: bar.update(1))
    if predictions:
        write(predictions, _predictions(scored))
    _show(scored, data, report, as_json=as_json)


def _predictions(scored: "Evaluation") -> str:
    from agent.evaluation.evaluate import prediction_line

    return "".join(
        json.dumps(prediction_line(a.example, a.decision), ensure_ascii=False) + "\n"
        for a in scored.answers
    )


def _show(
    scored: "Evaluation", data: Path, report: Path | None, *, as_json: bool
) -> None:
    from agent.cli.eval_report import html_report, text_report
    from agent.evaluation.breakdown import breakdown

    table_report = breakdown(scored.answers, scored.labels)
    if report:
        write(report, html_report(scored.figures, table_report, data.name))
    if as_json:
        click.echo(json.dumps(scored.figures))
        return
    for line in text_report(scored.figures, table_report):
        click.echo(line)
