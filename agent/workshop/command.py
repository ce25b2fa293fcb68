"""What `slm-agent train` does: read a recipe, build its bundle, show how far it is."""

from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from agent.workshop.recipe import Recipe, find_recipe, read_recipe


def build(
    recipe: str,
    data: Path,
    out: Path | None = None,
    seed: int | None = None,
    epochs: int | None = None,
) -> Path:
    """Build the bundle of a shipped recipe or a recipe file; return its folder.

    `data` has the folder that the recipe names, with train.jsonl and valid.jsonl.
    `out` is `models/<name>` unless given. Raises ConfigError.
    """
    chosen = _changed(read_recipe(find_recipe(recipe)), seed, epochs)
    folder = out or Path("models") / chosen.about.name
    # Seconds, and only the workshop has them: `slm-agent train --help` does not wait.
    from agent.workshop.building import train_bundle

    console = Console(stderr=True)
    with _progress(console) as bar:
        stages: dict[str, TaskID] = {}

        def report(stage: str, done: int, total: int, detail: str) -> None:
            if stage not in stages:
                stages[stage] = bar.add_task(stage, total=total, detail="")
            bar.update(stages[stage], completed=done, total=total, detail=detail)

        scores = train_bundle(chosen, data, folder, report)
    for name, value in (("accuracy", scores.accuracy), ("span F1", scores.span_f1)):
        if value is not None:
            console.print(f"{name} on the validation texts: {value:.4f}")
    return folder


def _changed(recipe: Recipe, seed: int | None, epochs: int | None) -> Recipe:
    given = {"seed": seed, "epochs": epochs}
    changes = {name: value for name, value in given.items() if value is not None}
    training = recipe.training.model_copy(update=changes)
    return recipe.model_copy(update={"training": training})


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<12}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}"),
        console=console,
    )
