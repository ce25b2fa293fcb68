"""`slm-agent train`: bundles, on a machine with the workshop."""

from pathlib import Path

import click

from agent.cli.options import LABEL_COLUMN, TEXT_COLUMN
from agent.core.errors import ConfigError
from agent.core.interpreter import pip_install


@click.command()
@click.argument("recipe")
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=".",
    show_default=True,
    help="Folder of the data; the recipe names the files in it.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the bundle, default models/<name>; of a trunk's bundles, models.",
)
@click.option("--name", help="Of the pipeline made from labelled lines.")
@TEXT_COLUMN
@LABEL_COLUMN
@click.option("--seed", type=int, help="Instead of the recipe's.")
@click.option("--epochs", type=int, help="Instead of the recipe's.")
@click.option(
    "--refit",
    is_flag=True,
    help="Keep the encoder of a trunk that is there; make all else anew, in minutes.",
)
def train(
    recipe: str,
    data: Path,
    out: Path | None,
    name: str | None,
    text_column: str | None,
    label_column: str | None,
    seed: int | None,
    epochs: int | None,
    *,
    refit: bool,
) -> None:
    """Train, quantise and calibrate the bundle of RECIPE (workshop, not on a device).

    RECIPE is the name of a shipped one, a TOML file, or your own labelled
    texts (.jsonl, .csv, .tsv).

    \b
      slm-agent train maintenance --data DIR a shipped recipe; DIR has maintie/...
      slm-agent train english --data DIR     the trunk of four bundles, and these
      slm-agent train my.toml --data DIR     a recipe of yours
      slm-agent train my.jsonl --name desk --out desk
                                             some hundred labelled lines: a bundle, a
                                             pipeline and an agent.toml in desk/

    Data is in the format of `eval`. An interrupted run goes on where it was.
    """  # noqa: D301  \b is click's mark of a paragraph to leave as it is
    try:
        import torch as _  # noqa: F401

        from agent.evaluation.examples import DELIMITERS, Columns
        from agent.workshop import command
    except ImportError as error:
        raise ConfigError(
            f"the workshop is missing ({error.name}): {pip_install('workshop')}"
        ) from error
    if Path(recipe).suffix.lower() in {".jsonl", *DELIMITERS}:
        if not (name and out):
            raise ConfigError(f"{recipe}: give --name and --out, too")
        columns = Columns(text_column, label_column)
        folder = command.build_own(Path(recipe), name, out, columns)
        click.echo(f"{folder}: done; try slm-agent check --config {folder}/agent.toml")
        return
    folder = command.build(recipe, data, out, seed, epochs, refit=refit)
    click.echo(f"{folder}: done; its README.md says how good it is")
