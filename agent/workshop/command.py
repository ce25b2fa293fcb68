"""What `slm-agent train` does: read a recipe, build its bundle, show how far it is."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

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

if TYPE_CHECKING:
    from agent.workshop.scoring import Figures

Report = Callable[[str, int, int, str], None]  # stage, done, total, detail
T = TypeVar("T")

CONSOLE = Console(stderr=True)


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

    scores = _shown(lambda report: train_bundle(chosen, data, folder, report))
    _say(scores)
    return folder


def build_own(lines: Path, name: str, out: Path) -> Path:
    """Make a whole pipeline of labelled lines (agent/workshop/own.py)."""
    from agent.workshop.own import own_pipeline

    own = _shown(lambda report: own_pipeline(lines, name, out, report, _tell))
    for line in own.lines():
        _tell(line)
    return own.folder


def _shown(work: Callable[[Report], T]) -> T:
    """Do the work with a progress bar for each stage."""
    with _progress(CONSOLE) as bar:
        stages: dict[str, TaskID] = {}

        def report(stage: str, done: int, total: int, detail: str) -> None:
            if stage not in stages:
                stages[stage] = bar.add_task(stage, total=total, detail="")
            bar.update(stages[stage], completed=done, total=total, detail=detail)

        return work(report)


def _tell(line: str) -> None:
    CONSOLE.print(line, markup=False, highlight=False, soft_wrap=True)


def _say(scores: "Figures") -> None:
    for name, value in (
        ("label accuracy", scores.alone.accuracy),
        ("span F1", scores.alone.span_f1),
        ("resolved by the cascade", scores.cascade.coverage),
        ("label accuracy among these", scores.cascade.resolved_accuracy),
        ("out-of-scope texts not resolved", scores.kept_outside),
    ):
        if value is not None:
            CONSOLE.print(f"{name}, on the validation texts: {value:.4f}")


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
