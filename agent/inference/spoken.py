"""Numbers and addresses as they are said: "four one one one", "ann at example dot com".

Speech recognisers write them so. A run of words for digits is a number that somebody
dictated; what it is of, the words do not say.
"""

import re
from collections.abc import Iterator

from agent.inference.folding import Spans

DIGIT = r"(?:zero|oh|nought|naught|one|two|three|four|five|six|seven|eight|nine|niner)"
_TEEN = (
    r"(?:ten|eleven|twelve|(?:thir|four|fif|six|seven|eigh|nine)teen"
    r"|(?:twen|thir|for|fif|six|seven|eigh|nine)ty|hundred|double|triple|plus|dash)"
)
_WORD = re.compile(
    rf"(?<![\w'])(?:(?P<digit>{DIGIT})|(?P<other>{_TEEN})|(?P<figure>\d))(?![\w'])",
    re.IGNORECASE,
)
_GAP = re.compile(r"(?:\s|,\s?|\s?-\s?|\.\s){1,2}")
DIGITS = 4  # said one by one
PHONE = range(7, 14)
WORDS = 6  # of a number said partly so ("eight hundred five five five twelve")

BEFORE = 20
_ANNOUNCES = re.compile(
    r"(?<!\w)(?:number|phone|mobile|cell|fax|call|dial|ring|text|social|ssn|card|account"
    r"|zip|extension|code|pin)(?: is| are)?[ :,]{1,2}$",
    re.IGNORECASE,
)
COUNTING = (
    "zero one two three four five six seven eight nine ten eleven twelve",
    "twelve eleven ten nine eight seven six five four three two one zero",
    "0 1 2 3 4 5 6 7 8 9",
    "9 8 7 6 5 4 3 2 1 0",
)

# "ann dot lee at example dot com"
_SPELT = r"[a-z0-9][a-z0-9_\-]{0,30}"
_DOT = r"(?: dot | ?\(dot\) ?| ?\[dot\] ?|\.)"
_ENDING = r"(?:com|org|net|edu|gov|io|co|uk|de|au|ca|us|info|biz|me|tv|eu|nl|fr|in|dev)"
_EMAIL = re.compile(
    rf"(?<![\w@]){_SPELT}(?:(?: dot | underscore | dash |\.){_SPELT}){{0,3}}"
    rf"(?: at | ?\(at\) ?| ?\[at\] ?){_SPELT}(?:{_DOT}{_SPELT}){{0,2}}"
    rf"(?: dot | ?\(dot\) ?| ?\[dot\] ?){_ENDING}(?:{_DOT}{_ENDING})?(?!\w)",
    re.IGNORECASE,
)
_HOST = re.compile(
    rf"(?<![\w@])(?:www dot )?{_SPELT}(?: dot {_SPELT}){{0,2}} dot {_ENDING}"
    rf"(?: dot {_ENDING})?(?!\w)",
    re.IGNORECASE,
)


def phones(text: str) -> Spans:
    """Yield runs of words for digits that are as long as a phone number."""
    for words, start, end in _runs(text):
        if words in PHONE:
            yield start, end


def numbers(text: str) -> Spans:
    """Yield the other runs of words for digits."""
    for words, start, end in _runs(text):
        if words not in PHONE:
            yield start, end


def emails(text: str) -> Spans:
    """Yield mail addresses as they are said."""
    for match in _EMAIL.finditer(text):
        yield match.span()


def hosts(text: str) -> Spans:
    """Yield addresses on the web as they are said."""
    for match in _HOST.finditer(text):
        yield match.span()


def _runs(text: str) -> Iterator[tuple[int, int, int]]:
    """Yield how many words, start and end of each number that was dictated."""
    run: list[re.Match[str]] = []
    for match in _WORD.finditer(text):
        if run and not _GAP.fullmatch(text, run[-1].end(), match.start()):
            if _is_number(run):
                yield len(run), run[0].start(), run[-1].end()
            run = []
        run.append(match)
    if _is_number(run):
        yield len(run), run[0].start(), run[-1].end()


def _is_number(run: list[re.Match[str]]) -> bool:
    """Tell whether a run is long enough and nobody is counting."""
    digits = sum(1 for match in run if match["digit"])
    figures = sum(1 for match in run if match["figure"])
    enough = digits >= DIGITS or (digits > 0 and len(run) >= WORDS)
    return (enough or figures >= WORDS) and (not _counts(run) or _announced(run[0]))


def _announced(first: re.Match[str]) -> bool:
    """Tell whether the word before a number says that it is one."""
    before = first.string[max(0, first.start() - BEFORE) : first.start()]
    return _ANNOUNCES.search(before) is not None


def _counts(run: list[re.Match[str]]) -> bool:
    """Tell whether the words count: one, two, three, four."""
    words = " ".join(match[0].lower() for match in run)
    return any(words in row for row in COUNTING)
