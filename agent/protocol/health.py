"""What a device says of how it is, on `slm/<device>/health`.

Each field is a key there, with what it is in the metrics beside its type. None is what
is not known.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Annotated, Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from agent.core.types import Outcome, Reason, Tier
from agent.protocol.cases import Unusable
from agent.protocol.figures import (
    Counter,
    Durations,
    Gauge,
    Histogram,
    Info,
    Quantile,
    Sensor,
)

VERSION = 1
LATENCY = "Arrival to publish, of the last messages"
CASE_LATENCY = "Arrival to final result, of the last messages"
SPENT, LEFT = "Spent today (UTC)", "What is left of the day's budget"

NONE_YET = Durations()
OUTCOMES = tuple(Outcome)
UNUSABLE = tuple(Unusable)
TIERS = tuple(Tier)
ENDS = ("dead_letter", "escalated", "resolved", "unresolved")
REASONS = tuple(Reason)
DEAD = REASONS[REASONS.index(Reason.NOT_UTF8) :]
OPEN = (
    *REASONS[: REASONS.index(Reason.NOT_UTF8)],
    Reason.MISSING_FIELD,
    Reason.TOO_LONG,
)


@dataclass(frozen=True, slots=True)
class Amounts:
    """What calls take; None: without a limit."""

    calls: int | None = None
    tokens: int | None = None
    money: float | None = None


Number = int | None
Share = float | None
ByName = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class OutboxHealth:
    """What waits in the outbox."""

    waiting: Annotated[
        Number,
        Gauge("outbox_waiting", "Cases that wait for an answer"),
        Sensor("outbox", "Outbox depth"),
    ] = None
    unpublished: Annotated[
        Number, Gauge("outbox_unpublished", "Final results not yet published")
    ] = None
    oldest_s: Annotated[
        Number, Gauge("outbox_oldest_seconds", "Age of the oldest case")
    ] = None
    bytes: Annotated[Number, Gauge("outbox_bytes", "Bytes of the outbox on disk")] = (
        None
    )
    bytes_max: Annotated[
        Number, Gauge("outbox_bytes_max", "Most bytes of the outbox on disk")
    ] = None
    filled: Annotated[
        Share, Gauge("outbox_filled", "Share of the room for cases that is taken")
    ] = None


@dataclass(frozen=True, slots=True)
class CasesHealth:
    """How cases ended; on the wire the outcomes stand beside the quantiles."""

    outcomes: Annotated[
        ByName, Counter("cases", "Ended cases by outcome", ("outcome",), OUTCOMES)
    ] = field(default_factory=dict)
    ms_p50: Annotated[Share, Quantile("case_latency", CASE_LATENCY, "0.5")] = None
    ms_p99: Annotated[Share, Quantile("case_latency", CASE_LATENCY, "0.99")] = None
    took: Annotated[
        Durations, Histogram("case_duration_seconds", "Arrival to final result")
    ] = NONE_YET


@dataclass(frozen=True, slots=True)
class UpstreamHealth:
    """What was asked upstream, and what it took; `down` says why nobody answers."""

    transport: str = ""
    to: str = ""
    down: str | None = None
    unavailable: Annotated[
        Number, Counter("upstream_unavailable", "Attempts that nobody answered")
    ] = None
    invalid_answers: Annotated[
        Number, Counter("upstream_invalid_answers", "Answers of no use")
    ] = None
    unusable: Annotated[
        ByName,
        Counter(
            "upstream_unusable", "Answers of no use, by reason", ("reason",), UNUSABLE
        ),
    ] = field(default_factory=dict)
    from_cache: Annotated[
        Number, Counter("upstream_from_cache", "Cases answered from the cache")
    ] = None
    late_replies: Annotated[
        Number, Counter("upstream_late_replies", "Replies that came too late")
    ] = None
    calls: Annotated[Number, Counter("upstream_calls", "Calls that were answered")] = (
        None
    )
    tokens: Annotated[Number, Counter("upstream_tokens", "Tokens in and out")] = None
    cost: Annotated[
        Share, Counter("upstream_cost", "Money, in the currency of the prices")
    ] = None
    cost_if_all_upstream: Annotated[
        Share,
        Gauge(
            "upstream_cost_if_all",
            "Money, had every message been asked about upstream",
        ),
    ] = None
    spent_today: Annotated[
        Amounts,
        Gauge("spent_today", SPENT, ("unit",)),
        Sensor("calls", "Upstream calls today", part="calls"),
    ] = Amounts()
    spent_today_by: Annotated[
        Mapping[str, Amounts],
        Gauge("pipeline_spent_today", SPENT, ("pipeline", "unit")),
    ] = field(default_factory=dict)
    left_today: Annotated[Amounts, Gauge("budget_left", LEFT, ("unit",))] = Amounts()
    left_today_by: Annotated[
        Mapping[str, Amounts],
        Gauge("pipeline_budget_left", LEFT, ("pipeline", "unit")),
    ] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FleetHealth:
    """What became of the fleet's file; `state` as in the device's report."""

    version: Annotated[
        Number, Gauge("fleet_version", "Version of the fleet's file that runs")
    ] = None
    state: Annotated[
        tuple[str, ...],
        Gauge("fleet_state", "1 for the state of the fleet's file", ("state",)),
    ] = ()


@dataclass(frozen=True, slots=True)
class Health:
    """How a device is. Counters begin with the start or the last reload.

    `outbox` and `cases` are there where there is an outbox, `upstream` with [upstream],
    `fleet` with [fleet].
    """

    received: Annotated[Number, Counter("received", "Messages received")] = None
    unrouted: Annotated[
        Number, Counter("unrouted", "Messages that no pipeline wanted")
    ] = None
    lost: Annotated[
        Number, Counter("lost", "QoS 0 messages whose result the broker refused")
    ] = None
    refused: Annotated[
        Number, Counter("refused", "Times that the broker refused a result")
    ] = None
    pipelines: Annotated[
        Mapping[str, ByName],
        Counter("messages", "Messages by outcome", ("pipeline", "outcome"), ENDS),
    ] = field(default_factory=dict)
    by: Annotated[
        ByName,
        Counter("resolved_by", "Resolved messages by who answered", ("tier",), TIERS),
    ] = field(default_factory=dict)
    unresolved: Annotated[
        ByName,
        Counter("unresolved", "Unresolved messages by reason", ("reason",), OPEN),
    ] = field(default_factory=dict)
    dead_letters: Annotated[
        ByName, Counter("dead_letters", "Dead letters by reason", ("reason",), DEAD)
    ] = field(default_factory=dict)
    ms_p50: Annotated[Share, Quantile("latency", LATENCY, "0.5")] = None
    ms_p99: Annotated[
        Share,
        Quantile("latency", LATENCY, "0.99"),
        Sensor(
            "p99",
            "Latency p99",
            {"dev_cla": "duration", "unit_of_meas": "ms", "sug_dsp_prc": 1},
        ),
    ] = None
    took: Annotated[
        Durations | None, Histogram("duration_seconds", "Arrival to publish")
    ] = None
    share_local: Annotated[
        Share, Gauge("share_local", "Share of the messages resolved on the device")
    ] = None
    share_escalated: Annotated[
        Share, Gauge("share_escalated", "Share of the messages sent upstream")
    ] = None
    # Home Assistant's templates cannot multiply what is not known.
    percent_local: Annotated[
        Share,
        Sensor(
            "share_local", "Resolved locally", {"unit_of_meas": "%", "sug_dsp_prc": 1}
        ),
    ] = None
    in_hand: Annotated[
        Number,
        Gauge("in_hand", "Messages between arrival and the last word on them"),
        Sensor("in_hand", "Messages in hand"),
    ] = None
    in_hand_max: Annotated[Number, Gauge("in_hand_max", "Most messages in hand")] = None
    in_hand_bytes: Annotated[
        Number, Gauge("in_hand_bytes", "Payload bytes in hand")
    ] = None
    in_hand_bytes_max: Annotated[
        Number, Gauge("in_hand_bytes_max", "Most payload bytes in hand")
    ] = None
    in_hand_oldest_s: Annotated[
        Share,
        Gauge("in_hand_oldest_seconds", "Age of the oldest message in hand"),
    ] = None
    heard_s: Annotated[
        Mapping[str, float],
        Gauge("heard_seconds", "Since the last message", ("pipeline",)),
    ] = field(default_factory=dict)
    dropped_qos0: Annotated[
        Number, Counter("dropped_qos0", "QoS 0 messages dropped for want of room")
    ] = None
    left_to_broker: Annotated[
        Number, Counter("left_to_broker", "QoS 1 messages left unacknowledged")
    ] = None
    connects: Annotated[Number, Counter("connects", "Connections made")] = None
    takeovers: Annotated[
        Number, Counter("takeovers", "Times that another client took our id")
    ] = None
    uptime_s: Annotated[
        Number, Gauge("uptime_seconds", "Since the start or the last reload")
    ] = None
    fingerprints: Annotated[
        Mapping[str, str], Info("model", "Calibrated models", "bundle", "fingerprint")
    ] = field(default_factory=dict)
    rss_bytes: Annotated[
        Number,
        Gauge("resident_memory_bytes", "Resident memory"),
        Sensor("memory", "Memory", {"dev_cla": "data_size", "unit_of_meas": "B"}),
    ] = None
    temperature_c: Annotated[
        Share,
        Gauge("temperature_celsius", "Temperature of the processor"),
        Sensor(
            "temperature",
            "Temperature",
            {"dev_cla": "temperature", "unit_of_meas": "°C"},
        ),
    ] = None
    throttled: Annotated[
        Number, Gauge("throttled", "Bits of the Raspberry Pi's firmware; 0 is fine")
    ] = None
    load_1m: Annotated[Share, Gauge("load1", "Load average of the last minute")] = None
    disk_free_bytes: Annotated[
        Number, Gauge("disk_free_bytes", "Free space where the state is")
    ] = None
    disk_bytes: Annotated[
        Number, Gauge("disk_bytes", "Size of the disk where the state is")
    ] = None
    clock_wrong: Annotated[
        bool | None, Gauge("clock_wrong", "1 while the clock cannot be right")
    ] = None
    alerts: Annotated[tuple[str, ...], Gauge("alert", "Active alerts", ("alert",))] = ()
    outbox: OutboxHealth | None = None
    cases: CasesHealth | None = None
    upstream: UpstreamHealth | None = None
    fleet: FleetHealth | None = None


def document(health: Health) -> dict[str, Any]:
    """Return a health ready for JSON."""
    fields = {"v": VERSION, **asdict(health)}
    for part in ("outbox", "cases", "upstream", "fleet"):
        if fields[part] is None:
            del fields[part]
    if health.cases:
        fields["cases"] = {**fields["cases"].pop("outcomes"), **fields["cases"]}
    return fields


def understood(published: Mapping[str, Any]) -> Health:
    """Return a health that somebody published; what makes no sense is not known.

    Devices of other versions say more, or less, and anybody may publish anything.
    """
    known = dict(published)
    if isinstance(cases := known.get("cases"), Mapping):
        numbers = cases.keys() - {"ms_p50", "ms_p99", "took"}
        outcomes = {name: cases[name] for name in numbers}
        known["cases"] = {**cases, "outcomes": outcomes}
    values: dict[str, Any] = {}
    for name, adapter in _adapters().items():
        if name in known:
            try:
                values[name] = adapter.validate_python(known[name])
            except ValidationError:
                continue
    return Health(**values)


@cache
def _adapters() -> Mapping[str, TypeAdapter[Any]]:
    hints = get_type_hints(Health, include_extras=True)
    return {name: TypeAdapter(hint) for name, hint in hints.items()}
