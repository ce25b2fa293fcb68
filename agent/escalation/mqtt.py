"""Ask upstream by MQTT: a request to a topic, its reply on a topic of the device.

With MQTT 5 the correlation data names the attempt, so that a late reply is never taken
for the answer to a later attempt. MQTT 3.1.1 has only the id in the payload.

The PUBACK of a request is no answer. Once it is there, we wait for the reply as long
as we may, even over a broken connection: the broker keeps our session, and in it the
reply.
"""

import asyncio
import contextlib
import hashlib
import math
import ssl
import time
from dataclasses import dataclass, replace

from pydantic_core import from_json, to_json

from agent.config.agent_file import MqttUpstreamSection
from agent.core.errors import (
    ConfigError,
    NobodyListens,
    Refused,
    TooLarge,
    Undelivered,
)
from agent.core.files import first_line
from agent.core.types import Message
from agent.escalation.transport import (
    Rejected,
    Unavailable,
    priced,
)
from agent.mqtt.connection import MQTT5, Connection
from agent.mqtt.endpoint import Endpoint, Login, tls_context
from agent.mqtt.link import Link
from agent.mqtt.message_ids import new_ulid
from agent.mqtt.properties import Envelope
from agent.protocol.cases import (
    LONGEST_ANSWER,
    BadReply,
    Reply,
    Request,
    decode_reply,
    encode_request,
)
from agent.protocol.messages import Topics

SESSION_S = 600  # the longest that anybody waits for a reply
LARGEST_REPLY = LONGEST_ANSWER + 65_536  # bytes of its packet: topic, properties


@dataclass(slots=True)
class _Attempt:
    """Somebody waits for the reply to this."""

    id: str
    correlation: bytes
    answer: "asyncio.Future[Reply]"
    sent: bool = False


class MqttTransport:
    """Owns a connection of its own, also where the broker is the device's."""

    name = "mqtt"
    pays_once = True  # `slm-agent broker` keeps its answers

    def __init__(
        self, settings: MqttUpstreamSection, device: str, endpoint: Endpoint
    ) -> None:
        """Take what it needs; `run` connects."""
        self.to = f"{endpoint.url} {settings.topic}"
        self.late = 0
        self._settings = settings
        self._device = device
        self._reply_to = Topics(device).answer
        self._is_v5 = endpoint.version == MQTT5
        self._waiting: dict[bytes, _Attempt] = {}
        self._link = Link(
            endpoint,
            [self._reply_to],
            None,
            on_message=self._heard,
            on_up=_say_nothing,
            on_stolen=_do_nothing,
        )

    def encode(self, request: Request, max_output_tokens: int) -> bytes:  # noqa: ARG002
        """Return the payload; how long an answer may be the broker side decides.

        It says where to reply with MQTT 5, too: properties get lost where anything on
        the way speaks 3.1.1, a bridge or the one who answers.
        """
        return encode_request(request.model_copy(update={"reply_to": self._reply_to}))

    async def ask(self, request: Request, body: bytes, timeout_s: float) -> Reply:
        """Publish the request and wait for its reply; as the contract says."""
        if not self._link.connected:
            raise Unavailable("not connected", maybe_paid=False, reached=False)
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        attempt = _Attempt(request.id, new_ulid(), answer)
        why = ""
        try:
            async with asyncio.timeout(timeout_s) as limit:
                await self._turn(request)
                self._waiting[attempt.correlation] = attempt
                await self._publish(request, body, attempt, limit.when())
                await answer
        except TimeoutError:
            why = f"no answer in {timeout_s:g} s"
        except (NobodyListens, Refused) as error:
            attempt.sent, why = False, str(error)
        except Undelivered as error:
            why = f"connection lost: {error}"
        finally:
            self._waiting.pop(attempt.correlation, None)
            answer.cancel()  # if it is not there
        if answer.cancelled():
            raise Unavailable(why, maybe_paid=attempt.sent, reached=attempt.sent)
        return answer.result()

    async def run(self) -> None:
        """Stay connected until cancelled."""
        try:
            await self._link.run()
        finally:
            await self._link.close()

    async def _turn(self, request: Request) -> None:
        """Wait while another pipeline asks about the same message by MQTT 3.1.1.

        The replies carry the same id, and nothing else would tell them apart.
        """
        if self._is_v5:
            return
        while waiting := self._by_id(request.id):
            await asyncio.wait([attempt.answer for attempt in waiting])

    async def _publish(
        self, request: Request, body: bytes, attempt: _Attempt, until: float | None
    ) -> None:
        """Publish, and wait until the broker has it and somebody listens."""
        connection = await self._link.connection()
        left_s = (until or 0) - asyncio.get_running_loop().time()
        left_s = min(left_s, request.deadline_ms / 1000 - time.time())
        topic = f"{self._settings.topic}/{request.pipeline}"
        schema = hashlib.sha256(to_json(request.schema_)).hexdigest()
        envelope = Envelope(
            response_topic=self._reply_to,
            correlation=attempt.correlation,
            expiry_s=max(1, math.ceil(left_s)),
            content_type="application/json",
            user=(
                ("id", request.id),
                ("device", self._device),
                ("schema", schema),
                ("redacted", str(request.redacted)),
            ),
        )
        try:
            puback = await connection.publish(
                topic, body, envelope=envelope, heard=True
            )
        except TooLarge as error:
            why = f"larger than {error.limit} bytes"
            raise Rejected(why, sure=True) from error
        attempt.sent = not puback.done()  # done: the connection was over before
        await puback

    def _heard(self, message: Message) -> None:
        attempt = self._asked(message)
        if attempt is None or attempt.answer.done():
            self.late += 1
        else:
            attempt.answer.set_result(self._reply(attempt, message.payload))
        message.ack()

    def _asked(self, message: Message) -> _Attempt | None:
        """Return the attempt that the message replies to, if somebody waits for it."""
        claimed = _claimed_id(message.payload)
        if message.correlation is not None:
            attempt = self._waiting.get(message.correlation)
            return attempt if attempt and claimed in {None, attempt.id} else None
        waiting = self._by_id(claimed)
        return waiting[0] if len(waiting) == 1 else None  # of two we cannot tell which

    def _by_id(self, claimed: str | None) -> list[_Attempt]:
        waiting = self._waiting.values()
        return [a for a in waiting if a.id == claimed and not a.answer.done()]

    def _reply(self, attempt: _Attempt, payload: bytes) -> Reply:
        try:
            reply = decode_reply(payload)
        except BadReply as error:
            return Reply(id=attempt.id, status="error", error=f"unreadable: {error}")
        usage = priced(reply.usage, self._settings)
        return reply.model_copy(update={"usage": usage})


def endpoint_of(settings: MqttUpstreamSection, own: Endpoint) -> Endpoint:
    """Return the connection to upstream's broker; raises ConfigError.

    Without a url that is the device's broker, by its own terms. Whatever the url, the
    MQTT version and the keep-alive are the device's.
    """
    aside = replace(
        own,
        client_id=f"{own.client_id}-upstream",
        session_expiry_s=SESSION_S,
        max_packet_bytes=LARGEST_REPLY,
        will=None,
    )
    if not settings.url:
        for name in ("username", "password_file", "ca_file"):
            if getattr(settings, name):
                raise ConfigError(f"upstream.{name}: needs upstream.url, too")
        return aside
    if settings.ca_file and not settings.url.startswith("mqtts:"):
        raise ConfigError("upstream.ca_file: needs a url with mqtts://")
    if settings.password_file and not settings.username:
        raise ConfigError("upstream.password_file: needs username, too")
    password = None
    if settings.password_file:
        password = first_line(settings.password_file, "upstream.password_file")
    endpoint = replace(
        aside,
        url=settings.url,
        login=Login(settings.username or None, password),
        ca_file=settings.ca_file,
        cert_file=None,
        key_file=None,
    )
    if settings.url.startswith("mqtts:"):
        try:
            tls_context(endpoint)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"upstream.ca_file: {settings.ca_file}: {error}"
            ) from error
    return endpoint


async def _say_nothing(_connection: Connection) -> None:
    """Introduce ourselves to nobody: the device's own connection did."""


async def _do_nothing() -> None:
    """Leave the alert to the device's own connection."""


def _claimed_id(payload: bytes) -> str | None:
    """Return the id that a reply names, though all else in it may be broken."""
    if len(payload) > LONGEST_ANSWER:
        return None
    with contextlib.suppress(ValueError):
        document = from_json(payload)
        claimed = document.get("id") if isinstance(document, dict) else None
        return claimed if isinstance(claimed, str) else None
    return None
