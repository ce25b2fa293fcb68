"""Brokers that share the cases: each case is claimed before anybody is asked.

A broker asks only after its own claim came back to it and no other came before. One
that comes, or comes back, first hears what the others hold and what they answered.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from functools import partial
from math import inf
from typing import TypeVar

import structlog

from agent.broker.claims import (
    Claim,
    End,
    Hello,
    Ledger,
    Told,
    Welcome,
    Word,
    decode,
    decode_told,
    encode,
)
from agent.broker.settings import Topics
from agent.errors import Refused, Undelivered
from agent.ids import new_ulid, ulid_text
from agent.link import Link
from agent.mqtt import MQTT5, Connection, Endpoint
from agent.types import Message

WELCOME_S = 10.0  # how long a newcomer waits for those who seem to be there
SKEW_S = 60.0  # how much clocks of brokers may differ
AROUND_BYTES = 1024  # what may stand around an answer in its packet

Value = TypeVar("Value")
log = structlog.get_logger()


class Group:
    """Owns the connection by which brokers of a group speak to each other."""

    def __init__(
        self,
        endpoint: Endpoint,
        topics: Topics,
        lease_s: float,
        since: float,
        retold: Callable[[float], Awaitable[list[bytes]]],
        on_told: Callable[[Told, Message], None],
    ) -> None:
        """Take how long our claims last, and since when we know nothing of others.

        `retold` finds our answers since a time; `on_told` takes another's, and
        acknowledges it.
        """
        self.others: set[str] = set()  # who else is there
        self._topics = topics
        self._lease_s = lease_s
        self._since = since
        self._deaf: dict[str, float] = {}  # by name: since when we may have missed them
        self._retold = retold
        self._on_told = on_told
        self._ledger = Ledger()
        self._ours: dict[str, Claim] = {}  # by key: what we may ask
        self._proposed: dict[str, asyncio.Future[bool]] = {}  # by claim id
        self._waiting: dict[str, set[asyncio.Future[Told | None]]] = defaultdict(set)
        self._untold: dict[str, Told] = {}
        self._to_answer: asyncio.Queue[Hello | Welcome | Claim] = asyncio.Queue()
        self._hellos: dict[str, float] = {}  # by id of our hellos: since when
        self._welcomes: dict[str, asyncio.Queue[str]] = {}  # by hello id
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

    # -- what answering asks of the group

    async def claim(self, key: str) -> "asyncio.Future[Told | None] | None":
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
            claim = Claim(
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

    async def tell(self, told: Told) -> None:
        """Tell the others an answer, now or when we are connected again."""
        claim = self._ours.pop(told.key, None)
        told = told.model_copy(update={"claim": claim.id if claim else None})
        self._ledger.ended(told.key, told.claim)
        self._untold[told.key] = told
        if self._connection:
            await self._publish_told(self._connection, told)

    def forget(self) -> None:
        """Drop what everybody has forgotten."""
        self._ledger.forget(time.monotonic())

    async def say_goodbye(self) -> None:
        """Say that we go; raises Undelivered."""
        if self._connection:
            topic = f"{self._topics.members}/{self._topics.name}"
            await (await self._connection.publish(topic, b"offline", retain=True))

    async def _first(self, claim: Claim) -> bool:
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

    def _watch(self, key: str, seconds: float) -> "asyncio.Future[Told | None]":
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Told | None] = loop.create_future()
        self._waiting[key].add(future)
        timer = loop.call_later(seconds, _settle, future, None)

        def done(_future: object) -> None:
            timer.cancel()
            self._waiting[key].discard(future)
            if not self._waiting[key]:
                del self._waiting[key]

        future.add_done_callback(done)
        return future

    def _wake(self, key: str, told: Told | None) -> None:
        for future in list(self._waiting.get(key, ())):
            _settle(future, told)

    # -- what is said in the group

    def _arrived(self, message: Message) -> None:
        if message.topic == self._topics.answers:
            told = decode_told(message.payload)
            if told is None or told.by == self._topics.name:
                message.ack()
                return
            self._on_told(told, message)
            self._ledger.ended(told.key, told.claim)
            self._wake(told.key, told)
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
            case Claim():
                stands = self._ledger.heard(word, time.monotonic())
                if word.id in self._proposed:
                    _settle(self._proposed[word.id], stands)
                elif stands and word.by == self._topics.name:
                    self._to_answer.put_nowait(word)
            case End():
                self._ledger.ended(word.key, word.id)
                self._wake(word.key, None)
            case Hello() if word.by != self._topics.name:
                self._to_answer.put_nowait(word)
            case Welcome() if word.id in self._hellos:
                if self._hellos[word.id] <= self._deaf_to(word.by):
                    self._deaf[word.by] = inf
                else:
                    self._to_answer.put_nowait(word)
        if word.id in self._welcomes:
            self._welcomes[word.id].put_nowait(word.by)

    def _member(self, name: str, payload: bytes) -> None:
        if name == self._topics.name:
            return
        if payload == b"online":
            self.others.add(name)
            return
        self.others.discard(name)
        for heard in self._welcomes.values():
            heard.put_nowait(name)  # nobody to wait for
        for key in self._ledger.left(name, time.monotonic()):
            self._wake(key, None)

    async def answer(self) -> None:
        """Answer newcomers and ask them, and give up claims of ours, for ever."""
        while True:
            word = await self._to_answer.get()
            try:
                if isinstance(word, Hello):
                    await self._welcome(word)
                if isinstance(word, Hello | Welcome):
                    if self._deaf_to(word.by) < inf:  # it was away when we asked
                        await self._say(self._hello(self._deaf_to(word.by)))
                elif self._ours.get(word.key) != word:
                    await self._say(End(id=word.id, key=word.key, by=word.by))
            except Undelivered:
                continue  # we are newcomers ourselves now

    async def _welcome(self, hello: Hello) -> None:
        """Tell a newcomer who holds what, and what we answered."""
        connection = self._connection
        if connection is None:
            raise Undelivered("the group is out of reach")
        held = {key: held.claim for key, held in self._ledger.held.items()}
        for key, claim in (held | self._ours).items():
            standing = self._ledger.held.get(key)
            if key in self._ours or (standing and standing.claim == claim):
                await self._say(claim)
        found = await self._retold(hello.since)
        bodies = [body for body in found if _fits(body, connection)]
        said = [await connection.publish(self._topics.answers, b) for b in bodies]
        await asyncio.gather(*said)
        await self._say(Welcome(id=hello.id, by=self._topics.name))

    # -- coming and going

    def _deaf_to(self, name: str) -> float:
        """Return since when we may have missed what another said; inf: never."""
        return self._deaf.get(name, self._since)

    def _hello(self, since: float) -> Hello:
        hello = Hello(
            id=ulid_text(new_ulid()), by=self._topics.name, since=since - SKEW_S
        )
        self._hellos[hello.id] = since
        return hello

    async def _introduce(self, connection: Connection) -> None:
        """Hear what the others hold before we claim anything."""
        self._connection = connection
        connection.ended.add_done_callback(self._lost)
        hello = self._hello(min(self._deaf.values(), default=self._since))
        heard = self._welcomes[hello.id] = asyncio.Queue()
        try:
            await self._say(hello)
            # Our own word comes back; who is there, we have heard before it.
            names = {await heard.get()}
            async with asyncio.timeout(WELCOME_S):
                while not self.others <= names:
                    names.add(await heard.get())
        except TimeoutError:
            log.warning("no_welcome", by=sorted(self.others - names))
        finally:
            del self._welcomes[hello.id]
        topic = f"{self._topics.members}/{self._topics.name}"
        await (await connection.publish(topic, b"online", retain=True))
        for claim in list(self._ours.values()):
            if self._ours.get(claim.key) == claim:
                await self._say(claim)
        for told in list(self._untold.values()):
            await self._publish_told(connection, told)
        if connection.ended.done():
            raise Undelivered("the connection was short")
        self._in.set()
        for key in self._waiting.keys() - self._ledger.held.keys():
            self._wake(key, None)  # we missed its end

    def _lost(self, _ended: object) -> None:
        now = time.time()
        self._deaf = {name: min(since, now) for name, since in self._deaf.items()}
        self._hellos.clear()
        for heard in self._welcomes.values():
            heard.put_nowait("")  # nobody to wait for
        self._in.clear()
        self._connection = None
        self.others.clear()
        self._ledger = Ledger()  # the others tell us what stands when we come back
        for future in self._proposed.values():
            _settle(future, value=False)

    async def _stolen(self) -> None:
        log.error("name_taken", name=self._topics.name)

    async def _say(self, word: Word) -> None:
        if self._connection is None:
            raise Undelivered("the group is out of reach")
        await (await self._connection.publish(self._topics.claims, encode(word)))

    async def _publish_told(self, connection: Connection, told: Told) -> None:
        body = encode(told)
        if not _fits(body, connection):  # MQTT would hang up, and again each time
            log.warning("answer_not_told", key=told.key, why="too large for MQTT")
            self._untold.pop(told.key, None)
            return
        said = await connection.publish(self._topics.answers, body)
        said.add_done_callback(partial(self._was_told, told.key))

    def _was_told(self, key: str, said: "asyncio.Future[None]") -> None:
        if said.cancelled():
            return
        error = said.exception()
        if isinstance(error, Refused):  # it would be every time
            log.warning("answer_not_told", key=key, why=str(error))
        if error is None or isinstance(error, Refused):
            self._untold.pop(key, None)


def _fits(body: bytes, connection: Connection) -> bool:
    return len(body) + AROUND_BYTES <= connection.max_packet_bytes


def _settle(future: "asyncio.Future[Value]", value: Value) -> None:
    if not future.done():
        future.set_result(value)
