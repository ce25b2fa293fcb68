"""Utterances of every form, made of requests: they teach which form a text has.

A request of the data ("turn off the lights, please") loses its politeness and becomes
negated, cancelled, asked about, reported, joined with another or put under a condition
(forms.toml). Beside each kind stand texts that look like it and are plain requests.
"""

import random
import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from agent.core.types import Form
from agent.evaluation.examples import Example
from agent.inference.forms import ruled
from agent.inference.manifest import FormTable
from agent.inference.utterance import opened, plain, words_of
from agent.workshop.data.recipe import FormsPlan
from agent.workshop.data.speech import KEPT, Verb, accent, verbs

HERE = Path(__file__).parent
TEMPLATES = HERE / "forms.toml"
LONGEST = 14  # words of a request that something is made of
SHORTEST = 2
SPOKEN = 0.4  # of the texts are said otherwise
JOINED = 0.15  # as many as of all that is made, two texts each
# What a label may be asked in by nature.
USUAL = (Form.QUESTION, Form.STATEMENT, Form.CONDITIONAL, Form.DELAYED)
PLURAL = re.compile(r"^(?:the|my) (?:\w+ )?\w+s(?: in the \w+)?$")
SLOT = re.compile(r"\{(\w+)\}")
# How often each form is made, of ten; the rest of the texts are requests.
SHARES: Mapping[Form, int] = {
    Form.NEGATED: 3,
    Form.SEVERAL: 2,
    Form.QUESTION: 2,
    Form.STATEMENT: 2,
    Form.CONDITIONAL: 2,
    Form.DELAYED: 2,
    Form.REQUEST: 4,
}
BARE = re.compile(
    r"\b(?:alarms?|remind\w*|tomorrow|tonight|today|morning|evening|night|noon|later"
    r"|midnight|[ap]\.?m\.?|o'?clock|minutes?|hours?|days?|weeks?|monday|tuesday|and"
    r"|wednesday|thursday|friday|saturday|sunday|when|if|then|before|after|wake|timer)\b"
)


@dataclass(frozen=True, slots=True)
class Formed:
    """A text and its form."""

    text: str
    form: Form


@dataclass(frozen=True, slots=True)
class Speaker:
    """Makes utterances of requests, by the templates of one split."""

    requests: Sequence[str]
    immediate: Sequence[str]
    """Of these, what says no time and has one part: it may be joined or delayed."""
    templates: Mapping[str, Mapping[str, Sequence[str]]]
    lists: Mapping[str, Sequence[str]]

    def some(self, number: int, chance: random.Random) -> Iterator[Formed]:
        """Yield so many utterances, of all forms."""
        if len(self.immediate) < SHORTEST:
            return
        forms = [form for form, share in SHARES.items() for _ in range(share)]
        for _ in range(number):
            form = chance.choice(forms)
            yield Formed(self.one(form, chance), form)

    def one(self, form: Form, chance: random.Random) -> str:
        """Return an utterance of a form."""
        kinds = self.templates[form.value]
        kind = chance.choice([*kinds])
        template = chance.choice(kinds[kind])
        return self._filled(template, kind, form, chance)

    def _filled(
        self, template: str, kind: str, form: Form, chance: random.Random
    ) -> str:
        joined = form in {Form.SEVERAL, Form.CONDITIONAL, Form.DELAYED}
        pool = self.immediate if joined or kind == "quoted" else self.requests
        first = chance.choice(pool)
        thing = chance.choice(self.lists["things"])
        many = bool(PLURAL.match(thing))
        slots = {
            "vp": first,
            "third": chance.choice(self.immediate),
            "who": chance.choice(self.lists["who"]),
            "when": chance.choice(self.lists["conditions"]),
            "when2": chance.choice(["it rain", "it get dark", "anybody call"]),
            "delay": chance.choice(self.lists["delays"]),
            "title": chance.choice(self.lists["titles"]),
            "thing": thing,
            "state": chance.choice(self.lists["states"]),
            "be": "are" if many else "is",
            "was": "were" if many else "was",
            "has": "have" if many else "has",
            "do": "do" if many else "does",
        }
        other = _another(first, self.immediate, chance)
        for name, utterance in (("", first), ("other", other)):
            verb, rest = _split(utterance)
            prefix = f"{name}_" if name else ""
            slots[f"{prefix}past"] = f"{verb.past} {rest}"
            slots[f"{prefix}done"] = f"{verb.done} {rest}"
            slots[f"{prefix}ing"] = f"{verb.ing} {rest}"
        slots["other"] = other
        return SLOT.sub(lambda match: slots[match[1]], template)


def joined(
    examples: Sequence[Example], number: int, chance: random.Random, split: str
) -> Iterator[str]:
    """Yield so many utterances of two texts with different labels, of any form.

    None where all texts that are short enough have one label.
    """
    short = [one for one in examples if one.label and len(one.text.split()) <= LONGEST]
    if len({one.label for one in short}) < SHORTEST:
        return
    joints = _part(read_templates()["joints"], split)
    while number:
        first, second = chance.sample(short, 2)
        if first.label != second.label:
            number -= 1
            ahead = first.text.strip().rstrip(".?!,; ")
            yield f"{ahead}{chance.choice(joints)}{second.text.strip()}"


def speaker(texts: Sequence[str], split: str = "train") -> Speaker:
    """Return who makes utterances of the requests among these texts."""
    content = read_templates()
    content.pop("joints")
    given = [*texts, *_part(content.pop("requests"), split)]
    imperatives = list(dict.fromkeys(filter(None, map(imperative, given))))
    lists = {k: _part(v, split) for k, v in content.items() if isinstance(v, list)}
    templates = {
        form: {kind: _part(some, split) for kind, some in kinds.items()}
        for form, kinds in content.items()
        if isinstance(kinds, dict)
    }
    immediate = [one for one in imperatives if not BARE.search(one)]
    return Speaker(imperatives, immediate, templates, lists)


def _part(items: Sequence[str], split: str) -> list[str]:
    """Return the items of a split: every fourth is to validate with."""
    kept = split == "valid"
    return [
        one
        for number, one in enumerate(items)
        if (number % KEPT == KEPT - 1) == kept or len(items) < KEPT
    ]


def imperative(text: str) -> str | None:
    """Return a request without its politeness; None where it begins with no verb."""
    words = plain(text).split()
    if not SHORTEST <= len(words) <= LONGEST or words[0] not in verbs():
        return None
    while words and words[-1] in {"please", "thanks", "now"}:
        words.pop()
    return " ".join(words) if len(words) >= SHORTEST else None


def _split(request: str) -> tuple[Verb, str]:
    first, _, rest = request.partition(" ")
    return verbs()[first], rest


def _another(first: str, pool: Sequence[str], chance: random.Random) -> str:
    """Return another request, of another wording."""
    for _ in range(8):
        other = chance.choice(pool)
        if other != first:
            return other
    return chance.choice(pool)


def read_templates() -> dict[str, Any]:
    """Return all that forms.toml has."""
    return tomllib.loads(TEMPLATES.read_text("utf-8"))


# -- which forms the texts of data have


def allowed(plan: FormsPlan, examples: Sequence[Example]) -> FormTable:
    """Return which forms the labels of these examples allow.

    What a label is asked in so often that it is usual, it allows: questions, reports,
    conditions and later times, but never what is negated, or joined with another.
    """
    texts: dict[str, list[str]] = {}
    for example in examples:
        if example.label is not None:
            texts.setdefault(example.label, []).append(example.text)
    table = {}
    for label, some in sorted(texts.items()):
        labels = {
            form
            for glob, forms in plan.labels.items()
            if fnmatchcase(label, glob)
            for form in forms
        }
        if not any(fnmatchcase(label, glob) for glob in plan.strict):
            labels |= _usual(some, plan.usual)
        more = labels - set(plan.default)
        if more:
            table[label] = [form for form in Form if form in more]
    return FormTable(default=plan.default, labels=table)


def _usual(texts: Sequence[str], share: float) -> set[Form]:
    seen = Counter(form for text in texts for form in ruled(text)[:1])
    return {form for form in USUAL if seen[form] >= share * len(texts)}


def form_of_data(example: Example, table: FormTable) -> Form | None:
    """Return the form of a text of the data, as far as it is clear; None: it is not.

    A later time is part of the request where the label allows it.
    """
    label = example.label or ""
    may = {*table.default, *table.labels.get(label, ())}
    seen = ruled(example.text)
    first = words_of(example.text)
    lead = first[opened(first)] if first else ""
    if not seen:
        reports = Form.STATEMENT in may and lead not in verbs()
        return Form.STATEMENT if reports else Form.REQUEST
    if seen[0] in {Form.QUESTION, Form.STATEMENT}:
        return seen[0]
    if seen[0] in {Form.DELAYED, Form.CONDITIONAL} and seen[0] in may:
        return Form.REQUEST
    return None


def lessons(
    plan: FormsPlan,
    examples: Sequence[Example],
    table: FormTable,
    chance: random.Random,
    split: str = "train",
) -> list[Formed]:
    """Return texts with their forms: of the data, as they are and said otherwise; made.

    `plan.made` are made of the requests of the data, and JOINED of that beside them of
    two texts each.
    """
    say = accent(split)
    formed: list[Formed] = []
    for example in examples:
        form = form_of_data(example, table)
        if form is None:
            continue
        spoken = say(example, chance) if chance.random() < SPOKEN else example
        formed.append(Formed(spoken.text, form))
    texts = [example.text for example in examples]
    two = joined(examples, round(JOINED * plan.made), chance, split)
    made = (Formed(text, Form.SEVERAL) for text in two)
    for one in (*speaker(texts, split).some(plan.made, chance), *made):
        spoken = Example(text=one.text)
        if chance.random() < SPOKEN:
            spoken = say(spoken, chance)
        formed.append(Formed(spoken.text, one.form))
    return formed
