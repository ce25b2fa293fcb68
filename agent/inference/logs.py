"""Lines of logs: their numbers are the machine's, and what stands in front says when.

A line is one of a log if it has a time stamp near its head and another mark: a level,
a process, `key=value`, a request. So "2024-03-18 02:14:55 Ann called" is none.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

_ZONE = r"(?: ?(?:Z|UTC|GMT|CES?T|[+\-]\d\d:?\d\d))?"
_CLOCK = r"\d\d:\d\d:\d\d(?:[.,]\d{1,9})?"
_MONTH = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
_DAY = r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
_STAMP = re.compile(
    r"(?<![\w.])(?:"
    rf"\d{{4}}[\-/.]?\d\d[\-/.]?\d\d(?:[T _\-]|, )"
    rf"(?:{_CLOCK}|\d{{6}}(?:[.,]\d{{1,9}})?){_ZONE}"
    rf"|\d\d?[\-/.](?:\d\d|{_MONTH})[\-/.]\d{{4}}[ :T](?:{_CLOCK})(?: ?[AP]M)?{_ZONE}"
    rf"|(?:{_DAY} )?{_MONTH} {{1,2}}\d\d? {_CLOCK}(?: {_ZONE})?(?: \d{{4}})?"
    rf"|(?:{_DAY}, )?\d\d? {_MONTH} \d{{4}} {_CLOCK}{_ZONE}"
    rf"|\d\d-\d\d {_CLOCK}|{_CLOCK}|1\d{{9}}(?:\.\d{{1,9}})?|1\d{{12}}"
    r"|\[ {0,8}\d{1,8}\.\d{6}\]"
    r")(?!\w)",
    re.IGNORECASE,
)
_LEVEL = (
    r"trace|debug|info|notice|warn(?:ing)?|error|err|crit(?:ical)?|fatal|severe|alert"
    r"|emerg|panic|dbg|inf|wrn|exception|log|statement|detail"
)
_MARK = re.compile(
    rf"(?<![\w])(?:{_LEVEL.upper()})(?!\w)|[\[(<](?i:{_LEVEL})[\])>]"
    r"|\w\[\d{1,7}\]:|\[\d{1,7}(?:-\d{1,4})?\]|(?<!\w)[\w.\-]{1,24} ?=[\w \"\-]"
    r"|\"(?:GET|POST|PUT|HEAD|DELETE|PATCH) |(?<!\w)[IWEFDV] {1,4}\w{1,32} {0,4}:"
    r"|\d \S{1,64} [\w./\-]{1,40}(?:\[\d{1,7}\])?: |(?<!\w)[IWEFD]\d{4} "
    r"|\w\.\w{1,4}:\d{1,5}[\])]|HTTP/\d|\"(?:level|lvl|severity|msg)\"\s?:"
    r"|(?<!\w)0x[0-9a-f]{4}|^<\d{1,3}>\d? |^[a-z]{1,24}: 1\d{9}: "
    r"|(?<!\w)(?:usb \d|eth\d|wlan\d|alarm \d)"
)
_TIME = re.compile(
    rf"(?<![\w.])(?:\d{{4}}[\-/.]\d\d[\-/.]\d\d(?:[T _]|, ){_CLOCK}{_ZONE}"
    rf"|\d\d?[\-/.](?:\d\d|{_MONTH})[\-/.]\d{{4}}[ :T]{_CLOCK}(?: ?[AP]M)?{_ZONE}"
    rf"|(?:{_DAY} )?{_MONTH} {{1,2}}\d\d? {_CLOCK}(?: \d{{4}})?|{_CLOCK})"
    r"(?![\w:]|\.\d)",
    re.IGNORECASE,
)
HEAD = 80  # characters in which a line says when
_LINE = re.compile(r"[^\n]+")


def times(text: str) -> Iterator[tuple[int, int]]:
    """Yield times to the second, as machines write them, on lines that are no log's."""
    written = list(lines(text))
    ends = [line.end for line in written]
    for match in _TIME.finditer(text):
        place = bisect_right(ends, match.start())
        if place == len(ends) or match.start() < written[place].start:
            yield match.span()


@dataclass(frozen=True, slots=True)
class Line:
    """Where a line of a log stands, and its time stamp."""

    start: int
    end: int
    stamp: tuple[int, int]


def lines(text: str) -> Iterator[Line]:
    """Yield the lines of logs in a text."""
    for line in _LINE.finditer(text):
        stamp = _STAMP.search(text, line.start(), min(line.end(), line.start() + HEAD))
        if stamp and _MARK.search(line[0]):
            yield Line(line.start(), line.end(), stamp.span())
