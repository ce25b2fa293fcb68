"""Language models through LiteLLM, which lives here and nowhere else.

It is imported when a broker starts: it takes seconds and some hundred MB. Left to
itself it fetches its price list and other files from the network, reads `.env` files
and tries again on its own; here it does none of that.
"""

import asyncio
import logging
import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from agent.broker.config import BrokerFile, LlmSection, key_of
from agent.core.errors import ConfigError
from agent.core.interpreter import pip_install
from agent.protocol.cases import MOST_TOKENS, Request
from agent.protocol.prompt import messages, response_format

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

    `billed`: whether its provider may charge for it all the same. The message never
    holds what was asked.
    """

    def __init__(self, trouble: ErrorKind, detail: str, *, billed: bool) -> None:
        """`detail` names the kind of error."""
        super().__init__(f"{trouble}: {detail}")
        self.trouble = trouble
        self.billed = billed


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model answered and took; `cost` None: nobody knows a price."""

    content: str
    input_tokens: int
    output_tokens: int
    cost: float | None
    model: str


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """A language model, ready to be asked; prices for a million tokens."""

    spec: LlmSection
    price_in: float | None
    price_out: float | None
    key: str | None = field(default=None, repr=False)

    def at_most(self, request: Request) -> tuple[int, int]:
        """Return the most tokens that a call can send and receive.

        A token is at least one byte.
        """
        said = sum(len(part["content"].encode()) for part in messages(request))
        form = len(str(response_format(request)).encode())
        return said + form + OVERHEAD_TOKENS, self.spec.max_output_tokens

    def cost(self, sent: int, received: int) -> float | None:
        """Return what tokens cost; None without a price."""
        if self.price_in is None or self.price_out is None:
            return None
        return (sent * self.price_in + received * self.price_out) / MILLION


def open_models(file: BrokerFile) -> tuple[LanguageModel, ...]:
    """Load LiteLLM and find keys and prices; raises ConfigError."""
    litellm = _litellm()
    found = tuple(
        _opened(spec, number, litellm.model_cost)
        for number, spec in enumerate(file.models)
    )
    if file.budget.money_per_day is not None:
        for number, model in enumerate(found):
            if model.price_in is None:
                raise ConfigError(
                    f"models.{number}: nobody knows what {model.spec.model} costs; "
                    "budget.money_per_day needs its price_in and price_out"
                )
    return found


async def ask(model: LanguageModel, request: Request, timeout_s: float) -> Completion:
    """Ask a model once; raises Failed."""
    litellm = _litellm()
    spec = model.spec
    form = {
        "json_schema": {"response_format": response_format(request)},
        "json_object": {"response_format": {"type": "json_object"}},
        "none": {},
    }[spec.structured]
    heat = {} if spec.temperature == "default" else {"temperature": spec.temperature}
    try:
        async with asyncio.timeout(timeout_s):
            response = await litellm.acompletion(
                model=spec.model,
                messages=messages(request),
                max_tokens=spec.max_output_tokens,
                api_base=spec.api_base or None,
                api_key=model.key,
                timeout=timeout_s,
                num_retries=0,
                max_retries=0,
                drop_params=False,  # without its form an answer is worth little
                **form,
                **heat,
                **spec.options,
            )
    except TimeoutError:
        raise Failed(ErrorKind.TIMEOUT, f"{timeout_s:g} s", billed=True) from None
    except Exception as error:  # noqa: BLE001  LiteLLM raises what its 100 providers'
        # adapters raise; whatever it is, the next model may answer.
        raise _failed(error) from None
    return _said(model, response)


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
    litellm.turn_off_message_logging = True
    for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # it may quote prompts
    warnings.filterwarnings("ignore", "Pydantic serializer")  # they quote answers
    return litellm


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


def _said(model: LanguageModel, response: Any) -> Completion:
    """Read a response; one without an answer is an empty answer."""
    choices = response.choices or ()
    content = choices[0].message.content if choices else None
    usage = getattr(response, "usage", None)
    sent = _tokens(getattr(usage, "prompt_tokens", 0))
    received = _tokens(getattr(usage, "completion_tokens", 0))
    cost = None
    if model.spec.price_in is None:  # LiteLLM knows about discounts
        cost = getattr(response, "_hidden_params", {}).get("response_cost")
    if not cost:
        cost = model.cost(sent, received)
    # Half a character (a lone surrogate), which nobody could send on, becomes "?".
    whole = (content or "").encode("utf-8", "replace").decode()
    return Completion(whole, sent, received, cost, model.spec.model)


def _tokens(said: Any) -> int:
    """Return a number of tokens that the books have room for."""
    return min(max(int(said or 0), 0), MOST_TOKENS)


def _failed(error: Exception) -> Failed:
    """Sort a provider's error; its text may quote the prompt and stays here."""
    status = getattr(error, "status_code", None)
    detail = type(error).__name__ + (f" {status}" if status else "")
    name = type(error).__name__
    if name == "Timeout" or status == 408:  # noqa: PLR2004
        return Failed(ErrorKind.TIMEOUT, detail, billed=True)
    if status == 429:  # noqa: PLR2004
        return Failed(ErrorKind.BUSY, detail, billed=False)
    if isinstance(status, int) and 400 <= status < 500:  # noqa: PLR2004
        return Failed(ErrorKind.REFUSED, detail, billed=False)
    # A response that cannot be read may have been paid; so may a broken connection.
    refused = isinstance(status, int) and name != "APIConnectionError"
    return Failed(ErrorKind.UNAVAILABLE, detail, billed=not refused)
