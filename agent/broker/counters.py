"""What a broker did since it started: the numbers of its health, in one place."""

from collections import Counter, deque
from dataclasses import dataclass, field

RECENT = 1000  # cases that the latency quantiles are taken over


@dataclass(slots=True)
class BrokerCounters:
    """Counters of one process; nothing here is durable.

    A case ends in one outcome: ok, abstain, error, budget, expired, broken,
    unaddressed.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)  # "model: trouble"
    answers: Counter[str] = field(default_factory=Counter)  # by model
    unusable: Counter[str] = field(default_factory=Counter)  # answers, by reason
    received: int = 0
    calls: int = 0
    repairs: int = 0
    cached: int = 0  # answers to the same question before
    repeated: int = 0  # cases that came again after their answer, or beside it
    taken_over: int = 0  # answers that another broker of the group got
    undeliverable: int = 0  # replies that the MQTT broker refused
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))

    def paid(self, sent: int, received: int, cost: float | None) -> None:
        """Count what an answer of a model took."""
        self.input_tokens += sent
        self.output_tokens += received
        self.cost += cost or 0.0
