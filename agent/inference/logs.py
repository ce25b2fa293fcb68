"""Lines of logs: what stands in front says when, and is nobody's.

A time stamp is taken for one only on a line that has another mark of a log: a level, a
process, `key=value`, a request. So "2024-03-18 02:14:55 Ann called" is none.
"""

import re

from agent.inference.folding import Spans

_ZONE = r"(?: ?(?:Z|UTC|GMT|[+\-]\d\d:?\d\d))?"
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
    rf"|{_CLOCK}|1\d{{9}}(?:\.\d{{1,9}})?|1\d{{12}}"
    r")(?!\w)",
    re.IGNORECASE,
)
_MARK = re.compile(
    r"(?<!\w)(?:trace|debug|info|notice|warn(?:ing)?|error|err|crit(?:ical)?|fatal|severe"
    r"|alert|emerg|panic|dbg|inf|wrn|exception)(?!\w)"
    r"|\w\[\d{1,7}\]:|(?<!\w)[\w.\-]{1,24}=[\w\"\-]"
    r"|\"(?:GET|POST|PUT|HEAD|DELETE|PATCH) "
    r"|\d \S{1,64} [\w./\-]{1,40}(?:\[\d{1,7}\])?: |(?<!\w)[IWEFD]\d{4} "
    r"|\w\.\w{1,4}:\d{1,5}[\])]|HTTP/\d|\"(?:level|lvl|severity|msg)\"\s?:"
    r"|(?<!\w)0x[0-9a-f]{4}",
    re.IGNORECASE,
)
HEAD = 80  # characters in which a line says when
_LINE = re.compile(r"[^\n]+")


def stamps(text: str) -> Spans:
    """Yield the time stamps at the head of the lines of a log."""
    for line in _LINE.finditer(text):
        stamp = _STAMP.search(text, line.start(), min(line.end(), line.start() + HEAD))
        if stamp and _MARK.search(text, line.start(), line.end()):
            yield stamp.span()
