"""What of a case may leave the device: its request, after the privacy gate."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from typing import Any

from agent.core.deaths import MOST_DEATHS, Deaths
from agent.core.types import Entity
from agent.escalation.privacy_gate import (
    Finder,
    Redacted,
    guess_without,
    redact,
    withheld,
)
from agent.escalation.transport import Rejected
from agent.inference.pipeline import EscalationSpec
from agent.outbox.cases import wire_id
from agent.outbox.store import Store
from agent.protocol.cases import Case, Repair, Request
from agent.protocol.messages import guess_object


@dataclass(frozen=True, slots=True)
class Question:
    """A request for a case, and the terms on which it is asked.

    `hidden` gives the words of the text back that stand in no request.
    """

    case: Case
    plan: EscalationSpec = field(repr=False)
    request: Request
    hidden: Redacted = field(repr=False)
    max_output_tokens: int

    def repaired(self, answer: Any, error: str) -> "Question":
        """Return the question with what was wrong with the answer before."""
        repair = Repair(answer=answer, error=error)
        return replace(self, request=self.request.model_copy(update={"repair": repair}))

    def longer(self) -> "Question":
        """Return the question for an answer of twice the length."""
        return replace(self, max_output_tokens=2 * self.max_output_tokens)


def request_for(
    case: Case, plan: EscalationSpec, hidden: Redacted, device: str, name: str
) -> Request:
    """Return what is asked of a case whose text went through the privacy gate.

    `name` is its id upstream: the producer's may hold personal data.
    """
    return Request(
        id=name,
        device=device,
        pipeline=case.pipeline,
        text=hidden.text,
        labels=dict(plan.labels),
        entities=dict(plan.entities),
        guess=guess_without(guess_object(case.guess), case.text, hidden),
        redacted=sum(hidden.counters.values()),
        deadline_ms=int(case.deadline.timestamp() * 1000),
    )


def in_the_open(text: str) -> Redacted:
    """Return a text of which nothing is hidden."""
    return Redacted(text, {}, {})


def hide_in(
    text: str, find: Callable[[str], Sequence[Entity]], plan: EscalationSpec
) -> Redacted:
    """Hide in a text what is found in it, as far as the pipeline wants it; blocks."""
    return redact(text, withheld(text, find(text), plan))


class Poison(Rejected):
    """A case that ended the process as often as we let it."""

    def __init__(self, why: str) -> None:
        """No other case is the like."""
        super().__init__(why, sure=True)


class Questions:
    """Owns the thread in which texts are searched for personal data."""

    def __init__(
        self,
        device: str,
        store: Store,
        finder: Finder | None,
        worker: Executor,
        max_output_tokens: int,
        deaths: Deaths,
    ) -> None:
        """`finder` looks for personal data, in `worker`; None: no pipeline redacts.

        `deaths` counts how often that ended the process, by case.
        """
        self._device = device
        self._store = store
        self._finder = finder
        self._worker = worker
        self._max_output_tokens = max_output_tokens
        self._deaths = deaths
        self._hiding_since: float | None = None  # by the worker

    async def of(self, case: Case, plan: EscalationSpec) -> Question:
        """Return what is asked for a case; raises Rejected where that cannot be told.

        Poison where it ended the process again and again.
        Models find what is to be hidden, and a runtime written in C++ raises anything:
        one bad text must not stop the daemon, at each start anew. An error may quote
        the text, so only its name is told.
        """
        if self._deaths.of(case.key) >= MOST_DEATHS:
            raise Poison(f"the process died {MOST_DEATHS} times at it")
        name = await self._store.read(lambda db: wire_id(db, case.key))
        try:
            hidden = await self._redacted(case, plan)
            request = request_for(case, plan, hidden, self._device, name)
        except Exception as error:
            why = f"the privacy gate failed: {type(error).__name__}"
            raise Rejected(why, sure=True) from error
        return Question(case, plan, request, hidden, self._max_output_tokens)

    def busy_s(self) -> float:
        """Return for how many seconds the worker looks at one text; 0: it is idle."""
        since = self._hiding_since
        return 0.0 if since is None else time.monotonic() - since

    def close(self) -> None:
        """Let the worker go."""
        self._worker.shutdown(wait=False, cancel_futures=True)

    async def _redacted(self, case: Case, plan: EscalationSpec) -> Redacted:
        text = case.text
        if not plan.redacts:
            return in_the_open(text)
        if self._finder is None:
            raise AssertionError("a pipeline redacts, and nothing was opened for it")
        find = self._finder.find

        def hide() -> Redacted:
            self._hiding_since = time.monotonic()
            self._deaths.begin(case.key)
            try:
                return hide_in(text, find, plan)
            finally:
                self._deaths.end(case.key)
                self._hiding_since = None

        return await asyncio.get_running_loop().run_in_executor(self._worker, hide)
