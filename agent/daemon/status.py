"""What the device says of itself: status, birth, health, and what is wrong with it."""

import asyncio
import json
import platform
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from pydantic_core import to_json

from agent import __version__
from agent.core.errors import TooLarge, Undelivered
from agent.core.files import replace
from agent.core.systemd import notify
from agent.daemon.assembly import Opened
from agent.escalation.cases import Escalation
from agent.fleet.probation import HealthSignals
from agent.inference.pipeline import Pipeline, bundles_of
from agent.mqtt.backlog import Backlog
from agent.mqtt.connection import Connection
from agent.mqtt.link import Link
from agent.mqtt.side_connection import publish_aside
from agent.protocol import homeassistant
from agent.protocol.messages import Topics
from agent.protocol.publishing import publish_object
from agent.telemetry.alerts import STOLEN, Alerts
from agent.telemetry.counters import Counters
from agent.telemetry.host import HostVitals, clock_fault, host_vitals
from agent.telemetry.rejected_topics import RejectedTopics

HEALTH_S = 30.0
# Shares of outbox and disk: an alert begins at the first and ends beyond the second, so
# that none comes and goes with every look.
FILLING = 0.8, 0.7
DISK_LOW = 0.05, 0.06
UNREAD = 3  # messages that all end as dead letters are no accident
JITTER_S = (1.0, 10.0)  # not all devices at once, when Home Assistant comes back
COMPONENTS = "homeassistant.json"  # what it was told last, below state.dir

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Sources:
    """What the figures come from."""

    parts: Opened
    link: Link
    counters: Counters
    backlog: Backlog
    alerts: Alerts
    rejected_topics: RejectedTopics
    escalation: Escalation | None


class StatusPublisher:
    """Owns what the device has said of itself."""

    def __init__(self, sources: Sources) -> None:
        """Take what is to be told of."""
        self._parts = sources.parts
        self._link = sources.link
        self._counters = sources.counters
        self._backlog = sources.backlog
        self._alerts = sources.alerts
        self._rejected_topics = sources.rejected_topics
        self._escalation = sources.escalation
        agent = sources.parts.config.agent
        self._device = agent.device.id
        self._topics = Topics(self._device)
        self._folder = agent.state.dir
        self._home = agent.homeassistant
        self._since = time.perf_counter()
        self._cleared_epoch = 0  # the connection that took the alert back
        self._due = asyncio.Event()
        self._jitter = 0.0

    async def introduce(self, connection: Connection) -> None:
        """Say who is here, each time we come: brokers forget retained messages too."""
        self._look()
        await self._discover(connection)
        await (await connection.publish(self._topics.status, b"online", retain=True))
        await publish_object(connection, self._topics.birth, self.birth())
        await publish_object(connection, self._topics.health, self.health())
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
        await publish_object(connection, self._topics.health, self.health())
        if clear:  # also one of an earlier process
            topic = self._topics.alert(STOLEN)
            await (await connection.publish(topic, b"", retain=True))
            self._cleared_epoch = connection.epoch

    async def _discover(self, connection: Connection) -> None:
        """Tell Home Assistant what there is, and what there is no longer."""
        topic = homeassistant.discovery_topic(self._home.prefix, self._device)
        payload = homeassistant.discovery(
            self._device,
            __version__,
            platform.machine(),
            [p.name for p in self._parts.pipelines],
        )
        path = self._folder / COMPONENTS
        before = _told(path)
        now = {topic: homeassistant.platforms(payload)} if self._home.enable else {}
        said = [(old, b"") for old in before.keys() - now.keys()]
        if now:
            gone = homeassistant.vanished(before.get(topic, {}), payload["cmps"])
            if gone:
                said.append((topic, to_json(homeassistant.without(payload, gone))))
            said.append((topic, to_json(payload)))
        for place, told in said:
            try:
                await (await connection.publish(place, told, retain=True))
            except TooLarge:  # Home Assistant reads it whole, or not at all
                now = {}
        if now != before:
            try:
                replace(path, json.dumps(now).encode())
            except OSError as error:
                log.warning("discovery_not_written_down", why=str(error))

    # -- what is told

    def birth(self) -> dict[str, Any]:
        """Return who this device is and what it runs."""
        config = self._parts.config
        return {
            "v": 1,
            "device": self._device,
            "version": __version__,
            "labels": config.agent.device.labels,
            "pipelines": {p.name: _described(p) for p in self._parts.pipelines},
            "bundles": {
                bundle.id: {name: f.sha256 for name, f in bundle.manifest.files.items()}
                for bundle in bundles_of(self._parts.pipelines)
            },
            "config_sha256": config.hash,
        }

    def health(self) -> dict[str, Any]:
        """Return how the device is: the numbers of the metrics, too."""
        mqtt = self._parts.config.agent.mqtt
        oldest = self._backlog.oldest
        return {
            "v": 1,
            **self._counters.summary(),
            **(shares := self._counters.shares()),
            # Home Assistant's templates cannot multiply what is not known.
            "percent_local": _percent(shares["share_local"]),
            "in_hand": self._backlog.messages,
            "in_hand_max": mqtt.max_backlog,
            "in_hand_bytes": self._backlog.bytes,
            "in_hand_bytes_max": mqtt.max_backlog_bytes,
            "in_hand_oldest_s": None if oldest is None else _ago(oldest),
            "heard_s": {name: _ago(at) for name, at in self._counters.heard.items()},
            "dropped_qos0": self._backlog.dropped,
            "left_to_broker": self._backlog.left,
            "connects": self._link.counters.connects,
            "takeovers": self._link.counters.takeovers,
            "uptime_s": round(time.perf_counter() - self._since),
            "fingerprints": {
                bundle.id: bundle.calibration.fingerprint
                for bundle in bundles_of(self._parts.pipelines)
            },
            **host_vitals(self._folder).summary(),
            "alerts": self._alerts.active,
            **(self._escalation.summary() if self._escalation else {}),
        }

    def _look(self) -> None:
        """Raise and clear the alerts that a look at the figures decides."""
        now, active = host_vitals(self._folder), self._alerts.active
        stalled = ", ".join(self._stalled())
        for name, detail in (
            ("disk_low", _disk_low(now, DISK_LOW["disk_low" in active])),
            ("clock_wrong", clock_fault(self._folder)),
            ("outbox_filling", self._filling(FILLING["outbox_filling" in active])),
            ("calibration_mismatch", _mismatches(self._parts.pipelines)),
            ("input_stalled", f"no message for {stalled}" if stalled else ""),
        ):
            if detail:
                self._alerts.activate(name, detail)
            else:
                self._alerts.clear(name)

    def _filling(self, limit: float) -> str:
        if self._escalation is None:
            return ""
        outbox = self._escalation.summary()["outbox"]
        if outbox["filled"] < limit:
            return ""
        return f"{outbox['waiting']} cases wait, {outbox['filled']:.0%} of their room"

    def signs(self, *, hangs: bool) -> HealthSignals:
        """Return what shows how we do, for a version on probation.

        `hangs`: whether a model does.
        """
        pipelines = self._parts.pipelines
        failed = "a model failed" if self._counters.model_failed else ""
        return HealthSignals(
            connected=self._link.connected,
            broken="a model hangs" if hangs else failed,
            dropped=self._link.dropped,
            refused=self._rejected_topics.topics | self._link.refused,
            uncalibrated=frozenset(
                p.name for p in pipelines if not p.bundle.calibrated
            ),
            unread=frozenset(self._counters.unread(UNREAD)),
            stalled=frozenset(self._stalled()),
            alerts=frozenset(self._alerts.active),
        )

    def _stalled(self) -> list[str]:
        """Name the pipelines that hear nothing for longer than they should."""
        found = []
        for name, spec in self._parts.config.pipelines.items():
            wanted = spec.input.expect_s
            heard = self._counters.heard.get(name, self._since)
            if wanted and time.perf_counter() - heard > wanted:
                found.append(name)
        return found


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


def _percent(share: float | None) -> float | None:
    return None if share is None else round(100 * share, 2)


def _disk_low(now: HostVitals, limit: float) -> str:
    if not now.disk_bytes or now.disk_free_bytes is None:
        return ""
    share = now.disk_free_bytes / now.disk_bytes
    return f"{share:.1%} of the disk is free" if share < limit else ""


def _mismatches(pipelines: Sequence[Pipeline]) -> str:
    names = [p.name for p in pipelines if not p.bundle.calibrated]
    return f"the calibration does not fit: {', '.join(names)}" if names else ""


def _told(path: Path) -> dict[str, dict[str, str]]:
    """Return what was told last: components by topic."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    whole = isinstance(found, dict) and all(isinstance(c, dict) for c in found.values())
    return found if whole else {}
