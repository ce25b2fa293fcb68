"""Outbox and upstream, put together as the configuration says."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import structlog

from agent.config.agent_file import Upstream
from agent.config.load import Config
from agent.config.section import Limit
from agent.core.clock import Clock
from agent.core.deaths import Deaths
from agent.core.errors import ConfigError, Unready
from agent.daemon.opened import Opened
from agent.escalation import upstream
from agent.escalation.budget import BudgetLedger, Prices
from agent.escalation.cases import Escalation, EscalationSettings
from agent.escalation.questions import Questions
from agent.escalation.transport import Transport
from agent.inference.pipeline import limit
from agent.mqtt.link import Link
from agent.outbox import OUTBOX, SCHEMA
from agent.outbox.recovery import rescue
from agent.outbox.spending import today
from agent.outbox.store import Failed, Full, Store
from agent.telemetry.alerts import Alerts
from agent.telemetry.counters import Counters
from agent.telemetry.rejected_topics import RejectedTopics

DAMAGED = "outbox_damaged"

log = structlog.get_logger()


def open_escalation(
    parts: Opened,
    link: Link,
    alerts: Alerts,
    counters: Counters,
    rejected_topics: RejectedTopics,
    on_poison: Callable[[str], None],
) -> Escalation | None:
    """Open outbox and upstream; raises ConfigError. None where neither is needed.

    Without [upstream], an outbox that is left from before is worked off: its cases end
    unresolved.
    """
    config, transport = parts.config, parts.transport
    path = config.agent.state.dir / OUTBOX
    if transport is None and not path.exists():
        return None
    section = config.agent.upstream
    own = [each.plan.limit for each in parts.pipelines if each.plan]
    limits = [limit("", section.budget), *own] if section else []
    store = _open_store(path, config.agent.outbox.max_bytes, limits)
    if store.set_aside:
        alerts.activate(DAMAGED, f"the outbox was damaged, it is now {store.set_aside}")
    if store.removed:
        log.warning("damaged_outboxes_removed", number=store.removed)
    client = None
    if transport and section:
        client = _upstream_client(parts, section, transport, store, limits, on_poison)
    settings = EscalationSettings(
        device=config.agent.device.id,
        max_bytes=config.agent.outbox.max_bytes,
        concurrency=section.concurrency if section else 1,
        when_full=config.agent.outbox.when_full,
        queues=section is not None and section.budget.when_spent == "queue",
    )
    return Escalation(
        settings,
        parts.pipelines,
        store,
        client,
        link,
        alerts,
        counters,
        rejected_topics,
        clock=Clock(),
    )


def _upstream_client(
    parts: Opened,
    section: Upstream,
    transport: Transport,
    store: Store,
    limits: Sequence[Limit],
    on_poison: Callable[[str], None],
) -> upstream.UpstreamClient:
    """Return what asks upstream; the first limit is the device's."""
    settings = upstream.UpstreamSettings(
        timeout_s=section.timeout_s,
        rate=section.rate,
        max_output_tokens=section.max_output_tokens,
        cache_entries=section.cache.entries,
        cache_age_s=section.cache.age_s,
    )
    device, *own = limits
    questions = Questions(
        parts.config.agent.device.id,
        store,
        parts.finder,
        ThreadPoolExecutor(1, thread_name_prefix="privacy"),
        section.max_output_tokens,
        Deaths(volatile_dir(parts.config) / "hiding.cases"),
    )
    budget = BudgetLedger(store, transport, device, _prices(section), own)
    return upstream.UpstreamClient(
        settings, transport, budget, store, questions, on_poison
    )


def volatile_dir(config: Config) -> Path:
    """Return where is kept what need not outlive a boot: under systemd in memory."""
    runtime = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    return Path(runtime or config.agent.state.dir)


def _prices(section: Upstream) -> Prices:
    return Prices(
        money_in=section.price_in,
        money_out=section.price_out,
        # The broker side may repair an answer before we see it.
        rounds=upstream.ROUNDS if section.transport == "mqtt" else 1,
    )


def _open_store(path: Path, max_bytes: int, limits: Sequence[Limit]) -> Store:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return Store(path, SCHEMA, max_bytes, partial(rescue, today(), limits))
    except OSError as error:
        raise ConfigError(f"state.dir: {path}: {error}") from error
    except (Full, Failed) as error:
        raise Unready(f"the outbox does not open, free some room? {error}") from error
