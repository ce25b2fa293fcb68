"""What the device says of itself: that it is there, what it runs, and how it is."""

import asyncio
import random
import time
from collections.abc import Mapping
from typing import Any

import structlog
from pydantic_core import to_json

from agent import __version__
from agent.core.errors import Undelivered
from agent.core.systemd import notify
from agent.daemon import conditions
from agent.daemon.conditions import Sources
from agent.daemon.discovery import discover
from agent.inference.pipeline import Pipeline, bundles_of
from agent.mqtt.connection import Connection
from agent.mqtt.side_connection import publish_aside
from agent.protocol.health import FleetHealth, Health, document
from agent.protocol.messages import Topics
from agent.protocol.publishing import publish_object
from agent.telemetry.alerts import STOLEN
from agent.telemetry.counters import percentiles
from agent.telemetry.host import host_vitals

HEALTH_S = 30.0
JITTER_S = (1.0, 10.0)  # not all devices at once, when Home Assistant comes back

log = structlog.get_logger()


class StatusPublisher:
    """Owns what the device has said of itself."""

    def __init__(self, sources: Sources) -> None:
        """Take what is to be told of."""
        self._sources = sources
        self._parts = sources.parts
        self._link = sources.link
        self._alerts = sources.alerts
        self._topics = Topics(sources.parts.config.agent.device.id)
        self._cleared_epoch = 0  # the connection that took the alert back
        self._due = asyncio.Event()
        self._jitter = 0.0

    async def introduce(self, connection: Connection) -> None:
        """Say who is here, each time we come: brokers forget retained messages too."""
        self._look()
        rejected = self._sources.rejected_topics
        await discover(connection, self._parts, self._alerts, rejected)
        await (await connection.publish(self._topics.status, b"online", retain=True))
        await publish_object(connection, self._topics.birth, self.birth())
        await self._say_health(connection)
        self._alerts.repeat()

    def home_assistant_is_back(self) -> None:
        """Introduce us again, a little later."""
        self._jitter = random.uniform(*JITTER_S)  # noqa: S311  no secret
        self._due.set()

    async def stolen(self) -> None:
        """Raise the alert, also by a connection of its own: our id is somebody's."""
        endpoint = self._parts.endpoint
        notify(f"STATUS=another client took over the id {endpoint.client_id}")
        detail = f"another client uses the id {endpoint.client_id}"
        times = self._link.counters.takeovers
        self._alerts.activate(STOLEN, detail, times=times)
        alert = {"alert": STOLEN, "detail": detail, "times": times}
        topic = self._topics.alert(STOLEN)
        try:
            await publish_aside(endpoint, topic, to_json(alert))
        except Undelivered as error:
            log.warning("alert_not_published", alert=STOLEN, why=str(error))

    async def run(self) -> None:
        """Publish the health every half minute until cancelled."""
        while True:
            again = await self._pause()
            connection = await self._link.connection()
            try:
                if again:
                    await self.introduce(connection)
                else:
                    await self._link.ask_again()
                    self._look()
                    await self._beat(connection)
            except Undelivered as error:
                log.warning("health_not_published", why=str(error))

    async def _pause(self) -> bool:
        """Wait for the next time; tell whether Home Assistant asked for it."""
        try:
            async with asyncio.timeout(HEALTH_S):
                await self._due.wait()
        except TimeoutError:
            return False
        self._due.clear()
        await asyncio.sleep(self._jitter)
        return True

    async def _beat(self, connection: Connection) -> None:
        clear = self._link.settled and connection.epoch != self._cleared_epoch
        if clear:
            self._alerts.clear(STOLEN)
        await self._say_health(connection)
        if clear:  # also one of an earlier process
            topic = self._topics.alert(STOLEN)
            await (await connection.publish(topic, b"", retain=True))
            self._cleared_epoch = connection.epoch

    async def _say_health(self, connection: Connection) -> None:
        await publish_object(connection, self._topics.health, document(self.health()))

    def _look(self) -> None:
        conditions.look(conditions.facts(self._sources), self._alerts)

    # -- what is told

    def birth(self) -> dict[str, Any]:
        """Return who this device is and what it runs."""
        config = self._parts.config
        return {
            "v": 1,
            "device": config.agent.device.id,
            "version": __version__,
            "labels": config.agent.device.labels,
            "pipelines": {p.name: _described(p) for p in self._parts.pipelines},
            "bundles": {
                bundle.id: {name: f.sha256 for name, f in bundle.manifest.files.items()}
                for bundle in bundles_of(self._parts.pipelines)
            },
            "config_sha256": config.hash,
        }

    def health(self) -> Health:
        """Return how the device is: the numbers of the metrics, too."""
        sources, agent = self._sources, self._parts.config.agent
        counters, backlog = sources.counters, sources.backlog
        escalation = sources.escalation
        host = host_vitals(agent.state.dir)
        p50, p99 = percentiles(counters.latencies)
        local = counters.share("resolved")
        bundles = bundles_of(self._parts.pipelines)
        return Health(
            received=counters.received,
            unrouted=counters.unrouted,
            lost=counters.lost,
            refused=counters.refused,
            pipelines=counters.by_pipeline(),
            by=dict(counters.by),
            unresolved=dict(counters.unresolved),
            dead_letters=dict(counters.dead_letters),
            ms_p50=p50,
            ms_p99=p99,
            took=counters.took.durations(),
            share_local=local,
            share_escalated=counters.share("escalated"),
            percent_local=None if local is None else round(100 * local, 2),
            in_hand=backlog.messages,
            in_hand_max=agent.mqtt.max_backlog,
            in_hand_bytes=backlog.bytes,
            in_hand_bytes_max=agent.mqtt.max_backlog_bytes,
            in_hand_oldest_s=None if backlog.oldest is None else _ago(backlog.oldest),
            heard_s={name: _ago(at) for name, at in counters.heard.items()},
            dropped_qos0=backlog.dropped,
            left_to_broker=backlog.left,
            connects=self._link.counters.connects,
            takeovers=self._link.counters.takeovers,
            uptime_s=round(time.perf_counter() - sources.since),
            fingerprints={b.id: b.calibration.fingerprint for b in bundles},
            rss_bytes=host.rss_bytes,
            temperature_c=host.temperature_c,
            throttled=host.throttled,
            load_1m=host.load_1m,
            disk_free_bytes=host.disk_free_bytes,
            disk_bytes=host.disk_bytes,
            clock_wrong=host.clock_wrong,
            alerts=tuple(self._alerts.active),
            outbox=escalation.outbox() if escalation else None,
            cases=counters.cases() if escalation else None,
            upstream=escalation.upstream() if escalation else None,
            fleet=_fleet(sources.report()),
        )


def _fleet(report: Mapping[str, Any] | None) -> FleetHealth | None:
    if report is None:
        return None
    return FleetHealth(report["applied"], (report["state"],))


def _described(pipeline: Pipeline) -> Mapping[str, Any]:
    return {
        "topics": list(pipeline.filters),
        "tasks": sorted(pipeline.tasks),
        "bundle": pipeline.bundle.id,
        "result": pipeline.result_topic,
        "max_error": pipeline.max_error,
        "threshold": pipeline.policy.threshold,
        "guarantee": pipeline.policy.guarantee,
        "certified": pipeline.policy.error_bound is not None,
        "escalates": pipeline.plan is not None,
    }


def _ago(moment: float) -> float:
    """Return how many seconds ago it was by the clock of messages."""
    return round(time.perf_counter() - moment, 1)
