"""What the daemon is made of, opened as the configuration says."""

import ssl
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import structlog

from agent.config.agent_file import Upstream
from agent.config.load import Config
from agent.config.section import Limit
from agent.core.clock import Clock
from agent.core.errors import ConfigError, Unready
from agent.escalation import upstream
from agent.escalation.budget import BudgetLedger, Prices
from agent.escalation.cases import Escalation, EscalationSettings
from agent.escalation.privacy_gate import Finder
from agent.escalation.transport import Transport
from agent.escalation.transports import open_transport
from agent.fleet.values import Values
from agent.inference.bundle import open_bundle
from agent.inference.pipeline import Pipeline, limit, open_pipelines
from agent.mqtt.connection import Endpoint, Will, tls_context
from agent.mqtt.link import Link
from agent.outbox import SCHEMA
from agent.outbox.recovery import rescue
from agent.outbox.spending import today
from agent.outbox.store import Failed, Full, Store
from agent.protocol.messages import Topics
from agent.telemetry.alerts import Alerts
from agent.telemetry.counters import Counters
from agent.telemetry.rejected_topics import RejectedTopics

OUTBOX = "outbox.db"
DAMAGED = "outbox_damaged"
PRIVACY = "privacy"  # the bundle that finds personal data

log = structlog.get_logger()


def endpoint(config: Config) -> Endpoint:
    """Return what a connection needs to know; raises ConfigError."""
    mqtt = config.agent.mqtt
    found = Endpoint(
        url=mqtt.url,
        client_id=config.client_id,
        login=config.login(),
        version=5 if mqtt.version in {5, "5"} else 4,
        ca_file=mqtt.ca_file,
        cert_file=mqtt.cert_file,
        key_file=mqtt.key_file,
        keepalive_s=mqtt.keepalive_s,
        session_expiry_s=mqtt.session_expiry_s,
        max_inflight=mqtt.max_inflight,
        max_packet_bytes=mqtt.max_packet_bytes,
        will=Will(Topics(config.agent.device.id).status, b"offline"),
    )
    if mqtt.url.startswith("mqtts:"):
        try:
            tls_context(found)
        except (OSError, ssl.SSLError) as error:
            files = [mqtt.ca_file, mqtt.cert_file, mqtt.key_file]
            names = ", ".join(str(file) for file in files if file)
            raise ConfigError(f"mqtt: TLS files {names}: {error}") from error
    return found


@dataclass(frozen=True, slots=True)
class Opened:
    """A configuration whose every file could be opened."""

    config: Config
    endpoint: Endpoint
    pipelines: Sequence[Pipeline]
    transport: Transport | None
    finder: Finder | None
    values: Values = field(default_factory=dict, repr=False)  # a fleet's, by key


def prepare(config: Config) -> Opened:
    """Open all that can be opened beside a running daemon; raises ConfigError.

    Blocks for seconds on a small device: every bundle is loaded and probed.
    """
    pipelines = open_pipelines(config)
    return Opened(
        config=config,
        endpoint=endpoint(config),
        pipelines=pipelines,
        transport=transport_of(config),
        finder=finder_of(config, pipelines),
    )


def outbox_path(config: Config) -> Path:
    """Return where the cases of this device wait."""
    return config.agent.state.dir / OUTBOX


def transport_of(config: Config) -> Transport | None:
    """Return the way to upstream, if there is one; raises ConfigError."""
    said = config.agent.upstream
    if said is None:
        return None
    return open_transport(said, config.agent.device.id, endpoint(config))


def finder_of(config: Config, pipelines: Sequence[Pipeline]) -> Finder | None:
    """Return what finds personal data, if a pipeline hides it; raises ConfigError."""
    if not any(pipeline.plan and pipeline.plan.redacts for pipeline in pipelines):
        return None
    folder = config.agent.models.dir / PRIVACY
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such bundle, and upstream.privacy is 'redact'")
    # Also where a pipeline has it open: that one belongs to another thread.
    return Finder(open_bundle(folder, config.agent.engine.threads))


def open_escalation(
    parts: Opened,
    link: Link,
    alerts: Alerts,
    counters: Counters,
    rejected_topics: RejectedTopics,
) -> Escalation | None:
    """Open outbox and upstream; raises ConfigError. None where neither is needed.

    Without [upstream], an outbox that is left from before is worked off: its cases end
    unresolved.
    """
    config, transport = parts.config, parts.transport
    path = outbox_path(config)
    if transport is None and not path.exists():
        return None
    said = config.agent.upstream
    own = [each.plan.limit for each in parts.pipelines if each.plan]
    limits = [limit("", said.budget), *own] if said else []
    store = _open_store(path, config.agent.outbox.max_bytes, limits)
    if store.set_aside:
        alerts.activate(DAMAGED, f"the outbox was damaged, it is now {store.set_aside}")
    if store.removed:
        log.warning("damaged_outboxes_removed", number=store.removed)
    client = None
    if transport and said:
        client = _upstream_client(parts, said, transport, store, limits)
    settings = EscalationSettings(
        device=config.agent.device.id,
        max_bytes=config.agent.outbox.max_bytes,
        concurrency=said.concurrency if said else 1,
        when_full=config.agent.outbox.when_full,
        queues=said is not None and said.budget.when_spent == "queue",
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
    said: Upstream,
    transport: Transport,
    store: Store,
    limits: Sequence[Limit],
) -> upstream.UpstreamClient:
    """Return what asks upstream; the first limit is the device's."""
    settings = upstream.UpstreamSettings(
        timeout_s=said.timeout_s,
        rate=said.rate,
        cache_entries=said.cache.entries,
        cache_age_s=said.cache.age_s,
    )
    device, *own = limits
    return upstream.UpstreamClient(
        parts.config.agent.device.id,
        settings,
        transport,
        BudgetLedger(store, transport, device, _prices(said), own),
        store,
        parts.finder,
        ThreadPoolExecutor(1, thread_name_prefix="privacy"),
    )


def _prices(said: Upstream) -> Prices:
    return Prices(
        money_in=said.price_in,
        money_out=said.price_out,
        max_output_tokens=said.max_output_tokens,
        # The broker side may repair an answer before we see it.
        rounds=upstream.ROUNDS if said.transport == "mqtt" else 1,
    )


def _open_store(path: Path, max_bytes: int, limits: Sequence[Limit]) -> Store:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return Store(path, SCHEMA, max_bytes, partial(rescue, today(), limits))
    except OSError as error:
        raise ConfigError(f"state.dir: {path}: {error}") from error
    except (Full, Failed) as error:
        raise Unready(f"the outbox does not open, free some room? {error}") from error
