"""What is wrong: the rules that raise alerts, and what shows how a version does."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent.daemon.opened import Opened
from agent.escalation.cases import Escalation
from agent.fleet.probation import STALLED, HealthSignals
from agent.mqtt.backlog import Backlog
from agent.mqtt.link import Link
from agent.protocol.health import OutboxHealth
from agent.telemetry.alerts import Alerts
from agent.telemetry.counters import Counters
from agent.telemetry.host import HostVitals, clock_fault, host_vitals
from agent.telemetry.rejected_topics import RejectedTopics

# Shares of outbox and disk: an alert begins at the first and ends beyond the second, so
# that none comes and goes with every look.
FILLING = 0.8, 0.7
DISK_LOW = 0.05, 0.06
UNREAD = 3  # messages that all end as dead letters are no accident


@dataclass(frozen=True, slots=True)
class Sources:
    """What the figures come from; `since`: the start, as time.perf_counter() tells.

    `report` returns what became of the fleet's file, if there is a fleet.
    """

    parts: Opened
    link: Link
    counters: Counters
    backlog: Backlog
    alerts: Alerts
    rejected_topics: RejectedTopics
    escalation: Escalation | None
    report: Callable[[], Mapping[str, Any] | None] = lambda: None
    since: float = field(default_factory=time.perf_counter)


@dataclass(frozen=True, slots=True)
class Facts:
    """What the rules go by; pipelines by their names, `active` are the alerts.

    `refused`: what the broker said of the filters that it refuses us.
    """

    host: HostVitals
    active: Collection[str] = ()
    clock_fault: str = ""
    outbox: OutboxHealth | None = None
    uncalibrated: Sequence[str] = ()
    stalled: Sequence[str] = ()
    refused: Sequence[str] = ()


def facts(sources: Sources) -> Facts:
    """Look at how things are."""
    folder = sources.parts.config.agent.state.dir
    return Facts(
        host_vitals(folder),
        sources.alerts.active,
        clock_fault(folder),
        sources.escalation.outbox() if sources.escalation else None,
        _uncalibrated(sources),
        _stalled(sources),
        _refused(sources),
    )


def look(now: Facts, alerts: Alerts) -> None:
    """Raise and clear the alerts that the rules decide."""
    for name, rule in RULES.items():
        detail = rule(now)
        if detail:
            alerts.activate(name, detail)
        else:
            alerts.clear(name)


def signs(sources: Sources, *, hangs: bool) -> HealthSignals:
    """Return what shows how we do, for a version on probation.

    `hangs`: whether a model does.
    """
    failed = "a model failed" if sources.counters.model_failed else ""
    return HealthSignals(
        connected=sources.link.connected,
        broken="a model hangs" if hangs else failed,
        dropped=sources.link.dropped,
        refused=sources.rejected_topics.topics | set(sources.link.refused),
        uncalibrated=frozenset(_uncalibrated(sources)),
        unread=frozenset(sources.counters.unread(UNREAD)),
        stalled=frozenset(_stalled(sources)),
        alerts=frozenset(sources.alerts.active),
    )


def _uncalibrated(sources: Sources) -> list[str]:
    return [p.name for p in sources.parts.pipelines if not p.bundle.calibrated]


def _stalled(sources: Sources) -> list[str]:
    """Name the pipelines that hear nothing for longer than they should."""
    names = []
    for name, spec in sources.parts.config.pipelines.items():
        wanted = spec.input.expect_s
        heard = sources.counters.heard.get(name, sources.since)
        if wanted and time.perf_counter() - heard > wanted:
            names.append(name)
    return names


def _refused(sources: Sources) -> list[str]:
    """Return what the broker said of each filter that it refuses, and who wanted it."""
    wanted = sources.parts.config.pipelines.items()
    reasons = []
    for topic, why in sources.link.refused.items():
        names = ", ".join(n for n, spec in wanted if topic in spec.input.topics)
        reasons.append(f"pipeline {names}: {why}" if names else why)
    return reasons


# -- the rules: each says what is wrong, or nothing


def _disk_low(now: Facts) -> str:
    host = now.host
    if not host.disk_bytes or host.disk_free_bytes is None:
        return ""
    share = host.disk_free_bytes / host.disk_bytes
    low = share < DISK_LOW["disk_low" in now.active]
    return f"{share:.1%} of the disk is free" if low else ""


def _clock_wrong(now: Facts) -> str:
    return now.clock_fault


def _outbox_filling(now: Facts) -> str:
    outbox = now.outbox
    if outbox is None or outbox.filled is None:
        return ""
    filling = outbox.filled >= FILLING["outbox_filling" in now.active]
    detail = f"{outbox.waiting} cases wait, {outbox.filled:.0%} of their room"
    return detail if filling else ""


def _calibration_mismatch(now: Facts) -> str:
    names = ", ".join(now.uncalibrated)
    return f"the calibration does not fit: {names}" if names else ""


def _input_stalled(now: Facts) -> str:
    names = ", ".join(now.stalled)
    return f"no message for {names}" if names else ""


def _subscription_refused(now: Facts) -> str:
    return "; ".join(now.refused)


RULES: Mapping[str, Callable[[Facts], str]] = {
    "disk_low": _disk_low,
    "clock_wrong": _clock_wrong,
    "outbox_filling": _outbox_filling,
    "calibration_mismatch": _calibration_mismatch,
    STALLED: _input_stalled,
    "subscription_refused": _subscription_refused,
}
