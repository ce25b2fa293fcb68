"""Ask upstream by HTTP: any OpenAI-compatible endpoint. The only home of httpx here.

What a response means is decided in `protocol.verdicts`, as for `slm-agent broker`.
"""

import asyncio
import json
import re
import ssl
from datetime import UTC, datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpx
from pydantic_core import from_json

from agent import __version__
from agent.config.agent_file import HttpUpstreamSection
from agent.core.errors import ConfigError
from agent.core.files import first_line
from agent.escalation.transport import EncodeAgain, Rejected, Unavailable, priced
from agent.protocol.cases import LONGEST_ANSWER, Reply, Request, Unusable
from agent.protocol.forms import PromptForm, PromptForms
from agent.protocol.verdicts import Kind, Response, Verdict, judged

IDLE_S = 30.0  # how long an unused connection is kept
SECRET = re.compile(r"[\x21-\x7e]+")
GZIP_OR_ZLIB, RAW = (
    47,
    -15,
)  # what zlib expects; servers call both of the latter deflate
REASONS = {Kind.CUT: Unusable.CUT, Kind.UNUSABLE: Unusable.NO_JSON}


class HttpTransport:
    """Owns the connections to one endpoint, and in which form it is asked."""

    name = "http"
    pays_once = False

    def __init__(
        self, settings: HttpUpstreamSection, client: httpx.AsyncClient
    ) -> None:
        """`client` knows the key, the certificates and the proxy."""
        self.to = settings.url.rstrip("/")
        self.late = 0  # for ever: a connection that nobody waits on is closed
        self._settings = settings
        self._client = client
        self._forms = PromptForms()

    def encode(self, request: Request, max_output_tokens: int) -> bytes:
        """Return the body, in the form that the endpoint is known to take."""
        form = self._forms.now(request.pipeline)
        document: dict[str, Any] = {
            "model": self._settings.model,
            "messages": form.messages(request),
            **form.parameters(request, max_output_tokens),
        }
        if form.temperature:
            document["temperature"] = 0
        text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
        return text.encode("utf-8", "replace")

    async def ask(self, request: Request, body: bytes, timeout_s: float) -> Reply:
        """Post the body and read the answer; as the contract says.

        Where the endpoint refuses the form, `encode` returns another from now on.
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
        verdict = judged(response, request, datetime.now(UTC))
        return self._reply(request, form_of(body), verdict)

    async def run(self) -> None:
        """Wait for ever: connections are made as they are needed."""
        try:
            await asyncio.Event().wait()
        finally:
            await self._client.aclose()

    async def _post(self, body: bytes, trace: object) -> Response:
        """Post once; read no more than we need."""
        received = bytearray()
        async with self._client.stream(
            "POST",
            f"{self.to}/chat/completions",
            content=body,
            extensions={"trace": trace},
        ) as response:
            async for chunk in response.aiter_raw():
                received += chunk
                if len(received) > LONGEST_ANSWER:
                    break
        return Response(response.status_code, response.headers, bytes(received))

    def _reply(self, request: Request, form: PromptForm, verdict: Verdict) -> Reply:
        """Return the reply of a verdict, or raise what it says."""
        match verdict.kind:
            case Kind.UNAVAILABLE:
                raise Unavailable(
                    verdict.why,
                    maybe_paid=verdict.maybe_paid,
                    retry_after_s=verdict.pause_s,
                )
            case Kind.FORM | Kind.REJECTED:
                if self._forms.refused(request.pipeline, form, verdict.part):
                    other = self._forms.now(request.pipeline)
                    why = f"{verdict.why}; from now on {other}"
                    raise EncodeAgain(why, guessed=verdict.kind is Kind.REJECTED)
                raise Rejected(verdict.why, sure=False)
            case _:
                self._forms.worked(request.pipeline, form)
        reply = Reply(
            id=request.id,
            status="ok",
            answer=verdict.answer,
            usage=priced(verdict.usage, self._settings),
            model=verdict.model or self._settings.model,
        )
        if verdict.kind is Kind.ANSWER:
            return reply
        if verdict.kind is Kind.DECLINED:
            document = {"status": "abstain", "reason": Unusable.DECLINED}
        else:
            document = {"status": "error", "reason": REASONS[verdict.kind]}
        return reply.model_copy(update={**document, "error": verdict.why[:2000]})


def open_http(settings: HttpUpstreamSection) -> HttpTransport:
    """Read key and certificates; raises ConfigError. Nothing is connected yet."""
    headers = {
        "Accept-Encoding": "gzip, deflate",
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
        proxy=settings.proxy or None,
        timeout=None,  # noqa: S113  each call has one, for all of it
        limits=httpx.Limits(keepalive_expiry=IDLE_S),
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # keeps none
        trust_env=False,  # no proxy that the configuration does not name
        follow_redirects=False,  # nor a host
    )
    return HttpTransport(settings, client)


def form_of(body: bytes) -> PromptForm:
    """Return the form that a body of ours was written in."""
    document = from_json(body)
    return PromptForm(
        format=document.get("response_format", {"type": "text"})["type"],
        limit="max_tokens" if "max_tokens" in document else "max_completion_tokens",
        temperature="temperature" in document,
        system=document["messages"][0]["role"] == "system",
    )
