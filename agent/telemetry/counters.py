"""What happened since the start, as the health topic tells it."""

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from statistics import quantiles

from agent.core.types import Decision, Outcome, Reason, Resolved, Timing, Unresolved
from agent.protocol.figures import Durations
from agent.protocol.health import CasesHealth

# Of histograms, in seconds: from a text that the linear tier answers to a case that
# waits an hour.
SHORT_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5)
BOUNDS_S = (*SHORT_S, 1.0, 5.0, 30.0, 300.0, 3600.0)
RECENT = 1000  # messages that the latency quantiles are taken over


@dataclass(slots=True)
class DurationCounts:
    """Counts durations by how long they were, since the start."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))
    sum_s: float = 0.0

    def note(self, ms: float) -> None:
        """Count a duration in milliseconds."""
        self.counts[bisect_left(BOUNDS_S, ms / 1000)] += 1
        self.sum_s += ms / 1000

    def durations(self) -> Durations:
        """Return what was counted, each bound with all that took no longer."""
        *within, total = accumulate(self.counts)
        names = map(str, BOUNDS_S)
        return Durations(dict(zip(names, within, strict=True)), total, self.sum_s)


@dataclass(slots=True)
class Counters:
    """Counters of one process; nothing here is durable.

    `known` are the names of its pipelines.
    """

    known: Sequence[str] = ()
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
    took: DurationCounts = field(default_factory=DurationCounts)  # messages
    case_took: DurationCounts = field(default_factory=DurationCounts)

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
        self.took.note(timing.total)
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
        self.case_took.note(timing.total)
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

    def by_pipeline(self) -> dict[str, dict[str, int]]:
        """Return how messages ended, by pipeline and outcome."""
        pipelines: dict[str, dict[str, int]] = {name: {} for name in self.known}
        for (pipeline, outcome), number in sorted(self.results.items()):
            pipelines.setdefault(pipeline, {})[outcome] = number
        return pipelines

    def unread(self, least: int) -> set[str]:
        """Return the pipelines that could read none of at least so many messages."""
        dead = {p: n for (p, o), n in self.results.items() if o == "dead_letter"}
        read = {p for (p, o), n in self.results.items() if o != "dead_letter" and n}
        return {p for p, number in dead.items() if number >= least} - read

    def share(self, outcome: str) -> float | None:
        """Return which share of the messages ends so on the device, 0 to 1.

        `resolved` and `open` end here, `escalated` goes upstream; None before any.
        """
        seen = self.local.total()
        return round(self.local[outcome] / seen, 4) if seen else None

    def cases(self) -> CasesHealth:
        """Return what came of cases; ms since their messages came."""
        p50, p99 = percentiles(self.waits)
        took = self.case_took.durations()
        return CasesHealth(dict(self.outcomes), p50, p99, took)


def percentiles(values: Sequence[float]) -> tuple[float, float] | tuple[None, None]:
    """Return p50 and p99, never beyond the worst value; None where there is none."""
    if not values:
        return None, None
    twice = [*values, *values] if len(values) == 1 else values  # Python 3.11 wants two
    steps = quantiles(twice, n=100, method="inclusive")
    return round(steps[49], 3), round(steps[98], 3)
