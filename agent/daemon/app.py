"""The daemon: everything wired together, named tasks, and an orderly end."""

import asyncio
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from agent.config.load import Config
from agent.core.errors import ConfigError, Undelivered
from agent.core.systemd import notify
from agent.core.types import Message
from agent.daemon.assembly import Opened, open_escalation, prepare
from agent.daemon.config_source import ConfigSource
from agent.daemon.control import Control
from agent.daemon.delivery import Delivery
from agent.daemon.fleet_updates import FleetUpdates
from agent.daemon.history import decision_terms
from agent.daemon.status import Sources, StatusPublisher
from agent.daemon.supervise import (
    Supervision,
    give_back_memory,
    id_table,
    say_offline,
    signals,
)
from agent.daemon.watchdog import STALL_S, Watchdog
from agent.fleet.probation import HealthSignals
from agent.inference.engine import Engine, Outgoing, WorkItem
from agent.mqtt.backlog import Admission, Backlog
from agent.mqtt.connection import Connection, Endpoint
from agent.mqtt.link import Link
from agent.mqtt.message_ids import IdTable
from agent.mqtt.subscriptions import obsolete, write_down
from agent.protocol.homeassistant import status_topic
from agent.protocol.messages import Topics
from agent.telemetry.alerts import Alerts
from agent.telemetry.counters import Counters
from agent.telemetry.metrics import served
from agent.telemetry.rejected_topics import RejectedTopics

# How long a stop waits for calls upstream, which may be paid, and then for what is in
# hand; with the goodbye less than TimeoutStopSec in systemd/slm-agent.service.
CALLS_S, FINISH_S = 30.0, 10.0
HASTE_S = 1.0  # ... and where the broker refuses what is: that will not end
REFUSED = "reload_refused"  # until a reload succeeds
FAREWELL_S = 0.2
PATIENCE_S = 10.0  # how long we wait for the broker before we say that we are there

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Next:
    """What takes over, and why something else was refused before."""

    config_source: ConfigSource
    parts: Opened
    refused: str = ""


class Daemon:
    """Owns the parts of a running agent, until it stops or another takes over."""

    def __init__(
        self, this: Next, ids: IdTable | None, supervision: Supervision
    ) -> None:
        """Open the outbox; raises ConfigError. Nothing is connected yet."""
        parts, config_source, config = this.parts, this.config_source, this.parts.config
        self._supervision, self._config, self._config_source = (
            supervision,
            config,
            config_source,
        )
        self._endpoint = parts.endpoint
        self._topics = Topics(config.agent.device.id)
        self._pipelines = parts.pipelines
        mqtt, home = config.agent.mqtt, config.agent.homeassistant
        self._counters = Counters()
        self._backlog = Backlog(mqtt.max_backlog, mqtt.max_backlog_bytes)
        self._home_status = status_topic(home.prefix) if home.enable else None
        self._filters = [topic for p in self._pipelines for topic in p.filters]
        more = (self._topics.requests, self._home_status, config_source.topic)
        self._filters += filter(None, more)
        self._link = Link(
            *(self._endpoint, self._filters, ids),
            on_message=self._arrived,
            on_up=self._introduce,
            on_stolen=self._was_stolen,
            anew=[config_source.topic],
        )
        self._alerts = Alerts(self._link, self._topics)
        if this.refused:
            self._alerts.activate(REFUSED, this.refused)
        self._rejected_topics = RejectedTopics(self._alerts, self._counters)
        known = (self._link, self._alerts, self._counters, self._rejected_topics)
        self._escalation = open_escalation(parts, *known)
        figures = (self._counters, self._backlog, self._alerts, self._rejected_topics)
        sources = Sources(parts, self._link, *figures, self._escalation)
        self._status_publisher = StatusPublisher(sources)
        self._delivery = Delivery(
            *(
                self._link,
                self._counters,
                self._rejected_topics,
                self._done,
                self._escalation,
            )
        )
        self._recent = supervision.recent
        self._recent.govern(decision_terms(self._pipelines, parts.values))
        self._engine = Engine(
            *(config.agent.device.id, config.agent.engine.max_batch, self._counters),
            self._deliver,
        )
        watched = self._engine, self._link, self._backlog, self._escalation
        self._watchdog = Watchdog(*watched)
        self._control = Control(
            self._topics,
            *(self._link, self._engine, self._pipelines, self._recent),
            *(self._reload, supervision.begun),
        )
        self._turn = asyncio.Lock()  # whose turn it is to say what runs next
        self._fleet_updates = FleetUpdates(
            *(config_source, self._link, self._topics),
            *(self._signs, self._switch, self._turn),
        )
        self._bug: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stopping, self._idle = asyncio.Event(), asyncio.Event()
        self._next: Next | None = None
        self._idle.set()
        self.introduced = False  # whether the broker heard of us
        self._deaf = False  # to messages: we are about to leave

    async def run(self) -> Next | None:
        """Run until told to stop, then finish what is in hand and leave.

        Returns what is to run instead, after a reload or a file from the fleet.
        """
        asyncio.get_running_loop().set_exception_handler(self._failed)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._bugs(), name="bugs"),
                group.create_task(self._stops(), name="stop"),
                group.create_task(self._link.run(), name="link"),
                group.create_task(self._engine.run(), name="work"),
                group.create_task(self._delivery.run(), name="deliver"),
                group.create_task(self._alerts.run(), name="alerts"),
                group.create_task(self._control.run(), name="control"),
                group.create_task(self._reloads(), name="reload"),
                group.create_task(self._fleet_updates.run(), name="fleet"),
                group.create_task(self._fleet_updates.tell(), name="fleet-report"),
                group.create_task(self._status_publisher.run(), name="heartbeat"),
                group.create_task(self._watchdog.run(), name="watchdog"),
                group.create_task(self._do_not_wait(), name="patience"),
            ]
            if self._escalation:
                tasks.append(group.create_task(self._delivery.commit(), name="commit"))
                tasks.append(group.create_task(self._escalation.run(), name="cases"))
            metrics = self._config.agent.metrics
            with served(metrics.address, metrics.port, self._status_publisher.health):
                await self._stopping.wait()
                await self._finish()
            for task in tasks:
                task.cancel()
        if self._escalation:
            self._escalation.close()
        return self._next

    def _deliver(self, outgoing: Outgoing) -> None:
        self._recent.add(outgoing)
        self._delivery.put(outgoing)

    async def _stops(self) -> None:
        await self._supervision.stop.wait()
        self._stopping.set()

    # -- a new configuration

    async def _reloads(self) -> None:
        """Reload on SIGHUP; what cannot be meant is refused, and we go on as before."""
        hangup = self._supervision.hangup
        while self._next is None:
            await hangup.wait()
            hangup.clear()
            notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
            try:
                await self._reload()
            except ConfigError as error:
                notify(f"READY=1\nSTATUS=reload refused: {_one_line(error)}")

    async def _reload(self) -> None:
        """Open everything anew, and let it take over; raises ConfigError."""
        async with self._turn:
            if self._next:  # it may have read the files before they were changed
                self._supervision.hangup.set()
                return
            try:
                config_source, parts = await asyncio.to_thread(self._config_source.anew)
            except ConfigError as error:
                log.error("reload_refused", why=_one_line(error))  # noqa: TRY400
                self._alerts.activate(REFUSED, str(error))
                raise
            self._make_room_for(Next(config_source, parts))

    def _switch(self, parts: Opened) -> None:
        self._make_room_for(Next(self._config_source, parts))

    def _make_room_for(self, following: Next) -> None:
        if self._supervision.stop.is_set():
            following.config_source.leaves()
            return
        log.info("reloading", config_sha256=following.parts.config.hash)
        self._next = following
        self._fleet_updates.retire()
        # A moment later, so that who asked for it by MQTT hears of it.
        loop = asyncio.get_running_loop()
        loop.call_later(FAREWELL_S, self._stopping.set)

    def _signs(self) -> HealthSignals:
        return self._status_publisher.signs(hangs=self._engine.busy_s() >= STALL_S)

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Let a bug in a callback end the process, as it would in a task."""
        error = context.get("exception")
        if "handle" in context and error and not self._bug.done():
            self._bug.set_exception(error)
        else:
            loop.default_exception_handler(context)

    async def _bugs(self) -> None:
        await self._bug

    # -- messages

    def _arrived(self, message: Message) -> None:
        if self._deaf:
            return  # unacknowledged: the broker keeps it for our next start
        if (
            self._control.takes(message)
            or self._is_home_assistant(message)
            or self._fleet_updates.takes(message)
        ):
            return
        self._counters.received += 1
        filters = self._link.filters_of(message)
        wanted = tuple(p for p in self._pipelines if p.wants(message, filters))
        if not wanted:
            self._counters.unrouted += 1  # a subscription of an earlier configuration
            message.ack()
            return
        for pipeline in wanted:
            self._counters.heard[pipeline.name] = message.arrived
        verdict = self._backlog.admit(message)
        if verdict is Admission.TAKEN:
            self._idle.clear()
            self._engine.put(WorkItem(message, wanted))

    def _is_home_assistant(self, message: Message) -> bool:
        if message.topic != self._home_status:
            return False
        message.ack()
        if message.payload == b"online":
            self._status_publisher.home_assistant_is_back()
        return True

    async def _was_stolen(self) -> None:
        await self._status_publisher.stolen()

    def _done(self, message: Message) -> None:
        if self._backlog.done(message) and not self._deaf:
            self._link.fetch_again(self._backlog.overrun_epoch)
        if self._backlog.messages == 0:
            self._idle.set()

    async def _finish(self) -> None:
        """Stop taking, finish what is in hand, say goodbye."""
        if self._supervision.stop.is_set():
            notify("STOPPING=1")
        log.info("stopping", in_hand=self._backlog.messages)
        await self._end_calls()
        self._deaf = True
        try:
            async with asyncio.timeout(
                HASTE_S if self._rejected_topics.topics else FINISH_S
            ):
                await self._idle.wait()
                if self._escalation and self._link.connected:
                    await self._escalation.publish_ended()
        except TimeoutError:
            log.warning("left_unfinished", messages=self._backlog.messages)
        async with self._turn:  # what is being opened has come to an end
            pass
        if not self._link.connected:
            return
        if (
            self._next
            and not self._supervision.stop.is_set()
            and _place(self._next.parts.endpoint) == _place(self._endpoint)
        ):
            await self._link.close()  # who takes over says how we are
            return
        try:
            async with asyncio.timeout(2.0):
                connection = await self._link.connection()
                await (
                    await connection.publish(
                        self._topics.status, b"offline", retain=True
                    )
                )
        except (Undelivered, TimeoutError) as error:
            log.warning("offline_not_said", why=str(error))
        await self._link.close()

    async def _end_calls(self) -> None:
        """Let calls upstream come to their ends: cut off, they would be made again."""
        if self._escalation is None:
            return
        try:
            async with asyncio.timeout(CALLS_S):
                await self._escalation.end_calls()
        except TimeoutError:
            log.warning("calls_cut_off")

    async def _do_not_wait(self) -> None:
        """Tell systemd after a while that we are there, if the broker is not.

        A boot, or a reload, must not wait for a broker that may be away for days.
        """
        await asyncio.sleep(PATIENCE_S)
        if not self._link.connected:
            notify(f"READY=1\nSTATUS=no connection to {self._endpoint.url} yet")

    async def _introduce(self, connection: Connection) -> None:
        """Say who is here, each time we come, once the subscriptions are ours."""
        await self._unsubscribe(connection)
        await self._status_publisher.introduce(connection)
        await self._fleet_updates.introduce(connection)
        if not self.introduced:
            self.introduced = True
            log.info("ready", pipelines=[p.name for p in self._pipelines])
        notify(f"READY=1\nSTATUS=connected to {self._endpoint.url}")

    async def _unsubscribe(self, connection: Connection) -> None:
        """Take back what an earlier configuration subscribed to."""
        folder = self._config.agent.state.dir
        await connection.unsubscribe(obsolete(folder, self._filters))
        try:
            write_down(folder, self._filters)
        except OSError as error:
            log.warning("subscriptions_not_written_down", why=str(error))


def _one_line(error: Exception) -> str:
    return "; ".join(str(error).splitlines())


def _place(endpoint: Endpoint) -> tuple[str, object]:
    """Return where it stands how we are."""
    return endpoint.url, endpoint.will


async def run(path: Path | None, told: Callable[[Config], None]) -> None:
    """Run the daemon until it is told to stop; raises ConfigError.

    `path` is that of agent.toml; `told` hears of every configuration before it runs.
    """
    supervision = Supervision()
    online: Endpoint | None = None  # where `online` stands while nobody runs
    last: tuple[ConfigSource, Config] | None = None
    with signals(supervision):
        config_source = ConfigSource(path, told)
        following: Next | None = Next(config_source, config_source.begin())
        try:
            while following and not supervision.stop.is_set():
                config_source, parts = following.config_source, following.parts
                with ExitStack() as stack:
                    try:
                        ids = id_table(parts.config, stack)
                        daemon = Daemon(following, ids, supervision)
                    except ConfigError as error:
                        following = _instead(config_source, last, _one_line(error))
                        continue
                    config_source.runs(parts)
                    last = config_source, parts.config
                    following = await daemon.run()
                    if daemon.introduced:
                        online = parts.endpoint if following else None
                    del daemon, parts
                give_back_memory()
        finally:
            await say_offline(online)
        config_source.leaves()


def _instead(
    config_source: ConfigSource, last: tuple[ConfigSource, Config] | None, why: str
) -> Next:
    """Return what runs instead of what could not be run; raises ConfigError."""
    try:
        return Next(config_source, config_source.failed(why))
    except ConfigError:
        if last is None or last[0] is config_source:
            raise
    before, config = last
    log.error("reload_refused", why=why)
    before.stays()
    return Next(before, prepare(config), why)
