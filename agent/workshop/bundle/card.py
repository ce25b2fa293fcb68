"""The model card of a bundle: what it is, its sources, figures and limits."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from agent.core.types import Guarantee
from agent.evaluation.scoring import Scoreboard
from agent.inference.calibration import Calibration, Threshold
from agent.workshop.data.recipe import SHIPPED, BundleClaims, Other, Recipe
from agent.workshop.training.scoring import Figures

CARD = Template("""\
# $name $version

$description

| | |
|---|---|
| language | $language |
| answers | $answers |
| model | $model |
| licence | $licence |
| size | $size |

## Made from

$sources

Trained on $train examples ($trained_on), all of them, $how; scored on
$valid others ($scored_on) that were never trained on. Of these, $fitted_on fitted the
scores, the other $certified_on certified the thresholds.$more

## Scores

On the $valid validation texts, one at a time, with the code that ships:

| | fp32 | int8 (this bundle) |
|---|---|---|
$scores

The cascade's figures are those at `max_error` $max_error on the $guarantee$floor.
The accuracy of the whole cascade is what `slm-agent eval` counts: by the tier that
answered, and a text out of scope is right if it was left unresolved.
Calibration error: 0.01 means that scores are off by one point on average. As some of
these texts fitted the scores, expect a little more elsewhere.

$field## Thresholds

The lowest score from which on at most the allowed share is wrong, with 95 % confidence,
for the whole cascade (exact binomial, fixed sequence), on texts like those:
$mixture.
Errors that the data cannot carry are not listed.

$thresholds$promise

## Limits

$limits

## Rebuild

```
slm-agent train $recipe --data DIR
```

$data
The same data, seed and versions of torch and onnxruntime give the same bundle, up to
the rounding of another processor.
""")

FIELD = """\
## In the field

Validation texts in scope, said otherwise in one way (agent/workshop/data/speech.py),
with words that did not teach:

| said otherwise | label right | resolved | wrong among the resolved |
|---|---|---|---|
{lines}
{told}
"""

PROMISE = """

**These texts were made up, so the table certifies nothing about yours**: results carry
no `error_bound`. `slm-agent calibrate` with your own labelled texts changes that."""

SAID = {
    Guarantee.LABEL: "label",
    Guarantee.ENTITIES: "entities",
    Guarantee.BOTH: "label and the entities",
}
WRONG = {
    Guarantee.LABEL: "the label is wrong",
    Guarantee.ENTITIES: "any entity is missing, extra or different",
    Guarantee.BOTH: "the label or any entity is wrong",
}


@dataclass(frozen=True, slots=True)
class Encoding:
    """The encoder of a bundle, its own or that of its trunk."""

    package: str  # of the pretrained encoder
    layers: int
    pieces: int
    max_tokens: int
    trunk: BundleClaims | None = None

    def __str__(self) -> str:
        """Return one line for the card."""
        return (
            f"{self.layers} layers of {self.package}, {self.pieces:,} word pieces, "
            f"window of {self.max_tokens} tokens, int8"
        )

    @property
    def source(self) -> str:
        """The source line of a bundle on a trunk; empty without one."""
        if self.trunk is None:
            return ""
        name = self.trunk.name
        return (
            f"{name} {self.trunk.version}, the trunk: {self.trunk.description} Its "
            f"sources and licences: ../{name}/README.md"
        )


@dataclass(frozen=True, slots=True)
class Field:
    """How a bundle does on texts as they come: said otherwise, and among strangers.

    `ways` are the figures of each way of saying it otherwise, by its name; `errors`
    those of all resolved, by the share of what is out of scope.
    """

    ways: Mapping[str, Scoreboard]
    errors: Mapping[str, float] | None


@dataclass(frozen=True, slots=True)
class Measured:
    """The measured part of a card; the rest comes from the recipe."""

    exact: Figures | None
    quantised: Figures
    calibration: Calibration
    guarantee: Guarantee
    max_error: float
    labels: int
    entities: int
    encoding: Encoding
    train: int
    valid: int
    field: Field | None = None


def write_card(path: Path, recipe: Recipe, measured: Measured) -> None:
    """Write the card to `path` in the finished bundle, whose file sizes it lists."""
    about = recipe.about
    made = measured.calibration
    generated = recipe.data.generated
    made_up = "generated, and real lines" if recipe.data.lines else "generated"
    folder = recipe.data.folder
    trunk = measured.encoding.trunk
    maker = trunk.name if trunk else about.name
    shipped = (SHIPPED / f"{maker}.toml").is_file()
    text = CARD.substitute(
        name=about.name,
        version=about.version,
        description=about.description,
        language=about.language,
        answers=f"{measured.labels} labels, {measured.entities} entity types",
        model=_model(recipe, measured.encoding),
        licence=about.licence,
        size=sizes(path.parent),
        sources=listed(sources(recipe, measured.encoding)),
        train=f"{measured.train:,}",
        valid=f"{measured.valid:,}",
        trained_on=made_up if generated else f"{folder}/train.jsonl",
        how="together with the trunk" if trunk else "with a fixed schedule",
        scored_on=made_up if generated else f"{folder}/valid.jsonl",
        fitted_on=f"{made.fitted_on:,}",
        certified_on=f"{made.certified_on:,}",
        more=_more(recipe),
        scores=_scores(measured.exact, measured.quantised),
        field=_field(measured.field),
        mixture=made.data,
        max_error=f"{measured.max_error:g}",
        guarantee=SAID[measured.guarantee],
        floor=f" and from score {about.min_score:g} on" if about.min_score else "",
        thresholds="\n\n".join(
            _table(guarantee, rows) for guarantee, rows in made.tables.items()
        ),
        promise="" if made.certified else PROMISE,
        limits=listed(about.limits or ["Not examined."]),
        recipe=maker if shipped else f"{maker if trunk else 'RECIPE'}.toml",
        data=_data(recipe),
    )
    path.write_text(text, encoding="utf-8")


def sources(recipe: Recipe, encoding: Encoding) -> list[str]:
    """Return the sources of the bundle, with their licences."""
    others = recipe.outside.others if recipe.outside else []
    outside = [f"Out of scope: {other.source}" for other in others if other.source]
    trunk = [encoding.source] if encoding.trunk else []
    return [*recipe.about.sources, *outside, *trunk]


def _model(recipe: Recipe, encoding: Encoding) -> str:
    linear = f"hashed n-grams (2^{recipe.linear.bits}), then " if recipe.linear else ""
    if encoding.trunk is None:
        return f"{linear}{encoding}"
    name = encoding.trunk.name
    return f"{linear}heads on the trunk [{name}](../{name}/README.md): {encoding}"


def _more(recipe: Recipe) -> str:
    sentences = []
    if recipe.data.generated:
        sentences.append(
            "\nNo generated text that scored shares a template with one that taught, "
            "nor a name, place or\norganisation of our lists."
        )
    if recipe.training.teachers:
        sentences.append(
            f"\nThe encoder learned the mean opinion of {recipe.training.teachers} "
            "networks of all layers beside the labels."
        )
    if recipe.outside:
        others = ", ".join(_files(recipe.outside.others, "train"))
        whole = recipe.outside.encoder and recipe.trunk is None
        pupil = "it" if whole else "the linear tier"
        sentences.append(
            f"\nTexts of other domains, in other languages and nonsense taught {pupil} "
            "what is out of scope"
            + (f": {others}, and generated ones." if others else ".")
        )
    return "".join(sentences)


def _data(recipe: Recipe) -> str:
    if recipe.data.generated:
        files = [line.file.format(split="*") for line in recipe.data.lines]
        named = ", ".join(f"`{file}`" for file in files)
        if named:
            return (
                f"Texts are generated; `DIR` has real lines to go with them: {named}."
            )
        return "The texts are generated; `DIR` may be empty."
    folder = recipe.data.folder
    others = [] if recipe.trunk else [*recipe.vocabulary.texts]
    if recipe.outside:
        others += _files(recipe.outside.others, "train", "valid")
    named = ", ".join(f"`{name}`" for name in dict.fromkeys(others))
    what = "what" if recipe.trunk else "vocabulary and what"
    return (
        f"`DIR` has `{folder}/train.jsonl` and `{folder}/valid.jsonl`"
        + (f"; {what} is out of scope also comes from {named}." if named else ".")
        + (
            f"\nThat makes the trunk and all that stand on it; `DIR` has the data of "
            f"all (../{recipe.trunk}/README.md)."
            if recipe.trunk
            else ""
        )
    )


def _files(others: Sequence[Other], *splits: str) -> list[str]:
    """Return the files of other domains for these splits, each once."""
    named = (other.file.format(split=split) for other in others for split in splits)
    return list(dict.fromkeys(named))


def sizes(folder: Path) -> str:
    """Return names and sizes of the model files, the largest first."""
    names = ("encoder.onnx*", "heads.onnx*", "linear.npz", "tokenizer.json")
    files = [path for name in names for path in folder.glob(name)]
    sizes = sorted(((p.stat().st_size, p.name) for p in files), reverse=True)
    return ", ".join(f"{name} {size / 1e6:.1f} MB" for size, name in sizes)


def listed(items: Sequence[str]) -> str:
    """Return items as the lines of a Markdown list."""
    return "\n".join(f"- {item}" for item in items)


def _field(field: Field | None) -> str:
    """Return the section on texts as they come."""
    if field is None:
        return ""
    lines = "\n".join(
        f"| {name} | {number(board.in_scope_accuracy)} "
        f"| {number(board.in_scope_coverage)} | {number(_wrong(board))} |"
        for name, board in field.ways.items()
    )
    errors = ""
    if field.errors:
        shares = ", ".join(
            f"{value:.1%} where {float(share):.0%} of the texts are out of scope"
            for share, value in field.errors.items()
        )
        errors = (
            f"\nOf all that is resolved of the calibration mixture, wrong: {shares}.\n"
        )
    return FIELD.format(lines=lines, told=errors)


def _wrong(board: Scoreboard) -> float | None:
    right = board.resolved_accuracy
    return None if right is None else 1 - right


def _scores(exact: Figures | None, quantised: Figures) -> str:
    named: dict[str, Callable[[Figures], float | None]] = {
        "label accuracy of the encoder (texts in scope)": lambda f: f.alone.accuracy,
        "span F1 of the encoder (micro, exact)": lambda f: f.alone.span_f1,
        "label accuracy of the whole cascade": lambda f: f.cascade.accuracy,
        "span F1 of the whole cascade": lambda f: f.cascade.span_f1,
        "span F2 of the whole cascade (overlap 0.7)": lambda f: f.cascade.span_f2,
        "characters of entities missed": lambda f: f.cascade.missed,
        "other characters hit": lambda f: _where(f.cascade.missed, f.cascade.hit),
        "resolved by the cascade": lambda f: f.cascade.coverage,
        "label accuracy among the resolved": lambda f: f.cascade.resolved_accuracy,
        "span F1 among the resolved": lambda f: f.cascade.resolved_span_f1,
        "out-of-scope texts not resolved": lambda f: f.cascade.out_of_scope_kept,
        "texts in scope resolved": lambda f: _where(
            f.cascade.out_of_scope_kept, f.cascade.in_scope_coverage
        ),
        "label accuracy of the whole cascade in scope": (
            lambda f: _where(f.cascade.out_of_scope_kept, f.cascade.in_scope_accuracy)
        ),
        "AURC of the cascade": lambda f: f.cascade.aurc,
        "calibration error of label scores": lambda f: f.alone.ece,
        "calibration error of entity scores": lambda f: f.alone.entity_ece,
    }
    return "\n".join(
        f"| {name} | {number(of(exact) if exact else None)} | {number(of(quantised))} |"
        for name, of in named.items()
        if of(quantised) is not None
    )


def _where(given: float | None, value: float | None) -> float | None:
    """Return `value`, or None if the figure that it depends on is missing."""
    return None if given is None else value


def number(value: float | None) -> str:
    """Return a figure with four digits, or an empty string."""
    return "" if value is None else f"{value:.4f}"


def _table(guarantee: Guarantee, rows: list[Threshold]) -> str:
    head = (
        f'Wrong means: {WRONG[guarantee]} (`guarantee = "{guarantee.value}"`).\n\n'
        "| allowed error | threshold | answered | wrong among them |\n|---|---|---|---|"
    )
    if not rows:
        return f"{head}\n| none can be certified | | | |"
    return "\n".join([head, *(_threshold(row) for row in rows)])


def _threshold(row: Threshold) -> str:
    return (
        f"| {row.max_error:g} | {row.threshold:.4f} "
        f"| {row.coverage:.1%} | {row.error:.1%} |"
    )
