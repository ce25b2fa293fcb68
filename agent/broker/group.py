"""Brokers that share the cases: each case is claimed before anybody is asked.

A broker asks only after its own claim came back to it and no other came before. One
that comes, or comes back, first hears what the others hold and what they answered.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from math import inf
from typing import TypeVar

import structlog

from agent.broker.claims import (
    CaseClaim,
    End,
    Hello,
    Ledger,
    SharedAnswer,
    Welcome,
    Word,
    decode,
    decode_told,
    encode,
)
from agent.broker.config import BrokerTopics
from agent.broker.membership import Membership
from agent.core.errors import Refused, TooLarge, Undelivered
from agent.core.types import Message
from agent.mqtt.connection import MQTT5, Connection
from agent.mqtt.endpoint import Endpoint
from agent.mqtt.link import Link
from agent.mqtt.message_ids import new_ulid, ulid_text

WELCOME_S = 10.0  # how long a newcomer waits for those who seem to be there
LEAST_S = 1e-6  # of a claim that has ended

Value = TypeVar("Value")
log = structlog.get_logger()


class BrokerGroup:
    """Owns the connection by which brokers of a group speak to each other."""

    def __init__(
        self,
        endpoint: Endpoint,
        topics: BrokerTopics,
        lease_s: float,
        since: float,
        retold: Callable[[float], Awaitable[list[bytes]]],
        on_told: Callable[[SharedAnswer, Message], None],
    ) -> None:
        """Take how long our claims last, and since when we know nothing of others.

        `retold` finds our answers since a time; `on_told` takes another's, and
        acknowledges it.
        """
        self._membership = Membership(topics.name, since)
        self._topics = topics
        self._lease_s = lease_s
        self._retold = retold
        self._on_told = on_told
        self._ledger = Ledger()
        self._ours: dict[str, CaseClaim] = {}  # by key: what we may ask
        self._proposed: dict[str, asyncio.Future[bool]] = {}  # by claim id
        self._waiting: dict[str, set[asyncio.Future[SharedAnswer | None]]] = (
            defaultdict(set)
        )
        self._untold: dict[str, SharedAnswer] = {}
        self._to_answer: asyncio.Queue[Hello | Welcome | CaseClaim] = asyncio.Queue()
        self._stirred = asyncio.Event()  # something that an introduction waits for
        self._in = asyncio.Event()  # whether we heard all there is to hear
        self._connection: Connection | None = None  # while there is one
        # Shared with nobody: MQTT 5 gives `Connection` its own messages only so.
        alone = f"$share/{topics.name}/" if endpoint.version == MQTT5 else ""
        self.link = Link(
            endpoint,
            [alone + topics.claims, alone + topics.answers, f"{topics.members}/+"],
            None,
            on_message=self._arrived,
            on_up=self._introduce,
            on_stolen=self._stolen,
        )

    @property
    def others(self) -> frozenset[str]:
        """Who else is there."""
        return frozenset(self._membership.others)

    # -- what answering asks of the group

    async def claim(self, key: str) -> "asyncio.Future[SharedAnswer | None] | None":
        """Claim a case; None: it is ours, until `end` or `tell`.

        Else another broker works on it: the future is what it told, or None once the
        case is free again.
        """
        while True:
            await self._in.wait()
            now = time.monotonic()
            standing = self._ledger.held.get(key)
            if standing and standing.until > now:
                return self._watch(key, standing.until - now)
            claim = CaseClaim(
                id=ulid_text(new_ulid()),
                key=key,
                by=self._topics.name,
                over=standing.claim.id if standing else None,
                lease_s=self._lease_s,
            )
            if await self._first(claim):
                self._ours[key] = claim
                return None

    async def end(self, key: str) -> None:
        """Give a claim back without an answer."""
        claim = self._ours.pop(key, None)
        if claim is None:
            return
        self._ledger.ended(key, claim.id)
        try:
            await self._say(End(id=claim.id, key=key, by=claim.by))
        except Undelivered:
            log.debug("end_not_said", key=key)  # without us our claims are void

    async def tell(self, shared: SharedAnswer) -> None:
        """Tell the others an answer, now or when we are connected again."""
        claim = self._ours.pop(shared.key, None)
        shared = shared.model_copy(update={"claim": claim.id if claim else None})
        self._ledger.ended(shared.key, shared.claim)
        self._untold[shared.key] = shared
        if self._connection:
            await self._publish_told(self._connection, shared)

    def forget(self) -> None:
        """Drop what everybody has forgotten."""
        self._ledger.forget(time.monotonic())

    async def say_goodbye(self) -> None:
        """Say that we go; raises Undelivered."""
        if self._connection:
            topic = f"{self._topics.members}/{self._topics.name}"
            await (await self._connection.publish(topic, b"offline", retain=True))

    async def _first(self, claim: CaseClaim) -> bool:
        """Say a claim and hear it; tell whether it is the one that stands."""
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._proposed[claim.id] = answer
        try:
            await self._say(claim)
            return await answer
        except Undelivered:
            await asyncio.sleep(0)  # nobody but the loop tells us that we are out
            return False
        finally:
            del self._proposed[claim.id]
            answer.cancel()

    def _watch(self, key: str, seconds: float) -> "asyncio.Future[SharedAnswer | None]":
        loop = asyncio.get_running_loop()
        future: asyncio.Future[SharedAnswer | None] = loop.create_future()
        self._waiting[key].add(future)
        timer = loop.call_later(seconds, _settle, future, None)

        def done(_future: object) -> None:
            timer.cancel()
            self._waiting[key].discard(future)
            if not self._waiting[key]:
                del self._waiting[key]

        future.add_done_callback(done)
        return future

    def _wake(self, key: str, shared: SharedAnswer | None) -> None:
        for future in list(self._waiting.get(key, ())):
            _settle(future, shared)

    # -- what is said in the group

    def _arrived(self, message: Message) -> None:
        self._membership.heard(time.time())
        if message.topic == self._topics.answers:
            shared = decode_told(message.payload)
            if shared is None or shared.by == self._topics.name:
                message.ack()
                return
            self._on_told(shared, message)
            self._ledger.ended(shared.key, shared.claim)
            self._wake(shared.key, shared)
            return
        message.ack()
        if message.topic == self._topics.claims:
            word = decode(message.payload)
            if word:
                self._heard(word)
        else:
            self._member(message.topic.rpartition("/")[2], message.payload)

    def _heard(self, word: Word) -> None:
        match word:
            case CaseClaim():
                stands = self._ledger.heard(word, time.monotonic())
                if word.id in self._proposed:
                    _settle(self._proposed[word.id], stands)
                elif stands and word.by == self._topics.name:
                    self._to_answer.put_nowait(word)
            case End():
                self._ledger.ended(word.key, word.id)
                self._wake(word.key, None)
            case Hello() if word.by == self._topics.name:
                self._membership.came_back(word)
            case Hello() if word.to in {None, self._topics.name}:
                self._to_answer.put_nowait(word)
            case Welcome() if self._membership.is_to_us(word):
                if not self._membership.welcomed(word):
                    self._to_answer.put_nowait(word)
        self._stirred.set()

    def _member(self, name: str, payload: bytes) -> None:
        if name == self._topics.name:
            return
        if payload == b"online":
            self._membership.came(name)
            return
        self._membership.left(name)
        self._stirred.set()
        for key in self._ledger.left(name, time.monotonic()):
            self._wake(key, None)

    async def answer(self) -> None:
        """Answer and ask who comes, and give up claims that are none, for ever."""
        while True:
            word = await self._to_answer.get()
            try:
                match word:
                    case Hello():
                        await self._welcome(word)
                        await self._ask(word.by)
                    case Welcome():
                        await self._ask(word.by)
                    case CaseClaim():
                        if not self._is_ours(word):
                            await self._say(End(id=word.id, key=word.key, by=word.by))
            except Undelivered:
                continue  # we are newcomers ourselves now

    async def _welcome(self, hello: Hello) -> None:
        """Tell a newcomer who holds what, and what we answered."""
        connection = self._connection
        if connection is None:
            raise Undelivered("the group is out of reach")
        if hello.to is None:
            await self._say_claims()
        pubacks = []
        for body in await self._retold(hello.since):
            with suppress(TooLarge):
                pubacks.append(await connection.publish(self._topics.answers, body))
        await asyncio.gather(*pubacks)
        await self._say(Welcome(id=hello.id, by=self._topics.name))

    async def _say_claims(self) -> None:
        """Say all claims that we know of; those of others for the time they have left.

        Ended ones, too: who takes a case over names the claim before its own.
        """
        for claim in list(self._ours.values()):
            if self._is_ours(claim):
                await self._say(claim)
        for key, held in list(self._ledger.held.items()):
            if self._ledger.held.get(key) == held and key not in self._ours:
                left = max(held.until - time.monotonic(), LEAST_S)
                await self._say(held.claim.model_copy(update={"lease_s": left}))

    async def _ask(self, name: str) -> None:
        """Ask another for what we may have missed of it, if there is any."""
        if self._membership.deaf_to(name) < inf:
            await self._say(self._membership.hello(to=name))

    def _is_ours(self, claim: CaseClaim) -> bool:
        ours = self._ours.get(claim.key)
        return ours is not None and ours.id == claim.id

    # -- coming and going

    async def _introduce(self, connection: Connection) -> None:
        """Hear what the others hold before we claim anything."""
        if self._connection:
            self._lost(self._connection)
        self._connection = connection
        connection.ended.add_done_callback(lambda _: self._lost(connection))
        hello = self._membership.hello()
        await self._say(hello)
        # Our own word comes back; who is there, we have heard before it.
        await self._until(connection, lambda: self._membership.is_back(hello))
        try:
            async with asyncio.timeout(WELCOME_S):
                await self._until(connection, lambda: not self._membership.missed())
        except TimeoutError:
            log.warning("no_welcome", by=self._membership.missed())
        topic = f"{self._topics.members}/{self._topics.name}"
        await (await connection.publish(topic, b"online", retain=True))
        for claim in list(self._ours.values()):
            if self._is_ours(claim):
                await self._say(claim)
        for shared in list(self._untold.values()):
            await self._publish_told(connection, shared)
        if connection.ended.done():
            raise Undelivered("the connection was short")
        self._in.set()
        # We may have missed the end of a claim. If all were gone, its holder may be
        # back as soon as we are, and say that it works on.
        asyncio.get_running_loop().call_later(WELCOME_S, self._wake_free)

    async def _until(self, connection: Connection, done: Callable[[], bool]) -> None:
        """Wait until what others say makes `done` true; raises Undelivered."""
        while not done():
            if connection.ended.done():
                raise Undelivered("the connection was short")
            self._stirred.clear()
            await self._stirred.wait()

    def _wake_free(self) -> None:
        """Let those who wait for a claim that stands no more try for themselves."""
        now = time.monotonic()
        for key in list(self._waiting) if self._in.is_set() else ():
            standing = self._ledger.held.get(key)
            if standing is None or standing.until <= now:
                self._wake(key, None)

    def _lost(self, connection: Connection) -> None:
        if connection is not self._connection:
            return
        self._membership.lost(all_heard=self._in.is_set())
        self._in.clear()
        self._connection = None
        self._ledger = Ledger()  # the others tell us what stands when we come back
        for future in self._proposed.values():
            _settle(future, value=False)
        self._stirred.set()

    async def _stolen(self) -> None:
        log.error("name_taken", name=self._topics.name)

    async def _say(self, word: Word) -> None:
        if self._connection is None:
            raise Undelivered("the group is out of reach")
        await (await self._connection.publish(self._topics.claims, encode(word)))

    async def _publish_told(self, connection: Connection, shared: SharedAnswer) -> None:
        try:
            puback = await connection.publish(self._topics.answers, encode(shared))
        except TooLarge as why:
            log.warning("answer_not_told", key=shared.key, why=str(why))
            self._untold.pop(shared.key, None)
            return
        puback.add_done_callback(partial(self._was_told, shared.key))

    def _was_told(self, key: str, puback: "asyncio.Future[None]") -> None:
        if puback.cancelled():
            return
        error = puback.exception()
        if isinstance(error, Refused):  # it would be every time
            log.warning("answer_not_told", key=key, why=str(error))
        if error is None or isinstance(error, Refused):
            self._untold.pop(key, None)


def _settle(future: "asyncio.Future[Value]", value: Value) -> None:
    if not future.done():
        future.set_result(value)
