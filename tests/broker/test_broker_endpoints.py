"""The table of verdicts through `slm-agent broker`: real LiteLLM, real HTTP, every row.

In one process, as a broker takes seconds to start; from a case to its reply.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent.broker import llm, llm_router
from agent.broker.config import BrokerFile
from agent.broker.counters import BrokerCounters
from agent.broker.llm_router import SCOPE, LlmRouter
from agent.broker.main import SCHEMA
from agent.broker.wire import EXCHANGE, Exchange, Wire
from agent.core import circuit
from agent.outbox import spending
from agent.outbox.store import Store
from agent.protocol.cases import Reply, Request
from agent.protocol.verdicts import Kind
from harness.brokers import case
from harness.endpoints import (
    FAULTS,
    FORMS,
    GOOD,
    JSON,
    REJECTED,
    ROWS,
    TEXT,
    Row,
    says,
)
from harness.stage import free_port
from harness.upstreams import Asked, Says, ScriptedLLM

pytestmark = pytest.mark.filterwarnings("ignore:.*ReadOnly:UserWarning")
WELL = Says(raw=says(JSON))
LABELS = {"light_on": "turn on", "light_off": "turn off"}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[ScriptedLLM]:
    """Run an endpoint for all rows."""
    with ScriptedLLM() as running:
        yield running


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody wait for another try."""
    monkeypatch.setattr(llm_router, "PAUSE_MAX_S", 0.1)
    for name in ("REST_S", "MINUTE_S", "UNREACHED_S"):
        monkeypatch.setattr(circuit, name, 0.0)


class Side:
    """Owns a router to one model, its books, and what it counted."""

    def __init__(self, store: Store, file: BrokerFile) -> None:
        """Open the model."""
        self.store = store
        self.counters = BrokerCounters()
        self.router = LlmRouter(file, llm.open_models(file), store, self.counters)

    async def ask(self, number: int = 1, text: str = TEXT) -> Reply:
        """Return the reply to a case."""
        asked = case(number, text, labels=LABELS, entities={"place": "where"})
        return await self.router.ask(asked)

    async def booked(self) -> int:
        """Return how many calls are booked today."""
        day = spending.today()
        return (await self.store.read(lambda db: spending.spent(db, day, SCOPE))).calls


@pytest.fixture
async def side(endpoint: ScriptedLLM, tmp_path: Path) -> AsyncIterator[Side]:
    """Return the broker's side of an endpoint that it knows nothing of."""
    endpoint.asked.clear()
    model: dict[str, Any] = {"model": "openai/m", "api_base": endpoint.url}
    key = tmp_path / "key"
    key.write_text("secret")
    model |= {"price_in": 1.0, "price_out": 1.0, "key_file": key}
    file = BrokerFile.model_validate(
        {"models": [model], "budget": {"calls_per_day": 1000}}
    )
    with closing(Store(tmp_path / "broker.db", SCHEMA, 2**21)) as store:
        yield Side(store, file)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
async def test_row(side: Side, endpoint: ScriptedLLM, row: Row) -> None:
    """Each response comes to what the table says, and only answers are paid for."""
    endpoint.script = lambda _asked: row.says
    reply = await side.ask()
    calls = [asked.document for asked in endpoint.asked]
    limits = [document["max_tokens"] for document in calls if "max_tokens" in document]
    match row.kind:
        case Kind.ANSWER:
            assert (reply.status, reply.answer) == ("ok", GOOD)
            assert len(calls) == 1
        case Kind.UNUSABLE:
            assert (reply.status, reply.reason) == ("abstain", "no_json")
            assert limits == [400, 400]
            assert len(calls[1]["messages"]) == 4
        case Kind.CUT:
            assert (reply.status, reply.reason) == ("abstain", "cut")
            assert limits == [400, 800]
            assert len(calls[1]["messages"]) == 2
        case Kind.DECLINED:
            assert (reply.status, reply.reason) == ("abstain", "declined")
            assert len(calls) == 1
        case Kind.UNAVAILABLE:
            assert reply.status == "error"
            assert reply.error in {"unavailable", "busy"}
            assert len(calls) <= 2
            assert await side.booked() == (len(calls) if row.maybe_paid else 0)
        case Kind.FORM | Kind.REJECTED:
            assert (reply.status, reply.error) == ("error", "unavailable")
            assert reply.reason is None  # nobody was answered: no fault of the case
            assert await side.booked() == 0
    assert side.counters.unusable.total() == (
        len(calls) if row.kind in {Kind.UNUSABLE, Kind.CUT, Kind.DECLINED} else 0
    )
    assert TEXT not in str(reply.error)


@pytest.mark.parametrize("row", [*FAULTS, *REJECTED], ids=lambda row: row.name)
async def test_faults_heal(side: Side, endpoint: ScriptedLLM, row: Row) -> None:
    """Whatever ailed the model, the case that comes again is answered."""
    kept = {k: v for k, v in row.head.items() if "etry" not in k and "reset" not in k}
    body = row.body.replace(b"36s", b"0s").replace(b"1.2s", b"0s")
    row = replace(row, head=kept, body=body)
    endpoint.script = lambda _asked: row.says
    assert (await side.ask()).status == "error"
    endpoint.script = lambda _asked: WELL
    assert (await side.ask()).status == "ok"


@pytest.mark.parametrize("row", FORMS, ids=lambda row: row.name)
async def test_forms_are_found(side: Side, endpoint: ScriptedLLM, row: Row) -> None:
    """Who does not take the form is asked in a plainer one, at once and ever after."""
    endpoint.script = lambda _asked: WELL if len(endpoint.asked) > 1 else row.says
    assert (await side.ask(1)).status == "ok"
    assert (await side.ask(2)).status == "ok"
    assert len(endpoint.asked) == 3
    for asked in endpoint.asked[1:]:
        document = asked.document
        match row.part:
            case "response_format":
                assert document["response_format"] == {"type": "json_object"}
            case "temperature":
                assert "temperature" not in document
            case "max_tokens":
                assert document["max_completion_tokens"] == 400
            case "system":
                assert [m["role"] for m in document["messages"]] == ["user"]


async def test_one_is_refused(side: Side, endpoint: ScriptedLLM) -> None:
    """Where others are answered, who is refused again is told so for good."""
    bad = f"{TEXT} and more"

    def script(asked: Asked) -> Says:
        return REJECTED[1].says if asked.text == bad else WELL

    endpoint.script = script
    first = await side.ask(1, bad)
    assert (first.error, first.reason) == ("unavailable", None)
    assert (await side.ask(2)).status == "ok"
    again = await side.ask(1, bad)
    assert (again.error, again.reason) == ("refused", "rejected")
    assert (await side.ask(3)).status == "ok"


async def test_who_fails_rests(
    side: Side, endpoint: ScriptedLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many cases come, a model that fails gets at most two calls a minute."""
    monkeypatch.setattr(circuit, "MINUTE_S", 60.0)
    monkeypatch.setattr(circuit, "REST_S", 30.0)
    endpoint.script = lambda _asked: FAULTS[0].says
    replies = [await side.ask(number) for number in range(20)]
    assert {reply.error for reply in replies} == {"unavailable"}
    assert len(endpoint.asked) == 2


PROVIDERS = ("openai/m", "hosted_vllm/m", "anthropic/claude-sonnet-4-5", "mistral/m")
PROVIDERS = (*PROVIDERS, "gemini/gemini-2.5-flash", "ollama_chat/llama3", "groq/m")


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_redirects_are_not_followed(
    endpoint: ScriptedLLM, monkeypatch: pytest.MonkeyPatch, name: str, status: int
) -> None:
    """Neither text nor key goes where nobody said, nor by the environment's proxy."""
    for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(variable, f"http://127.0.0.1:{free_port()}")
    endpoint.asked.clear()
    with ScriptedLLM() as other:
        head = {"Location": f"{other.url}/chat/completions"}
        endpoint.script = lambda _asked: Says(raw=b"", http=status, head=head)
        spec = {"model": name, "api_base": endpoint.url}
        model = llm.LanguageModel(
            llm.LlmSection.model_validate(spec), 1.0, 1.0, "secret"
        )
        with pytest.raises(llm.Failed):
            await llm.ask(model, asked_for(), model.first_form, 1, 30)
        assert len(endpoint.asked) == 1
        assert other.asked == []


@pytest.mark.parametrize("name", ["openai/m", "anthropic/claude-sonnet-4-5"])
async def test_by_the_proxy_that_is_named(endpoint: ScriptedLLM, name: str) -> None:
    """With `models.proxy` it is asked by that proxy, and by nobody else."""
    endpoint.asked.clear()
    endpoint.script = lambda _asked: WELL
    spec = {"model": name, "api_base": "http://models.example/v1"}
    spec["proxy"] = endpoint.url.removesuffix("/v1")
    model = llm.LanguageModel(llm.LlmSection.model_validate(spec), 1.0, 1.0, "secret")
    found = await llm.ask(model, asked_for(), model.first_form, 1, 30)
    assert found.verdict.answer == GOOD
    [asked] = endpoint.asked
    assert asked.where.startswith("http://models.example/")


def asked_for() -> Request:
    """Return a request."""
    return case(1, TEXT, labels=LABELS, entities={"place": "where"})


async def test_the_wire_hides_where_a_redirect_leads(endpoint: ScriptedLLM) -> None:
    """Whoever wants to follow cannot, and what no call of ours asks does not leave."""
    endpoint.asked.clear()
    head = {"Location": f"{endpoint.url}/elsewhere"}
    endpoint.script = lambda _asked: Says(raw=b"", http=307, head=head)
    async with Wire().client() as client:
        with pytest.raises(httpx.ConnectError):
            await client.post(endpoint.url)
        token = EXCHANGE.set(Exchange(proxy=""))
        response = await client.post(endpoint.url, follow_redirects=True)
        EXCHANGE.reset(token)
    assert response.status_code == 307
    assert len(endpoint.asked) == 1
