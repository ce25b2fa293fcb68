"""What a broker says of how it is, on its health topic.

Each field is a key there, with what it is in the metrics beside its type.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from agent.protocol.figures import Counter, Gauge, Quantile
from agent.protocol.health import UNUSABLE, Amounts

VERSION = 1
LATENCY = "Arrival to reply, of the last messages"
LEFT = "What is left of the day's budget"
OUTCOMES = ("ok", "abstain", "error", "budget", "expired", "broken", "unaddressed")
FAILURES = "Failed calls, as <model>: <trouble>"


@dataclass(frozen=True, slots=True)
class BrokerHealth:
    """How a broker is. Counters begin with the start or the last reload.

    `reload_refused` says why the last reload was refused; None: it was not.
    """

    name: str
    group: str
    version: str
    models: Sequence[str]
    received: Annotated[int, Counter("received", "Cases received")]
    cases: Annotated[
        Mapping[str, int],
        Counter("cases", "Ended cases by outcome", ("outcome",), OUTCOMES),
    ]
    calls: Annotated[int, Counter("calls", "Calls to models")]
    repairs: Annotated[int, Counter("repairs", "Calls that asked for a better answer")]
    cache_hits: Annotated[int, Counter("cache_hits", "Cases answered from the cache")]
    duplicates: Annotated[int, Counter("duplicates", "Cases that came again")]
    answered_by_others: Annotated[
        int, Counter("answered_by_others", "Cases that others of the group had")
    ]
    undeliverable: Annotated[int, Counter("undeliverable", "Replies that MQTT refused")]
    answers: Annotated[
        Mapping[str, int], Counter("answers", "Answers by model", ("model",))
    ]
    unusable: Annotated[
        Mapping[str, int],
        Counter("unusable", "Answers of no use, by reason", ("reason",), UNUSABLE),
    ]
    failures: Annotated[Mapping[str, int], Counter("failures", FAILURES, ("failure",))]
    input_tokens: Annotated[int, Counter("input_tokens", "Tokens sent")]
    output_tokens: Annotated[int, Counter("output_tokens", "Tokens received")]
    cost: Annotated[float, Counter("cost", "Money, in the currency of the prices")]
    ms_p50: Annotated[float | None, Quantile("latency", LATENCY, "0.5")]
    ms_p99: Annotated[float | None, Quantile("latency", LATENCY, "0.99")]
    in_flight: Annotated[int, Gauge("in_flight", "Cases in hand")]
    reload_refused: str | None
    others: Sequence[str]
    store_bytes: Annotated[int, Gauge("store_bytes", "Bytes of state on disk")]
    budget_left: Annotated[Amounts, Gauge("budget_left", LEFT, ("unit",))]


def document(health: BrokerHealth) -> dict[str, Any]:
    """Return a health ready for JSON."""
    return {"v": VERSION, **asdict(health)}
