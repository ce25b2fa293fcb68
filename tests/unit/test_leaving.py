"""What leaves the device, byte for byte, by both transports and by the real path."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from agent.config.section import Limit
from agent.core.types import Entity, Message, Outcome, Prediction, Reason, Tier, Timing
from agent.escalation.budget import BudgetLedger, Prices
from agent.escalation.http import HttpTransport
from agent.escalation.mqtt import MqttTransport
from agent.escalation.privacy_gate import Finder, Redacted, redact
from agent.escalation.transport import Transport
from agent.escalation.upstream import UpstreamClient, UpstreamSettings
from agent.inference.pipeline import EscalationSpec
from agent.mqtt.endpoint import Endpoint
from agent.mqtt.properties import Envelope
from agent.outbox import SCHEMA
from agent.outbox.store import Store
from agent.protocol.cases import Case, Reply
from harness.casework import upstream_client
from harness.leaks import (
    HERE,
    every_word,
    finder,
    fragments,
    spellings,
    stands,
    strings,
)
from harness.leaks import values as words_of
from harness.upstreams import http_upstream, mqtt_upstream

pytestmark = pytest.mark.timeout(300)

TEXTS = (HERE / "personal.txt").read_text("utf-8").splitlines()
UNUSABLE = {"label": "nonsense", "entities": []}  # so that a repair leaves, too
NOW = datetime.now(UTC)
PRODUCER = "m-17"


@dataclass
class Left:
    """What left with one call: the strings in it, and all its bytes.

    But for the case's id, which is random: it may hold any digits.
    """

    strings: list[str]
    raw: bytes
    id: str = ""


@dataclass
class Told(Finder):
    """Finds what it is told to, or what the shipped bundle finds."""

    found: Sequence[Entity] | None = None

    def find(self, text: str) -> list[Entity]:
        """Find it."""
        return finder().find(text) if self.found is None else list(self.found)


@dataclass
class Device:
    """An upstream on a real outbox, and what left by its transport."""

    upstream: UpstreamClient
    finder: Told
    left: list[Left]

    def send(self, runner: asyncio.Runner, case: Case) -> list[Left]:
        """Settle a case by the real path; return what left."""
        self.left.clear()
        settled = runner.run(self.upstream.settle(case, PLAN))
        assert settled.outcome is Outcome.ABSTAINED
        assert len(self.left) == 2
        return list(self.left)


@dataclass
class Wire:
    """Stands for a connection: keeps what is published, and answers it."""

    transport: MqttTransport
    left: list[Left]
    connected: bool = True

    async def connection(self) -> "Wire":
        """Be the connection."""
        return self

    async def publish(
        self, topic: str, body: bytes, *, envelope: Envelope, heard: bool
    ) -> "asyncio.Future[None]":
        """Keep all that leaves but the expiry, a number of seconds; then reply."""
        assert heard
        document = json.loads(body)
        around = [topic, envelope.response_topic or "", envelope.content_type or ""]
        around += [part for pair in envelope.user for part in pair]
        raw = b"\0".join([*(part.encode() for part in around), body])
        name = document["id"]
        said = [each for each in (*around, *strings(document)) if each != name]
        self.left.append(Left(said, raw.replace(name.encode(), b"id"), name))
        reply = Reply(id=document["id"], status="ok", answer=UNUSABLE)
        loop = asyncio.get_running_loop()
        puback = loop.create_future()
        loop.call_soon(puback.set_result, None)
        loop.call_soon(self._reply, envelope.correlation, reply)
        return puback

    def _reply(self, correlation: bytes, reply: Reply) -> None:
        payload = reply.model_dump_json().encode()
        self.transport._heard(
            Message(
                "slm/pi/answer",
                payload,
                1,
                "r",
                0,
                0,
                NOW,
                0.0,
                ack=lambda: None,
                correlation=correlation,
            )
        )


def by_http(left: list[Left]) -> Transport:
    """Return the transport with a server that keeps what it is sent."""

    def serve(request: httpx.Request) -> httpx.Response:
        head = [part for pair in request.headers.raw for part in pair]
        line = f"{request.method} {request.url}".encode()
        around = [part.decode() for part in (line, *head)]
        document = json.loads(request.content)
        raw = b"\0".join([line, *head, request.content])
        left.append(Left([*around, *strings(document)], raw))
        message = {"role": "assistant", "content": json.dumps(UNUSABLE)}
        said = json.dumps({"choices": [{"message": message}]}).encode()
        return httpx.Response(200, stream=httpx.ByteStream(said))

    settings = http_upstream("http://llm/v1")
    client = httpx.AsyncClient(transport=httpx.MockTransport(serve))
    return HttpTransport(settings, client)


def by_mqtt(left: list[Left]) -> Transport:
    """Return the transport with a connection that keeps what is published."""
    endpoint = Endpoint(url="mqtt://broker", client_id="slm-agent-pi-upstream")
    transport = MqttTransport(mqtt_upstream(), "pi", endpoint)
    transport._link = Wire(transport, left)  # type: ignore[assignment]
    return transport


WAYS = {"http": by_http, "mqtt": by_mqtt}
PLAN = EscalationSpec(
    labels={"alarm_set": "set an alarm"},
    entities={"thing": "anything"},
    redacts=True,
    visible=frozenset(),
    provisional=False,
    deadline_s=3600.0,
    priority=5,
    limit=Limit("home", None, None, None),
)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """Give one loop to all examples."""
    with asyncio.Runner() as one:
        yield one


@pytest.fixture(scope="module", params=WAYS)
def devices(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Device, Device]]:
    """Give two devices that ask by the same way."""
    folder = tmp_path_factory.mktemp(request.param)
    stores = [Store(folder / f"{n}.db", SCHEMA, 2**26) for n in range(2)]
    made = [new_device(store, request.param) for store in stores]
    yield made[0], made[1]
    for device, store in zip(made, stores, strict=True):
        device.upstream.close()
        store.close()


def new_device(store: Store, way: str) -> Device:
    """Return a device on an outbox."""
    left: list[Left] = []
    transport, told = WAYS[way](left), Told()
    budget = BudgetLedger(
        store, transport, Limit("", None, None, None), Prices(0.0, 0.0, 1)
    )
    terms = UpstreamSettings(5.0, 1e6, 9, 0, 60.0)
    client = upstream_client(terms, transport, budget, store, told)
    return Device(client, told, left)


def case(text: str, guessed: Sequence[Entity] = ()) -> Case:
    """Return a case with a guess that takes words of the text for something."""
    return Case(
        id=PRODUCER,
        pipeline="home",
        topic="home/kitchen/utterance",
        text=text,
        reason=Reason.LOW_CONFIDENCE,
        guess=Prediction(Tier.ENCODER, "alarm_set", 0.5, tuple(guessed)),
        model="home@1",
        received_at=NOW,
        deadline=NOW + timedelta(hours=1),
        timing=Timing(0.1, 1.0, 2.0),
    )


# -- nothing that is found leaves


def luhn(digits: str) -> str:
    """Return digits with the one that makes a card's checksum right."""
    odd = [int(each) for each in digits[::-2]]
    total = sum(d * 2 - 9 * (d > 4) for d in odd) + sum(map(int, digits[-2::-2]))
    return f"{digits}{-total % 10}"


def digits(size: int) -> st.SearchStrategy[str]:
    """Return numbers of so many digits."""
    return st.text("0123456789", min_size=size, max_size=size)


NAME = st.from_regex(r"[a-z]{3,9}[0-9]{0,2}", fullmatch=True)
CHECKED = st.one_of(  # what is surely found, because it has a form
    st.builds("{}.{}@{}.example.org".format, NAME, NAME, NAME),
    st.builds("+44 20 7946 0{}".format, digits(3)),
    st.builds(luhn, st.builds("4{}".format, digits(14))),
    st.builds("192.168.{}.{}".format, st.integers(0, 255), st.integers(0, 255)),
    st.builds("https://{}.example.com/{}".format, NAME, NAME),
)
PEOPLE = st.builds(
    "{} {}".format,
    st.sampled_from(["Marta", "John", "Aylin", "Wei", "Jo\u00e3o", "O\u015fman"]),
    st.sampled_from(["Kowalski", "O'Connor", "Smith-Jones", "D\u00edaz", "Nguyen"]),
)
WORDS = st.sampled_from(
    ["please call", "write to", "the bill of", "wake me,", "\U0001f98a", '"it"', "\\n"]
)
ANYTHING = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)
PARTS = st.lists(st.one_of(CHECKED, PEOPLE, WORDS, ANYTHING), min_size=1, max_size=6)


def holds_back(text: str, found: Sequence[Entity], left: Left, frame: Left) -> None:
    """Assert that nothing found is in any string or in the bytes that left.

    `frame` is what leaves with a text that says nothing.
    """
    hidden: Redacted = redact(text, found)
    own = [*frame.strings, str(sum(hidden.counters.values()))]
    for said in left.strings:
        pieces = fragments(said, hidden)
        for words in words_of(found):
            if not any(stands(words, each) for each in own):
                assert not any(stands(words, piece) for piece in pieces)
    raw = fragments(left.raw.decode(), hidden)
    for words in words_of(found):
        for spelt in spellings(words):
            if len(words) >= 4 and spelt not in frame.raw.decode():
                assert not any(spelt in piece for piece in raw)


def check(runner: asyncio.Runner, device: Device, text: str) -> None:
    """Send a text with a guess about all of it; nothing that is found leaves."""
    device.finder.found = None
    found = finder().find(text)
    frames = device.send(runner, case("-"))
    sent = device.send(runner, case(text, [*found, *every_word(text)]))
    for left, frame in zip(sent, frames, strict=True):
        holds_back(text, found, left, frame)


@given(parts=PARTS)
def test_nothing_found_leaves(
    runner: asyncio.Runner, devices: tuple[Device, Device], parts: list[str]
) -> None:
    """What the shipped bundle finds is in no string and no bytes, repairs as well."""
    check(runner, devices[0], " ".join(parts))


@pytest.mark.parametrize("text", TEXTS)
def test_nothing_found_leaves_of(
    runner: asyncio.Runner, devices: tuple[Device, Device], text: str
) -> None:
    """Nor of these texts, which are hard ones."""
    check(runner, devices[0], text)


@given(before=WORDS, value=CHECKED, after=WORDS)
def test_what_has_a_form_never_leaves(
    runner: asyncio.Runner,
    devices: tuple[Device, Device],
    before: str,
    value: str,
    after: str,
) -> None:
    """Personal data with a checked form is found wherever it stands."""
    device = devices[0]
    device.finder.found = None
    text = f"{before} {value} {after}"
    for left in device.send(runner, case(text, every_word(text))):
        assert not any(spelt in left.raw.decode() for spelt in spellings(value))


def test_the_texts_have_something_to_hide() -> None:
    """The shipped bundle finds something in nearly every one of the test's texts."""
    assert sum(bool(finder().find(text)) for text in TEXTS) >= 0.9 * len(TEXTS)
    assert len(TEXTS) >= 60


# -- nothing that is hidden can be guessed from what leaves

PLAIN = st.text("xyz .,", min_size=1, max_size=8)
VALUE = st.text('ABC"\u00e9\\', min_size=4, max_size=8)


@given(plain=st.lists(PLAIN, min_size=2, max_size=4), data=st.data())
def test_what_leaves_does_not_depend_on_what_is_hidden(
    runner: asyncio.Runner,
    devices: tuple[Device, Device],
    plain: list[str],
    data: st.DataObject,
) -> None:
    """Two texts that differ in nothing but their personal data send the same bytes.

    But for the id. That is another with each device, so it is none of the message's.
    """
    sent = []
    for _ in range(2):
        distinct = st.lists(
            VALUE, min_size=len(plain), max_size=len(plain), unique_by=str.casefold
        )
        secret = data.draw(distinct)
        assume(not any(a != b and a in b for a in secret for b in secret))
        text, found = "", []
        for harmless, words in zip(plain, secret, strict=True):
            text += harmless
            place = len(text)
            text += words
            found.append(Entity("PERSON", words, place, len(text), None))
        names = set()
        for device in devices:
            device.finder.found = found
            left = device.send(runner, case(text, found))
            sent.append([each.raw for each in left])
            names |= {each.id for each in left}
        assert names == {""} or len(names) == len(devices)
    assert all(each == sent[0] for each in sent)


async def test_a_case_keeps_its_name(tmp_path: Path) -> None:
    """Over a restart, that is: who answers knows a case that comes again."""
    names = []
    for _ in range(2):
        store = Store(tmp_path / "o.db", SCHEMA, 2**21)
        device = new_device(store, "mqtt")
        device.finder.found = []
        for _ in range(2):
            await device.upstream.settle(case("wake me"), PLAN)
        names += [each.id for each in device.left]
        device.upstream.close()
        store.close()
    assert len(names) == 8
    assert len(set(names)) == 1
