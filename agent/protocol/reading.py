"""The JSON in what a language model says: a lenient reader in front of strict checks.

Models think aloud, add prose and fences, and end with tokens of their template. What
they think is no answer, and of two answers that differ neither is taken for sure.
"""

import json
import re
from collections.abc import Collection, Iterator
from typing import Any

from pydantic_core import from_json

from agent.protocol.strict_json import strict_json

MOST_CHARS = 100_000  # of what is said; more is no answer of ours
MOST_STARTS = 200  # places where an object may begin that are tried
AROUND = "\ufeff \t\r\n"
# How models mark what they think: a word in angle brackets, Kimi's own marks, and the
# channels of gpt-oss, of which the last one, "final", is the answer.
WORDS = "think|thinking|thought|thoughts|reasoning|reflection|analysis|scratchpad"
MARK = re.compile(
    rf"(?P<opens><(?:seed:)?(?:{WORDS})\b[^<>]*>|◁think▷"
    r"|<\|channel\|>\s*(?:analysis|commentary)\b)"
    rf"|</(?:seed:)?(?:{WORDS})\s*>|◁/think▷|<\|channel\|>\s*final\b",
    re.IGNORECASE,
)
OBJECT = re.compile(r'\{\s*["}]')
WRAPPED = 3  # times that an answer may be wrapped: in a string, a list, a key


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


_SCANNER = json.JSONDecoder(parse_constant=_no_number)


def read_answer(reply: str, keys: Collection[str]) -> Any:
    """Return the JSON of an answer, wherever it stands in what a model said.

    `keys` are those that an answer has. Raises ValueError where there is none, where
    there are two that differ and neither is clearly the last word, where it nests too
    deep, or spells half a character (a lone surrogate), which nobody could send on.
    """
    whole = reply.strip(AROUND)
    try:  # as it is: what it quotes of the message may look like a mark
        return _unwrapped(strict_json(whole.encode()), keys)
    except ValueError:
        text = spoken(whole)
    if not text:
        raise ValueError("nothing is said")
    try:
        return _unwrapped(strict_json(text.encode()), keys)
    except ValueError as error:
        why = str(error)
    candidates = [_unwrapped(one, keys) for one in _objects(text)]
    answers = [one for one in candidates if _is_answer(one, keys)] or candidates[-1:]
    if not answers:
        raise ValueError(why)
    if text.startswith("{") and any(one != answers[0] for one in answers):
        raise ValueError("two answers that differ")
    return answers[-1]


def spoken(reply: str) -> str:
    """Return what a model said, without what it thought before; may be empty."""
    parts: list[str] = []
    begin, thinks = 0, False
    for mark in MARK.finditer(reply):
        if mark["opens"]:
            if not thinks:
                parts.append(reply[begin : mark.start()])
            thinks = True
            continue
        if not thinks:  # its template had begun the thinking
            parts.clear()
        begin, thinks = mark.end(), False
    if not thinks:
        parts.append(reply[begin:])
    return "".join(parts).strip(AROUND)


def _objects(text: str) -> Iterator[Any]:
    """Yield the JSON objects in a text that stand in no other, in order."""
    text = text[-MOST_CHARS:]
    end = 0
    for start in [match.start() for match in OBJECT.finditer(text)][-MOST_STARTS:]:
        if start < end:
            continue
        try:
            _, end = _SCANNER.raw_decode(text, start)
            yield strict_json(text[start:end].encode())
        except (ValueError, RecursionError):
            continue


def _is_answer(value: Any, keys: Collection[str]) -> bool:
    return isinstance(value, dict) and any(key in value for key in keys)


def _unwrapped(value: Any, keys: Collection[str]) -> Any:
    """Return an answer out of a string, a list of one, or the only key of an object."""
    for _ in range(WRAPPED):
        inner = value
        if isinstance(value, str):
            try:
                inner = from_json(value, allow_inf_nan=False)
            except ValueError:
                return value
        elif isinstance(value, list) and len(value) == 1:
            inner = value[0]
        elif (
            isinstance(value, dict) and len(value) == 1 and not _is_answer(value, keys)
        ):
            [inner] = value.values()
        if inner is value or not isinstance(inner, dict | list | str):
            return value
        value = inner
    return value
