"""`slm-agent calibrate`: scores and thresholds from the operator's own texts."""

import sys
from pathlib import Path

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
)
from agent.core.errors import ConfigError


@click.command()
@click.argument("pipeline")
@click.argument("data", type=FILE)
@CONFIG
@OWN
@JSON
@TEXT_COLUMN
@LABEL_COLUMN
@click.option(
    "--out",
    type=FILE,
    metavar="FILE",
    help="Default: <pipeline>.calibration.json beside the pipeline's file.",
)
def calibrate(
    pipeline: str,
    data: Path,
    config: Path | None,
    out: Path | None,
    text_column: str | None,
    label_column: str | None,
    *,
    own: bool,
    as_json: bool,
) -> None:
    """Recalibrate PIPELINE on this device with your own labelled DATA.

    DATA is as for `eval`: some hundred texts as they arrive here, with true
    labels and spans. A line without one of these says nothing about it. Three in ten
    fit the scores, seven certify the thresholds. Texts with a label that the bundle
    does not have (such as "oos") are out of scope, and any answer to them is wrong. The
    file written is used from the next start on, instead of the bundle's own
    calibration.
    """
    from agent.evaluation import recalibrate
    from agent.evaluation.examples import Columns, read_examples

    examples = read_examples(data, Columns(text_column, label_column))
    loaded = running(config, pipeline, own=own)
    place = out or loaded.calibration_file(pipeline)
    if not place.parent.is_dir():  # better said before the work than after it
        raise ConfigError(f"{place}: no such folder")
    warn_of_unknown(loaded, pipeline, examples)
    for key in recalibrate.missing_truth(loaded, pipeline, examples).values():
        click.echo(
            f"no line has {key!r}: what is certified leaves that out, and its scores "
            "stay as they are",
            err=True,
        )
    bar = click.progressbar(length=len(examples), label=pipeline, file=sys.stderr)
    with bar:
        made = recalibrate.recalibrate(
            loaded, pipeline, examples, data.name, lambda: bar.update(1)
        )
    recalibrate.write(made, place)
    if as_json:
        click.echo(made.model_dump_json())
        return
    for guarantee, rows in made.tables.items():
        click.echo(click.style(f"wrong means: {guarantee.value}", bold=True))
        if not rows:
            click.echo(f"  {made.certified_on} texts cannot certify any error")
        for row in rows:
            click.echo(
                f"  max_error {row.max_error:<6g} score {row.threshold:.4f}  "
                f"answers {row.coverage:6.1%}  wrong {row.error:.1%}"
            )
    click.echo(f"{place}: written")
