"""The daemon: everything wired together, and an orderly end."""

import asyncio
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog

from agent.core.errors import ConfigError
from agent.core.systemd import notify
from agent.core.types import Message
from agent.daemon import supervise
from agent.daemon.assembly import open_escalation
from agent.daemon.conditions import Sources, signs
from agent.daemon.config_source import ConfigSource
from agent.daemon.control import Control
from agent.daemon.delivery import Delivery
from agent.daemon.fleet_updates import FleetUpdates
from agent.daemon.history import History, decision_terms
from agent.daemon.intake import Intake
from agent.daemon.old_name import clear_old_name
from agent.daemon.opened import Opened
from agent.daemon.status import StatusPublisher
from agent.daemon.supervise import Lifetime, Supervision, one_line
from agent.daemon.watchdog import STALL_S, Watchdog
from agent.fleet.probation import HealthSignals
from agent.inference.engine import Engine, Outgoing, default_workers
from agent.mqtt.backlog import Backlog
from agent.mqtt.connection import Connection
from agent.mqtt.link import Link
from agent.mqtt.message_ids import IdTable
from agent.protocol.homeassistant import discovery_topic, status_topic
from agent.protocol.messages import Topics
from agent.telemetry.alerts import Alerts
from agent.telemetry.counters import Counters
from agent.telemetry.metrics import Collector, served
from agent.telemetry.poison import PoisonAlert
from agent.telemetry.rejected_topics import RejectedTopics

# How long a stop waits for calls upstream, which may be paid, and then for what is in
# hand; with the goodbye less than TimeoutStopSec in systemd/slm-agent.service.
CALLS_S, FINISH_S = 30.0, 10.0
HASTE_S = 1.0  # ... and where the broker refuses what is: that will not end
REFUSED = "reload_refused"  # until a reload succeeds
FAREWELL_S = 0.2
PATIENCE_S = 10.0  # how long we wait for the broker before we say that we are there
BEGUN = 64  # requests that are remembered, by their ids

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Next:
    """What takes over, and why something else was refused before."""

    config_source: ConfigSource
    parts: Opened
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Lasting:
    """What lasts from one daemon of a process to the next.

    `begun` are requests that must not run again, `history` the messages that can be
    explained.
    """

    supervision: Supervision = field(default_factory=Supervision)
    begun: deque[str] = field(default_factory=lambda: deque(maxlen=BEGUN))
    history: History = field(default_factory=History)


class Daemon:
    """Owns the parts of a running agent, until it stops or another takes over."""

    def __init__(self, this: Next, ids: IdTable | None, lasting: Lasting) -> None:
        """Open the outbox; raises ConfigError. Nothing is connected yet."""
        parts, config = this.parts, this.parts.config
        self.life: Lifetime[Next] = Lifetime(lasting.supervision)
        self.introduced = False  # whether the broker heard of us
        self._parts = parts
        self._config_source = this.config_source
        self._topics = Topics(config.agent.device.id)
        self._filters = self._wanted()
        self._counters = Counters([pipeline.name for pipeline in parts.pipelines])
        self._link = self._new_link(ids)
        self._alerts = Alerts(self._link, self._topics)
        self._alerts.state_damaged(ids.damage if ids else "")
        self._alerts.state_damaged(this.config_source.damage)
        if this.refused:
            self._alerts.activate(REFUSED, this.refused)
        self._poison = PoisonAlert(self._alerts)
        self._rejected_topics = RejectedTopics(self._alerts, self._counters)
        self._escalation = open_escalation(
            parts,
            self._link,
            self._alerts,
            self._counters,
            self._rejected_topics,
            self._poison.tell,
        )
        self._history = lasting.history
        self._history.govern(decision_terms(parts.pipelines, parts.values))
        self._turn = asyncio.Lock()  # whose turn it is to say what runs next
        self._fleet_updates = self._new_fleet_updates()
        self._engine = self._new_engine(ids)
        self._control = self._new_control(lasting)
        mqtt = config.agent.mqtt
        self._backlog = Backlog(mqtt.max_backlog, mqtt.max_backlog_bytes)
        self._intake = self._new_intake()
        self._delivery = Delivery(
            self._link,
            self._counters,
            self._rejected_topics,
            self._intake.done,
            self._escalation,
        )
        self._sources = self._new_sources()
        self._status_publisher = StatusPublisher(self._sources)
        self._watchdog = Watchdog(
            self._engine, self._link, self._backlog, self._escalation
        )

    # -- its parts

    def _wanted(self) -> list[str]:
        """Return what we subscribe to."""
        home = self._parts.config.agent.homeassistant
        filters = [topic for p in self._parts.pipelines for topic in p.filters]
        more = [self._topics.requests, self._config_source.topic]
        if home.enable:
            more.append(status_topic(home.prefix))
        return [*filters, *filter(None, more)]

    def _new_link(self, ids: IdTable | None) -> Link:
        return Link(
            self._parts.endpoint,
            self._filters,
            ids,
            on_message=self._arrived,
            on_up=self._introduce,
            on_stolen=self._was_stolen,
            anew=[self._config_source.topic],
            needs_all=False,
        )

    def _new_engine(self, ids: IdTable | None) -> Engine:
        agent = self._parts.config.agent
        return Engine(
            agent.device.id,
            agent.engine.max_batch,
            self._counters,
            self._deliver,
            ids,
            agent.engine.workers or default_workers(),
        )

    def _new_intake(self) -> Intake:
        takers = [self._control.takes, self._fleet_updates.takes]
        return Intake(
            self._backlog,
            self._link,
            self._engine,
            self._parts.pipelines,
            self._counters,
            [*takers, self._is_home_assistant],
        )

    def _new_control(self, lasting: Lasting) -> Control:
        return Control(
            self._topics,
            self._link,
            self._engine,
            self._parts.pipelines,
            lasting.history,
            self.reload,
            lasting.begun,
            self._unusable,
        )

    def _new_fleet_updates(self) -> FleetUpdates:
        return FleetUpdates(
            self._config_source,
            self._link,
            self._topics,
            self._signs,
            self._switch,
            self._turn,
        )

    def _new_sources(self) -> Sources:
        return Sources(
            self._parts,
            self._link,
            self._counters,
            self._backlog,
            self._alerts,
            self._rejected_topics,
            self._escalation,
            self._config_source.report,
        )

    # -- what `Lifetime` runs

    def jobs(self) -> Mapping[str, Coroutine[Any, Any, None]]:
        """Return what is done all the while, by names."""
        jobs = {
            "link": self._link.run(),
            "work": self._engine.run(),
            "deliver": self._delivery.run(),
            "alerts": self._alerts.run(),
            "control": self._control.run(),
            "fleet": self._fleet_updates.run(),
            "fleet-report": self._fleet_updates.tell(),
            "heartbeat": self._status_publisher.run(),
            "patience": self._do_not_wait(),
        }
        if self._escalation:
            jobs["commit"] = self._delivery.commit()
            jobs["cases"] = self._escalation.run()
        return jobs

    def exposed(self) -> AbstractContextManager[None]:
        """Serve metrics while the context lasts."""
        metrics = self._parts.config.agent.metrics
        health = self._status_publisher.health
        return served(metrics.address, metrics.port, health, Collector)

    @property
    def in_hand(self) -> int:
        """How many messages have come and not ended."""
        return self._backlog.messages

    def hung(self) -> Sequence[str]:
        """Name the parts that do not move on though they could."""
        return self._watchdog.hung()

    async def run(self) -> Next | None:
        """Run to the end; return what is to run instead, if anything is."""
        try:
            return await self.life.serve(self)
        finally:
            if self._escalation:
                self._escalation.close()

    # -- a new configuration

    async def reload(self) -> None:
        """Open everything anew, and let it take over; raises ConfigError."""
        async with self._turn:
            if self.life.following:  # it may have read the files before they changed
                self.life.reload_again()
                return
            try:
                config_source, parts = await asyncio.to_thread(self._config_source.anew)
            except ConfigError as error:
                log.error("reload_refused", why=one_line(error))  # noqa: TRY400
                self._alerts.activate(REFUSED, str(error))
                raise
            self._make_room_for(Next(config_source, parts))

    def _switch(self, parts: Opened) -> None:
        self._make_room_for(Next(self._config_source, parts))

    def _make_room_for(self, following: Next) -> None:
        if self.life.stopped:
            following.config_source.leaves()
            return
        log.info("reloading", config_sha256=following.parts.config.hash)
        self._fleet_updates.retire()
        # A moment later, so that who asked for it by MQTT hears of it.
        self.life.make_room(following, FAREWELL_S)

    def _unusable(self, message: str) -> list[dict[str, str]]:
        return self._escalation.unusable_answers(message) if self._escalation else []

    def _signs(self) -> HealthSignals:
        return signs(self._sources, hangs=self._engine.busy_s() >= STALL_S)

    # -- messages

    def _arrived(self, message: Message) -> None:
        self._intake.arrived(message)

    def _deliver(self, outgoing: Outgoing) -> None:
        self._history.add(outgoing)
        for send in outgoing.sends:
            self._poison.look(send.ending)
        self._delivery.put(outgoing)

    def _is_home_assistant(self, message: Message) -> bool:
        home = self._parts.config.agent.homeassistant
        if not home.enable or message.topic != status_topic(home.prefix):
            return False
        message.ack()
        if message.payload == b"online":
            self._status_publisher.home_assistant_is_back()
        return True

    async def _was_stolen(self) -> None:
        await self._status_publisher.stolen()

    # -- hello and goodbye

    async def _do_not_wait(self) -> None:
        """Tell systemd after a while that we are there, if the broker is not.

        A boot, or a reload, must not wait for a broker that may be away for days.
        """
        await asyncio.sleep(PATIENCE_S)
        if not self._link.connected:
            notify(f"READY=1\nSTATUS=no connection to {self._parts.endpoint.url} yet")

    async def _introduce(self, connection: Connection) -> None:
        """Say who is here, each time we come, once the subscriptions are ours."""
        agent = self._parts.config.agent
        folder = agent.state.dir
        damage = await supervise.keep_subscriptions(
            connection, folder, self._filters, self._link.refused
        )
        self._alerts.state_damaged(damage)
        await clear_old_name(connection, folder, agent.device.id, self._alerts)
        await self._status_publisher.introduce(connection)
        await self._fleet_updates.introduce(connection)
        if not self.introduced:
            self.introduced = True
            log.info("ready", pipelines=[p.name for p in self._parts.pipelines])
        notify(f"READY=1\nSTATUS=connected to {self._parts.endpoint.url}")

    async def finish(self) -> None:
        """Stop taking, finish what is in hand, say goodbye."""
        await self._end_calls()
        self._intake.close()
        agent = self._parts.config.agent
        discovery = discovery_topic(agent.homeassistant.prefix, agent.device.id)
        endless = self._rejected_topics.topics - {discovery}  # no message waits for it
        try:
            async with asyncio.timeout(HASTE_S if endless else FINISH_S):
                await self._intake.idle.wait()
                if self._escalation and self._link.connected:
                    await self._escalation.publish_ended()
        except TimeoutError:
            log.warning("left_unfinished", messages=self._backlog.messages)
        async with self._turn:  # what is being opened has come to an end
            pass
        if not self._link.connected:
            return
        following = self.life.following
        stays = following and _place(following.parts) == _place(self._parts)
        if stays and not self.life.stopped:
            await self._link.close()  # who takes over says how we are
            return
        goodbye = partial(supervise.say_offline, self._link, self._topics.status)
        await supervise.part(goodbye, self._link)

    async def _end_calls(self) -> None:
        """Let calls upstream come to their ends: cut off, they would be made again."""
        if self._escalation is None:
            return
        try:
            async with asyncio.timeout(CALLS_S):
                await self._escalation.end_calls()
        except TimeoutError:
            log.warning("calls_cut_off")


def _place(parts: Opened) -> tuple[str, object]:
    """Return where our status stands, and what the broker says when we vanish."""
    return parts.endpoint.url, parts.endpoint.will
