"""Cases from MQTT, each in a task of its own; replies back, acknowledged last."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from agent.broker.config import cases_filter, may_reply_to
from agent.broker.coordinator import AllRest, Coordinator
from agent.broker.counters import BrokerCounters
from agent.broker.plan import BrokerSetup
from agent.core.errors import Refused, TooLarge, Undelivered
from agent.core.types import Message
from agent.mqtt.backlog import Admission, Backlog
from agent.mqtt.connection import Connection
from agent.mqtt.link import Link
from agent.mqtt.properties import Envelope
from agent.protocol.cases import BadRequest, Reply, Request, decode_request, field_of

LARGEST_CASE = 1_000_000  # bytes of a request; more is nobody's question
UNSENDABLE = "reply too large"

log = structlog.get_logger()


class CaseIntake:
    """Owns the connection for cases, and those in hand."""

    def __init__(
        self,
        plan: BrokerSetup,
        coordinator: Coordinator,
        counters: BrokerCounters,
        on_up: Callable[[Connection], Awaitable[None]],
        on_stolen: Callable[[], Awaitable[None]],
        on_poison: Callable[[str], None],
    ) -> None:
        """Wire it; nothing is connected yet. `on_poison` hears of malformed packets."""
        self._file = plan.file
        self._coordinator = coordinator
        self._counters = counters
        mqtt = plan.file.mqtt
        self._backlog = Backlog(mqtt.max_backlog, mqtt.max_backlog_bytes)
        self._tasks: asyncio.TaskGroup | None = None
        self._closed = False
        self._on_poison = on_poison
        self.idle = asyncio.Event()
        self.idle.set()
        self.link = Link(
            plan.cases,
            [cases_filter(plan.file)],
            None,
            on_message=self._arrived,
            on_up=on_up,
            on_stolen=on_stolen,
        )

    @property
    def in_hand(self) -> int:
        """How many cases have come and are not yet acknowledged."""
        return self._backlog.messages

    async def run(self) -> None:
        """Take cases until cancelled; what is in hand then is left to MQTT.

        Unacknowledged, it comes again.
        """
        async with asyncio.TaskGroup() as self._tasks:
            await asyncio.Event().wait()

    def close(self) -> None:
        """Take no more; what comes is left to MQTT."""
        self._closed = True

    def _arrived(self, message: Message) -> None:
        if self._closed or self._tasks is None:
            return  # unacknowledged: it comes again, here or elsewhere
        self._counters.received += 1
        if self._backlog.admit(message) is Admission.TAKEN:
            self.idle.clear()
            self._tasks.create_task(self._case(message), name="case")

    async def _case(self, message: Message) -> None:
        """Answer a case, and acknowledge it last."""
        outcome = "left"
        try:
            outcome, reply, request = await self._outcome(message)
            address = _address(message, request)
            device = request.device if request else _field(message, "device")
            if reply and not await self._replied(message, address, device, reply):
                outcome = "comes_again"
                return
            message.ack()
            ms = (time.perf_counter() - message.arrived) * 1000
            self._counters.latencies.append(ms)
            self._note(outcome, reply, request, ms)
        except AllRest:
            return  # unacknowledged: it comes again
        finally:
            if outcome not in {"left", "comes_again"}:
                self._counters.outcomes[outcome] += 1
            if self._backlog.done(message) and not self._closed:
                self.link.fetch_again(self._backlog.overrun_epoch)
            if self._backlog.messages == 0:
                self.idle.set()

    async def _outcome(
        self, message: Message
    ) -> tuple[str, Reply | None, Request | None]:
        """Return what comes of a case: a word for it, and the reply if there is one."""
        try:
            request = _read(message)
        except BadRequest as why:
            if message.defect:
                self._on_poison(f"case on {message.topic[:200]}: {message.defect}")
            broken = Reply(id=_id_of(message), status="error", error=str(why)[:2000])
            return "broken", broken, None
        address = _address(message, request)
        if not may_reply_to(address, request.device, self._file):
            return "unaddressed", None, request
        if request.deadline_ms <= time.time() * 1000:
            return "expired", None, request
        reply = await self._coordinator.answer(request)
        if reply is None:
            return "expired", None, request
        outcome = "budget" if reply.error == "budget" else reply.status
        return outcome, reply, request

    async def _replied(
        self, message: Message, address: str, device: str, reply: Reply
    ) -> bool:
        """Publish a reply until it is acknowledged; False if the case comes again."""
        if not may_reply_to(address, device, self._file):
            return True
        while True:
            connection = await self.link.connection()
            if self.link.comes_again(message):
                return False  # and gets the stored answer
            envelope = Envelope(
                correlation=message.correlation, content_type="application/json"
            )
            body = reply.model_dump_json(exclude_none=True).encode()
            try:
                await (await connection.publish(address, body, envelope=envelope))
            except TooLarge as why:
                if reply.error == UNSENDABLE:
                    self._undeliverable(address, why)
                    return True
                reply = Reply(id=reply.id, status="error", error=UNSENDABLE)
                continue
            except Refused as why:
                # Not ours to mend; whoever asks again gets the stored answer.
                self._undeliverable(address, why)
            except Undelivered:
                await asyncio.sleep(0)  # nobody but the loop tells the link
                continue
            return True

    def _undeliverable(self, address: str, why: Exception) -> None:
        self._counters.undeliverable += 1
        log.warning("reply_refused", topic=address, why=str(why))

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


def _read(message: Message) -> Request:
    """Read a case; raises BadRequest."""
    if message.defect:
        raise BadRequest(message.defect)
    size = len(message.payload) + message.cut
    if size > LARGEST_CASE or message.cut:
        raise BadRequest(f"{size} bytes, at most {LARGEST_CASE} are read")
    return decode_request(message.payload)


def _address(message: Message, request: Request | None) -> str:
    """Return where the reply goes: the property of MQTT 5, else as the payload says."""
    if message.response_topic:
        return message.response_topic
    return (request.reply_to if request else _field(message, "reply_to")) or ""


def _id_of(message: Message) -> str:
    """Return the id of a broken case, as far as it has one."""
    return _field(message, "id")[:256]


def _field(message: Message, name: str) -> str:
    too_long = len(message.payload) > LARGEST_CASE
    return "" if too_long else field_of(message.payload, name)
