"""What happened since the start, as the health topic tells it."""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any

from agent.core.types import Decision, Outcome, Reason, Resolved, Timing, Unresolved

RECENT = 1000  # messages that the latency quantiles are taken over


@dataclass(slots=True)
class Counters:
    """Counters of one process; nothing here is durable."""

    results: Counter[tuple[str, str]] = field(default_factory=Counter)
    unresolved: Counter[str] = field(default_factory=Counter)
    dead_letters: Counter[str] = field(default_factory=Counter)
    by: Counter[str] = field(default_factory=Counter)
    heard: dict[str, float] = field(default_factory=dict)  # when last, by pipeline
    received: int = 0
    unrouted: int = 0
    lost: int = 0
    refused: int = 0  # times, not messages
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    outcomes: Counter[str] = field(default_factory=Counter)  # of cases
    local: Counter[str] = field(default_factory=Counter)  # outcomes on the device
    model_failed: int = 0  # also where upstream answered instead
    waits: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))

    def result(
        self,
        pipeline: str,
        decision: Decision,
        timing: Timing,
        *,
        escalated: bool = False,
    ) -> None:
        """Count a local result and remember how long it took.

        What is escalated ends later, in `case`.
        """
        self.latencies.append(timing.total)
        if isinstance(decision, Unresolved):
            self.model_failed += decision.reason is Reason.MODEL_FAILED
        if escalated:
            self.results[pipeline, "escalated"] += 1
            self.local["escalated"] += 1
        else:
            self.local["resolved" if isinstance(decision, Resolved) else "open"] += 1
            self._ended(pipeline, decision)

    def case(
        self, pipeline: str, decision: Decision, outcome: Outcome, timing: Timing
    ) -> None:
        """Count the end of a case, and how long it took since its message came."""
        self.outcomes[outcome.value] += 1
        self.waits.append(timing.total)
        self._ended(pipeline, decision)

    def _ended(self, pipeline: str, decision: Decision) -> None:
        if isinstance(decision, Resolved):
            self.results[pipeline, "resolved"] += 1
            self.by[decision.prediction.by.value] += 1
        else:
            self.results[pipeline, "unresolved"] += 1
            self.unresolved[decision.reason.value] += 1

    def dead_letter(self, pipeline: str, reason: Reason) -> None:
        """Count a message that could not be read."""
        self.results[pipeline, "dead_letter"] += 1
        self.dead_letters[reason.value] += 1

    def summary(self) -> dict[str, Any]:
        """Return the counters, ready for JSON; latencies in ms, None before any."""
        pipelines: dict[str, dict[str, int]] = {}
        for (pipeline, outcome), number in sorted(self.results.items()):
            pipelines.setdefault(pipeline, {})[outcome] = number
        p50, p99 = percentiles(self.latencies) or (None, None)
        return {
            "received": self.received,
            "unrouted": self.unrouted,
            "lost": self.lost,
            "refused": self.refused,
            "pipelines": pipelines,
            "by": dict(self.by),
            "unresolved": dict(self.unresolved),
            "dead_letters": dict(self.dead_letters),
            "ms_p50": p50,
            "ms_p99": p99,
        }

    def unread(self, least: int) -> set[str]:
        """Return the pipelines that could read none of at least so many messages."""
        dead = {p: n for (p, o), n in self.results.items() if o == "dead_letter"}
        read = {p for (p, o), n in self.results.items() if o != "dead_letter" and n}
        return {p for p, number in dead.items() if number >= least} - read

    def shares(self) -> dict[str, float | None]:
        """Return which shares of the messages end here and go upstream, 0 to 1."""
        seen = self.local.total()
        if not seen:
            return {"share_local": None, "share_escalated": None}
        return {
            "share_local": round(self.local["resolved"] / seen, 4),
            "share_escalated": round(self.local["escalated"] / seen, 4),
        }

    def cases(self) -> dict[str, Any]:
        """Return what came of cases, ready for JSON; ms since their messages came."""
        p50, p99 = percentiles(self.waits) or (None, None)
        return {**self.outcomes, "ms_p50": p50, "ms_p99": p99}


def percentiles(values: Sequence[float]) -> tuple[float, float] | None:
    """Return p50 and p99, never beyond the worst value; None where there is none."""
    if not values:
        return None
    twice = [*values, *values] if len(values) == 1 else values  # Python 3.11 wants two
    steps = quantiles(twice, n=100, method="inclusive")
    return round(steps[49], 3), round(steps[98], 3)
