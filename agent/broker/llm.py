"""Language models through LiteLLM, which lives here and nowhere else.

It is imported when a broker starts: it takes seconds and some hundred MB. Left to
itself it fetches its price list and other files from the network, reads `.env` files
and tries again on its own; here it does none of that.
"""

import asyncio
import json
import logging
import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from agent.broker.config import BrokerFile, LlmSection, key_of
from agent.broker.wire import EXCHANGE, Exchange, Wire
from agent.core.errors import ConfigError
from agent.core.interpreter import pip_install
from agent.protocol.cases import Request
from agent.protocol.forms import PromptForm
from agent.protocol.prompt import messages, response_format
from agent.protocol.verdicts import Kind, Response, Verdict, is_openai, judged

# Each keeps LiteLLM from the network, but for the last: no `.env` of a folder counts.
QUIET = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_LOCAL_BLOG_POSTS": "True",
    "LITELLM_MODE": "PRODUCTION",
}
OVERHEAD_TOKENS = 600  # what providers put around a prompt: roles, how to use a tool
MILLION = 1_000_000


class ErrorKind(StrEnum):
    """Why a model did not answer."""

    BUSY = "busy"  # it refuses for now: its rate limit
    UNAVAILABLE = "unavailable"
    TIMEOUT = "timeout"
    REFUSED = "refused"  # it will never take this request: a wrong key, too long


class Failed(Exception):
    """A model did not answer.

    `billed`: whether its provider may charge for it all the same. `verdict`: what its
    response means, if there was one. The message never holds what was asked.
    """

    def __init__(
        self,
        trouble: ErrorKind,
        detail: str,
        *,
        billed: bool,
        reached: bool = True,
        verdict: Verdict | None = None,
    ) -> None:
        """`detail` says why. `reached`: whether there was anybody at all."""
        super().__init__(f"{trouble}: {detail}")
        self.trouble = trouble
        self.billed = billed
        self.reached = reached
        self.verdict = verdict
        self._detail = detail

    @property
    def of_all(self) -> "Failed":
        """The same failure, of a model that may refuse all there is."""
        return Failed(
            ErrorKind.UNAVAILABLE, self._detail, billed=False, verdict=self.verdict
        )


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model answered and took; `cost` None: nobody knows a price."""

    verdict: Verdict
    cost: float | None
    model: str

    @property
    def input_tokens(self) -> int:
        """How many tokens it was sent."""
        return self.verdict.usage.input_tokens

    @property
    def output_tokens(self) -> int:
        """How many it said."""
        return self.verdict.usage.output_tokens


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """A language model, ready to be asked; prices for a million tokens."""

    spec: LlmSection
    price_in: float | None
    price_out: float | None
    key: str | None = field(default=None, repr=False)

    @property
    def first_form(self) -> PromptForm:
        """The form in which it is asked first."""
        structured = self.spec.structured
        return PromptForm(
            format="text" if structured == "none" else structured,
            temperature=self.spec.temperature != "default",
        )

    def at_most(self, request: Request, longer: int) -> tuple[int, int]:
        """Return the most tokens that a call can send and receive.

        A token is at least one byte. `longer`: how many times its longest answer.
        """
        prompt_bytes = sum(len(part["content"].encode()) for part in messages(request))
        form = len(str(response_format(request)).encode())
        sent = prompt_bytes + form + OVERHEAD_TOKENS
        return sent, longer * self.spec.max_output_tokens

    def cost(self, sent: int, received: int) -> float | None:
        """Return what tokens cost; None without a price."""
        if self.price_in is None or self.price_out is None:
            return None
        return (sent * self.price_in + received * self.price_out) / MILLION


def open_models(file: BrokerFile) -> tuple[LanguageModel, ...]:
    """Load LiteLLM and find keys and prices; raises ConfigError."""
    litellm = _litellm()
    models = tuple(
        _opened(spec, number, litellm.model_cost)
        for number, spec in enumerate(file.models)
    )
    if file.budget.money_per_day is not None:
        for number, model in enumerate(models):
            if model.price_in is None:
                raise ConfigError(
                    f"models.{number}: nobody knows what {model.spec.model} costs; "
                    "budget.money_per_day needs its price_in and price_out"
                )
    return models


async def ask(
    model: LanguageModel,
    request: Request,
    form: PromptForm,
    longer: int,
    timeout_s: float,
) -> Completion:
    """Ask a model once, in a form; raises Failed.

    `longer`: how many times its longest answer one may be.
    """
    litellm = _litellm()
    spec = model.spec
    heat = {"temperature": spec.temperature} if form.temperature else {}
    exchange = Exchange(spec.proxy)
    token = EXCHANGE.set(exchange)
    try:
        async with asyncio.timeout(timeout_s):
            response = await litellm.acompletion(
                model=spec.model,
                messages=form.messages(request),
                api_base=spec.api_base or None,
                api_key=model.key,
                timeout=timeout_s,
                num_retries=0,
                max_retries=0,
                drop_params=False,  # without its form an answer is worth little
                **form.parameters(request, longer * spec.max_output_tokens),
                **heat,
                **spec.options,
            )
    except TimeoutError:
        raise _late(f"{timeout_s:g} s", exchange) from None
    except Exception as error:  # noqa: BLE001  LiteLLM raises what its 100 providers'
        # adapters raise; whatever it is, the next model may answer.
        return _after(error, model, request, exchange)
    finally:
        EXCHANGE.reset(token)
    return _completion(model, request, exchange, response)


def _late(within: str, exchange: Exchange) -> Failed:
    why, sent = f"no answer in {within}", exchange.sent
    return Failed(ErrorKind.TIMEOUT, why, billed=True, reached=sent)


def _litellm() -> Any:
    """Import LiteLLM, silenced; raises ConfigError."""
    for name, value in QUIET.items():
        os.environ[name] = value
    try:
        import litellm  # noqa: PLC0415  see above
    except ImportError as error:
        raise ConfigError(
            f"LiteLLM is missing ({error.name}): {pip_install('broker')}"
        ) from error
    litellm.suppress_debug_info = True
    if litellm.aclient_session is None:
        _by_wire(litellm)
    litellm.turn_off_message_logging = True
    for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # it may quote prompts
    warnings.filterwarnings("ignore", "Pydantic serializer")  # they quote answers
    return litellm


def _by_wire(litellm: Any) -> None:
    """Give LiteLLM no other way out, whichever of its two kinds of client it takes."""
    from litellm.llms.custom_httpx import http_handler  # noqa: PLC0415

    wire = Wire()
    litellm.aclient_session = wire.client()  # for all that is OpenAI's
    http_handler.AsyncHTTPHandler.create_client = (  # type: ignore[method-assign]
        lambda *_, **__: wire.client()
    )


def _opened(
    spec: LlmSection, number: int, prices: Mapping[str, Mapping[str, Any]]
) -> LanguageModel:
    price_in, price_out = spec.price_in, spec.price_out
    if price_in is None:
        # Looked up by hand: LiteLLM's own look-up asks a local Ollama.
        known = _first(prices, (spec.model, spec.model.partition("/")[2]))
        if "input_cost_per_token" in known:
            price_in = float(known["input_cost_per_token"]) * MILLION
            price_out = float(known.get("output_cost_per_token", 0.0)) * MILLION
    return LanguageModel(spec, price_in, price_out, key_of(spec, number))


def _first(
    prices: Mapping[str, Mapping[str, Any]], names: Iterable[str]
) -> Mapping[str, Any]:
    return next((prices[name] for name in names if name in prices), {})


def _completion(
    model: LanguageModel, request: Request, exchange: Exchange, response: Any
) -> Completion:
    """Return what a response means; raises Failed.

    As it came, where it is in OpenAI's form; else as LiteLLM puts it into that form.
    """
    raw = exchange.response
    if raw is None or not is_openai(raw):
        headers = raw.headers if raw else {}
        body = json.dumps(response.model_dump(), default=str).encode()
        raw = Response(200, {**headers, "content-encoding": ""}, body)
    cost = None
    if model.spec.price_in is None:  # LiteLLM knows about discounts
        cost = getattr(response, "_hidden_params", {}).get("response_cost")
    return _judged(model, request, raw, cost)


def _after(
    error: Exception, model: LanguageModel, request: Request, exchange: Exchange
) -> Completion:
    """Return what there is in spite of an error of LiteLLM; raises Failed.

    Its text may quote the prompt and stays here.
    """
    status = getattr(error, "status_code", None)
    raw = exchange.response
    if raw is None and type(error).__name__ == "Timeout":
        raise _late("time", exchange)
    if raw is None and isinstance(status, int) and 400 <= status < 500:  # noqa: PLR2004
        raw = Response(status, {}, str(error).encode("utf-8", "replace"))
    if raw is None:  # no connection, or one that broke
        billed, kind = exchange.sent, ErrorKind.UNAVAILABLE
        detail = type(error).__name__
        raise Failed(kind, detail, billed=billed, reached=exchange.sent)
    return _judged(model, request, raw, None)


def _judged(
    model: LanguageModel, request: Request, raw: Response, cost: float | None
) -> Completion:
    verdict = judged(raw, request, datetime.now(UTC))
    if verdict.kind in {Kind.UNAVAILABLE, Kind.FORM, Kind.REJECTED}:
        trouble = ErrorKind.UNAVAILABLE
        if verdict.kind is Kind.REJECTED:
            trouble = ErrorKind.REFUSED
        elif raw.status == 429:  # noqa: PLR2004
            trouble = ErrorKind.BUSY
        billed = verdict.maybe_paid
        raise Failed(trouble, verdict.why, billed=billed, verdict=verdict)
    usage = verdict.usage
    if not cost:
        cost = usage.cost or model.cost(usage.input_tokens, usage.output_tokens)
    return Completion(verdict, cost, model.spec.model)
