"""What would leave of a text, without asking anybody."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from agent.core.types import Decision, Resolved, Timing
from agent.escalation.privacy_gate import Finder, Redacted
from agent.escalation.questions import hide_in, in_the_open, request_for
from agent.inference.decide import wants_upstream
from agent.inference.pipeline import Pipeline
from agent.protocol.cases import Case, Request

NAME = "0" * 32  # in place of the case's name, which is made with the outbox's secret


@dataclass(frozen=True, slots=True)
class WouldLeave:
    """What became of a text here, and the request that would leave; None: nothing.

    `hidden` is the text with placeholders and what they stand for.
    """

    decision: Decision
    request: Request | None
    hidden: Redacted


def would_leave(
    pipeline: Pipeline,
    decision: Decision,
    text: str,
    finder: Finder | None,
    device: str,
) -> WouldLeave:
    """Return what would leave of a text about which a pipeline decided so; blocks.

    `finder` is None where no pipeline redacts.
    """
    plan = pipeline.plan
    hidden = in_the_open(text)
    stays = not wants_upstream(decision, pipeline.policy)
    if plan is None or isinstance(decision, Resolved) or stays:
        return WouldLeave(decision, None, hidden)
    if plan.redacts and finder:
        hidden = hide_in(text, finder.find, plan)
    now = datetime.now(UTC)
    case = Case(
        id="dry-run",
        pipeline=pipeline.name,
        topic="",
        text=text,
        reason=decision.reason,
        guess=decision.prediction,
        model=pipeline.bundle.id,
        received_at=now,
        deadline=now + timedelta(seconds=plan.deadline_s),
        timing=Timing(0.0, 0.0, 0.0),
    )
    request = request_for(case, plan, hidden, device, NAME)
    return WouldLeave(decision, request, hidden)
