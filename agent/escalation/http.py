"""Ask upstream by HTTP: any OpenAI-compatible endpoint. The only home of httpx.

Endpoints differ in what they take. A parameter that one refuses is left off, or put in
another way, from then on: its `Dialect`.
"""

import asyncio
import json
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Annotated, Any, Literal

import httpx
from pydantic import Field, ValidationError
from pydantic_core import from_json

from agent import __version__
from agent.config.agent_file import HttpUpstreamSection
from agent.core.errors import ConfigError
from agent.core.files import first_line
from agent.escalation.transport import (
    EncodeAgain,
    Rejected,
    Unavailable,
    priced,
    unreadable,
)
from agent.protocol import cases
from agent.protocol.cases import (
    LONGEST_ANSWER,
    LONGEST_QUOTE,
    Reply,
    Request,
    Usage,
    Wire,
)
from agent.protocol.prompt import messages, parse, response_format

OK = 200
REDIRECTS, FAULTS, UNAVAILABLE = range(300, 400), range(400, 500), 503
REFUSES_PARAMETERS = {400, 422}
THE_REQUESTS = {400, 413, 422}  # all other faults are the operator's, or will pass
MAYBE_WORKED = {408, 409}
HINTS = {
    401: "is the key right?",
    403: "may the key do this?",
    404: "are upstream.url and upstream.model right?",
    405: "is upstream.url right?",
    407: "a proxy wants a login",
    451: "somebody in between forbids it",
}
# Gemini, Anthropic and the LiteLLM proxy say with 400, too, what ails all requests.
THE_OPERATORS = re.compile(
    rb"api[ _]key|credit balance|invalid model|no_db_connection", re.IGNORECASE
)
LONGEST_PAUSE_S = 86_400.0
IDLE_S = 30.0  # how long an unused connection is kept
CODE = re.compile(r"[a-z][a-z0-9_]{2,39}")
SECONDS = re.compile(r"[0-9]{1,12}(\.[0-9]{1,12})?")
SECRET = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class Dialect:
    """Which parameters an endpoint takes."""

    format: Literal["json_schema", "json_object", "text"] = "json_schema"
    limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    temperature: bool = True


@dataclass(frozen=True, slots=True)
class Response:
    """What the endpoint said; of a body beyond the limit only the beginning."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class AssistantMessage(Wire):
    """A message of the model."""

    content: str | None = None
    refusal: str | None = None


class Choice(Wire):
    """One of the answers; we ask for one."""

    message: AssistantMessage
    finish_reason: str | None = None


class ChatCompletion(Wire):
    """A chat completion, as far as we read it."""

    choices: Annotated[list[Choice], Field(min_length=1)]
    model: str | None = None
    usage: Any = None


class Tokens(Wire):
    """The usage in a chat completion; some say what it cost."""

    prompt_tokens: cases.Tokens = 0
    completion_tokens: cases.Tokens = 0
    cost: cases.Cost | None = None


class HttpTransport:
    """Owns the connections to one endpoint."""

    name = "http"
    pays_once = False

    def __init__(
        self, settings: HttpUpstreamSection, client: httpx.AsyncClient
    ) -> None:
        """`client` knows the key and the certificates."""
        self.to = settings.url.rstrip("/")
        self.late = 0  # for ever: a connection that nobody waits on is closed
        self._settings = settings
        self._client = client
        self._dialects: dict[str, Dialect] = {}  # by pipeline, as schemas are

    def encode(self, request: Request) -> bytes:
        """Return the body, in the dialect that the endpoint is known to speak."""
        dialect = self._dialects.get(request.pipeline, Dialect())
        document: dict[str, Any] = {
            "model": self._settings.model,
            "messages": messages(request),
            dialect.limit: self._settings.max_output_tokens,
        }
        if dialect.temperature:
            document["temperature"] = 0
        if dialect.format == "json_schema":
            document["response_format"] = response_format(request)
        elif dialect.format == "json_object":
            document["response_format"] = {"type": "json_object"}
        text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
        return text.encode("utf-8", "replace")

    async def ask(self, request: Request, body: bytes, timeout_s: float) -> Reply:
        """Post the body and read the answer; as the contract says.

        Where the endpoint refuses a parameter, `encode` leaves it off from now on.
        """
        if self._client.is_closed:
            raise Unavailable("closed", maybe_paid=False, reached=False)
        sent = False

        async def trace(event: str, _info: object) -> None:
            nonlocal sent
            sent |= event.endswith("send_request_headers.started")

        try:
            async with asyncio.timeout(timeout_s):
                response = await self._post(body, trace)
        except TimeoutError:
            why = f"no answer in {timeout_s:g} s"
            raise Unavailable(why, maybe_paid=sent, reached=sent) from None
        except (httpx.HTTPError, OSError) as error:
            # Once it was sent, the error may quote what came back.
            why = type(error).__name__ if sent else f"{type(error).__name__}: {error}"
            raise Unavailable(why, maybe_paid=sent, reached=sent) from None
        if response.status in REFUSES_PARAMETERS:
            self._learn(request.pipeline, body, response)
        if response.status != OK:
            raise failure(response, request.text)
        if is_page(response):
            raise Unavailable("a web page answers: a login?", maybe_paid=False)
        return self._reply(request, response)

    async def run(self) -> None:
        """Wait for ever: connections are made as they are needed."""
        try:
            await asyncio.Event().wait()
        finally:
            await self._client.aclose()

    async def _post(self, body: bytes, trace: object) -> Response:
        """Post once; read no more than we need, and decompress nothing."""
        found = bytearray()
        async with self._client.stream(
            "POST",
            f"{self.to}/chat/completions",
            content=body,
            extensions={"trace": trace},
        ) as response:
            async for chunk in response.aiter_raw():
                found += chunk
                if len(found) > LONGEST_ANSWER:
                    break
        return Response(response.status_code, response.headers, bytes(found))

    def _learn(self, pipeline: str, body: bytes, response: Response) -> None:
        """Raise EncodeAgain if there is another form than the one that was refused.

        It goes out as an attempt of its own: a ledger shall know every body that left.
        """
        spoken = dialect_of(body)
        if self._dialects.get(pipeline, Dialect()) == spoken:
            self._dialects[pipeline] = plainer(spoken, response.body)
        known = self._dialects[pipeline]
        if known != spoken:
            raise EncodeAgain(f"refuses a parameter; from now on {known}")

    def _reply(self, request: Request, response: Response) -> Reply:
        if len(response.body) > LONGEST_ANSWER:
            return unreadable(request.id, f"more than {LONGEST_ANSWER} bytes")
        try:
            completion = ChatCompletion.model_validate_json(response.body)
        except ValidationError:
            return unreadable(request.id, "no chat completion")
        choice = completion.choices[0]
        usage = used(completion.usage, response.headers)
        blank = Reply(
            id=request.id,
            status="abstain",
            usage=priced(usage, self._settings),
            model=(completion.model or self._settings.model)[:256],
        )
        content = choice.message.content
        withheld = choice.message.refusal or choice.finish_reason == "content_filter"
        if withheld or content is None:
            return blank.model_copy(update={"error": "the model refused"})
        try:
            answer = parse(content)
        except ValueError as error:
            cut = " (cut at the limit)" if choice.finish_reason == "length" else ""
            unusable = {
                "status": "error",
                "answer": content[:LONGEST_QUOTE],
                "error": f"the answer is no JSON{cut}: {error}"[:2000],
            }
            return blank.model_copy(update=unusable)
        return blank.model_copy(update={"status": "ok", "answer": answer})


def is_page(response: Response) -> bool:
    """Tell whether somebody in between answered, as a login page does."""
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind in {"text/html", "application/xhtml+xml"}


def open_http(settings: HttpUpstreamSection) -> HttpTransport:
    """Read key and certificates; raises ConfigError. Nothing is connected yet."""
    headers = {
        "Accept-Encoding": "identity",  # what is small stays small when unpacked
        "Content-Type": "application/json",
        "User-Agent": f"slm-agent/{__version__}",
    }
    if settings.key_file:
        key = first_line(settings.key_file, "upstream.key_file")
        if not SECRET.fullmatch(key):
            raise ConfigError(f"upstream.key_file: {settings.key_file}: is no API key")
        headers["Authorization"] = f"Bearer {key}"
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"upstream.ca_file: {settings.ca_file}: {error}") from error
    try:
        httpx.URL(settings.url)
    except httpx.InvalidURL as error:
        raise ConfigError("upstream.url: is no url") from error
    client = httpx.AsyncClient(
        verify=context,
        headers=headers,
        timeout=None,  # noqa: S113  each call has one, for all of it
        limits=httpx.Limits(keepalive_expiry=IDLE_S),
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # keeps none
        trust_env=False,  # no proxy that the configuration does not name
    )
    return HttpTransport(settings, client)


def dialect_of(body: bytes) -> Dialect:
    """Return the dialect that a body of ours was written in."""
    document = from_json(body)
    return Dialect(
        format=document.get("response_format", {"type": "text"})["type"],
        limit="max_tokens" if "max_tokens" in document else "max_completion_tokens",
        temperature="temperature" in document,
    )


def plainer(spoken: Dialect, complaint: bytes) -> Dialect:
    """Return the dialect without what an endpoint complains of, as far as we can."""
    words = complaint.decode("utf-8", "replace").lower()
    if "max_completion_tokens" in words and spoken.limit == "max_tokens":
        return replace(spoken, limit="max_completion_tokens")
    form = any(w in words for w in ("response_format", "json_schema", "json_object"))
    if form and spoken.format == "json_schema":
        return replace(spoken, format="json_object")
    if form and spoken.format == "json_object":
        return replace(spoken, format="text")
    if "temperature" in words:
        return replace(spoken, temperature=False)
    return spoken


def used(usage: Any, headers: Mapping[str, str]) -> Usage:
    """Return what the answer took, as far as the endpoint tells.

    OpenRouter tells the cost in the usage, the LiteLLM proxy in a header.
    """
    try:
        tokens = Tokens.model_validate(usage or {})
    except ValidationError:
        tokens = Tokens()
    cost = tokens.cost
    if cost is None:
        try:
            said = {"cost": headers.get("x-litellm-response-cost")}
            cost = Tokens.model_validate(said).cost
        except ValidationError:
            cost = None
    if not (tokens.prompt_tokens or tokens.completion_tokens or cost):
        return Usage()  # nobody counted: what is told to be free may only be unknown
    return Usage(
        input_tokens=tokens.prompt_tokens,
        output_tokens=tokens.completion_tokens,
        cost=cost,
    )


def failure(response: Response, text: str) -> Unavailable | Rejected:
    """Return what a status other than 200 means; `text` is not to be quoted."""
    status = response.status
    why = f"status {status}{_code(response.body, text)}"
    if status in THE_REQUESTS and not THE_OPERATORS.search(response.body):
        return Rejected(why)
    unpaid = status in {*REDIRECTS, *FAULTS, UNAVAILABLE} - MAYBE_WORKED
    return Unavailable(
        f"{why}: {HINTS[status]}" if status in HINTS else why,
        maybe_paid=not unpaid,
        retry_after_s=pause(response.headers.get("retry-after")),
    )


def pause(retry_after: str | None) -> float | None:
    """Return the seconds that a Retry-After header asks for (RFC 9110, 10.2.3)."""
    if retry_after is None:
        return None
    if SECONDS.fullmatch(retry_after):
        return min(float(retry_after), LONGEST_PAUSE_S)
    try:
        until = parsedate_to_datetime(retry_after).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    left = (until - datetime.now(UTC)).total_seconds()
    return min(max(left, 0.0), LONGEST_PAUSE_S)


def _code(body: bytes, text: str) -> str:
    """Return the code or type of an error, as ` (code)`, if it is surely no text."""
    try:
        error = from_json(body)["error"]
        codes = [error.get("code"), error.get("type")]
    except (ValueError, LookupError, TypeError, AttributeError):
        return ""
    for code in codes:
        if isinstance(code, str) and CODE.fullmatch(code) and code not in text:
            return f" ({code})"
    return ""
