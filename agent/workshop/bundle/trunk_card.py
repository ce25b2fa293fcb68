"""The card of a trunk: its members, its sources, and what int8 costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from agent.workshop.bundle.card import Encoding, listed, number, sizes
from agent.workshop.bundle.finishing import Finished
from agent.workshop.data.recipe import SHIPPED, Recipe, TrunkRecipe
from agent.workshop.training.scoring import Figures

CARD = Template("""\
# $name $version

$description

A trunk is no bundle: it answers nothing by itself. Bundles in folders beside it stand
on it: $members.
Their heads read what it makes of a text, and a process that runs several of them holds
it once. They move together: each lists the sha256 of the files here, and is refused
beside any other trunk.

| | |
|---|---|
| language | $language |
| model | $model |
| licence | $licence |
| size | $size |

## Made from

$sources

Trained on the $train training texts of its members together, $epochs epochs: each batch
is of one member, the batches of all are shuffled.
${teachers}It was never shown what is out of scope: the linear tiers of its members know
that.

## Scores

What its members' encoder tiers, which weigh in the linear tiers, say to all validation
texts in scope, one text at a time, with the code that ships:

| | fp32 | int8 (this trunk) |
|---|---|---|
$scores

Coverage, thresholds and certificates are those of the members: see their cards.

## Limits

$limits

## Rebuild

```
slm-agent train $recipe --data DIR
```

makes the trunk and its members. `DIR` has $data.
""")


@dataclass(frozen=True, slots=True)
class Taught:
    """A member of a trunk and its finished bundle; `train` counts its texts."""

    recipe: Recipe
    train: int
    finished: Finished


def write_trunk_card(
    path: Path, recipe: TrunkRecipe, encoding: Encoding, taught: Sequence[Taught]
) -> None:
    """Write the card to `path` in the finished trunk, whose file sizes it lists."""
    about = recipe.about
    shipped = (SHIPPED / f"{about.name}.toml").is_file()
    sources = [source for one in taught for source in one.recipe.about.sources]
    path.write_text(
        CARD.substitute(
            name=about.name,
            version=about.version,
            description=about.description,
            members=", ".join(_linked(one.recipe.about.name) for one in taught),
            language=about.language,
            model=str(encoding),
            licence=about.licence,
            size=sizes(path.parent),
            sources=listed(list(dict.fromkeys([*sources, *about.sources]))),
            train=f"{sum(one.train for one in taught):,}",
            epochs=recipe.training.epochs,
            teachers=_teachers(taught),
            scores="\n".join(line for one in taught for line in _scores(one)),
            limits=listed(about.limits or ["Not examined."]),
            recipe=about.name if shipped else f"{about.name}.toml",
            data=_data(recipe, taught),
        ),
        encoding="utf-8",
    )


def trunk_scores(taught: Sequence[Taught]) -> dict[str, float]:
    """Return the scores of the trunk's manifest."""
    return {
        f"{one.recipe.about.name}_{name}{end}": round(value, 4)
        for one in taught
        for made, end in ((one.finished.quantised, ""), (one.finished.exact, "_fp32"))
        if made
        for name, value in _alone(made).items()
        if value is not None
    }


def _alone(made: Figures) -> Mapping[str, float | None]:
    return {"accuracy": made.alone.accuracy, "span_f1": made.alone.span_f1}


def _scores(one: Taught) -> list[str]:
    quantised = _alone(one.finished.quantised)
    exact = _alone(one.finished.exact) if one.finished.exact else {}
    words = {"accuracy": "label accuracy", "span_f1": "span F1 (micro, exact)"}
    return [
        f"| {_linked(one.recipe.about.name)}: {words[name]} "
        f"| {number(exact.get(name))} | {number(value)} |"
        for name, value in quantised.items()
        if value is not None
    ]


def _linked(name: str) -> str:
    return f"[{name}](../{name}/README.md)"


def _teachers(taught: Sequence[Taught]) -> str:
    sentences = [
        f"`{one.recipe.about.name}` learned the mean opinion of "
        f"{one.recipe.training.teachers} networks of its own beside its labels.\n"
        for one in taught
        if one.recipe.training.teachers
    ]
    return "".join(sentences)


def _data(recipe: TrunkRecipe, taught: Sequence[Taught]) -> str:
    folders = dict.fromkeys(f"`{one.recipe.data.folder}/`" for one in taught)
    more = "".join(f", `{name}`" for name in recipe.vocabulary.texts)
    return f"{', '.join(folders)} with train.jsonl and valid.jsonl{more}"
