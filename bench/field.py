"""How the shipped pipelines stand real speech, of which much is no plain command.

Asks the pipelines about the hand-written texts of tests/field (its README says how they
are made) and prints, beside what must hold, the share of negated, joined, asked,
reported and delayed commands that were acted on, what was kept out, and how well plain
requests were understood; of `privacy` and `maintenance` the characters and spans. With
--data, also HWU64 validation texts with punctuation, politeness and typos, SLURP, prose
and words by chance. All of it is seeded: the same bundles give the same figures.
"""

import argparse
import json
import random
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict

from agent.config.load import load
from agent.config.section import shipped
from agent.core.errors import ConfigError
from agent.core.jsonl import read_records
from agent.core.types import Decision, Resolved, Unresolved
from agent.escalation.privacy_gate import Finder, Redacted, redact
from agent.evaluation.evaluate import answer
from agent.evaluation.examples import Example
from agent.evaluation.scoring import ScoredAnswer, span_f1
from agent.inference.bundle import open_bundle
from agent.inference.pipeline import Pipeline, open_pipelines

TEXTS = Path(__file__).parents[1] / "tests" / "field"
LABELLED = ("home", "assistant", "support", "media")
# The kinds that must not be resolved, and the reason that names each on the wire.
FORMS = {
    "negated": "negated",
    "several": "several_requests",
    "question": "question",
    "statement": "statement",
    "conditional": "conditional",
}
KINDS = (*FORMS, "request", "outside")
# Labels that are about the conversation: to give one does nothing in the world.
TALK = {
    "home": re.compile("general_.*"),
    "assistant": re.compile("yes|no|maybe|cancel|repeat|greeting|goodbye|thank_you"),
}
NO_TALK = re.compile("(?!)")
SEED = 13
PROSE = 2000  # texts of each source
WORDS = 300  # texts of one word, and as many of several
EXAMPLES = """\
examples:
  python bench/field.py                                    the table, for eyes
  python bench/field.py --data DIR                         with perturbed and others'
  python bench/field.py --against bench/results/field-before.json
  python bench/field.py --json | jq .pipelines.home.forms

DIR has hwu64/valid.jsonl, slurp/valid.jsonl, ewt/train.jsonl and btc/train.jsonl.
exit status: 0 measured; 2 a file or a value is wrong
"""

Tick = Callable[[str], None]


class Line(Example):
    """A text of tests/field: what kind it is, and what should come of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str = ""
    expect: Literal["resolved", "unresolved", "either"] | None = None
    note: str | None = None


def read_lines(path: Path) -> list[Line]:
    """Read texts of ours or of others; raises ConfigError with file and line."""
    return read_records(path, Line, "texts")


def read_field(name: str) -> list[Line]:
    """Read the texts of one pipeline; raises ConfigError with file and line."""
    return read_lines(TEXTS / f"{name}.jsonl")


# --- what came of the texts -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outcome:
    """A text and what the pipeline decided about it."""

    line: Line
    decision: Decision

    @property
    def resolved(self) -> bool:
        """Whether the pipeline settled it alone."""
        return isinstance(self.decision, Resolved)

    @property
    def guess(self) -> str | None:
        """The best local label, resolved or not."""
        best = self.decision.prediction
        return None if best is None else best.label


def ask(pipeline: Pipeline, lines: Sequence[Line]) -> list[Outcome]:
    """Return what a pipeline decides about each text, as the daemon would."""
    return [Outcome(line, answer(pipeline, line.text)) for line in lines]


def share(flags: Sequence[bool]) -> float | None:
    """Return the share that is true; None of nothing."""
    return round(sum(flags) / len(flags), 4) if flags else None


def form_figures(
    outcomes: Sequence[Outcome], reason: str, talk: re.Pattern[str]
) -> dict[str, Any]:
    """Score texts of one form, none of which may be resolved.

    `acted` leaves out the labels that only talk; `named` is the share of the
    unresolved that carries the form's own reason.
    """
    unresolved = [o.decision for o in outcomes if isinstance(o.decision, Unresolved)]
    return {
        "n": len(outcomes),
        "resolved": share([o.resolved for o in outcomes]),
        "acted": share(
            [o.resolved and not talk.fullmatch(o.guess or "") for o in outcomes]
        ),
        "named": share([d.reason.value == reason for d in unresolved]),
    }


def request_figures(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Score plain requests in scope.

    `accuracy` is that of the best local label over all texts, `wrong` the share of
    other labels among the resolved.
    """
    marked = [o for o in outcomes if o.line.spans]
    scored = span_f1([ScoredAnswer(o.line, o.decision, 0.0) for o in marked])
    settled = [o for o in outcomes if o.resolved]
    return {
        "n": len(outcomes),
        "accuracy": share([o.guess == o.line.label for o in outcomes]),
        "coverage": share([o.resolved for o in outcomes]),
        "wrong": share([o.guess != o.line.label for o in settled]),
        "span_f1": None if scored is None else round(scored, 4),
    }


def outside_figures(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Score texts that are none of the pipeline's business, by their note."""
    groups: dict[str, list[bool]] = defaultdict(list)
    for outcome in outcomes:
        groups[outcome.line.note or "other"].append(not outcome.resolved)
    return {
        "n": len(outcomes),
        "kept": share([not o.resolved for o in outcomes]),
        "kept_by_note": {note: share(kept) for note, kept in groups.items()},
    }


def either_figures(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Score debatable texts: `wrong` says another label than the one that could be."""
    labelled = [o for o in outcomes if o.line.label is not None]
    return {
        "n": len(outcomes),
        "resolved": share([o.resolved for o in outcomes]),
        "wrong": share([o.resolved and o.guess != o.line.label for o in labelled]),
    }


def pipeline_figures(pipeline: Pipeline, lines: Sequence[Line]) -> dict[str, Any]:
    """Ask a pipeline with labels about its texts, and score each kind."""
    outcomes = ask(pipeline, lines)
    talk = TALK.get(pipeline.name, NO_TALK)
    kept = [o for o in outcomes if o.line.expect == "unresolved"]
    return {
        "model": pipeline.bundle.id,
        "kept": share([not o.resolved for o in kept]),
        "forms": {
            kind: form_figures([o for o in kept if o.line.kind == kind], reason, talk)
            for kind, reason in FORMS.items()
        },
        "request": request_figures(
            [o for o in outcomes if o.line.expect == "resolved"]
        ),
        "outside": outside_figures([o for o in kept if o.line.kind == "outside"]),
        "either": either_figures([o for o in outcomes if o.line.expect == "either"]),
    }


# --- personal data: by character ------------------------------------------------------


def covers(text: str, redacted: Redacted) -> list[str | None]:
    """Return for each character of a text the type under which it is hidden, if any."""
    kinds: list[str | None] = []
    names = "|".join(re.escape(name) for name in redacted.hidden)
    for part in re.split(f"({names})", redacted.text) if names else [redacted.text]:
        words = redacted.hidden.get(part)
        if words is None:
            kinds += [None] * len(part)
        else:
            kinds += [part.strip("[]").rpartition("_")[0]] * len(words)
    if len(kinds) != len(text):
        raise RuntimeError(f"what is hidden does not fit the text: {text!r}")
    return kinds


@dataclass(slots=True)
class Characters:
    """Counts of characters that are not white space."""

    personal: int = 0
    missed: int = 0
    others: int = 0
    hit: int = 0

    def add(self, line: Line, kinds: Sequence[str | None]) -> None:
        """Count one text.

        In a clean text a date may be hidden, but only as a date.
        """
        gold: dict[int, str] = {}
        for span in line.marked:
            gold |= dict.fromkeys(range(span.start, span.end), span.label)
        for place, char in enumerate(line.text):
            wanted, hidden = gold.get(place), kinds[place]
            if char.isspace() or (
                line.kind == "clean" and wanted and hidden in {None, wanted}
            ):
                continue
            if wanted and line.kind != "clean":
                self.personal += 1
                self.missed += hidden is None
            else:
                self.others += 1
                self.hit += hidden is not None

    def figures(self) -> dict[str, Any]:
        """Return the shares."""
        return {
            "missed": round(self.missed / self.personal, 4) if self.personal else None,
            "hit": round(self.hit / self.others, 4) if self.others else None,
        }


def privacy_figures(finder: Finder, lines: Sequence[Line]) -> dict[str, Any]:
    """Hide what the gate would hide, and count characters: in all, and by kind."""
    total = Characters()
    groups: dict[str, Characters] = defaultdict(Characters)
    for line in lines:
        kinds = covers(line.text, redact(line.text, finder.find(line.text)))
        total.add(line, kinds)
        groups[line.kind].add(line, kinds)
    by_kind = {kind: counts.figures() for kind, counts in groups.items()}
    return {"n": len(lines), **total.figures(), "by_kind": by_kind}


def maintenance_figures(pipeline: Pipeline, lines: Sequence[Line]) -> dict[str, Any]:
    """Score the spans of work orders: in all, and by kind."""
    outcomes = ask(pipeline, lines)
    answers = [ScoredAnswer(o.line, o.decision, 0.0) for o in outcomes]
    kinds = sorted({line.kind for line in lines})
    scores = {
        kind: span_f1(
            [a for a, o in zip(answers, lines, strict=True) if o.kind == kind]
        )
        for kind in kinds
    }
    return {
        "n": len(lines),
        "model": pipeline.bundle.id,
        "span_f1": round(span_f1(answers) or 0.0, 4),
        "coverage": share([o.resolved for o in outcomes]),
        "by_kind": {k: None if s is None else round(s, 4) for k, s in scores.items()},
    }


# --- others' texts: perturbed, prose, words -------------------------------------------

OPENINGS = (
    "good morning, I hope you are having a lovely day, could you please {}",
    "hi there, sorry to bother you again, I was just wondering if you could {}",
    "Hello! If it isn't too much trouble, I would be very grateful if you would {}",
    "excuse me, when you have a moment, would you be so kind and {}",
)
KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def mistyped(text: str, dice: random.Random) -> str:
    """Return a text with one slip of the fingers in one of its longer words."""
    words = [m.span() for m in re.finditer(r"[a-zA-Z]{4,}", text)]
    if not words:
        return text
    start, end = dice.choice(words)
    at = dice.randrange(start + 1, end - 1)
    slips = (
        text[:at] + text[at + 1] + text[at] + text[at + 2 :],  # swapped
        text[:at] + text[at + 1 :],  # dropped
        text[:at] + text[at] + text[at:],  # doubled
        text[:at] + neighbour(text[at], dice) + text[at + 1 :],  # the key beside it
    )
    return dice.choice(slips)


def neighbour(letter: str, dice: random.Random) -> str:
    """Return a letter beside another on the keyboard."""
    row = next(row for row in KEYS if letter.lower() in row)
    at = row.index(letter.lower())
    return dice.choice(row[max(0, at - 1) : at] + row[at + 1 : at + 2])


VARIANTS: dict[str, Callable[[str, random.Random], str]] = {
    "as it is": lambda text, _: text,
    "final ?": lambda text, _: f"{text}?",
    "final .": lambda text, _: f"{text}.",
    "please. Thanks!": lambda text, _: f"{text} please. Thanks!",
    "polite opening": lambda text, dice: dice.choice(OPENINGS).format(text),
    "one typo": mistyped,
    "two typos": lambda text, dice: mistyped(mistyped(text, dice), dice),
}


def varied(
    lines: Sequence[Line], vary: Callable[[str, random.Random], str]
) -> list[Line]:
    """Return the lines in another wording; where their entities are, is not kept."""
    dice = random.Random(SEED)  # noqa: S311  the same dice for everyone
    return [
        Line(text=vary(line.text.rstrip(" .?!"), dice), label=line.label)
        for line in lines
    ]


def by_chance(texts: Sequence[str]) -> Iterator[Line]:
    """Yield single words of texts, and some that never stood together."""
    dice = random.Random(SEED)  # noqa: S311
    words = sorted(
        {w.lower() for text in texts for w in re.findall(r"[^\W\d_]+", text)}
    )
    for size in [1] * WORDS + [dice.randint(2, 6) for _ in range(WORDS)]:
        yield Line(text=" ".join(dice.choices(words, k=size)))


def settled(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Score labelled texts of others: `wrong` is the share among the resolved."""
    scored = request_figures(outcomes)
    return {key: scored[key] for key in ("n", "accuracy", "coverage", "wrong")}


def data_figures(
    pipelines: dict[str, Pipeline], folder: Path, tick: Tick
) -> dict[str, Any]:
    """Ask `home` about perturbed and others' requests, all about prose and words."""
    home = pipelines["home"]
    valid = read_lines(folder / "hwu64" / "valid.jsonl")
    slurp = read_lines(folder / "slurp" / "valid.jsonl")
    mail = [e.text for e in read_lines(folder / "ewt" / "train.jsonl")]
    tweets = [e.text for e in read_lines(folder / "btc" / "train.jsonl")]
    prose = [Line(text=text) for text in mail[:PROSE] + tweets[:PROSE]]
    words = list(by_chance(mail))
    perturbed = {}
    for name, vary in VARIANTS.items():
        tick(f"home: {name}")
        perturbed[name] = settled(ask(home, varied(valid, vary)))
    tick("home: SLURP")
    figures: dict[str, Any] = {"perturbed": perturbed}
    figures["slurp"] = settled(ask(home, slurp))
    for what, texts in (("prose", prose), ("words", words)):
        figures[what] = {}
        for name, pipeline in pipelines.items():
            tick(f"{name}: {what}")
            flags = [o.resolved for o in ask(pipeline, texts)]
            figures[what][name] = {"n": len(flags), "answered": share(flags)}
    return figures


def measure(data: Path | None, tick: Tick) -> dict[str, Any]:
    """Ask everything; raises ConfigError for a file that is not as it should be."""
    opened = open_pipelines(load(None, enable=(*LABELLED, "maintenance")))
    pipelines = {pipeline.name: pipeline for pipeline in opened}
    orders = pipelines.pop("maintenance")
    figures: dict[str, Any] = {"pipelines": {}}
    for name, pipeline in pipelines.items():
        tick(name)
        figures["pipelines"][name] = pipeline_figures(pipeline, read_field(name))
    tick("privacy")
    bundle = open_bundle(shipped("models") / "privacy", 1)
    scored = privacy_figures(Finder(bundle), read_field("privacy"))
    figures["privacy"] = {"model": bundle.id, **scored}
    tick("maintenance")
    figures["maintenance"] = maintenance_figures(orders, read_field("maintenance"))
    if data:
        figures["data"] = data_figures(pipelines, data, tick)
    return figures


# --- for people -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bar:
    """A row of the table: where the figure stands, and what it must come to.

    `path` has an asterisk for the pipeline; `other` says which pipelines have a bar of
    their own.
    """

    what: str
    path: str
    bound: Literal["<=", ">="]
    limit: float | None
    other: tuple[tuple[str, float], ...] = ()

    def must(self, name: str) -> float | None:
        """Return the bar of a pipeline."""
        return dict(self.other).get(name, self.limit)

    def held(self, name: str, value: float) -> bool:
        """Tell whether a figure is as it must be."""
        limit = self.must(name)
        return limit is None or (
            value <= limit if self.bound == "<=" else value >= limit
        )


BARS = (
    Bar("negated, cancelled: acted on", "pipelines/*/forms/negated/acted", "<=", 0.02),
    *(
        Bar(f"{what}: acted on", f"pipelines/*/forms/{kind}/acted", "<=", 0.05)
        for kind, what in (
            ("several", "several commands"),
            ("question", "questions"),
            ("statement", "reports"),
            ("conditional", "conditions, delays"),
        )
    ),
    Bar("outside: kept", "pipelines/*/outside/kept", ">=", 0.92),
    Bar("all that is no request: kept", "pipelines/*/kept", ">=", 0.92),
    Bar(
        "in scope: accuracy",
        "pipelines/*/request/accuracy",
        ">=",
        0.97,
        (("support", 0.92),),
    ),
    Bar(
        "in scope: coverage",
        "pipelines/*/request/coverage",
        ">=",
        0.92,
        (("media", 0.88),),
    ),
    Bar("in scope: wrong among resolved", "pipelines/*/request/wrong", "<=", None),
    Bar("in scope: span F1", "pipelines/*/request/span_f1", ">=", None),
    Bar("prose: answered", "data/prose/*/answered", "<=", 0.02),
    Bar("words by chance: answered", "data/words/*/answered", "<=", 0.02),
)
SINGLE = (
    Bar("privacy: characters missed", "privacy/missed", "<=", 0.06),
    Bar("privacy: others hit", "privacy/hit", "<=", 0.05),
    Bar("maintenance: span F1", "maintenance/span_f1", ">=", 0.83),
    *(
        Bar(f"home, {name}: coverage", f"data/perturbed/{name}/coverage", ">=", limit)
        for name, limit in zip(
            VARIANTS, (None, 0.88, 0.88, 0.86, 0.8, 0.85, 0.75), strict=True
        )
    ),
    *(
        Bar(f"home, {name}: wrong", f"data/perturbed/{name}/wrong", "<=", 0.05)
        for name in VARIANTS
    ),
    Bar("home, SLURP: coverage", "data/slurp/coverage", ">=", 0.85),
    Bar("home, SLURP: wrong", "data/slurp/wrong", "<=", 0.06),
)


def at(figures: Any, path: str) -> float | None:
    """Return the figure at a path; None where there is none."""
    for key in path.split("/"):
        figures = figures.get(key) if isinstance(figures, dict) else None
    return figures if isinstance(figures, float) else None


def cell(bar: Bar, name: str, figures: dict[str, Any], before: dict[str, Any]) -> str:
    """Return one figure for eyes, with what it was; `!` where it misses its bar."""
    path = bar.path.replace("*", name)
    value, old = at(figures, path), at(before, path)
    if value is None:
        return "-"
    was = "" if old is None else f"{old:.3f} > "
    return f"{was}{value:.3f}{'' if bar.held(name, value) else ' !'}"


def limits(bar: Bar) -> str:
    """Return what must hold, for eyes."""
    if bar.limit is None:
        return ""
    others = "".join(f", {name} {limit:g}" for name, limit in bar.other)
    return f"{bar.bound} {bar.limit:g}{others}"


def show(figures: dict[str, Any], before: dict[str, Any]) -> None:
    """Print the tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 140)
    table = Table(title="Pipelines with labels, on tests/field")
    for heading in ("", "must", *LABELLED):
        table.add_column(heading, justify="right" if heading in LABELLED else "left")
    for bar in BARS:
        cells = [cell(bar, name, figures, before) for name in LABELLED]
        if any(text != "-" for text in cells):
            table.add_row(bar.what, limits(bar), *cells)
    console.print(table)
    table = Table("", "must", "figure", title="The others")
    for bar in SINGLE:
        text = cell(bar, "", figures, before)
        if text != "-":
            table.add_row(bar.what, limits(bar), text)
    console.print(table)
    console.print("!: not as it must be. Shares; 0.05 is 5 %.", style="dim")


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line; exit status 2 where it is wrong."""
    parser = argparse.ArgumentParser(
        prog="python bench/field.py",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="the data sets")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write the figures as JSON, too"
    )
    parser.add_argument(
        "--against", type=Path, metavar="FILE", help="show what the figures were there"
    )
    options = parser.parse_args(arguments)
    if options.out and not options.out.parent.is_dir():
        parser.error(f"--out: there is no folder {options.out.parent}")
    if options.against and not options.against.is_file():
        parser.error(f"--against: there is no file {options.against}")
    return options


def main(arguments: Sequence[str]) -> int:
    """Measure, print, and return the exit status."""
    from rich.console import Console

    options = parsed(arguments)
    before = json.loads(options.against.read_text("utf-8")) if options.against else {}
    with Console(stderr=True).status("") as status:
        try:
            figures = measure(options.data, status.update)
        except ConfigError as error:
            print(error, file=sys.stderr)
            return 2
    document = json.dumps(figures, indent=1)
    if options.out:
        options.out.write_text(document + "\n", "utf-8")
    if options.json:
        print(document)
    else:
        show(figures, before)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
