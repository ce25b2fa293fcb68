"""Answers that are given again, for exactly the same question: at no cost."""

import time
from collections.abc import Callable
from dataclasses import replace

import structlog
from pydantic import BaseModel, ValidationError

from agent.core.types import Prediction, Tier
from agent.inference.pipeline import EscalationSpec
from agent.outbox import answers
from agent.outbox.store import Database, Store
from agent.protocol.cases import Case, digest
from agent.protocol.messages import guess_object

log = structlog.get_logger()


class CachedAnswer(BaseModel):
    """An answer as the cache keeps it."""

    found: Prediction
    model: str | None


class AnswerCache:
    """Owns the answers to texts of before; `entries` 0: none are kept."""

    def __init__(self, store: Store, entries: int, age_s: float) -> None:
        """`age_s`: how old an answer may be."""
        self.hits = 0
        self._store = store
        self._entries = entries
        self._age_s = age_s

    async def recall(self, case: Case, plan: EscalationSpec) -> CachedAnswer | None:
        """Return the answer to the same question, if there is one."""
        if not self._entries:
            return None
        key, age_s = _question(case, plan), self._age_s
        body = await self._store.read(
            lambda db: answers.recall(db, key, time.time(), age_s)
        )
        if body is None:
            return None
        try:
            known = CachedAnswer.model_validate_json(body)
        except ValidationError:  # of another version: the next answer replaces it
            log.warning("cached_answer_unreadable", pipeline=case.pipeline)
            return None
        self.hits += 1
        prediction = replace(known.found, by=Tier.CACHE)
        return known.model_copy(update={"found": prediction})

    def remember(
        self,
        case: Case,
        plan: EscalationSpec,
        prediction: Prediction | None,
        model: str | None,
    ) -> Callable[[Database], None] | None:
        """Return the change that keeps an answer; None: it is none of upstream's."""
        if (
            prediction is None
            or prediction.by is not Tier.UPSTREAM
            or not self._entries
        ):
            return None
        key, entries = _question(case, plan), self._entries
        body = CachedAnswer(found=prediction, model=model).model_dump_json().encode()
        return lambda db: answers.remember(db, key, body, time.time(), entries)


def _question(case: Case, plan: EscalationSpec) -> str:
    """Name a question by all that it is made of: what else would lead a model on.

    A hash, so that no text lies in the cache but in answers.
    """
    hides = [plan.redacts, *map(sorted, (plan.visible, plan.scripts, plan.patterns))]
    names = [dict(plan.labels), dict(plan.entities)]
    return digest([case.pipeline, *names, *hides, case.text, guess_object(case.guess)])
