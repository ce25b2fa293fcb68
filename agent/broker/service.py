"""The broker: cases from MQTT, each in a task of its own, replies back, and health."""

import asyncio
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import structlog
from pydantic_core import from_json, to_json

from agent import __version__
from agent.backlog import Backlog, Verdict
from agent.broker import llm, replies
from agent.broker.answering import Answering, lease_s, limit_of, today
from agent.broker.claims import Told
from agent.broker.group import Group
from agent.broker.settings import (
    BrokerFile,
    Topics,
    cases_filter,
    endpoints,
    may_reply_to,
)
from agent.broker.tally import Tally
from agent.cases import BadRequest, Reply, Request, decode_request
from agent.errors import ConfigError, Refused, Undelivered
from agent.link import Link
from agent.mqtt import Connection, Envelope
from agent.outbox import answers, spending
from agent.outbox.store import Full, Store
from agent.subscriptions import obsolete, write_down
from agent.systemd import notify, watchdog_interval
from agent.types import Message

HEALTH_S = 30.0
FINISH_S = 30.0  # how long a stop waits for what is in hand
PARTING_S = 2.0
LARGEST_CASE = 1_000_000  # bytes of a request; more is nobody's question
AROUND_BYTES = 4096  # what may stand around the payload of a reply
TABLES = f"{replies.SCHEMA}\n{answers.SCHEMA}\n{spending.SCHEMA}"
SCHEMA = f"{TABLES}\nPRAGMA user_version = 1;"

log = structlog.get_logger()


class Service:
    """Owns the parts of a running broker."""

    def __init__(
        self,
        file: BrokerFile,
        models: tuple[llm.Model, ...],
        store: Store,
        since: float,
    ) -> None:
        """Wire it; nothing is connected yet. `since`: when it last heard an answer."""
        cases, group = endpoints(file)
        self._file = file
        self._store = store
        self._url = cases.url
        self._topics = Topics(file.broker.name, file.broker.group)
        self._tally = Tally()
        self._filter = cases_filter(file)
        self._backlog = Backlog(file.mqtt.max_backlog, file.mqtt.max_backlog_bytes)
        self._link = Link(
            cases,
            [self._filter],
            None,
            on_message=self._arrived,
            on_up=self._introduce,
            on_stolen=self._stolen,
        )
        self._told: asyncio.Queue[tuple[Told, Message]] = asyncio.Queue()
        self._group = Group(
            group,
            self._topics,
            lease_s(file),
            since,
            retold=self._own_since,
            on_told=self._heard,
        )
        self._answering = Answering(file, models, store, self._group, self._tally)
        self._tasks: asyncio.TaskGroup | None = None
        self._cases: set[asyncio.Task[None]] = set()
        self._bug: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stopping = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT, then finish what is in hand and leave."""
        asyncio.get_running_loop().set_exception_handler(self._failed)
        async with asyncio.TaskGroup() as group:
            self._tasks = group
            tasks = [
                group.create_task(self._bugs(), name="bugs"),
                group.create_task(self._group.link.run(), name="group"),
                group.create_task(self._group.answer(), name="newcomers"),
                group.create_task(self._learn(), name="learn"),
                group.create_task(self._link.run(), name="link"),
                group.create_task(self._heartbeat(), name="heartbeat"),
                group.create_task(self._watchdog(), name="watchdog"),
            ]
            with _stop_signals(self._stopping):
                await self._stopping.wait()
                await self._finish()
            for task in [*tasks, *self._cases]:
                task.cancel()

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Let a bug in a callback end the process, as it would in a task."""
        error = context.get("exception")
        if "handle" in context and error and not self._bug.done():
            self._bug.set_exception(error)
        else:
            loop.default_exception_handler(context)

    async def _bugs(self) -> None:
        await self._bug

    # -- cases

    def _arrived(self, message: Message) -> None:
        if self._stopping.is_set() or self._tasks is None:
            return  # unacknowledged: it comes again, here or elsewhere
        self._tally.received += 1
        if self._backlog.admit(message) is Verdict.TAKEN:
            self._idle.clear()
            task = self._tasks.create_task(self._case(message), name="case")
            self._cases.add(task)
            task.add_done_callback(self._cases.discard)

    async def _case(self, message: Message) -> None:
        """Answer a case, and acknowledge it last."""
        outcome = "left"
        try:
            outcome, reply, request = await self._outcome(message)
            address = _address(message, request)
            if reply and not await self._replied(message, address, reply):
                outcome = "comes_again"
                return
            message.ack()
            ms = (time.perf_counter() - message.arrived) * 1000
            self._tally.latencies.append(ms)
            self._note(outcome, reply, request, ms)
        finally:
            if outcome not in {"left", "comes_again"}:
                self._tally.outcomes[outcome] += 1
            if self._backlog.done(message) and not self._stopping.is_set():
                self._link.fetch_again(self._backlog.overrun_epoch)
            if self._backlog.messages == 0:
                self._idle.set()

    async def _outcome(
        self, message: Message
    ) -> tuple[str, Reply | None, Request | None]:
        """Return what comes of a case: a word for it, and the reply if there is one."""
        try:
            request = _read(message.payload)
        except BadRequest as why:
            broken = Reply(id=_id_of(message), status="error", error=str(why)[:2000])
            return "broken", broken, None
        address = _address(message, request)
        if not may_reply_to(address, self._file):
            return "unaddressed", None, None
        if request.deadline_ms <= time.time() * 1000:
            return "expired", None, request
        reply = await self._answering.answer(request)
        if reply is None:
            return "expired", None, request
        outcome = "budget" if reply.error == "budget" else reply.status
        return outcome, reply, request

    async def _replied(self, message: Message, address: str, reply: Reply) -> bool:
        """Publish a reply until it is acknowledged; False if the case comes again."""
        if not may_reply_to(address, self._file):
            return True
        while True:
            connection = await self._link.connection()
            body = reply.model_dump_json(exclude_none=True).encode()
            if len(body) + AROUND_BYTES > connection.max_packet_bytes:
                small = Reply(id=reply.id, status="error", error="reply too large")
                body = small.model_dump_json(exclude_none=True).encode()
            if self._link.comes_again(message):
                return False  # and gets the stored answer
            envelope = Envelope(
                correlation=message.correlation, content_type="application/json"
            )
            try:
                await (await connection.publish(address, body, envelope=envelope))
            except Refused as why:
                # Not ours to mend; whoever asks again gets the stored answer.
                self._tally.undeliverable += 1
                log.warning("reply_refused", topic=address, why=str(why))
            except Undelivered:
                await asyncio.sleep(0)  # nobody but the loop tells the link
                continue
            return True

    def _note(
        self, outcome: str, reply: Reply | None, request: Request | None, ms: float
    ) -> None:
        usage = reply.usage if reply else None
        log.info(
            "case",
            id=request.id if request else None,
            device=request.device if request else None,
            pipeline=request.pipeline if request else None,
            outcome=outcome,
            model=reply.model if reply else None,
            error=reply.error if reply and outcome != "broken" else None,
            input_tokens=usage.input_tokens if usage else 0,
            output_tokens=usage.output_tokens if usage else 0,
            ms=round(ms, 1),
        )

    # -- what the others answered

    def _heard(self, told: Told, message: Message) -> None:
        self._answering.heard(told)
        self._told.put_nowait((told, message))

    async def _own_since(self, since: float) -> list[bytes]:
        return await self._answering.own_since(since)

    async def _learn(self) -> None:
        while True:
            waiting = [await self._told.get()]
            while not self._told.empty():
                waiting.append(self._told.get_nowait())
            await self._answering.learn([told for told, _ in waiting])
            for _, message in waiting:
                message.ack()

    # -- what we say of ourselves

    async def _introduce(self, connection: Connection) -> None:
        folder = self._file.state.dir
        await connection.unsubscribe(obsolete(folder, [self._filter]))
        try:
            write_down(folder, [self._filter])
        except OSError as error:
            log.warning("subscriptions_not_written_down", why=str(error))
        await self._group.link.connection()
        health = to_json(await self._health())
        for topic, payload in (
            (self._topics.status, b"online"),
            (self._topics.health, health),
        ):
            await (await connection.publish(topic, payload, retain=True))
        notify(f"READY=1\nSTATUS=connected to {self._url}")

    async def _health(self) -> dict[str, Any]:
        return {
            "v": 1,
            "name": self._file.broker.name,
            "group": self._file.broker.group,
            "version": __version__,
            "models": [model.model for model in self._file.models],
            **self._tally.summary(),
            "in_flight": self._backlog.messages,
            "others": sorted(self._group.others),
            "store_bytes": self._store.bytes,
            "budget_left": await self._budget_left(),
        }

    async def _budget_left(self) -> dict[str, float | None]:
        limit, day = limit_of(self._file), today()
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
            day = today()
            await self._store.write(partial(spending.prune, before_day=day))
            connection = await self._link.connection()
            health = to_json(await self._health())
            try:
                await (
                    await connection.publish(self._topics.health, health, retain=True)
                )
            except Undelivered as error:
                log.warning("health_not_published", why=str(error))

    async def _watchdog(self) -> None:
        """Feed systemd's watchdog; a hung event loop does not get here."""
        pause = watchdog_interval()
        while pause:
            notify("WATCHDOG=1")
            await asyncio.sleep(pause)

    async def _stolen(self) -> None:
        notify(f"STATUS=another broker took over the name {self._file.broker.name}")

    async def _finish(self) -> None:
        """Stop taking, finish what is in hand, say goodbye."""
        notify("STOPPING=1")
        log.info("stopping", in_hand=self._backlog.messages)
        await self._hand_over()
        try:
            async with asyncio.timeout(FINISH_S):
                await self._idle.wait()
        except TimeoutError:
            log.warning("left_unfinished", cases=self._backlog.messages)
        try:
            async with asyncio.timeout(PARTING_S):
                if self._link.connected:
                    connection = await self._link.connection()
                    said = await connection.publish(
                        self._topics.status, b"offline", retain=True
                    )
                    await said
                    await self._link.close()
                await self._group.leave()
        except (Undelivered, TimeoutError) as error:
            log.warning("offline_not_said", why=str(error))

    async def _hand_over(self) -> None:
        """Leave new cases to others of the group, if there are any.

        Else our session keeps them, where the broker would drop them.
        """
        if not self._group.others or not self._link.connected:
            return
        try:
            async with asyncio.timeout(PARTING_S):
                connection = await self._link.connection()
                await connection.unsubscribe([self._filter])
        except (Undelivered, TimeoutError) as error:
            log.warning("not_handed_over", why=str(error))


def _read(payload: bytes) -> Request:
    """Read a case; raises BadRequest."""
    if len(payload) > LARGEST_CASE:
        raise BadRequest(f"{len(payload)} bytes, at most {LARGEST_CASE} are read")
    return decode_request(payload)


def _address(message: Message, request: Request | None) -> str:
    """Return where the reply goes: the property of MQTT 5, else as the payload says."""
    if message.response_topic:
        return message.response_topic
    return (request.reply_to if request else _field(message, "reply_to")) or ""


def _id_of(message: Message) -> str:
    """Return the id of a broken case, as far as it has one."""
    return _field(message, "id")[:256]


def _field(message: Message, name: str) -> str:
    if len(message.payload) > LARGEST_CASE:
        return ""
    try:
        document = from_json(message.payload)
    except ValueError:
        return ""
    value = document.get(name) if isinstance(document, dict) else None
    return value if isinstance(value, str) else ""


@contextmanager
def _stop_signals(stop: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


async def run(file: BrokerFile) -> None:
    """Run a broker until it is told to stop; raises ConfigError."""
    models = llm.open_models(file)
    path = file.state.dir / "broker.db"
    try:
        store = Store(path, SCHEMA, file.broker.max_bytes)
    except (OSError, Full) as error:
        raise ConfigError(f"state.dir: {path}: {error}") from error
    if store.set_aside:
        log.error("damaged_store", kept_as=str(store.set_aside))
    try:
        since = await store.read(replies.latest)
        await Service(file, models, store, since).run()
    finally:
        store.close()
