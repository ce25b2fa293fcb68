"""The model card: what a bundle is, from what, how good, and where it ends."""

from dataclasses import dataclass
from pathlib import Path
from string import Template

from agent.certify import Certificate
from agent.scoring import Scoreboard
from agent.workshop.recipe import Recipe

CARD = Template("""\
# $name $version

$description

| | |
|---|---|
| language | $language |
| answers | $answers |
| model | $pretrained, $vocabulary word pieces, window of $window tokens, int8 |
| licence | $licence |
| size | $size |

## Made from

$sources

Trained on $train examples ($folder/train.jsonl), all of them, with a fixed schedule;
scored on $valid others ($folder/valid.jsonl) that were never trained on. Of these, one
half fitted the temperatures of the scores, the other ($certified_on) certified the
thresholds.

## Scores

On the $valid validation texts, one at a time, with the code that ships:

| | fp32 | int8 (this bundle) |
|---|---|---|
$scores

Calibration error: 0.01 means that scores are off by one point on average.
As temperatures were fitted on half of these texts, expect a little more elsewhere.

## Thresholds

The lowest label score from which on at most the allowed share is wrong, certified with
95 % confidence on $certified_on texts that nothing was fitted to (exact binomial,
fixed sequence), for texts like those. Errors that the data cannot carry are not listed.

| allowed error | threshold | answered | wrong among them |
|---|---|---|---|
$thresholds

## Limits

$limits

## Rebuild

```
slm-agent train $recipe --data DIR
```

`DIR` has `$folder/train.jsonl` and `$folder/valid.jsonl`$others.
The same data, seed and versions of torch and onnxruntime give the same bundle, up to
the rounding of another processor.
""")


@dataclass(frozen=True, slots=True)
class Measured:
    """What the card says beyond the recipe."""

    exact: Scoreboard
    quantised: Scoreboard
    table: list[Certificate]
    certified_on: int
    labels: int
    entities: int
    pieces: int
    train: int
    valid: int


def write_card(path: Path, recipe: Recipe, measured: Measured) -> None:
    """Write the card; `path` lies in the finished bundle, whose sizes it tells."""
    about = recipe.about
    others = ", ".join(f"`{name}`" for name in recipe.vocabulary.texts)
    text = CARD.substitute(
        name=about.name,
        version=about.version,
        description=about.description,
        language=about.language,
        answers=f"{measured.labels} labels, {measured.entities} entity types",
        pretrained=recipe.pretrained.package,
        vocabulary=f"{measured.pieces:,}",
        window=recipe.pretrained.max_tokens,
        licence=about.licence,
        size=_sizes(path.parent),
        sources=_listed(about.sources),
        train=f"{measured.train:,}",
        valid=f"{measured.valid:,}",
        certified_on=f"{measured.certified_on:,}",
        folder=recipe.data.folder,
        scores=_scores(measured.exact, measured.quantised),
        thresholds="\n".join(_threshold(row) for row in measured.table),
        limits=_listed(about.limits or ["Not examined."]),
        recipe=about.name,
        others=f"; the vocabulary is also chosen by {others}" if others else "",
    )
    path.write_text(text, encoding="utf-8")


def _sizes(folder: Path) -> str:
    sizes = sorted((p.stat().st_size, p.name) for p in folder.glob("encoder.onnx*"))
    return ", ".join(f"{name} {size / 1e6:.1f} MB" for size, name in sizes[::-1])


def _listed(items: list[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def _scores(exact: Scoreboard, quantised: Scoreboard) -> str:
    named = {
        "label accuracy": (exact.accuracy, quantised.accuracy),
        "span F1 (micro, exact boundaries and label)": (
            exact.span_f1,
            quantised.span_f1,
        ),
        "calibration error of label scores": (None, quantised.ece),
        "calibration error of entity scores": (None, quantised.entity_ece),
    }
    return "\n".join(
        f"| {name} | {_number(before)} | {_number(after)} |"
        for name, (before, after) in named.items()
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _threshold(row: Certificate) -> str:
    return (
        f"| {row.max_error:.2f} | {row.threshold:.4f} "
        f"| {row.coverage:.1%} | {row.error:.1%} |"
    )
