"""One answer of two: what a model guesses in a text, and what patterns find in it.

- On a line of a log a guess on its time stamp, or on its numbers, is dropped.
- What proves itself replaces guesses that it overlaps; what is only likely joins them.
- An address is one block: a street and the town, state, code and country beside it.
"""

import re
from bisect import bisect_right
from collections.abc import Container, Iterator, Sequence
from dataclasses import replace

from agent.core.types import Entity
from agent.inference import logs
from agent.inference.patterns import find, is_proven

_LETTERS = re.compile(r"\w")
_DIGITS = re.compile(r"\d")
# What a guess of these types must have in it.
_FITS = {
    **dict.fromkeys(
        ("CREDIT_CARD", "IBAN_CODE", "US_DRIVER_LICENSE", "US_SSN"), _DIGITS
    ),
    "DOMAIN_NAME": re.compile(r"[.:]|\bdot\b"),
    "EMAIL_ADDRESS": re.compile(r"@|\bat\b"),
    "IP_ADDRESS": _DIGITS,
}
# On a line of a log these are the machine's, unless patterns find them, too ...
NUMBERS = frozenset(
    {
        "AGE",
        "DATE_TIME",
        "DOMAIN_NAME",
        "IBAN_CODE",
        "IP_ADDRESS",
        "US_SSN",
        "US_DRIVER_LICENSE",
        "ZIP_CODE",
    }
)
# ... and these, unless they are long enough to reach somebody.
LONG = frozenset({"CREDIT_CARD", "PHONE_NUMBER"})
LONG_DIGITS = 11
STREET = "STREET_ADDRESS"
PARTS = frozenset({STREET, "GPE", "ZIP_CODE"})
BETWEEN = frozenset(" ,;\n\r\t")
WIDEST = 4  # characters between two parts of an address


def reconciled(
    text: str, guessed: Sequence[Entity], labels: Container[str]
) -> tuple[Entity, ...]:
    """Return the entities of a text by start, none over another but where nested."""
    kept = plausible(text, guessed)
    return tuple(blocks(text, joined(text, kept, find(text, labels))))


def plausible(text: str, guessed: Sequence[Entity]) -> list[Entity]:
    """Return the guesses that fit their types and are not of a machine's log."""
    written = list(logs.lines(text))
    ends = [line.end for line in written]
    kept = []
    for entity in guessed:
        if not _FITS.get(entity.label, _LETTERS).search(entity.text):
            continue
        place = bisect_right(ends, entity.start)
        if place == len(ends) or not _is_of(written[place], entity):
            kept.append(entity)
    return kept


def _is_of(line: logs.Line, entity: Entity) -> bool:
    """Tell whether a guess is on a line of a log, and of it: its stamp or numbers."""
    if entity.end <= line.start:
        return False
    start, end = line.stamp
    stamped = min(end, entity.end) - max(start, entity.start)
    if 2 * stamped >= entity.end - entity.start:
        return True
    digits = sum(map(str.isdigit, entity.text))
    return entity.label in NUMBERS or (entity.label in LONG and digits < LONG_DIGITS)


def joined(
    text: str, guessed: Sequence[Entity], entities: Sequence[Entity]
) -> list[Entity]:
    """Return both in order; a guess that overlaps a find goes, or goes into it."""
    ends = [entity.end for entity in entities]
    made = [entity for entity in entities if is_proven(entity)]
    joining = []
    for guess in guessed:
        first = bisect_right(ends, guess.start)
        last = first
        while last < len(entities) and entities[last].start < guess.end:
            last += 1
        if first == last:
            made.append(guess)
        elif not any(is_proven(entity) for entity in entities[first:last]):
            joining.append(guess)
    joining += [entity for entity in entities if not is_proven(entity)]
    made += _unions(text, joining)
    return sorted(made, key=lambda entity: entity.start)


def _unions(text: str, entities: Sequence[Entity]) -> Iterator[Entity]:
    """Yield one entity for all that overlap."""
    run: list[Entity] = []
    end = 0
    for entity in sorted(entities, key=lambda entity: entity.start):
        if run and entity.start >= end:
            yield _union(text, run)
            run = []
        run.append(entity)
        end = max(end, entity.end) if len(run) > 1 else entity.end
    if run:
        yield _union(text, run)


def _union(text: str, entities: Sequence[Entity]) -> Entity:
    """Return one entity for all: of the longest, the first one."""
    longest = max(entities, key=lambda entity: entity.end - entity.start)
    start = min(entity.start for entity in entities)
    end = max(entity.end for entity in entities)
    return replace(longest, text=text[start:end], start=start, end=end)


def blocks(text: str, entities: Sequence[Entity]) -> Iterator[Entity]:
    """Yield entities by start, the parts of an address as one."""
    run: list[Entity] = []
    for entity in entities:
        if run and not (entity.label in PARTS and _beside(text, run[-1], entity)):
            yield from _block(text, run)
            run = []
        run.append(entity)
    yield from _block(text, run)


def _block(text: str, run: Sequence[Entity]) -> Sequence[Entity]:
    streets = [entity for entity in run if entity.label == STREET]
    if len(run) < 2 or not streets or run[0].label not in PARTS:  # noqa: PLR2004  a pair
        return run
    whole = _union(text, run)
    least = min((e.score for e in run if e.score is not None), default=None)
    return [replace(whole, label=STREET, score=least)]


def _beside(text: str, one: Entity, other: Entity) -> bool:
    between = text[one.end : other.start]
    return one.label in PARTS and len(between) <= WIDEST and BETWEEN.issuperset(between)
