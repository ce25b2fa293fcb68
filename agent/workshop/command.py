"""What `slm-agent train` does: read a recipe, build its bundle, show how far it is."""

import time
from collections.abc import Callable
from datetime import timedelta
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

from agent.core.errors import ConfigError
from agent.evaluation.examples import Columns
from agent.workshop.data.recipe import (
    Recipe,
    TrunkRecipe,
    find_recipe,
    read_any,
    read_members,
)

if TYPE_CHECKING:
    from agent.workshop.training.scoring import Figures

Report = Callable[[str, int, int, str], None]  # stage, done, total, detail
T = TypeVar("T")
R = TypeVar("R", Recipe, TrunkRecipe)

CONSOLE = Console(stderr=True)


def build(
    recipe: str,
    data: Path,
    out: Path | None = None,
    seed: int | None = None,
    epochs: int | None = None,
    *,
    refit: bool = False,
) -> Path:
    """Build what a shipped recipe or a recipe file is for; return its folder.

    `data` has the folders that the recipe names, with train.jsonl and valid.jsonl.
    `out` is the folder of the bundle, `models/<name>` unless given; for a trunk that of
    all bundles, `models`. `refit` keeps the trunk's encoder that is there.
    Raises ConfigError.
    """
    path = find_recipe(recipe)
    chosen = read_any(path)
    if isinstance(chosen, TrunkRecipe):
        whole = _changed(chosen, seed, epochs)
        return _build_trunk(whole, path, data, out or Path("models"), refit=refit)
    if refit:
        raise ConfigError(f"{chosen.about.name} is no trunk; only one can be refitted")
    if chosen.trunk:
        raise ConfigError(
            f"{chosen.about.name} stands on the trunk {chosen.trunk} and is made with "
            f"it: slm-agent train {chosen.trunk}"
        )
    changed = _changed(chosen, seed, epochs)
    folder = out or Path("models") / chosen.about.name
    # Seconds, and only the workshop has them: `slm-agent train --help` does not wait.
    from agent.workshop.bundle.building import train_bundle

    _say(_shown(lambda report: train_bundle(changed, data, folder, report)))
    return folder


def _build_trunk(
    recipe: TrunkRecipe, path: Path, data: Path, out: Path, *, refit: bool
) -> Path:
    """Make a trunk and all that stands on it, in the folder `out`."""
    members = read_members(path, recipe)
    from agent.workshop.bundle.trunk_building import refit_trunk, train_trunk

    make = refit_trunk if refit else train_trunk
    figures = _shown(lambda report: make(recipe, members, data, out, report))
    for name, scores in figures.items():
        _tell(f"{out / name}:")
        _say(scores)
    return out / recipe.about.name


def build_own(
    lines: Path, name: str, out: Path, columns: Columns | None = None
) -> Path:
    """Make a whole pipeline of labelled lines (agent/workshop/own.py)."""
    from agent.workshop.own import own_pipeline

    own = _shown(lambda report: own_pipeline(lines, name, out, report, _tell, columns))
    for line in own.lines():
        _tell(line)
    return own.folder


def _shown(work: Callable[[Report], T]) -> T:
    """Do the work with a progress bar for each stage, or lines where nobody watches."""
    if not CONSOLE.is_terminal:
        return work(ProgressLines(_tell).report)
    with _progress(CONSOLE) as bar:
        stages: dict[str, TaskID] = {}

        def report(stage: str, done: int, total: int, detail: str) -> None:
            if stage not in stages:
                stages[stage] = bar.add_task(stage, total=total, detail="")
            bar.update(stages[stage], completed=done, total=total, detail=detail)

        return work(report)


class ProgressLines:
    """Tells progress in a log: a line as each stage and each epoch begins and ends."""

    def __init__(
        self, tell: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`clock` is in seconds."""
        self._tell = tell
        self._clock = clock
        self._begun: dict[str, tuple[float, int]] = {}  # by stage: when, and what was
        self._said: dict[str, str] = {}  # by stage: the epoch of the last line

    def report(self, stage: str, done: int, total: int, detail: str) -> None:
        """Take a `Report`; most of them say nothing new."""
        epoch = detail.partition(",")[0]
        if done < total and self._said.get(stage) == epoch:
            return
        self._said[stage] = epoch
        now = self._clock()
        since, before = self._begun.setdefault(stage, (now, done))
        line = [f"{stage}: {done / total:.0%}" if total else stage, detail]
        if before < done < total:
            left = (now - since) / (done - before) * (total - done)
            line.append(f"{timedelta(seconds=round(left))} left")
        self._tell(", ".join(filter(None, line)))


def _tell(line: str) -> None:
    CONSOLE.print(line, markup=False, highlight=False, soft_wrap=True)


def _say(scores: "Figures") -> None:
    for name, value in (
        ("label accuracy", scores.alone.accuracy),
        ("span F1", scores.alone.span_f1),
        ("resolved by the cascade", scores.cascade.coverage),
        ("label accuracy among these", scores.cascade.resolved_accuracy),
        ("out-of-scope texts not resolved", scores.cascade.out_of_scope_kept),
    ):
        if value is not None:
            CONSOLE.print(f"{name}, on the validation texts: {value:.4f}")


def _changed(recipe: R, seed: int | None, epochs: int | None) -> R:
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
