"""What form an utterance has, by rules: a second line beside what models say of it.

Words and their order, no model: what is negated, cancelled, asked, reported, joined or
put under a condition in so many words (form_words.py). Rules look for what they are
sure of and say nothing of the rest; each looks at every word at most a few times.
"""

import re
from collections.abc import Sequence

from agent.core.types import Form
from agent.inference import form_words as known
from agent.inference.form_words import STOPS

TOKEN = re.compile(
    r"\d{1,2}:\d\d|[^\W_]+(?:'[^\W_]+)*|[.,;:!?&]|-+(?=\s)|\N{HORIZONTAL ELLIPSIS}"
)
CLOCK = re.compile(r"\d{1,2}(?:am|pm|h|:\d\d)?")
APOSTROPHES = str.maketrans(
    {"\N{RIGHT SINGLE QUOTATION MARK}": "'", "\N{MODIFIER LETTER APOSTROPHE}": "'"}
)
SHORT = 2  # words that are no request with a time: "see you tomorrow"
MOST_OPENINGS = 24  # one behind the other
BEGINNING = 12  # words in which somebody says that he wants to know something

Words = Sequence[str]


def words_of(text: str) -> list[str]:
    """Return words and stops, in small letters, spelt alike."""
    lowered = text.lower().translate(APOSTROPHES)
    return [known.SPELT.get(word, word) for word in TOKEN.findall(lowered)]


def plain(text: str) -> str:
    """Return the words of a text without what is polite before and behind it."""
    words = words_of(text)
    while words and (words[-1] in STOPS or words[-1] in {"please", "thanks", "thank"}):
        words.pop()
    return " ".join(words[opened(words) :])


def ruled(text: str) -> tuple[Form, ...]:
    """Return the forms that the rules see in a text, the gravest first; often none."""
    words = words_of(text)
    if not words:
        return ()
    start = opened(words)
    return tuple(form for form, sees in RULES if sees(words, start))


def opened(words: Words) -> int:
    """Return where a request begins, after what is polite; 0 where nothing is left."""
    start = 0
    for _ in range(MOST_OPENINGS):
        while start < len(words) and words[start] in STOPS:
            start += 1
        if start == len(words):
            return 0
        end = next(
            (
                start + len(opening)
                for opening in known.OPENINGS.get(words[start], ())
                if _are(words, start, opening)
            ),
            start,
        )
        if end in {start, len(words)}:
            break
        start = end
    return start


def _are(words: Words, start: int, phrase: tuple[str, ...]) -> bool:
    return tuple(words[start : start + len(phrase)]) == phrase


def _next(words: Words, place: int) -> str:
    """Return the word after a place; empty where none is."""
    return words[place + 1] if place + 1 < len(words) else ""


# -- negated, cancelled


def _negated(words: Words, start: int) -> bool:
    return any(_turns(words, start, place) for place in range(len(words))) or (
        _taken_back(words, start)
    )


def _turns(words: Words, start: int, place: int) -> bool:
    """Tell whether the word in a place turns the request round."""
    word, after = words[place], _next(words, place)
    # What stands behind such a verb belongs to what is noted, sent, played...
    if word not in known.NOT or (place > start and words[start] in known.CARRIERS):
        return False
    if after in known.HARMLESS_AFTER or (
        after == "let" and words[place + 2 : place + 4] == ["me", "forget"]
    ):
        return False
    before = [one for one in words[max(0, place - 3) : place] if one not in STOPS]
    if before and before[-1] in known.HARMLESS_BEFORE:
        return False
    if _of_oneself(before):
        told = word in {"don't", "not", "never", "didn't"} and after in known.SAID
        return told or after in known.WANTED
    return True


def _of_oneself(before: Words) -> bool:
    """Tell whether a negation after these words says what somebody cannot or is not."""
    subjects = {"i", "we", "it", "that", "my"}
    if not before:
        return False
    helped = before[-1] in {"do", "did", "could", "can", "is", "am", "are", "was"}
    return before[-1] in subjects | {"am", "is", "i'm", "it's"} or (
        helped and before[-2:-1] != [] and before[-2] in subjects
    )


def _taken_back(words: Words, start: int) -> bool:
    """Tell whether a request is taken back, or another one put in its place."""
    if tuple(words[start : start + 2]) in known.TAKEN_BACK_AHEAD:
        return True
    for place in range(start + 2, len(words)):
        if words[place] == "actually" and _next(words, place) in known.SECOND:
            return True
        phrases = known.TAKEN_BACK.get(words[place], ())
        if any(_are(words, place, phrase) for phrase in phrases):
            return True
    return False


# -- several


def _several(words: Words, start: int) -> bool:
    """Tell whether a request is followed by another one that is not its content."""
    if words[start] not in known.FIRST:
        return False
    for place in range(start + 2, len(words) - 1):
        if words[place] not in known.JOINTS:
            continue
        after = place + 1
        between = known.JOINTS | known.BETWEEN
        while after < len(words) - 1 and words[after] in between:
            after += 1
        content = words[after : after + 2] in known.CONTENT
        if words[after] in known.SECOND and not content:
            return _next(words, after) not in STOPS | {""}
    return False


# -- asked


def _question(words: Words, start: int) -> bool:
    """Tell whether something is asked: how, why, if; not "can you" and its kind."""
    if _begins_question(words, max(start, _greeted(words))):
        return True
    return any(
        tuple(words[place : place + 2]) in known.KNOWING
        and words[place + 2 : place + 4] not in (["you", "could"], ["you", "can"])
        for place in range(min(len(words), BEGINNING))
    )


def _begins_question(words: Words, place: int) -> bool:
    first, second = words[place], _next(words, place)
    if first == "when" and second in known.CLAUSES:
        return False
    if (first in known.ASKING and second) or (
        first.endswith("'s") and first[:-2] in known.ASKING
    ):
        return True
    if first in known.HELPERS and second in known.ASKED:
        return not (first in {"do", "have"} and second in {"the", "it"})
    near = {*words[place + 1 : place + 4]}
    return first in known.TOLD and bool(
        near & known.ASKED_AT_ONCE or near & known.REPORTED
    )


def _greeted(words: Words) -> int:
    """Return where a report or a question begins, after what greets or hesitates."""
    place = 0
    while place < len(words) - 1 and words[place] in STOPS | known.GREETS:
        place += 1
    return place


# -- under a condition, later


def _conditional(words: Words, start: int) -> bool:
    """Tell whether a condition is set."""
    if words[start] in known.CARRIERS - known.TITLED:
        return False
    first = start + 2 if words[start] in known.TITLED else start  # "play if only"
    places = range(first, len(words))
    return any(_begins_condition(words, place) for place in places)


def _begins_condition(words: Words, place: int) -> bool:
    word, after = words[place], tuple(words[place + 1 : place + 3])
    if place and words[place - 1] in known.REPORTING:
        return False
    if word in known.WHENEVER:
        return len(after) > 1 and after not in known.POLITE
    if word in known.TIMES_OF and after:
        noun = after[0] == "the" and word not in known.SINCE
        return noun or after[0] in known.CLAUSES
    return tuple(words[place : place + 3]) in known.CONDITIONS


def _delayed(words: Words, start: int) -> bool:
    """Tell whether a later time is set."""
    if words[start] in known.CARRIERS - known.TITLED:
        return False
    if words[start] == "wait" and len(words) > start + 2:
        return True
    return any(_begins_delay(words, place) for place in range(len(words)))


def _begins_delay(words: Words, place: int) -> bool:
    word, after = words[place], _next(words, place)
    if word in known.LATER:
        return len(words) > SHORT
    if word in {"at", "by", "around", "after", "before", "until"} and (
        after in known.HOURS | known.AFTER or CLOCK.fullmatch(after)
    ):
        return True
    if word == "in" and _is_span(words[place + 1 : place + 5]):
        return True
    if word in {"on", "in"} and after == "the":
        return _next(words, place + 1) in known.DAYPARTS
    if word in {"after", "before", "until"} and after == "the":
        return True
    named = word in {"every", "each", "next", "this", "on"} and after in known.DAYS
    return named or tuple(words[place : place + 3]) in known.FROM_NOW


def _is_span(words: Words) -> bool:
    """Tell whether these words begin with a span of time: "ten minutes"."""
    number = words[0] if words else ""
    counted = number in known.NUMBERS or number.isdecimal()
    return counted and any(word in known.UNITS for word in words[1:4])


# -- reported


def _statement(words: Words, start: int) -> bool:
    """Tell whether somebody or something is said to have done, or to be, something."""
    if tuple(words[start : start + 3]) in known.HEARD:
        return True
    place = _greeted(words)
    subject = words[place]
    if start > place and words[start] in known.FIRST:
        return False  # what was said before is why it is asked for
    if subject in known.ABOUT_SELF:
        return not known.WISHES & {*words[place : place + 4]}
    if subject in known.SELF | {"you"}:
        return _tells(words, place + 1)
    owned = subject in known.OWNED
    told = owned and any(_tells(words, place + ahead) for ahead in (2, 3, 4))
    return told or subject in known.TELLING_OF_SELF


def _tells(words: Words, place: int) -> bool:
    while place < len(words) - 1 and words[place] in known.ADVERBS:
        place += 1
    must = words[place : place + 2] in (["have", "to"], ["has", "to"], ["am", "to"])
    if must or known.WISHES & {*words[place : place + 4]}:
        return False  # "i have to", "i will need"
    return place < len(words) and words[place] in known.TELLING


RULES = (
    (Form.NEGATED, _negated),
    (Form.SEVERAL, _several),
    (Form.QUESTION, _question),
    (Form.CONDITIONAL, _conditional),
    (Form.DELAYED, _delayed),
    (Form.STATEMENT, _statement),
)
