"""What an endpoint's complaint is about, in the many words that endpoints have for it.

Status 400 says no more than "no": of the request, of its form, of an account that is
empty or a model that is not loaded. The words tell.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from agent.protocol.forms import PromptPart

T = TypeVar("T")

# What says of a request that it cannot be taken, or of a server that it broke over it;
# 0 is an error that a body tells with status 200.
MAY_COMPLAIN = {0, 400, 404, 415, 422, 500, 501}
MOST_WORDS = 4000  # characters of a complaint
DEEPEST = 6  # lists and objects in each other
# What ails all requests alike. The first that fits is told.
OPERATORS = {
    "the key": r"api[ _-]?key|unauthori[sz]ed|authenticat|credential|access token",
    "the account or its budget": r"""
        credit|balance|billing|payment|quota|budget|spend(ing)?\ limit|subscription
        |\baccount\b|organi[sz]ation|insufficient|\bplan\b|licen[cs]e|suspended
        |not\ allowed\ to|deactivated|terms\ of\ (service|use)""",
    "the place it is asked from": r"location|country|region|territor|geo.?block",
    "the model: not there, or not loaded": r"""
        no\ models?\ (is\ |are\ )?(currently\ )?(loaded|running|available)
        |no\ healthy|no\ deployments?|load(ing)?\ (the\ )?model|model_?not_?found
        |model[^.]{0,80}(\bnot\ (been\ )?(found|loaded|exist|available|running|ready
            |deployed|installed|pulled|recogni[sz]ed|valid)|n't\ exist|unavailable
            |not\ supported\W*$|unknown|deprecated|retired|decommissioned|disabled
            |invalid|is\ loading|failed\ to\ load|unloaded|crashed)
        |(invalid|unknown|unsupported|no\ such|missing|cannot\ find|couldn't\ find
            |could\ not\ find|failed\ to\ load)\ (the\ )?(\w+\ )?model\b""",
    "the server": r"""
        rate.?limit|too\ many\ requests|overload|capacity|maintenance|try\ again
        |no_db_connection|database|out\ of\ memory|cuda|\boom\b|internal\ error
        |timed?\ ?out|unavailable|connection\ (refused|error|reset)|upstream\ connect
        """,
}
LOOSE = re.IGNORECASE | re.VERBOSE
FAULTS = {why: re.compile(pattern, LOOSE) for why, pattern in OPERATORS.items()}
TOO_LONG = re.compile(
    r"""context.{0,12}(length|window|size|limit)|too\ (long|large|many\ tokens)
        |max_model_len|reduce\ (the|your)|string_above_max_length|n_ctx
        |exceeds?\ .{0,40}(token|context|limit|maximum|length)
        |(prompt|input).{0,40}exceed""",
    LOOSE,
)
# What is about nothing but the form of a request, whatever else is said.
SURE = {
    PromptPart.LIMIT: r"max_completion_tokens",
    PromptPart.TEMPERATURE: r"temperature",
    PromptPart.SYSTEM: r"""
        system.{0,3}(role|message|prompt|instruction)|role.{0,20}\bsystem\b
        |developer.(instruction|role|message)|roles?\ must\ alternate
        |alternat\w+\ (between\ )?user|only\ user\ and\ assistant
        |jinja|chat.?template|template.?error|(unknown|invalid|unsupported)\ role""",
    PromptPart.FORMAT: r"""
        response.?format|json.?schema|json.?object|json.?mode|grammar|xgrammar
        |additional_?properties|guided.?(json|decoding)|structured.?output|outlines
        |lm-format-enforcer|response_mime_type""",
}
# And what may be: tried where nothing else explains the complaint.
MAYBE = {
    PromptPart.LIMIT: r"max_tokens",
    PromptPart.TEMPERATURE: r"sampling\ param",
    PromptPart.FORMAT: r"""\bschema\b|\bstrict\b|\b(any|one)of\b|\benum\b|regex
        |constrain""",
}
SURELY = {part: re.compile(pattern, LOOSE) for part, pattern in SURE.items()}
PERHAPS = {part: re.compile(pattern, LOOSE) for part, pattern in MAYBE.items()}


def fault_of(words: str) -> str | None:
    """Say what ails all requests alike, if a complaint is about that."""
    return _first(FAULTS, words)


def complained_of(status: int, words: str, *, explained: bool) -> PromptPart | None:
    """Return what of the form a complaint is about; None: nothing of it."""
    too_long = TOO_LONG.search(words)
    part = _first(SURELY, words) if status in MAY_COMPLAIN else None
    if part is PromptPart.FORMAT or (part and not too_long):
        return part
    if explained or too_long or status not in {0, 400, 422}:
        return None
    return _first(PERHAPS, words)


def _first(patterns: Mapping[T, re.Pattern[str]], words: str) -> T | None:
    return next(
        (key for key, pattern in patterns.items() if pattern.search(words)), None
    )


def words_of(document: Any, body: bytes) -> str:
    """Return what an error says, but nothing of the request that it may quote."""
    if document is None:
        return body[:MOST_WORDS].decode("utf-8", "replace")
    return " ".join(_messages(document, 0))[:MOST_WORDS]


def _messages(value: Any, depth: int) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list) and depth < DEEPEST:
        for one in value[:20]:
            yield from _messages(one, depth + 1)
    elif isinstance(value, dict) and depth < DEEPEST:
        for key in (
            "error",
            "errors",
            "message",
            "msg",
            "detail",
            "details",
            "title",
            "reason",
            "description",
            "type",
            "code",
            "status",
            "param",
            "loc",
            "metadata",
            "raw",
            "error_message",
            "choices",
        ):
            if key in value:
                yield from _messages(value[key], depth + 1)
