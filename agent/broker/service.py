"""The broker as it runs: its parts, what it says of itself, and its end."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import structlog

from agent import __version__
from agent.broker.claims import SharedAnswer
from agent.broker.config import BrokerTopics, cases_filter
from agent.broker.coordinator import Coordinator, lease_s
from agent.broker.counters import BrokerCounters
from agent.broker.deadlines import STALL_S, Deadlines
from agent.broker.group import BrokerGroup
from agent.broker.intake import Intake
from agent.broker.llm_router import LlmRouter, limit_of
from agent.broker.metrics import BrokerCollector
from agent.broker.plan import BrokerSetup
from agent.core.errors import ConfigError, Undelivered
from agent.core.systemd import notify, watchdog_interval
from agent.core.types import Message
from agent.daemon.supervise import Supervision
from agent.mqtt.connection import Connection
from agent.mqtt.link import Link
from agent.mqtt.subscriptions import obsolete, write_down
from agent.outbox import spending
from agent.outbox.store import Full, Store
from agent.protocol.publishing import publish_object
from agent.telemetry.metrics import served

HEALTH_S = 30.0
FINISH_S = 30.0  # how long a stop waits for what is in hand
PARTING_S = 2.0
CONNECT_S = 240.0  # a try to connect that takes longer is hung: names, TCP, MQTT

log = structlog.get_logger()


class Service:
    """Owns the parts of a running broker, until it stops or another takes over."""

    def __init__(
        self,
        plan: BrokerSetup,
        store: Store,
        since: float,
        supervision: Supervision,
        prepare: Callable[[], BrokerSetup],
    ) -> None:
        """Wire it; nothing is connected yet. `since`: when it last heard an answer."""
        file = plan.file
        self._plan = plan
        self._file = file
        self._store = store
        self._supervision = supervision
        self._prepare = prepare
        self._refused = plan.refused
        self._topics = BrokerTopics(file.broker.name, file.broker.group)
        self._counters = BrokerCounters()
        self._deadlines = Deadlines()
        self._told: asyncio.Queue[tuple[SharedAnswer, Message]] = asyncio.Queue()
        self._group = BrokerGroup(
            plan.group,
            self._topics,
            lease_s(file),
            since,
            retold=self._own_since,
            on_told=self._heard,
        )
        self._coordinator = Coordinator(
            file,
            LlmRouter(file, plan.models, store, self._counters),
            store,
            self._group,
            self._counters,
            self._deadlines,
        )
        self._intake = Intake(
            plan,
            self._coordinator,
            self._counters,
            on_up=self._introduce,
            on_stolen=self._stolen,
        )
        self._bug: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._next: BrokerSetup | None = None
        self._ending = asyncio.Event()

    @property
    def _links(self) -> tuple[Link, Link]:
        return self._intake.link, self._group.link

    async def run(self) -> BrokerSetup | None:
        """Run until told to stop, then finish what is in hand and leave.

        Returns what is to run instead, after a reload.
        """
        asyncio.get_running_loop().set_exception_handler(self._failed)
        async with asyncio.TaskGroup() as group:
            self._intake.open(group)
            tasks = [
                group.create_task(self._bugs(), name="bugs"),
                group.create_task(self._stops(), name="stop"),
                group.create_task(self._reloads(), name="reload"),
                group.create_task(self._group.link.run(), name="group"),
                group.create_task(self._group.answer(), name="newcomers"),
                group.create_task(self._learn(), name="learn"),
                group.create_task(self._intake.link.run(), name="link"),
                group.create_task(self._heartbeat(), name="heartbeat"),
                group.create_task(self._watchdog(), name="watchdog"),
            ]
            at = self._file.metrics
            with served(at.address, at.port, self._health, BrokerCollector):
                await self._ending.wait()
                await self._finish()
            self._intake.drop()
            for task in tasks:
                task.cancel()
        return None if self._supervision.stop.is_set() else self._next

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Let a bug in a callback end the process, as it would in a task."""
        error = context.get("exception")
        if "handle" in context and error and not self._bug.done():
            self._bug.set_exception(error)
        else:
            loop.default_exception_handler(context)

    async def _bugs(self) -> None:
        await self._bug

    async def _stops(self) -> None:
        await self._supervision.stop.wait()
        self._ending.set()

    # -- a new configuration

    async def _reloads(self) -> None:
        """Reload on SIGHUP; what cannot be meant is refused, and we go on as before."""
        while self._next is None:
            await self._supervision.hangup.wait()
            self._supervision.hangup.clear()
            notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
            try:
                self._next = await asyncio.to_thread(self._prepare)
            except ConfigError as error:
                await self._refuse("; ".join(str(error).splitlines()))
        log.info("reloading")
        self._ending.set()

    async def _refuse(self, why: str) -> None:
        log.error("reload_refused", why=why)
        self._refused = why
        notify(f"READY=1\nSTATUS=reload refused: {why}")
        if self._intake.link.connected:  # else it is said as soon as we are
            await self._say_health()

    # -- what the others answered

    def _heard(self, told: SharedAnswer, message: Message) -> None:
        self._coordinator.heard(told)
        self._told.put_nowait((told, message))

    async def _own_since(self, since: float) -> list[bytes]:
        return await self._coordinator.own_since(since)

    async def _learn(self) -> None:
        while True:
            waiting = [await self._told.get()]
            while not self._told.empty():
                waiting.append(self._told.get_nowait())
            await self._coordinator.learn([told for told, _ in waiting])
            for _, message in waiting:
                message.ack()

    # -- what we say of ourselves

    async def _introduce(self, connection: Connection) -> None:
        folder, ours = self._file.state.dir, [cases_filter(self._file)]
        await connection.unsubscribe(obsolete(folder, ours))
        try:
            write_down(folder, ours)
        except OSError as error:
            log.warning("subscriptions_not_written_down", why=str(error))
        await self._group.link.connection()
        await (await connection.publish(self._topics.status, b"online", retain=True))
        await publish_object(connection, self._topics.health, await self._health())
        notify(f"READY=1\nSTATUS=connected to {self._plan.cases.url}")

    async def _health(self) -> dict[str, Any]:
        return {
            "v": 1,
            "name": self._file.broker.name,
            "group": self._file.broker.group,
            "version": __version__,
            "models": [model.model for model in self._file.models],
            **self._counters.summary(),
            "in_flight": self._intake.in_hand,
            "reload_refused": self._refused or None,
            "others": sorted(self._group.others),
            "store_bytes": self._store.bytes,
            "budget_left": await self._budget_left(),
        }

    async def _budget_left(self) -> dict[str, float | None]:
        limit, day = limit_of(self._file), spending.today()
        spent = await self._store.read(lambda db: spending.spent(db, day, limit.scope))
        micros = None if limit.micros is None else limit.micros - spent.micros
        return {
            "calls": None if limit.calls is None else limit.calls - spent.calls,
            "tokens": None if limit.tokens is None else limit.tokens - spent.tokens,
            "money": None if micros is None else micros / 1_000_000,
        }

    async def _heartbeat(self) -> None:
        while True:
            await asyncio.sleep(HEALTH_S)
            self._group.forget()
            prune = partial(spending.prune, before_day=spending.today())
            with suppress(Full):  # a full disk keeps the books of earlier days
                await self._store.write(prune)
            await self._say_health()

    async def _say_health(self) -> None:
        connection = await self._intake.link.connection()
        health = await self._health()
        try:
            await publish_object(connection, self._topics.health, health)
        except Undelivered as error:
            log.warning("health_not_published", why=str(error))

    async def _watchdog(self) -> None:
        """Feed systemd's watchdog while the work moves on.

        A hung event loop does not get here. Whatever only waits for others is not hung:
        for MQTT that is away, or for a model within its time.
        """
        pause = watchdog_interval()
        while pause:
            hung = self._hung()
            if hung is None:
                notify("WATCHDOG=1")
            else:
                log.error("stalled", what=hung)
            await asyncio.sleep(pause)

    def _hung(self) -> str | None:
        if any(link.trying_s > CONNECT_S for link in self._links):
            return "connection"
        if self._store.busy_s() > STALL_S:
            return "disk"
        return self._deadlines.hung()

    async def _stolen(self) -> None:
        notify(f"STATUS=another broker took over the name {self._file.broker.name}")

    # -- the end

    async def _finish(self) -> None:
        """Stop taking, finish what is in hand, say goodbye."""
        if self._supervision.stop.is_set():
            notify("STOPPING=1")
        log.info("stopping", in_hand=self._intake.in_hand)
        await self._hand_over()
        self._intake.close()
        try:
            async with asyncio.timeout(FINISH_S):
                await self._intake.idle.wait()
        except TimeoutError:
            await self._let_go()
        try:
            async with asyncio.timeout(PARTING_S):
                if self._intake.link.connected:
                    connection = await self._intake.link.connection()
                    said = await connection.publish(
                        self._topics.status, b"offline", retain=True
                    )
                    await said
                await self._group.say_goodbye()
        except (Undelivered, TimeoutError) as error:
            log.warning("offline_not_said", why=str(error))
            for link in self._links:
                link.hang_up()  # so that our last will says it
        await asyncio.gather(*(link.close() for link in self._links))

    async def _let_go(self) -> None:
        """Leave the rest to MQTT; a reload waits for answers that are being paid."""
        log.warning("left_unfinished", cases=self._intake.in_hand)
        waits = [self._supervision.stop.wait(), self._coordinator.rest()]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(wait) for wait in waits]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
        if self._intake.link.connected and not self._supervision.stop.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(PARTING_S):
                    await self._intake.idle.wait()

    async def _hand_over(self) -> None:
        """Leave new cases to others of the group, if there are any.

        Else our session keeps them, where MQTT would drop them; but not if nobody will
        come back to it.
        """
        moves = self._next is not None and self._next.place != self._plan.place
        link = self._intake.link
        if not link.connected or not (moves or self._group.others):
            return
        try:
            async with asyncio.timeout(PARTING_S):
                connection = await link.connection()
                await connection.unsubscribe([cases_filter(self._file)])
        except (Undelivered, TimeoutError) as error:
            log.warning("not_handed_over", why=str(error))
