"""What a broker says of itself: that it is there, and how it is."""

import asyncio
from contextlib import suppress

import structlog

from agent import __version__
from agent.broker.config import BrokerFile, BrokerTopics
from agent.broker.counters import BrokerCounters
from agent.broker.group import BrokerGroup
from agent.broker.health import BrokerHealth, document
from agent.broker.intake import CaseIntake
from agent.broker.llm_router import limit_of
from agent.core.errors import Undelivered
from agent.mqtt.connection import Connection
from agent.outbox import spending
from agent.outbox.store import Full, Store
from agent.protocol.health import Amounts
from agent.protocol.publishing import publish_object
from agent.telemetry.counters import percentiles

HEALTH_S = 30.0

log = structlog.get_logger()


class BrokerStatus:
    """Owns when health is said."""

    def __init__(
        self,
        file: BrokerFile,
        topics: BrokerTopics,
        store: Store,
        counters: BrokerCounters,
        intake: CaseIntake,
        group: BrokerGroup,
        refused: str,
    ) -> None:
        """Take what the figures come from; `refused`: why the last reload was."""
        self._file = file
        self._topics = topics
        self._store = store
        self._counters = counters
        self._intake = intake
        self._group = group
        self._refused = refused
        self._due = asyncio.Event()

    def reload_refused(self, why: str) -> None:
        """Say now why a reload was refused."""
        self._refused = why
        self._due.set()

    async def introduce(self, connection: Connection) -> None:
        """Say that we are there; raises Undelivered."""
        await (await connection.publish(self._topics.status, b"online", retain=True))
        health = document(await self.health())
        await publish_object(connection, self._topics.health, health)

    async def run(self) -> None:
        """Say how we are, and forget what is long over, until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(HEALTH_S):
                    await self._due.wait()
            self._due.clear()
            self._group.forget()
            with suppress(Full):  # a full disk keeps the books of earlier days
                await self._store.write(spending.prune)
            connection = await self._intake.link.connection()
            health = document(await self.health())
            try:
                await publish_object(connection, self._topics.health, health)
            except Undelivered as error:
                log.warning("health_not_published", why=str(error))

    async def health(self) -> BrokerHealth:
        """Return how we are: the numbers of the metrics, too."""
        counters = self._counters
        p50, p99 = percentiles(counters.latencies)
        models = [model.model for model in self._file.models]
        return BrokerHealth(
            name=self._file.broker.name,
            group=self._file.broker.group,
            version=__version__,
            models=models,
            received=counters.received,
            cases=dict(counters.outcomes),
            calls=counters.calls,
            repairs=counters.repairs,
            cache_hits=counters.cached,
            duplicates=counters.repeated,
            answered_by_others=counters.taken_over,
            undeliverable=counters.undeliverable,
            answers={**dict.fromkeys(models, 0), **counters.answers},
            failures=dict(counters.failures),
            unusable=dict(counters.unusable),
            input_tokens=counters.input_tokens,
            output_tokens=counters.output_tokens,
            cost=round(counters.cost, 6),
            ms_p50=p50,
            ms_p99=p99,
            in_flight=self._intake.in_hand,
            reload_refused=self._refused or None,
            others=sorted(self._group.others),
            store_bytes=self._store.bytes,
            budget_left=await self._budget_left(),
        )

    async def _budget_left(self) -> Amounts:
        limit, day = limit_of(self._file), spending.today()
        spent = await self._store.read(lambda db: spending.spent(db, day, limit.scope))
        micros = None if limit.micros is None else limit.micros - spent.micros
        return Amounts(
            calls=None if limit.calls is None else limit.calls - spent.calls,
            tokens=None if limit.tokens is None else limit.tokens - spent.tokens,
            money=None if micros is None else micros / 1_000_000,
        )
