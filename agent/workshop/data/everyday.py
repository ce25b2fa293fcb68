"""Real lines beside invented texts: what people write that is no personal data.

Invented texts have few words. Lines of other data sets have many, but nobody said what
in them is personal. So a line is taken only where its own labels, and lists of names,
places and times, say that nothing is unmarked.
"""

import re
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from faker.providers.person.en_US import Provider

from agent.evaluation.examples import Example, Span
from agent.inference.patterns import find
from agent.workshop.data.negatives import of_others
from agent.workshop.data.personal_values import read_words
from agent.workshop.data.recipe import Lines

# What the model is taught of what the patterns find: the other types are theirs alone.
CHECKED = frozenset(
    {
        *("CREDIT_CARD", "DOMAIN_NAME", "EMAIL_ADDRESS", "IBAN_CODE", "IP_ADDRESS"),
        *("PHONE_NUMBER", "US_SSN"),
    }
)
NAMED = (
    *("countries", "cities", "states", "regions", "nrp", "nrps", "nicknames"),
    *("organizations", "days", "months", "abbreviated"),
)
_WHEN = re.compile(
    r"""\b(?:
      today|tonight|tomorrow|yesterday|noon|midnight|morning|afternoon|evening|nights?
    | weekends?|weekdays?|o\s?'?\s?clock|ago|christmas|easter|thanksgiving|halloween
    | (?:last|next|this|past|coming|previous|each|every|of\ the)\s(?:few\s)?
      (?:week|month|year|day|hour|spring|summer|winter|fall|autumn|season)s?
    | in\s(?:an?|one|two|three|four|five|six|ten|\d+)\s
      (?:hour|day|week|month|year|minute)s?
    | (?:mon|tues|wednes|thurs|fri|satur|sun)days?
    | (?:january|february|april|june|july|august|september|october|november|december)
    | (?:jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|mon|tue|wed|thu|fri|sat|sun)
    | (?:march|may)\s(?:the\s)?\w*\d | (?:a\.?m|p\.?m)\.? | (?:18|19|20)\d\d
    | \d\d?[:.]\d\d | \d+(?:st|nd|rd|th) | now\s?adays | years?\s?-?\s?old | aged?\s\d+
    | m(?:r|rs|s)\.? | dr\.? | prof\.?
    )(?!\w)""",
    re.IGNORECASE | re.VERBOSE,
)
_DIGITS = re.compile(r"\d{5}")
_WORD = re.compile(r"[^\W\d_][\w'\N{RIGHT SINGLE QUOTATION MARK}-]*")
_BEFORE = re.compile(r"(?:^|[.?!:\"(-])\s*$")  # here a sentence begins
_CAPITALS = {"I", "I'm", "I'd", "I've", "I'll", "ATM", "ATMs", "PIN", "OK", "ID", "TV"}
LONGEST = 4  # words of a name in a list


def read_lines(data: Path, sources: Sequence[Lines], split: str) -> list[Example]:
    """Return the lines of these files in which all personal data is marked."""
    examples: list[Example] = []
    for source in sources:
        path = data / source.file.format(split=split)
        lines = of_others(path, source.without)
        taken = [marked(one, source) for one in lines if _of_split(one, source, split)]
        times = source.times if split == "train" else 1
        examples += [one for one in taken if one is not None] * times
    return examples


def _of_split(example: Example, source: Lines, split: str) -> bool:
    """Tell whether a line is of this split; a file with `{split}` has no other."""
    if "{split}" in source.file:
        return True
    held = bool(source.held) and zlib.crc32(example.text.encode()) % source.held == 0
    return held == (split == "valid")


def marked(example: Example, source: Lines) -> Example | None:
    """Return a line with the labels of ours; None where it is not clear what is what.

    Of its own labels those of `source.labels` have one of ours; the others must be
    named as harmless.
    """
    spans = []
    for span in example.outermost():
        label = source.labels.get(span.label)
        if label is None and span.label not in source.harmless:
            return None
        words = example.text[span.start : span.end]
        if label is None:
            continue
        listed = not source.known_places or words.lower() in _names()
        if not words[0].isalnum() or (label == "GPE" and not listed):
            return None
        spans.append(Span(start=span.start, end=span.end, label=label))
    for entity in find(example.text, CHECKED):
        if any(s.start < entity.end and entity.start < s.end for s in spans):
            return None
        spans.append(Span(start=entity.start, end=entity.end, label=entity.label))
    spans.sort(key=lambda span: span.start)
    left = list(example.text)
    for span in spans:
        left[span.start : span.end] = ["\n"] * (span.end - span.start)
    if source.listed and doubtful("".join(left), capitals=source.capitals):
        return None
    return Example(text=example.text, spans=tuple(spans))


def doubtful(text: str, *, capitals: bool) -> bool:
    """Tell whether something in a text without marks may be personal.

    `capitals`: whether its names are written with them, as nothing else is.
    """
    if _WHEN.search(text) or _DIGITS.search(text):
        return True
    matches = list(_WORD.finditer(text))
    if capitals and any(
        match[0][0].isupper()
        and match[0] not in _CAPITALS
        and not _BEFORE.search(text[: match.start()])
        for match in matches
    ):
        return True
    words = [match[0].lower().removesuffix("'s") for match in matches]
    return any(
        " ".join(words[start : start + size]) in _names()
        for start in range(len(words))
        for size in range(1, LONGEST + 1)
    )


@cache
def _names() -> frozenset[str]:
    """Return all names that we know and that are no words, in small letters."""
    words = read_words()
    listed = [entry for section in NAMED for entry in words[section]]
    for name in words:
        listed += words[name] if name.endswith("_first") else []
    listed += [*Provider.first_names]
    return frozenset(entry.lower() for entry in listed) - frozenset(words["plain"])
