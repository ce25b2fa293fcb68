"""What is fuzzed: each parser of bytes that others choose, and what must hold.

A target takes bytes and returns nothing. It raises only for a bug: what a parser may
say of bad bytes is caught here, and what it makes of good ones is checked. Seeds are
inputs that lead deep into the parser; `tests/fuzz/corpus/<target>/` keeps inputs that
once found something.
"""

import asyncio
import atexit
import json
import os
import select
import socket
import struct
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import httpx
from pydantic_core import to_json

from agent.broker import claims
from agent.broker.config import load as load_broker
from agent.config.agent_file import HttpUpstreamSection
from agent.config.load import Config, load
from agent.core.errors import ConfigError, Unreadable
from agent.core.types import DeadLetter, Message, Tier
from agent.daemon.control import BadControlRequest, _echoed, _object
from agent.daemon.discovery import COMPONENTS, told_before
from agent.escalation.http import HttpTransport, form_of
from agent.escalation.transport import EncodeAgain, Rejected, Unavailable
from agent.fleet.checks import check
from agent.fleet.parse import read as read_fleet
from agent.fleet.resolve import Resolver, stand_in
from agent.fleet.signing import Content, Untrusted, opened
from agent.fleet.state import Damaged, StateStore
from agent.mqtt.connection import Connection
from agent.mqtt.endpoint import Endpoint
from agent.mqtt.subscriptions import FILE, obsolete
from agent.mqtt.topic_filters import checked_filter
from agent.protocol.cases import (
    BadReply,
    BadRequest,
    Reply,
    Request,
    checked,
    decode_reply,
    decode_request,
    encode_request,
    prediction,
)
from agent.protocol.messages import dead_letter_object, guess_object
from agent.protocol.payload import Reader, read
from agent.protocol.prompt import messages
from agent.protocol.reading import read_answer
from agent.protocol.verdicts import Response, judged
from harness.stage import REPOSITORY

CORPUS = REPOSITORY / "tests" / "fuzz" / "corpus"
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108, PTH112
LONGEST_STREAM = 50_000  # bytes that a broker says at once
RESET = struct.pack("ii", 1, 0)
LONGEST_ERROR = 20_000  # characters: an error is for people, and for a journal
REQUEST = Request(
    id="m-1",
    device="pi",
    pipeline="home",
    text="turn off the lights in the hall",
    labels={"off": "switch off", "on": "switch on"},
    entities={"place": "a room"},
    deadline_ms=1_700_000_000_000,
)
MESSAGE = Message(
    topic="home/hall/utterance",
    payload=b"",
    qos=1,
    id="m-1",
    seq=1,
    epoch=1,
    received_at=datetime(2026, 12, 1, tzinfo=UTC),
    arrived=0.0,
    ack=lambda: None,
)
READERS = (
    Reader(),
    Reader(text="a.b", id="id"),
    Reader(id="a.id", encoding="latin-1", max_chars=50),
    Reader(text="text", encoding="utf-16", max_bytes=1000),
)


@dataclass(frozen=True, slots=True)
class Target:
    """A parser under test."""

    name: str
    run: Callable[[bytes], None]

    @property
    def folder(self) -> Path:
        """Where its corpus lies: seeds, and what once found something."""
        return CORPUS / self.name

    def corpus(self) -> list[bytes]:
        """Return the inputs to begin with."""
        return [path.read_bytes() for path in sorted(self.folder.glob("*"))]


def _told(error: Exception) -> None:
    """See that an error can be shown."""
    assert 0 < len(str(error)) <= LONGEST_ERROR, len(str(error))


def _strict(data: bytes) -> Any:
    """Read what we wrote as any other program would."""

    def refuse(word: str) -> None:
        raise AssertionError(f"we wrote {word}")

    return json.loads(data, parse_constant=refuse)


# -- MQTT: what a broker sends, through the real client


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    atexit.register(loop.close)
    return loop


@cache
def _broker() -> socket.socket:
    listener = socket.create_server(("127.0.0.1", 0))
    atexit.register(listener.close)
    return listener


def _heard(data: bytes, version: int) -> None:
    """Let a broker say this right after CONNACK; whatever it is, we live on."""
    heard: list[Message] = []
    port: int = _broker().getsockname()[1]

    async def connected() -> None:
        endpoint = Endpoint(f"mqtt://127.0.0.1:{port}", "fuzz", version=version)
        connection = Connection(endpoint, 1, None, heard.append)
        connection._client.connect("127.0.0.1", port)
        broker, _ = _broker().accept()
        with broker:
            # Closed with a reset: thousands of connections must not use up the ports.
            broker.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            accepted = b"\x20\x03\x00\x00\x00" if version == 5 else b"\x20\x02\x00\x00"
            broker.sendall(accepted + data[:LONGEST_STREAM])
            for _ in range(LONGEST_STREAM):
                if connection.ended.done() or not _readable(connection):
                    break
                connection._readable()
            for _ in range(2):  # messages are handed over in the next turn
                await asyncio.sleep(0)
            for message in heard:
                _check_message(message)
            connection.abandon("over")

    _loop().run_until_complete(connected())


def _readable(connection: Connection) -> bool:
    sock = connection._client.socket()
    return sock is not None and bool(select.select([sock], [], [], 0)[0])


def _check_message(message: Message) -> None:
    """See that everything downstream can work with a message, and acknowledge it."""
    message.topic.encode()
    for name, value in message.user:
        (name + value).encode()
    (message.content_type or "").encode()
    (message.response_topic or "").encode()
    assert message.id
    assert message.id.isprintable()
    for reader in READERS:
        _read(replace(message, payload=message.payload[:2000]), reader)
    message.ack()


def mqtt5(data: bytes) -> None:
    """Hear MQTT 5."""
    _heard(data, 5)


def mqtt311(data: bytes) -> None:
    """Hear MQTT 3.1.1."""
    _heard(data, 4)


# -- payloads


def _read(message: Message, reader: Reader) -> None:
    try:
        text = read(message, reader)
    except Unreadable as why:
        said = (message.topic, why.reason, why.detail, message.payload)
        letter = DeadLetter(
            message.id,
            "pi",
            "home",
            *said,
            len(message.payload),
            message.received_at,
        )
        _strict(to_json(dead_letter_object(letter)))
        return
    assert text.text.strip()
    assert len(text.text) <= reader.max_chars
    text.text.encode()
    text.id.encode()


def payload(data: bytes) -> None:
    """Read a payload; its first line is the content type."""
    head, _, body = data.partition(b"\n")
    kind = head.decode("utf-8", "replace") or None
    for reader in READERS:
        _read(replace(MESSAGE, payload=body, content_type=kind), reader)
        _read(replace(MESSAGE, payload=data), reader)


# -- what upstream answers, and what devices ask it


def _checked(reply: Reply) -> None:
    """Check an answer as the device does, and publish what comes of it."""
    for word in (reply.model, reply.error):
        assert word is None or (word.isprintable() and len(word) <= 2000)
    try:
        answer = checked(reply.answer, REQUEST)
        found = prediction(answer, REQUEST.text, Tier.UPSTREAM)
    except BadReply as why:
        _told(why)
        return
    assert answer.label in {None, *REQUEST.labels}
    for entity in found.entities:
        assert REQUEST.text[entity.start : entity.end] == entity.text
    _strict(to_json(guess_object(found)))
    _strict(to_json(reply.usage.model_dump()))


def reply(data: bytes) -> None:
    """Take a reply by MQTT."""
    try:
        found = decode_reply(data)
    except BadReply as why:
        _told(why)
    else:
        _checked(found)


@cache
def _transport() -> HttpTransport:
    section = HttpUpstreamSection(
        transport="http", url="http://127.0.0.1/v1", model="m", price_in=1.0
    )
    return HttpTransport(section, httpx.AsyncClient())


def completion(data: bytes) -> None:
    """Take a chat completion by HTTP."""
    response = Response(200, {}, data)
    verdict = judged(response, REQUEST, datetime.now(UTC))
    with suppress(EncodeAgain, Rejected, Unavailable):
        _checked(
            _transport()._reply(
                REQUEST, form_of(_transport().encode(REQUEST, 100)), verdict
            )
        )


def content(data: bytes) -> None:
    """Take what a language model wrote."""
    with suppress(ValueError):
        _strict(to_json(read_answer(data.decode("utf-8", "replace"), {"label"})))


def case(data: bytes) -> None:
    """Take a case on the broker side, and ask a model."""
    try:
        request = decode_request(data)
    except BadRequest as why:
        _told(why)
        return
    _strict(to_json(messages(request)))
    _strict(encode_request(request))


def words(data: bytes) -> None:
    """Hear what other brokers of the group say."""
    for decoded in (claims.decode(data), claims.decode_told(data)):
        if decoded is not None:
            claims.encode(decoded)


# -- control


def control(data: bytes) -> None:
    """Take a request by MQTT; what is echoed can be read by anybody."""
    try:
        said = _object(data)
    except BadControlRequest as why:
        _told(why)
    else:
        _strict(to_json(_echoed(said.get("transaction"))))


# -- fleet files


def fleet(data: bytes) -> None:
    """Read a fleet file, check it, and resolve a device."""
    try:
        found = read_fleet(Content(data), "fleet.toml")
        for finding in check(found):
            assert finding.detail
        effective = Resolver(found).resolve(stand_in("pi-1"))
    except ConfigError as why:
        _told(why)
        return
    _strict(to_json(effective.config.agent.model_dump(mode="json")))
    effective.rows()
    effective.drift()


def devices(data: bytes) -> None:
    """Read a list of devices."""
    toml = b'version = 1\ndevices_file = "devices.jsonl"\n[variables]\nline = "1"\n'
    try:
        found = read_fleet(Content(toml, data), "fleet.toml")
    except ConfigError as why:
        _told(why)
        return
    check(found)


def envelope(data: bytes) -> None:
    """Open a signed file that nobody verified."""
    try:
        opened(data)
    except Untrusted as why:
        _told(why)


# -- files on the device's disk


@cache
def _folder() -> Path:
    made = tempfile.TemporaryDirectory(prefix="slm-fuzz-", dir=MEMORY)
    atexit.register(made.cleanup)
    return Path(made.name)


def _clear(folder: Path) -> None:
    for aside in folder.glob("*.damaged-*"):
        aside.unlink()


def subscriptions(data: bytes) -> None:
    """Read which subscriptions the broker holds."""
    folder = _folder()
    (folder / FILE).write_bytes(data)
    gone, damage = obsolete(folder, [])
    assert bool(damage) is not (folder / FILE).exists()
    for topic in gone:
        checked_filter(topic)
    _clear(folder)


def components(data: bytes) -> None:
    """Read what Home Assistant was told."""
    folder = _folder()
    (folder / COMPONENTS).write_bytes(data)
    told, damage = told_before(folder / COMPONENTS)
    assert bool(damage) is not (folder / COMPONENTS).exists()
    _strict(to_json(told))
    _clear(folder)


def fleet_state(data: bytes) -> None:
    """Read what the device remembers of its fleet."""
    folder = _folder() / "fleet"
    folder.mkdir(exist_ok=True)
    (folder / "state").write_bytes(data)
    try:
        state = StateStore(folder).read()
    except Damaged as why:
        _told(why)
    else:
        _strict(state.model_dump_json().encode())


# -- configuration


def _loaded(file: Path, data: bytes, read: Callable[[Path], object]) -> None:
    file.write_bytes(data)
    try:
        config = read(file)
    except ConfigError as why:
        _told(why)
        return
    if isinstance(config, Config):
        _strict(to_json(config.agent.model_dump(mode="json")))


def agent_toml(data: bytes) -> None:
    """Load a device's configuration with the shipped pipelines."""
    _loaded(_folder() / "agent.toml", data, load)


def pipeline_toml(data: bytes) -> None:
    """Load a pipeline."""
    folder = _folder() / "pipelines"
    folder.mkdir(exist_ok=True)
    (folder / "agent.toml").write_text(f'[pipelines]\ndir = "{folder}"\n', "utf-8")
    _loaded(folder / "home.toml", data, lambda _: load(folder / "agent.toml"))


def broker_toml(data: bytes) -> None:
    """Load the configuration of the broker side."""
    _loaded(_folder() / "broker.toml", data, load_broker)


TARGETS = tuple(
    Target(run.__name__, run)
    for run in (
        mqtt5,
        mqtt311,
        payload,
        reply,
        completion,
        content,
        case,
        words,
        control,
        fleet,
        devices,
        envelope,
        subscriptions,
        components,
        fleet_state,
        agent_toml,
        pipeline_toml,
        broker_toml,
    )
)
