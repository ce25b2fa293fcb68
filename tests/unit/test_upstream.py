"""Asking upstream: who is asked again, when, and what the books say."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from agent.config.section import Limit
from agent.core import circuit
from agent.core.types import Entity, Outcome, Reason, Timing
from agent.escalation import upstream as module
from agent.escalation.budget import BudgetLedger, OverBudget, Prices
from agent.escalation.privacy_gate import Finder
from agent.escalation.transport import EncodeAgain, Rejected, Unavailable
from agent.escalation.upstream import UpstreamClient, UpstreamSettings
from agent.inference.patterns import find
from agent.inference.pipeline import EscalationSpec
from agent.outbox import SCHEMA, answers, ledger, spending
from agent.outbox.spending import today
from agent.outbox.store import Full, Store
from agent.protocol.cases import Case, Reply, Request, Usage, encode_request
from harness.casework import upstream_client

pytestmark = pytest.mark.timeout(30)

Said = Reply | Exception
TEXT = "turn off the lamp in the hall"
GOOD = {"label": "off", "entities": [{"label": "place", "text": "hall"}]}
PAID = Usage(input_tokens=10, output_tokens=5)


@dataclass
class Wire:
    """A transport that says what it is told, in order; the last for ever."""

    says: list[Said] = field(default_factory=list)
    asked: list[Request] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    name: str = "wire"
    to: str = "nowhere"
    late: int = 0
    pays_once: bool = False
    spoke: asyncio.Event = field(default_factory=asyncio.Event)

    def encode(self, request: Request, _most: int) -> bytes:
        """Return the request as it is."""
        return encode_request(request)

    async def ask(self, request: Request, body: bytes, timeout_s: float) -> Reply:
        """Say the next thing."""
        assert body
        assert timeout_s
        self.asked.append(request)
        self.times.append(time.monotonic())
        asyncio.get_running_loop().call_soon(self.spoke.set)
        await asyncio.sleep(0)
        said = self.says.pop(0) if len(self.says) > 1 else self.says[0]
        if isinstance(said, Exception):
            raise said
        return said.model_copy(update={"id": request.id})

    async def run(self) -> None:
        """Keep nothing."""


@dataclass
class Bench:
    """An upstream on a real outbox."""

    wire: Wire
    store: Store
    upstream: UpstreamClient

    async def spent(self) -> tuple[int, int]:
        """Return calls and tokens that are booked today."""
        found = await self.store.read(lambda db: spending.spent(db, today(), ""))
        return found.calls, found.tokens

    async def bodies(self) -> int:
        """Return how many bodies left, by the ledger."""
        return len(await self.store.read(ledger.entries))


class Patterns(Finder):
    """Finds by checked patterns only: no bundle."""

    def __init__(self) -> None:
        """Need nothing."""

    def find(self, text: str) -> list[Entity]:
        """Return addresses."""
        return list(find(text, {"EMAIL_ADDRESS"}))


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let who fails rest for a moment only."""
    for name in ("REST_S", "MINUTE_S", "UNREACHED_S"):
        monkeypatch.setattr(circuit, name, 0.05)


@pytest.fixture
async def new(tmp_path: Path) -> AsyncIterator[Callable[..., Bench]]:
    """Give a maker of benches."""
    stores: list[Store] = []

    def make(*says: Said, calls: int | None = None, rate: float = 1e6) -> Bench:
        wire = Wire(list(says))
        store = Store(tmp_path / f"{len(stores)}.db", SCHEMA, 2**21)
        stores.append(store)
        prices = Prices(1.0, 2.0, 1)
        budget = BudgetLedger(store, wire, Limit("", calls, None, None), prices)
        terms = UpstreamSettings(5.0, rate, 100, cache_entries=10, cache_age_s=60.0)
        client = upstream_client(terms, wire, budget, store, Patterns())
        return Bench(wire, store, client)

    yield make
    for store in stores:
        store.close()


def case(text: str = TEXT, name: str = "m-1", patience_s: float = 20.0) -> Case:
    """Return a case."""
    now = datetime.now(UTC)
    return Case(
        id=name,
        pipeline="home",
        topic="home/hall",
        text=text,
        reason=Reason.LOW_CONFIDENCE,
        guess=None,
        model="home@1",
        received_at=now,
        deadline=now + timedelta(seconds=patience_s),
        timing=Timing(0.1, 1.0, 2.0),
    )


def plan(*, redacts: bool = False, calls: int | None = None) -> EscalationSpec:
    """Return what may be answered, and on which terms."""
    return EscalationSpec(
        labels={"off": "off", "on": "on"},
        entities={"place": "a place", "address": "an address"},
        redacts=redacts,
        visible=frozenset(),
        provisional=False,
        deadline_s=20.0,
        priority=5,
        limit=Limit("home", calls, None, None),
    )


def reply(answer: object = GOOD, **but: object) -> Reply:
    """Return a reply that was paid for."""
    return Reply.model_validate(
        {"id": "", "status": "ok", "answer": answer, "usage": PAID} | but
    )


async def test_answered(new: Callable[..., Bench]) -> None:
    """One call: its answer, its line in the ledger, and what it took in the books."""
    bench = new(reply())
    settled = await bench.upstream.settle(case(), plan())
    assert settled.outcome is Outcome.ANSWERED
    assert settled.prediction
    [entity] = settled.prediction.entities
    assert TEXT[entity.start : entity.end] == "hall"
    assert await bench.spent() == (1, 15)
    assert await bench.bodies() == 1


async def test_another_form_is_no_failure(new: Callable[..., Bench]) -> None:
    """What must be said in another form is said at once; nobody is down or paid."""
    again = [EncodeAgain("no json_schema")] * 7
    bench = new(*again, reply())
    began = time.monotonic()
    settled = await bench.upstream.settle(case(), plan())
    assert settled.outcome is Outcome.ANSWERED
    assert time.monotonic() - began < 5
    assert bench.upstream.down == ""
    assert await bench.spent() == (1, 15)
    assert await bench.bodies() == 8


@pytest.mark.parametrize(("maybe_paid", "calls"), [(True, 2), (False, 0)])
async def test_unavailable(
    new: Callable[..., Bench], calls: int, *, maybe_paid: bool
) -> None:
    """Once upstream fails another case has its turn; what may be paid stays booked."""
    bench = new(Unavailable("no", maybe_paid=maybe_paid))
    with pytest.raises(Unavailable):
        await bench.upstream.settle(case(), plan())
    assert len(bench.wire.asked) == 2
    assert (await bench.spent())[0] == calls
    assert bench.upstream.down == "no"


async def test_a_case_that_nobody_answers(new: Callable[..., Bench]) -> None:
    """Where upstream answers others, a case has three tries before they have a turn."""
    bench = new(reply(), Unavailable("no", maybe_paid=False))
    await bench.upstream.settle(case(), plan())
    with pytest.raises(Unavailable):
        await bench.upstream.settle(case(name="m-2", text=f"{TEXT} 2"), plan())
    assert len(bench.wire.asked) == 1 + 3
    assert not bench.upstream._caller._pacer.circuit.is_failing


async def test_rejected(new: Callable[..., Bench]) -> None:
    """What will never be taken ends at once and unpaid; it is no sign of recovery."""
    bench = new(Unavailable("no", maybe_paid=False), Rejected("too large", sure=True))
    settled = await bench.upstream.settle(case(), plan())
    assert settled.outcome is Outcome.REFUSED
    assert await bench.spent() == (0, 0)
    assert bench.upstream.down == "no"


async def test_a_spent_budget_closes_no_circuit(new: Callable[..., Bench]) -> None:
    """Who could not pay has asked nobody: upstream is no better for it."""
    bench = new(Unavailable("no", maybe_paid=False))
    with pytest.raises(Unavailable):
        await bench.upstream.settle(case(), plan())
    with pytest.raises(OverBudget):
        await bench.upstream.settle(case(name="m-2"), plan(calls=0))
    assert bench.upstream._caller._pacer.circuit.is_failing
    assert bench.upstream.down == "no"


async def test_a_full_disk_closes_no_circuit(
    new: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who could not book a call has asked nobody, either."""
    bench = new(Unavailable("no", maybe_paid=False))
    with pytest.raises(Unavailable):
        await bench.upstream.settle(case(), plan())

    def full(*_: object) -> None:
        raise Full("disk")

    monkeypatch.setattr(ledger, "record", full)
    monkeypatch.setattr(module, "FULL_S", 0.01)
    settled = await bench.upstream.settle(case(patience_s=0.5), plan())
    assert settled.outcome is Outcome.TIMEOUT
    assert bench.upstream.full == "disk"
    assert bench.upstream._caller._pacer.circuit.is_failing


async def test_a_deadline_of_ours_is_no_failure(
    new: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that we gave up says nothing of upstream: others are asked as before."""
    bench = new(reply())
    whole = bench.wire.ask

    async def never(*_: object) -> Reply:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(bench.wire, "ask", never)
    for number in range(3):
        late = case(name=f"m-{number}", patience_s=0.05)
        settled = await bench.upstream.settle(late, plan())
        assert settled.outcome is Outcome.TIMEOUT
    assert not bench.upstream._caller._pacer.circuit.is_failing
    assert bench.upstream.down == ""
    monkeypatch.setattr(bench.wire, "ask", whole)
    settled = await bench.upstream.settle(case(), plan())
    assert settled.outcome is Outcome.ANSWERED


async def test_retry_after(new: Callable[..., Bench]) -> None:
    """Who asks to be left alone is left alone, by other cases, too."""
    bench = new(Unavailable("busy", maybe_paid=False, retry_after_s=1.0), reply())
    await asyncio.gather(
        bench.upstream.settle(case(), plan()),
        _once_down(bench, case(name="m-2")),
    )
    first, *others = bench.wire.times
    assert len(others) == 2
    assert min(others) - first >= 0.99


async def _once_down(bench: Bench, later: Case) -> None:
    await bench.wire.spoke.wait()
    assert bench.upstream.down
    await bench.upstream.settle(later, plan())


async def test_nobody_could_be_asked(new: Callable[..., Bench]) -> None:
    """A broker side that could ask nobody is asked again, and down meanwhile."""
    free = Usage(cost=0.0)
    nobody = Reply(id="", status="error", error="no model could be asked", usage=free)
    bench = new(nobody, reply())
    settled = await bench.upstream.settle(case(), plan())
    assert settled.outcome is Outcome.ANSWERED
    assert len(bench.wire.asked) == 2
    assert bench.upstream.down == ""


async def test_books_that_cannot_be_set_right(
    new: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full when an answer comes costs no second call."""
    bench = new(reply())

    def full(*_: object) -> None:
        raise Full("disk")

    monkeypatch.setattr(spending, "settle", full)
    settled = await bench.upstream.settle(case(), plan())
    assert settled.outcome is Outcome.ANSWERED
    assert len(bench.wire.asked) == 1
    assert (await bench.spent())[1] > 15  # as much as it could have taken


async def test_nobody_is_asked_off_the_books(
    new: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without room for the ledger nobody is asked, and it is known why."""
    bench = new(reply())
    whole = ledger.record

    tried: list[int] = []

    def full_at_first(*values: Any) -> object:
        tried.append(len(bench.wire.asked))
        if len(tried) < 3:
            raise Full("disk")
        return whole(*values)

    monkeypatch.setattr(ledger, "record", full_at_first)
    monkeypatch.setattr(module, "FULL_S", 0.05)
    settled = await bench.upstream.settle(case(), plan())
    assert settled.outcome is Outcome.ANSWERED
    assert tried == [0, 0, 0]
    assert len(bench.wire.asked) == 1
    assert bench.upstream.full == "disk"


async def test_the_deadline_ends_everything(new: Callable[..., Bench]) -> None:
    """At the deadline there is an end, whatever is being waited for."""
    bench = new(Unavailable("busy", maybe_paid=False, retry_after_s=3600.0))
    settled = await bench.upstream.settle(case(patience_s=0.5), plan())
    assert settled.outcome is Outcome.TIMEOUT


async def test_a_deadline_that_has_passed(new: Callable[..., Bench]) -> None:
    """A case that is late already is not asked about."""
    bench = new(reply())
    settled = await bench.upstream.settle(case(patience_s=-1), plan())
    assert settled.outcome is Outcome.TIMEOUT
    assert not bench.wire.asked


async def test_budgets_in_flight(new: Callable[..., Bench]) -> None:
    """A call that turns out free makes room for who waits; a paid one for nobody."""
    bench = new(Rejected("no", sure=True), reply(), calls=1)
    outcomes = await asyncio.gather(
        *(
            bench.upstream.settle(case(name=f"m-{n}", text=f"{TEXT} {n}"), plan())
            for n in range(3)
        ),
        return_exceptions=True,
    )
    over = [each for each in outcomes if isinstance(each, OverBudget)]
    ended = {each.outcome for each in outcomes if not isinstance(each, BaseException)}
    assert (len(over), ended) == (1, {Outcome.REFUSED, Outcome.ANSWERED})
    assert await bench.spent() == (1, 15)


async def test_repair_holds_nothing_hidden(new: Callable[..., Bench]) -> None:
    """What goes back for repair is what came, and never what was hidden."""
    address = "marta@example.org"
    bad = {"label": "off", "entities": [{"label": "place", "text": address}]}
    bench = new(reply(bad), reply())
    text = f"{TEXT} and write to {address}"
    settled = await bench.upstream.settle(case(text), plan(redacts=True))
    assert settled.outcome is Outcome.ANSWERED
    first, second = bench.wire.asked
    assert address not in encode_request(first).decode()
    assert second.repair
    assert "does not stand in the text" in second.repair.error
    assert second.text == first.text


async def test_a_privacy_gate_that_fails(
    new: Callable[..., Bench],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A text that the redactor cannot take ends its case, unasked and unquoted."""
    bench = new(reply())

    def fail(_finder: object, text: str) -> list[Entity]:
        raise RuntimeError(f"no such node: {text}")

    monkeypatch.setattr(Patterns, "find", fail)
    settled = await bench.upstream.settle(case(), plan(redacts=True))
    assert settled.outcome is Outcome.REFUSED
    assert not bench.wire.asked
    assert await bench.bodies() == 0
    told = capsys.readouterr().out
    assert "RuntimeError" in told
    assert TEXT not in told


@pytest.mark.parametrize("body", [b"no JSON", b"{}", b'{"found": {"by": "oracle"}}'])
async def test_a_cached_answer_of_another_version(
    new: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    """What cannot be read any more is asked for anew, and replaced."""
    bench = new(reply())
    monkeypatch.setattr(answers, "recall", lambda *_: body)
    settled = await bench.upstream.settle(case(), plan())
    assert settled.outcome is Outcome.ANSWERED
    assert len(bench.wire.asked) == 1


async def test_cache(new: Callable[..., Bench]) -> None:
    """A remembered answer is given again for the same text, not for other names."""
    bench = new(reply())
    settled = await bench.upstream.settle(case(), plan())
    change = bench.upstream.remember(case(), plan(), settled)
    assert change
    await bench.store.write(change)
    again = await bench.upstream.settle(case(name="m-2"), plan())
    assert again.prediction
    assert settled.prediction
    assert again.prediction.entities == settled.prediction.entities
    assert len(bench.wire.asked) == 1
    assert bench.upstream.remember(case(), plan(), again) is None
    await bench.upstream.settle(case(f"{TEXT}, please"), plan())
    assert len(bench.wire.asked) == 2
