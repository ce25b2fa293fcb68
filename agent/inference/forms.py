"""What form an utterance has, by rules: a second line beside what models say of it.

Words and their order, no model: what is negated, cancelled, asked, reported, joined or
put under a condition in so many words (form_words.py). Rules look for what they are
sure of and say nothing of the rest; each looks at every word at most a few times.
"""

import re

from agent.core.types import Form
from agent.inference import form_words as known
from agent.inference.courtesies import bare
from agent.inference.form_words import STOPS
from agent.inference.utterance import Words, are, following, opened, words_of

CLOCK = re.compile(r"\d{1,2}(?:am|pm|h|:\d\d)?")
SHORT = 2  # words that are no request with a time: "see you tomorrow"
REASONED = 40  # words of the reasons that somebody gives before he asks
BEGINNING = 12  # words in which somebody says that he wants to know something


def ruled(text: str) -> tuple[Form, ...]:
    """Return the forms that the rules see in a text, the gravest first; often none."""
    words = words_of(text)
    words = words[slice(*bare(words))]
    if not words:
        return ()
    start = opened(words)
    return tuple(form for form, sees in RULES if sees(words, start))


# -- negated, cancelled


def _negated(words: Words, start: int) -> bool:
    if _taken_back(words, start):
        return True
    if _begins_question(words, start):
        return False  # "why is it not on", "what if it does not": asked, not refused
    return any(_turns(words, start, place) for place in range(len(words)))


def _turns(words: Words, start: int, place: int) -> bool:
    """Tell whether the word in a place turns the request round."""
    word, after = words[place], following(words, place)
    # What stands behind such a verb belongs to what is noted, sent, played...
    if place > start and words[start] in known.CARRIERS:
        return False
    if word in known.NOT_SO:
        return after in known.NEEDLESS
    if word not in known.NOT or _harmless(words, start, place):
        return False
    unsaid = STOPS | known.ADVERBS
    before = [one for one in words[max(0, place - 4) : place] if one not in unsaid]
    if before and before[-1] in known.HARMLESS_BEFORE:
        return False
    return not _of_oneself(before) or _unwanted(words, place)


def _unwanted(words: Words, place: int) -> bool:
    """Tell whether what somebody says of himself is that he does not want it."""
    after = following(words, place)
    if after == "think":  # "i don't think you should", not "i don't think it came"
        return words[place + 2 : place + 3] in (["you"], ["we"])
    told = words[place] in {"don't", "not", "never", "didn't"} and after in known.SAID
    return told or after in known.WANTED


def _harmless(words: Words, start: int, place: int) -> bool:
    """Tell whether it turns nothing round: "don't forget", "it has not come"."""
    after = words[place + 1 : place + 4]
    if after[:1] and after[0] in known.HARMLESS_AFTER:
        return True
    if after == ["let", "me", "forget"]:
        return True
    if words[start] in known.FIRST:
        return False
    return words[place] == "without" or _says_what_is(words, place)


def _says_what_is(words: Words, place: int) -> bool:
    """Tell whether a negation says how things are: "it has not come, i cannot see"."""
    if (
        not place
        or words[place - 1] in STOPS
        or following(words, place) in known.NEEDLESS
    ):
        return False
    if words[place] in known.UNABLE:
        return words[place - 1] not in known.TOLD_NOT
    after = following(words, place)
    if words[place] not in {"not", "no", "never"} or after in known.WANTED:
        return False
    return words[place - 1] in known.IS_SO or after.endswith(("ing", "ed"))


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
    replaces = words[start] in known.FIRST and not _told(words, start)
    for place in range(start + 2, len(words)):
        if words[place] == "actually" and following(words, place) in known.SECOND:
            return True
        waited = (
            words[place - 1] in known.WAITING or following(words, place) in known.WAIT
        )
        if words[place] in known.HELD and waited:
            continue
        phrases = known.TAKEN_BACK.get(words[place], ())
        if any(are(words, place, phrase) for phrase in phrases):
            return True
        others = known.REPLACED.get(words[place], ())
        if replaces and any(are(words, place, phrase) for phrase in others):
            return True
    return False


# -- several


def _several(words: Words, start: int) -> bool:
    """Tell whether a request or question is followed by another, not its content."""
    told = tuple(words[start : start + 2]) in known.TOLD_ME
    wanted = words[start] in known.FIRST or told
    asked = _begins_question(words, start)
    if not wanted and not asked:
        return False
    for place in range(start + 2, len(words) - 1):
        if words[place] not in known.JOINTS:
            continue
        after = place + 1
        between = known.JOINTS | known.BETWEEN
        while after < len(words) - 1 and words[after] in between:
            after += 1
        if (
            wanted
            and words[after] in known.SECOND
            and not _content(words, start, after)
        ):
            return following(words, after) not in STOPS | {""}
        if _asks_more(words, place) and not _carries(words, start):
            return True
    return wanted and _set_twice(words, start)


def _carries(words: Words, start: int) -> bool:
    """Tell whether what is said to somebody follows: "text mum and ask ..."."""
    told = tuple(words[start : start + 2]) in known.TOLD_ME
    return words[start] in known.CARRIERS - known.TITLED and not told


def _content(words: Words, start: int, place: int) -> bool:
    """Tell whether a second verb says what the first one is to carry."""
    if words[place : place + 2] in known.CONTENT:
        return True
    return words[place] in known.SAYING and (
        _carries(words, start) or words[start] == "call"
    )


def _asks_more(words: Words, joint: int) -> bool:
    """Tell whether "and" is followed by a question of its own: "and how do i ..."."""
    if words[joint] not in {"and", "&"}:
        return False
    place = joint + 1
    while place < len(words) - 1 and words[place] in {"also", "then", ","}:
        place += 1
    first, second = words[place], following(words, place)
    if first in known.ASKING:
        return second in known.HELPERS | known.ABLE
    return first in known.ASKED_SHORT or (
        first in known.HELPERS | known.ABLE and second in known.ASKED - {"you"}
    )


def _set_twice(words: Words, start: int) -> bool:
    """Tell whether two things are set: "turn the fan off and the lights on"."""
    if words[-1] not in known.SET or words[start] not in {"turn", "switch", "put"}:
        return False
    before = words[: len(words) - 1]
    return any(
        before[place] == "and" and before[place - 1] in known.SET
        for place in range(start + 2, len(before))
    )


# -- asked


def _question(words: Words, start: int) -> bool:
    """Tell whether something is asked: how, why, if; not "can you" and its kind."""
    begun = [max(start, _greeted(words))]
    begun += [at + 1 for at in range(start, len(words) - 1) if words[at] in STOPS]
    if any(_begins_question(words, place) for place in begun):
        return True
    last = [word for word in words[-2:] if word not in STOPS]
    if len(words) > SHORT and last and last[-1] in known.ASKING - {"that", "which"}:
        return True  # "the minimum is what"
    return any(
        tuple(words[place : place + 2]) in known.KNOWING
        and words[place + 2 : place + 4] not in (["you", "could"], ["you", "can"])
        for place in range(min(len(words), BEGINNING))
    )


def _begins_question(words: Words, place: int) -> bool:
    first, second = words[place], following(words, place)
    if first == "when" and second in known.CLAUSES:
        return False
    if (first in known.ASKING and second) or (
        first.endswith("'s") and first[:-2] in known.ASKING
    ):
        return True
    if first in known.ABLE and second in known.ASKED - known.SPOKEN_TO:
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
    if words[start] in known.CARRIERS - known.TITLED or _told(words, start):
        return False
    first = start + 2 if words[start] in known.TITLED else start  # "play if only"
    places = range(first, len(words))
    return any(_begins_condition(words, place) for place in places)


def _told(words: Words, start: int) -> bool:
    """Tell whether something is asked or reported: its times and ifs are part of it."""
    return _question(words, start) or _statement(words, start)


def _begins_condition(words: Words, place: int) -> bool:
    word, after = words[place], tuple(words[place + 1 : place + 3])
    if place and words[place - 1] in known.REPORTING:
        return False
    if word in {"when", "after", "before", "since"} and _is_past(words, place + 2):
        return False
    if word in known.WHENEVER:
        return len(after) > 1 and after not in known.POLITE
    if word in known.TIMES_OF and after:
        noun = after[0] == "the" and word not in known.SINCE
        return noun or after[0] in known.CLAUSES
    return tuple(words[place : place + 3]) in known.CONDITIONS


def _is_past(words: Words, place: int) -> bool:
    """Tell whether a clause says what was: "when i tried", no condition."""
    word = words[place] if place < len(words) else ""
    return word in known.PAST or (word.endswith("ed") and word != "need")


def _delayed(words: Words, start: int) -> bool:
    """Tell whether a later time is set."""
    if words[start] in known.CARRIERS - known.TITLED or _told(words, start):
        return False
    if words[start] == "wait" and len(words) > start + 2:
        return True
    return any(_begins_delay(words, place) for place in range(len(words)))


def _begins_delay(words: Words, place: int) -> bool:
    word, after = words[place], following(words, place)
    if word in known.LATER:
        return len(words) > SHORT
    if word in {"at", "by", "around", "after", "before", "until"} and (
        after in known.HOURS | known.AFTER or CLOCK.fullmatch(after)
    ):
        return True
    if word == "in" and _is_span(words[place + 1 : place + 5]):
        return True
    if word in {"on", "in"} and after == "the":
        return following(words, place + 1) in known.DAYPARTS
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
    if _wants_in_the_end(words, place):
        return False  # "i am out of milk, order some"
    if start > place and words[start] in known.FIRST:
        return False  # what was said before is why it is asked for
    if subject in known.ABOUT_SELF:
        return not known.WISHES & {*words[place : place + 4]}
    if subject in known.SELF | {"you"}:
        return _tells(words, place + 1)
    owned = subject in known.OWNED
    told = owned and any(_tells(words, place + ahead) for ahead in (2, 3, 4))
    return told or subject in known.TELLING_OF_SELF


def _wants_in_the_end(words: Words, start: int) -> bool:
    """Tell whether a request of the speaker's own follows what he says."""
    if known.QUOTING & {*words}:
        return False
    for place in range(start + 1, min(len(words) - 1, start + REASONED)):
        if words[place] not in STOPS | {"so", "please"}:
            continue
        rest = words[place + 1 : place + 1 + REASONED]
        if rest[0] in known.ABLE and rest[1:2] == ["you"]:
            return True
        if _begins_question(rest, 0):
            return True
        if rest[opened(rest)] in known.SECOND and len(rest) > 1:
            return True
    return False


def _tells(words: Words, place: int) -> bool:
    while place < len(words) - 1 and words[place] in known.ADVERBS:
        place += 1
    must = words[place : place + 2] in (["have", "to"], ["got", "to"], ["am", "to"])
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
