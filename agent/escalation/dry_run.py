"""What would leave of a text, without asking anybody."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from agent.core.errors import Unreadable
from agent.core.types import Resolved, Timing
from agent.escalation.privacy_gate import Finder, Redacted
from agent.escalation.questions import hide_in, in_the_open, request_for
from agent.inference.decide import wants_upstream
from agent.inference.pipeline import Pipeline
from agent.protocol.cases import Case, Request
from agent.protocol.payload import checked

NAME = "0" * 32  # in place of the case's name, which is made with the outbox's secret


@dataclass(frozen=True, slots=True)
class Leaving:
    """The request that would leave; `hidden` is its text with what it hides."""

    request: Request
    hidden: Redacted


@dataclass(frozen=True, slots=True)
class Staying:
    """Nothing would leave; `why` is for people."""

    why: str


def would_leave(
    pipeline: Pipeline, text: str, finder: Finder | None, device: str
) -> Leaving | Staying:
    """Return what would leave of a text that came to a pipeline; blocks.

    `finder` is None where no pipeline redacts.
    """
    try:
        readable = checked(text, pipeline.reader.max_chars)
    except Unreadable as why:
        return Staying(f"it cannot be read and ends as a dead letter ({why})")
    [decision] = pipeline.answer([readable])
    if isinstance(decision, Resolved):
        return Staying("it is resolved here")
    plan, reason = pipeline.plan, decision.reason
    if plan is None:
        return Staying(f"it stays unresolved ({reason}); this pipeline has no upstream")
    if not wants_upstream(decision, pipeline.policy):
        return Staying(f"it stays unresolved ({reason}), as the pipeline's policy says")
    hidden = in_the_open(text)
    if plan.redacts and finder:
        hidden = hide_in(text, finder.find, plan)
    now = datetime.now(UTC)
    case = Case(
        id="dry-run",
        pipeline=pipeline.name,
        topic="",
        text=text,
        reason=reason,
        guess=decision.prediction,
        model=pipeline.bundle.id,
        received_at=now,
        deadline=now + timedelta(seconds=plan.deadline_s),
        timing=Timing(0.0, 0.0, 0.0),
    )
    return Leaving(request_for(case, plan, hidden, device, NAME), hidden)
