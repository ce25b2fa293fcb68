"""The broker as it runs: its parts, and its end."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractContextManager, suppress
from typing import Any

import structlog

from agent.broker.claims import SharedAnswer
from agent.broker.config import BrokerTopics, cases_filter
from agent.broker.coordinator import Coordinator, lease_s
from agent.broker.counters import BrokerCounters
from agent.broker.deadlines import STALL_S, Deadlines
from agent.broker.group import BrokerGroup
from agent.broker.intake import CaseIntake
from agent.broker.llm_router import LlmRouter
from agent.broker.metrics import BrokerCollector
from agent.broker.plan import BrokerSetup
from agent.broker.status import BrokerStatus
from agent.core.errors import ConfigError, Undelivered
from agent.core.systemd import notify
from agent.core.types import Message
from agent.daemon.supervise import (
    Lifetime,
    Supervision,
    keep_subscriptions,
    one_line,
    part,
    say_offline,
)
from agent.mqtt.connection import Connection
from agent.mqtt.link import Link
from agent.outbox.store import Store
from agent.telemetry.alerts import POISON, STATE_DAMAGED, Alerts
from agent.telemetry.metrics import served
from agent.telemetry.poison import PoisonAlert

FINISH_S = 30.0  # how long a stop waits for what is in hand
PARTING_S = 2.0
REFUSED = "reload_refused"
ALERTS = (POISON, REFUSED, STATE_DAMAGED)
CONNECT_S = 240.0  # a try to connect that takes longer is hung: names, TCP, MQTT

log = structlog.get_logger()


class BrokerService:
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
        self.life: Lifetime[BrokerSetup] = Lifetime(supervision)
        self._prepare = prepare
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
        self._intake = CaseIntake(
            plan,
            self._coordinator,
            self._counters,
            on_up=self._introduce,
            on_stolen=self._stolen,
            on_poison=self._poisoned,
        )
        self._alerts = Alerts(self._intake.link, self._topics, ALERTS)
        self._poison = PoisonAlert(self._alerts)
        if plan.refused:
            self._alerts.activate(REFUSED, plan.refused)
        self._status = BrokerStatus(
            file,
            self._topics,
            store,
            self._counters,
            self._intake,
            self._group,
            plan.refused,
        )

    @property
    def _links(self) -> tuple[Link, Link]:
        return self._intake.link, self._group.link

    # -- what `Lifetime` runs

    def jobs(self) -> Mapping[str, Coroutine[Any, Any, None]]:
        """Return what is done all the while, by names."""
        return {
            "cases": self._intake.run(),
            "group": self._group.link.run(),
            "newcomers": self._group.answer(),
            "learn": self._learn(),
            "link": self._intake.link.run(),
            "heartbeat": self._status.run(),
            "alerts": self._alerts.run(),
        }

    def exposed(self) -> AbstractContextManager[None]:
        """Serve metrics while the context lasts."""
        at = self._file.metrics
        return served(at.address, at.port, self._status.health, BrokerCollector)

    @property
    def in_hand(self) -> int:
        """How many cases have come and are not yet acknowledged."""
        return self._intake.in_hand

    def hung(self) -> list[str]:
        """Name a part that does not move on though it could.

        Whatever only waits for others is not hung: for MQTT that is away, or for a
        model within its time.
        """
        if any(link.trying_s > CONNECT_S for link in self._links):
            return ["connection"]
        if self._store.busy_s() > STALL_S:
            return ["disk"]
        late = self._deadlines.hung()
        return [late] if late else []

    async def reload(self) -> None:
        """Open everything anew, and let it take over; raises ConfigError."""
        try:
            following = await asyncio.to_thread(self._prepare)
        except ConfigError as error:
            why = one_line(error)
            log.error("reload_refused", why=why)  # noqa: TRY400
            self._status.reload_refused(why)
            self._alerts.activate(REFUSED, why)
            raise
        log.info("reloading")
        self.life.make_room(following)

    # -- what the others answered

    def _heard(self, shared: SharedAnswer, message: Message) -> None:
        self._coordinator.heard(shared)
        self._told.put_nowait((shared, message))

    async def _own_since(self, since: float) -> list[bytes]:
        return await self._coordinator.own_since(since)

    async def _learn(self) -> None:
        while True:
            waiting = [await self._told.get()]
            while not self._told.empty():
                waiting.append(self._told.get_nowait())
            await self._coordinator.learn([shared for shared, _ in waiting])
            for _, message in waiting:
                message.ack()

    # -- what we say of ourselves

    def _poisoned(self, detail: str) -> None:
        self._poison.tell(detail)

    async def _introduce(self, connection: Connection) -> None:
        filters = [cases_filter(self._file)]
        damage = await keep_subscriptions(connection, self._file.state.dir, filters)
        self._alerts.state_damaged(damage)
        await self._group.link.connection()
        await self._status.introduce(connection)
        self._alerts.repeat()
        notify(f"READY=1\nSTATUS=connected to {self._plan.cases.url}")

    async def _stolen(self) -> None:
        notify(f"STATUS=another broker took over the name {self._file.broker.name}")

    # -- the end

    async def finish(self) -> None:
        """Stop taking, finish what is in hand, say goodbye."""
        await self._hand_over()
        self._intake.close()
        try:
            async with asyncio.timeout(FINISH_S):
                await self._intake.idle.wait()
        except TimeoutError:
            await self._let_go()
        await part(self._say_goodbye, *self._links)

    async def _say_goodbye(self) -> None:
        await say_offline(self._intake.link, self._topics.status)
        await self._group.say_goodbye()

    async def _let_go(self) -> None:
        """Leave the rest to MQTT; a reload waits for answers that are being paid."""
        log.warning("left_unfinished", cases=self._intake.in_hand)
        waits = [self.life.until_stopped(), self._coordinator.rest()]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(wait) for wait in waits]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
        if self._intake.link.connected and not self.life.stopped:
            with suppress(TimeoutError):
                async with asyncio.timeout(PARTING_S):
                    await self._intake.idle.wait()

    async def _hand_over(self) -> None:
        """Leave new cases to others of the group, if there are any.

        Else our session keeps them, where MQTT would drop them; but not if nobody will
        come back to it.
        """
        following = self.life.following
        moves = following is not None and following.place != self._plan.place
        link = self._intake.link
        if not link.connected or not (moves or self._group.others):
            return
        try:
            async with asyncio.timeout(PARTING_S):
                connection = await link.connection()
                await connection.unsubscribe([cases_filter(self._file)])
        except (Undelivered, TimeoutError) as error:
            log.warning("not_handed_over", why=str(error))
