"""What a response of a chat endpoint means: an answer, whose fault else, paid or not.

One table for `transport = "http"` and for `slm-agent broker`. A body that is no
completion was no paid answer. A status 400 is the request's own fault only if nothing
else explains it; whether other requests fare alike, only the caller knows.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from agent.protocol import cases
from agent.protocol.cases import (
    LONGEST_ANSWER,
    LONGEST_QUOTE,
    Request,
    Usage,
    WireModel,
)
from agent.protocol.complaints import complained_of, fault_of, words_of
from agent.protocol.forms import PromptPart
from agent.protocol.pauses import pause
from agent.protocol.reading import read_answer, spoken
from agent.protocol.unpacking import unpacked

OK = range(200, 300)
REDIRECTS = range(300, 400)
THE_REQUESTS = {400, 413, 414, 422, 431}
UNPAID = {0, *REDIRECTS, *range(400, 500), 501, 503, 529} - {408, 409}
HINTS = {
    401: "is the key right?",
    402: "the account or its budget",
    403: "may the key do this?",
    404: "are url and model right?",
    405: "is the url right?",
    407: "a proxy wants a login",
    451: "somebody in between forbids it",
}
CODE = re.compile(r"[a-z][a-z0-9_]{2,39}")
STATUS = re.compile(r"[45][0-9][0-9]")
PAGE = re.compile(rb"\s*(<!doctype html|<html|<head|<body|<\?xml)", re.IGNORECASE)


class Kind(StrEnum):
    """What comes of a response."""

    ANSWER = "answer"  # JSON, to be checked
    UNUSABLE = "unusable"  # paid, and no JSON in it
    CUT = "cut"  # paid, and the longest answer allowed was too short for it
    DECLINED = "declined"  # paid; the model will not answer
    UNAVAILABLE = "unavailable"  # it may be there, or mended, later
    FORM = "form"  # it does not take the form of the request
    REJECTED = "rejected"  # this very request, if others are taken


@dataclass(frozen=True, slots=True)
class Response:
    """What an endpoint said; the names of headers in small letters."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a response means; `why` never holds text of the message.

    `answer` is JSON of an answer, or the words of one that holds none. `part` is what
    is complained of.
    """

    kind: Kind
    why: str = ""
    answer: Any = None
    usage: Usage = field(default=Usage())
    model: str | None = None
    maybe_paid: bool = False
    pause_s: float | None = None
    part: PromptPart = PromptPart.ANY


class _Tokens(WireModel):
    """The usage in a completion; some say what it cost."""

    prompt_tokens: cases.Tokens = 0
    completion_tokens: cases.Tokens = 0
    cost: cases.Cost | None = None


def judged(response: Response, request: Request, now: datetime) -> Verdict:
    """Return what a response to a request means."""
    encoding = response.headers.get("content-encoding", "")
    body = unpacked(response.body, encoding, LONGEST_ANSWER)
    response = replace(response, body=body)
    if len(body) > LONGEST_ANSWER:
        why = f"more than {LONGEST_ANSWER} bytes"
        return Verdict(Kind.UNAVAILABLE, why, maybe_paid=True)
    document = _json(body)
    if response.status in OK:
        return _completion(document, response, request, now)
    return _failure(response.status, document, response, request, now)


def is_openai(response: Response) -> bool:
    """Tell whether a body is in OpenAI's form, be it of an error."""
    encoding = response.headers.get("content-encoding", "")
    document = _json(unpacked(response.body, encoding, LONGEST_ANSWER))
    return isinstance(document, dict) and ("choices" in document or "error" in document)


# -- a body that should be a completion


def _completion(
    document: Any, response: Response, request: Request, now: datetime
) -> Verdict:
    error, choice = _error_in(document), _choice_in(document)
    if error:
        return _failure(_status_in(error), document, response, request, now)
    if choice is None:
        return Verdict(Kind.UNAVAILABLE, _no_completion(document, response))
    finish = choice.get("finish_reason")
    if finish == "error":
        return Verdict(Kind.UNAVAILABLE, "the endpoint says that it failed")
    model = document.get("model")
    verdict = _said(choice["message"], finish, request)
    return Verdict(
        verdict.kind,
        verdict.why,
        verdict.answer,
        _usage(document.get("usage"), response.headers),
        model if isinstance(model, str) else None,
    )


def _said(message: Mapping[str, Any], finish: Any, request: Request) -> Verdict:
    """Return what a message of the model means."""
    if message.get("refusal") or finish == "content_filter":
        return Verdict(Kind.DECLINED, "the model refused")
    keys = [
        *(["label"] * bool(request.labels)),
        *(["entities"] * bool(request.entities)),
    ]
    words = ""
    for words in _places(message):
        if isinstance(words, dict):
            return Verdict(Kind.ANSWER, answer=words)
        if words.strip():
            break
    try:
        return Verdict(Kind.ANSWER, answer=read_answer(words, keys))
    except ValueError as error:
        why = f"the answer is no JSON: {error}"
    quote = spoken(words)[:LONGEST_QUOTE]
    if finish == "length":
        return Verdict(Kind.CUT, "cut at max_output_tokens", answer=quote)
    return Verdict(Kind.UNUSABLE, why, answer=quote)


def _places(message: Mapping[str, Any]) -> Iterator[Any]:
    """Yield where an answer may stand: words or an object, the likeliest first.

    Only where all else is empty, it may stand at the end of what the model thought.
    """
    content = message.get("content")
    yield content if isinstance(content, dict) else _text(content)
    calls = message.get("tool_calls")
    called = [call.get("function") for call in _objects(calls)]
    for function in _objects([*called, message.get("function_call")]):
        arguments = function.get("arguments")
        if isinstance(arguments, str | dict):
            yield arguments
    for key in ("reasoning_content", "reasoning"):
        thought = message.get(key)
        if isinstance(thought, str):
            last = thought.rstrip()
            yield last[last.rfind("\n{") + 1 :] if last.endswith("}") else ""


def _text(content: Any) -> str:
    """Return the words of a content, in a string or in parts, but no thoughts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    words = []
    for part in content:
        if isinstance(part, str):
            words.append(part)
        elif isinstance(part, dict) and part.get("type") in {
            None,
            "text",
            "output_text",
        }:
            text = part.get("text")
            words.append(text if isinstance(text, str) else "")
    return "".join(words)


def _choice_in(document: Any) -> dict[str, Any] | None:
    """Return the first choice, with a message in it; None: this is no completion."""
    choices = document.get("choices") if isinstance(document, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(first, dict):
        return None
    if isinstance(first.get("message"), dict):
        return first
    if isinstance(first.get("text"), str):  # as completions were before chats
        return {**first, "message": {"content": first["text"]}}
    return None


def _error_in(document: Any) -> Any:
    """Return the error that a body tells, in itself or in its choice."""
    if not isinstance(document, dict):
        return None
    choices = document.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    inner = first.get("error") if isinstance(first, dict) else None
    return document.get("error") or inner


def _status_in(error: Any) -> int:
    """Return the status of an error in a body with status 200; 0: it tells none."""
    code = str(error.get("code")) if isinstance(error, dict) else ""
    return int(code) if STATUS.fullmatch(code) else 0


def _no_completion(document: Any, response: Response) -> str:
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    encoding = response.headers.get("content-encoding")
    if "html" in kind or PAGE.match(response.body):
        return "a web page answers: a login?"
    if not response.body.strip():
        return f"status {response.status} without a body"
    if encoding:
        return f"a body that cannot be unpacked ({encoding[:20]!r})"
    return "no completion" if document is None else "a body without an answer"


def _usage(usage: Any, headers: Mapping[str, str]) -> Usage:
    """Return what the answer took, as far as the endpoint tells.

    OpenRouter tells the cost in the usage, the LiteLLM proxy in a header.
    """
    try:
        tokens = _Tokens.model_validate(usage or {})
    except ValidationError:
        tokens = _Tokens()
    cost = tokens.cost
    if cost is None:
        try:
            numbers = {"cost": headers.get("x-litellm-response-cost")}
            cost = _Tokens.model_validate(numbers).cost
        except ValidationError:
            cost = None
    if not (tokens.prompt_tokens or tokens.completion_tokens or cost):
        return Usage()  # nobody counted: what is told to be free may only be unknown
    return Usage(
        input_tokens=tokens.prompt_tokens,
        output_tokens=tokens.completion_tokens,
        cost=cost,
    )


# -- a failure


def _failure(
    status: int, document: Any, response: Response, request: Request, now: datetime
) -> Verdict:
    """Return what a failure means; `status` 0: a body says so, with status 200."""
    words = words_of(document, response.body).replace(request.text, "")
    name = f"status {status}" if status else "an error with status 200"
    why = f"{name}{_code(document, request.text)}"
    fault = fault_of(words)
    part = complained_of(status, words, explained=fault is not None)
    if part:
        return Verdict(Kind.FORM, f"{why}: {part}", part=part)
    if status in THE_REQUESTS and not fault:
        return Verdict(Kind.REJECTED, why)
    hint = HINTS.get(status) or fault
    return Verdict(
        Kind.UNAVAILABLE,
        f"{why}: {hint}" if hint else why,
        maybe_paid=status not in UNPAID,
        pause_s=pause(response.headers, words, now),
    )


def _code(document: Any, text: str) -> str:
    """Return the code or type of an error, as ` (code)`, if it is surely no text."""
    error = _error_in(document)
    codes = [error.get("code"), error.get("type")] if isinstance(error, dict) else []
    for code in codes:
        if isinstance(code, str) and CODE.fullmatch(code) and code not in text:
            return f" ({code})"
    return ""


def _json(body: bytes) -> Any:
    """Return a body as JSON, None where it is none; half a character becomes "?"."""
    body = body.removeprefix(b"\xef\xbb\xbf").strip()
    try:
        return from_json(body)
    except ValueError:
        if b"\\u" not in body:
            return None
    try:
        text = json.dumps(json.loads(body), ensure_ascii=False)
        return from_json(text.encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None


def _objects(value: Any) -> list[dict[str, Any]]:
    items = value if isinstance(value, list) else []
    return [one for one in items if isinstance(one, dict)]
