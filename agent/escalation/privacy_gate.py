"""The privacy gate: personal data stays here, placeholders such as [PERSON_1] go out.

What is hidden is found by a bundle of models and checked patterns; what that misses
leaves. Each word that was found is hidden wherever it stands, found there or not.
Nothing but `Finder.find` costs more than time linear in the text, however hostile it
is.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, pairwise
from typing import Any

from agent.core.errors import BundleError
from agent.core.types import Entity
from agent.escalation.occurrences import occurrences, word_edges
from agent.inference import patterns, scripts
from agent.inference.bundle import Bundle
from agent.inference.folding import folded
from agent.inference.pipeline import EscalationSpec
from agent.inference.reconcile import plausible
from agent.protocol.cases import BadReply, Named, placed

KEPT = ("by", "label", "score", "form")  # of a guess, beside its entities
INSIDE = 4  # characters from which on a value is hidden inside of words, too
HALVES = 0xD800  # the first half of a surrogate pair
DIGITS = 9  # of a number; no text has as many placeholders

_PLACEHOLDER = re.compile(r"\[[A-Z0-9_]+\]")

Span = tuple[int, int, str]  # start, end, type


@dataclass(frozen=True, slots=True)
class Redacted:
    """A text that may leave, and what must not.

    `hidden` maps each placeholder to the original words and stays on the device;
    `counts` says how often something of a type was hidden.
    """

    text: str
    hidden: Mapping[str, str]
    counters: Mapping[str, int]


class Finder:
    """Owns the bundle that finds personal data."""

    def __init__(self, bundle: Bundle) -> None:
        """Take an opened bundle; raises BundleError for one that finds no entities."""
        if not bundle.manifest.entities:
            raise BundleError(f"{bundle.id}: finds no entities, so it can hide none")
        self._bundle = bundle

    def find(self, text: str) -> list[Entity]:
        """Return what its models and its checked patterns find; blocks.

        Both, where they overlap, and whatever the score: a doubtful find is hidden.
        """
        models = [stage.model for stage in self._bundle.stages]
        guessed = [e for model in models for e in model.predict([text])[0].entities]
        kept = plausible(text, guessed)
        return [*kept, *patterns.find(text, self._bundle.manifest.patterns)]


def withheld(
    text: str, entities: Sequence[Entity], plan: EscalationSpec
) -> list[Entity]:
    """Return what a pipeline hides: what was found, and what its own patterns find.

    Not what its operator wants to be seen: types, and letters of other scripts.
    """
    kept = [
        entity
        for entity in entities
        if entity.label not in plan.visible
        and not (
            entity.label == scripts.LABEL
            and scripts.scripts_of(entity.text) <= plan.scripts
        )
    ]
    view = folded(text)
    for kind, pattern in plan.patterns.items():
        for place in set(pattern.spans(view.text)):
            start, end = view.span(*place)
            kept.append(Entity(kind, text[start:end], start, end, None))
    return kept


def redact(text: str, entities: Sequence[Entity]) -> Redacted:
    """Replace what was found, and the same words wherever they stand, by placeholders.

    Of finds that overlap the union is hidden, under the type of the longest. The same
    words of the same type share a placeholder; other upper case is other words. No
    placeholder is one, or a part of one, that the text itself has.
    """
    finds = [span for entity in entities if (span := _trimmed(text, entity))]
    numbers: dict[str, Iterator[int]] = {}
    names: dict[tuple[str, str], str] = {}
    counters: dict[str, int] = {}
    parts = []
    end = 0
    for start, stop, kind in _merged([*finds, *_elsewhere(text, finds)]):
        words = text[start:stop]
        if kind not in numbers:
            numbers[kind] = _numbers(kind, text)
        if (kind, words) not in names:
            names[kind, words] = f"[{kind}_{next(numbers[kind])}]"
        parts += [text[end:start], names[kind, words]]
        counters[kind] = counters.get(kind, 0) + 1
        end = stop
    hidden = {name: words for (_, words), name in names.items()}
    return Redacted("".join([*parts, text[end:]]), hidden, counters)


def restore(text: str, hidden: Mapping[str, str]) -> str:
    """Put the original words back where whole placeholders stand."""
    return _PLACEHOLDER.sub(lambda match: hidden.get(match[0], match[0]), text)


def guess_without(
    guess: Mapping[str, Any] | None, text: str, redacted: Redacted
) -> dict[str, Any] | None:
    """Return a local guess about the text as one about the redacted text.

    `guess` is by wire.guess_object, and no other key of it is kept. Entities are named
    by their words, as in an answer; one that is a part of what is hidden is left out.
    """
    if guess is None:
        return None
    here = {place: at for at, place in enumerate(_origins(redacted)) if place >= 0}
    entities = []
    for entity in guess["entities"]:
        start, end = here.get(entity["start"]), here.get(entity["end"])
        stands = text[entity["start"] : entity["end"]] == entity["text"]
        if start is not None and end is not None and stands:
            kept = {key: entity[key] for key in ("label", "score")}
            entities.append({**kept, "text": redacted.text[start:end]})
    kept = {key: guess[key] for key in KEPT if key in guess}
    return {**kept, "entities": entities}


def returned(named: Sequence[Named], redacted: Redacted) -> tuple[Entity, ...]:
    """Find entities, named by words of the redacted text, in the original text.

    By place, not by words: where "Ann Lee" and "Lee" are hidden, the second "Lee" is
    not found in the first. Raises BadReply for words that do not stand in the redacted
    text or cut a placeholder; what it says may go upstream.
    """
    text = _whole(redacted.text, redacted.hidden)
    asked = [
        Named(label=entity.label, text=_whole(entity.text, redacted.hidden))
        for entity in named
    ]
    for entity, whole in zip(named, asked, strict=True):
        if whole.text not in text:
            raise BadReply(_cut(entity))
    origins, original = _origins(redacted), restore(redacted.text, redacted.hidden)
    entities = []
    for place in placed(asked, text):
        start, end = origins[place.start], origins[place.end]
        entities.append(Entity(place.label, original[start:end], start, end, None))
    return tuple(entities)


def _cut(entity: Named) -> str:
    return (
        f"entities: {entity.text[:80]!r} does not stand in the text, or is a part of "
        "a word in square brackets"
    )


def _whole(text: str, hidden: Mapping[str, str]) -> str:
    """Return a text of the same length in which no part of a placeholder is found.

    Its characters become halves of characters, which no text has that can be sent.
    """
    return _PLACEHOLDER.sub(
        lambda match: (
            "".join(chr(HALVES + ord(char)) for char in match[0])
            if match[0] in hidden
            else match[0]
        ),
        text,
    )


def _origins(redacted: Redacted) -> list[int]:
    """Return for each place in the redacted text the one in the original.

    -1 inside of a placeholder.
    """
    origins: list[int] = []
    end = shift = 0
    for match in _PLACEHOLDER.finditer(redacted.text):
        words = redacted.hidden.get(match[0])
        if words is None:
            continue
        origins += range(end + shift, match.start() + shift + 1)
        origins += [-1] * (len(match[0]) - 1)
        shift += len(words) - len(match[0])
        end = match.end()
    return [*origins, *range(end + shift, len(redacted.text) + shift + 1)]


def _trimmed(text: str, entity: Entity) -> Span | None:
    """Return where an entity stands without white space around it, if it does."""
    words = text[entity.start : entity.end]
    start = entity.start + len(words) - len(words.lstrip())
    kind = re.sub(r"[^A-Z0-9_]", "_", entity.label.upper())
    return (start, start + len(words.strip()), kind) if words.strip() else None


def _elsewhere(text: str, finds: Sequence[Span]) -> Iterator[Span]:
    """Yield where the words of finds stand, here or elsewhere.

    From four characters on: anywhere as written, and as words of their own whatever
    the case. Shorter ones only as words of their own and as written: "US" is not "us",
    and "Al" is not in "also". Next to something hidden a word ends.
    """
    values: dict[str, str] = {}
    for start, end, kind in finds:
        values.setdefault(text[start:end], kind)
    long = {words: kind for words, kind in values.items() if len(words) >= INSIDE}
    within = list(occurrences(long.items(), text))
    yield from within
    cuts = {edge for span in _merged([*finds, *within]) for edge in span[:2]}
    edges = word_edges(text, cuts)
    words = [text[start:end] for start, end in pairwise(edges)]
    short = [
        (_words(value), kind) for value, kind in values.items() if value not in long
    ]
    folded = [(_folded(_words(value)), kind) for value, kind in long.items()]
    for wanted, symbols in ((short, words), (folded, _folded(words))):
        for first, last, kind in occurrences(wanted, symbols):
            yield edges[first], edges[last], kind


def _words(text: str) -> list[str]:
    return [text[start:end] for start, end in pairwise(word_edges(text))]


def _folded(words: Sequence[str]) -> list[str]:
    return [word.casefold() for word in words]


def _merged(spans: Iterable[Span]) -> Iterator[Span]:
    """Yield spans in order, one for all that overlap: of the longest, the first one."""
    united: list[int] = []
    kind, longest = "", 0
    for start, end, other in sorted(spans, key=lambda span: span[0]):
        if united and start < united[1]:
            united[1] = max(united[1], end)
        else:
            if united:
                yield united[0], united[1], kind
            united, longest = [start, end], 0
        if end - start > longest:
            kind, longest = other, end - start
    if united:
        yield united[0], united[1], kind


def _numbers(kind: str, text: str) -> Iterator[int]:
    """Yield the numbers with which a placeholder of a type is not in the text."""
    digit_runs = re.findall(rf"(?={kind}_([0-9]{{1,{DIGITS}}}))", text)
    taken = {digits[:size] for digits in digit_runs for size in range(1, DIGITS + 1)}
    return (number for number in count(1) if str(number) not in taken)
