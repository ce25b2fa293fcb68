"""The contract of every transport: one attempt ends in one reply or in one reason.

A transport asks once. Whoever calls it owns retries, the circuit breaker, rate, budget
and ledger, and needs to know only whether another attempt may succeed (`Unavailable`),
whether this one may have cost something (`maybe_paid`), or whether none will ever be
taken (`Rejected`).
"""

from typing import Protocol

from agent.config.agent_file import UpstreamSection
from agent.protocol.cases import Reply, Request, Usage

PER = 1e6  # tokens that a price is for


class Unavailable(Exception):
    """Nobody answered this attempt; another may succeed."""

    def __init__(
        self,
        why: str,
        *,
        maybe_paid: bool,
        retry_after_s: float | None = None,
        reached: bool = True,
    ) -> None:
        """`why` is for people and never holds text of the message.

        `maybe_paid`: the request may have reached a model. `retry_after_s`: how long
        the other side asked to be left alone. `reached`: whether there was anybody at
        all; where no connection was made, nobody is disturbed by another try.
        """
        super().__init__(why)
        self.maybe_paid = maybe_paid
        self.reached = reached
        self.retry_after_s = retry_after_s


class EncodeAgain(Unavailable):
    """The upstream takes another form of the request: `encode` knows it by now.

    Nobody was paid, nothing is broken, and there is nothing to wait for.
    """

    def __init__(self, why: str, *, guessed: bool = False) -> None:
        """`why` says which form. `guessed`: it did not say that it is the form."""
        super().__init__(why, maybe_paid=False, retry_after_s=0.0)
        self.guessed = guessed


class Rejected(Exception):
    """The upstream will not take this request: it is too large, say.

    `sure`: never, whatever becomes of others. Else it is the request's own fault only
    if others are taken.
    """

    def __init__(self, why: str, *, sure: bool) -> None:
        """`why` is for people and never holds text of the message."""
        super().__init__(why)
        self.sure = sure


class Transport(Protocol):
    """A way to ask upstream."""

    name: str
    """`mqtt` or `http`, for ledger, logs and metrics."""
    to: str
    """Whom it asks, without secrets."""
    late: int
    """Replies that nobody waited for (any more): counted and dropped."""
    pays_once: bool
    """Whether the same request may come again without being paid for again."""

    def encode(self, request: Request, max_output_tokens: int) -> bytes:
        """Return exactly the bytes of the payload or body that will leave.

        To be asked before each attempt: an upstream may have refused the form before.
        """
        ...

    async def ask(self, request: Request, body: bytes, timeout_s: float) -> Reply:
        """Ask once, with the `body` that `encode` returned for the request.

        A reply of status `error` says why in `error`; where the answer was no JSON, it
        stands as it came in `answer`, so that a repair can show it. One without
        `answer` comes from who could ask nobody, or lost what came.

        Raises Unavailable or Rejected, and nothing else.
        """
        ...

    async def run(self) -> None:
        """Keep what it needs, a connection say, until cancelled."""
        ...


def priced(usage: Usage, prices: UpstreamSection) -> Usage:
    """Return the usage with a cost: the one that was told, else by the price list.

    Told to be free does not count against a price list: a proxy that does not know a
    model's price says nothing else.
    """
    by_list = usage.input_tokens * prices.price_in
    by_list += usage.output_tokens * prices.price_out
    if usage.cost or not by_list:
        return usage
    return usage.model_copy(update={"cost": by_list / PER})
