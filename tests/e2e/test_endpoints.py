"""The table of verdicts through the whole way by HTTP, on loopback: every row is sent.

And what comes of a case when the fault heals: it ends answered, and paid for once.
"""

import itertools
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agent.config.section import Limit
from agent.core import circuit
from agent.core.types import Outcome, Reason, Timing
from agent.escalation.budget import BudgetLedger, Prices
from agent.escalation.http import HttpTransport, open_http
from agent.escalation.transport import EncodeAgain, Rejected, Unavailable
from agent.escalation.upstream import CaseOutcome, UpstreamSettings
from agent.inference.pipeline import EscalationSpec
from agent.outbox import SCHEMA, spending
from agent.outbox.store import Store
from agent.protocol.cases import Case, Reply, Request
from agent.protocol.verdicts import Kind
from harness.casework import upstream_client
from harness.endpoints import (
    ANSWERS,
    FAULTS,
    FORMS,
    GOOD,
    JSON,
    REJECTED,
    ROWS,
    TEXT,
    USELESS,
    Row,
    says,
)
from harness.upstreams import Asked, Says, ScriptedLLM, http_upstream

MINUTE_S = 0.4  # what stands for a minute here
NUMBERS = itertools.count()
ASKED = Request(
    id="m-1",
    device="pi",
    pipeline="home",
    text=TEXT,
    labels={"light_on": "turn on", "light_off": "turn off"},
    entities={"place": "where"},
    deadline_ms=int((time.time() + 3600) * 1000),
)
PLAN = EscalationSpec(
    labels=ASKED.labels,
    entities=ASKED.entities,
    redacts=False,
    visible=frozenset(),
    provisional=False,
    deadline_s=60.0,
    priority=5,
    limit=Limit("home", None, None, None),
)
WELL = Says(raw=says(JSON))


@pytest.fixture(scope="module")
def llm() -> Iterator[ScriptedLLM]:
    """Run an endpoint for all rows."""
    with ScriptedLLM() as running:
        yield running


@pytest.fixture
async def http(llm: ScriptedLLM) -> AsyncIterator[HttpTransport]:
    """Open a transport to it, which knows nothing of it yet."""
    llm.asked.clear()
    transport = open_http(http_upstream(llm.url))
    yield transport
    await transport._client.aclose()


async def came(http: HttpTransport) -> Reply | Unavailable | Rejected:
    """Ask once, and return what came of it."""
    try:
        return await http.ask(ASKED, http.encode(ASKED, 400), 30)
    except (Unavailable, Rejected) as error:
        return error


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
async def test_row(http: HttpTransport, llm: ScriptedLLM, row: Row) -> None:
    """Each response of the table comes to what the table says; one call, no text."""
    llm.script = lambda _asked: row.says
    found = await came(http)
    assert len(llm.asked) == 1
    if isinstance(found, Exception):
        assert TEXT not in str(found)
        assert row.why in str(found)
    match row.kind:
        case Kind.ANSWER:
            assert isinstance(found, Reply)
            assert (found.status, found.answer, found.reason) == ("ok", GOOD, None)
        case Kind.UNUSABLE | Kind.CUT:
            assert isinstance(found, Reply)
            assert found.status == "error"
            assert found.reason == ("cut" if row.kind is Kind.CUT else "no_json")
        case Kind.DECLINED:
            assert isinstance(found, Reply)
            assert (found.status, found.reason) == ("abstain", "declined")
        case Kind.UNAVAILABLE:
            assert type(found) is Unavailable
            assert found.maybe_paid is row.maybe_paid
            if row.pause_s is not None:
                assert found.retry_after_s == pytest.approx(row.pause_s)
        case Kind.FORM:
            assert isinstance(found, EncodeAgain)
            assert not found.guessed
        case Kind.REJECTED:
            assert isinstance(found, EncodeAgain)  # the plainest form, once
            assert found.guessed
            again = await came(http)
            assert isinstance(again, Rejected)
            assert not again.sure


# -- cases


@pytest.fixture
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a minute be shorter."""
    monkeypatch.setattr(circuit, "MINUTE_S", MINUTE_S)
    monkeypatch.setattr(circuit, "REST_S", MINUTE_S / 2)
    monkeypatch.setattr(circuit, "UNREACHED_S", MINUTE_S / 4)


@pytest.fixture
async def device(
    llm: ScriptedLLM, tmp_path: Path, brisk: None
) -> AsyncIterator["Device"]:
    """Return a device that asks the endpoint."""
    assert brisk is None
    llm.asked.clear()
    transport = open_http(http_upstream(llm.url))
    with closing(Store(tmp_path / "outbox.db", SCHEMA, 2**22)) as store:
        yield Device(store, transport, llm)
    await transport._client.aclose()


class Device:
    """Owns an upstream client on a real outbox and a real transport."""

    def __init__(
        self, store: Store, transport: HttpTransport, llm: ScriptedLLM
    ) -> None:
        """Take what it is made of."""
        self.llm = llm
        self.times: list[float] = []  # of calls
        self._store = store
        prices = Prices(0.0, 0.0, 1)
        budget = BudgetLedger(store, transport, Limit("", None, None, None), prices)
        terms = UpstreamSettings(30.0, 1e6, 400, cache_entries=0, cache_age_s=60.0)
        self.upstream = upstream_client(terms, transport, budget, store, None)

    def first(self, row: Row, times: int) -> None:
        """Let the endpoint say what a row says so often, and then answer well."""

        def script(_asked: Asked) -> Says:
            self.times.append(time.monotonic())
            return row.says if len(self.times) <= times else WELL

        self.llm.script = script

    async def settle(self, case: Case) -> CaseOutcome:
        """Ask on, as the outbox does, until the case ends."""
        while True:
            try:
                return await self.upstream.settle(case, PLAN)
            except Unavailable:
                continue  # others would have their turn

    async def calls(self) -> int:
        """Return how many calls are booked."""
        day = spending.today()
        found = await self._store.read(lambda db: spending.spent(db, day, ""))
        return found.calls


def case(text: str = TEXT) -> Case:
    """Return a case that nobody has asked about."""
    now = datetime.now(UTC)
    return Case(
        id=f"m-{next(NUMBERS)}",
        pipeline="home",
        topic="home/hall",
        text=text,
        reason=Reason.LOW_CONFIDENCE,
        guess=None,
        model="home@1",
        received_at=now,
        deadline=now + timedelta(seconds=60),
        timing=Timing(0.1, 1.0, 2.0),
    )


@pytest.mark.parametrize("row", [*FAULTS, *REJECTED], ids=lambda row: row.name)
async def test_faults_heal(device: Device, row: Row) -> None:
    """Whatever ails the endpoint, once it is over the case is answered.

    Meanwhile it gets at most two calls in what stands for a minute, and what it surely
    did not do is not paid for.
    """
    row = replace(row, head={k: v for k, v in row.head.items() if "etry" not in k})
    row = replace(row, head={k: v for k, v in row.head.items() if "reset" not in k})
    row = replace(row, body=row.body.replace(b"36s", b"0s").replace(b"1.2s", b"0s"))
    device.first(row, 4)
    settled = await device.settle(case())
    assert settled.outcome is Outcome.ANSWERED
    times = device.times
    assert len(times) == 5
    for first, third in zip(times, times[2:], strict=False):
        assert third - first >= MINUTE_S - 0.05
    assert await device.calls() == (5 if row.maybe_paid else 1)
    assert device.upstream.down == ""


@pytest.mark.parametrize("row", FORMS, ids=lambda row: row.name)
async def test_forms_are_found(device: Device, row: Row) -> None:
    """Who does not take the form is asked in a plainer one, at once and ever after."""
    device.first(row, 1)
    settled = await device.settle(case())
    assert settled.outcome is Outcome.ANSWERED
    settled = await device.settle(case())
    assert settled.outcome is Outcome.ANSWERED
    refused, *taken = [asked.document for asked in device.llm.asked]
    assert len(taken) == 2
    for document in taken:
        match row.part:
            case "response_format":
                assert document["response_format"] == {"type": "json_object"}
            case "temperature":
                assert "temperature" not in document
            case "max_tokens":
                assert document["max_completion_tokens"] == refused["max_tokens"]
            case "system":
                roles = [message["role"] for message in document["messages"]]
                assert roles == ["user"]
                assert "JSON Schema" in document["messages"][0]["content"]
    assert [asked.text for asked in device.llm.asked] == [TEXT] * 3
    assert await device.calls() == 2


@pytest.mark.parametrize("row", USELESS, ids=lambda row: row.name)
async def test_useless_answers(device: Device, row: Row) -> None:
    """An answer of no use is asked for once more: repaired, or twice as long.

    It is counted by its reason, and the alert knows. Refusals end the case.
    """
    device.first(row, 1)
    settled = await device.settle(case())
    asked = [each.document for each in device.llm.asked]
    if row.kind is Kind.DECLINED:
        assert settled.outcome is Outcome.ABSTAINED
        assert len(asked) == 1
        return
    assert settled.outcome is Outcome.ANSWERED
    longer = row.kind is Kind.CUT
    assert [each["max_tokens"] for each in asked] == [400, 800 if longer else 400]
    assert len(asked[1]["messages"]) == (2 if longer else 4)
    assert await device.calls() == 2
    health = device.upstream.health(1)
    assert health.invalid_answers == 1
    assert health.unusable["cut" if longer else "no_json"] == 1


@pytest.mark.parametrize("row", ANSWERS, ids=lambda row: row.name)
async def test_answers(device: Device, row: Row) -> None:
    """An answer in whatever clothes is one, and paid for once."""
    device.first(row, 1)
    settled = await device.settle(case())
    assert settled.outcome is Outcome.ANSWERED
    assert settled.prediction
    assert settled.prediction.label == "light_on"
    assert len(device.times) == await device.calls() == 1


async def test_all_are_refused(device: Device) -> None:
    """Where different cases all get 400 they wait, and the alert is up.

    It is the operator's fault: once it is mended all are answered.
    """
    device.first(REJECTED[1], 10**6)
    cases = [case(f"{TEXT} {number}") for number in range(3)]
    for one in cases:
        with pytest.raises(Unavailable):
            await device.upstream.settle(one, PLAN)
    assert "status 400" in device.upstream.down
    device.first(REJECTED[1], 0)
    for one in cases:
        settled = await device.settle(one)
        assert settled.outcome is Outcome.ANSWERED
    assert device.upstream.down == ""


async def test_one_is_refused(device: Device) -> None:
    """Where others are answered, who is refused again is to blame, and ends so."""
    bad = case(f"{TEXT} and more")

    def script(asked: Asked) -> Says:
        return REJECTED[1].says if asked.text == bad.text else WELL

    device.llm.script = script
    with pytest.raises(Unavailable):
        await device.upstream.settle(bad, PLAN)
    assert (await device.settle(case())).outcome is Outcome.ANSWERED
    assert (await device.settle(bad)).outcome is Outcome.REFUSED
    assert (await device.settle(case())).outcome is Outcome.ANSWERED
    assert await device.calls() == 2


async def test_rejected_clears_no_alert(device: Device) -> None:
    """A refusal is no answer: who was down is down after it."""
    device.first(replace(FAULTS[0], body=b""), 10**6)
    with pytest.raises(Unavailable):
        await device.upstream.settle(case(), PLAN)
    down = device.upstream.down
    assert down
    device.llm.script = lambda _asked: REJECTED[1].says
    with pytest.raises(Unavailable):
        await device.upstream.settle(case(), PLAN)
    assert device.upstream.down
