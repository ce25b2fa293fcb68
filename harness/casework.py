"""What the tests of escalation share: pipelines that ask, and books to look into."""

import json
import os
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from agent.core.deaths import Deaths
from agent.escalation.budget import BudgetLedger
from agent.escalation.privacy_gate import Finder
from agent.escalation.questions import Questions
from agent.escalation.transport import Transport
from agent.escalation.upstream import UpstreamClient, UpstreamSettings
from agent.outbox import ledger
from agent.outbox.ledger import LedgerEntry
from agent.outbox.store import Store
from harness.stage import DEADLINE_S, DEVICE, Agent, Client, text_of
from harness.upstreams import Asked, Says, Scripted, ScriptedLLM

NOWHERE = Path("/nowhere/hiding.cases")  # where nothing is counted
PLACE = "house_place"
LABEL = "iot_hue_lightoff"
# Who fails is asked again after a second, not after half a minute.
BRISK = {
    "core.circuit.REST_S": 1.0,
    "core.circuit.MINUTE_S": 1.0,
    "core.circuit.UNREACHED_S": 1.0,
}
# Who fails is asked on, so that what comes of one case is not another's doing.
UNBROKEN = {"core.circuit.FAILURES": 1000, "core.circuit.FIRST_FAILURES": 1000}
HASTE = "rate = 1000.0\nconcurrency = 8\ntimeout_s = 20.0"

Result = Mapping[str, Any]


def asking(topic: str = "ask/+", more: str = "") -> tuple[list[str], str]:
    """Return a pipeline that asks upstream about everything; `more` are its terms."""
    terms = f'policy = "always_upstream"\nprivacy = "allow"\n{more}'
    return [topic], f"[upstream]\n{terms}\n"


def http(llm: ScriptedLLM, more: str = HASTE) -> str:
    """Return the lines of [upstream] that name an endpoint."""
    return f'transport = "http"\nurl = "{llm.url}"\nmodel = "m"\n{more}'


def gone(port: int, more: str = HASTE) -> str:
    """Return the lines of [upstream] for an endpoint that is not there, yet."""
    return (
        f'transport = "http"\nurl = "http://127.0.0.1:{port}/v1"\nmodel = "m"\n{more}'
    )


def question(number: int) -> str:
    """Return a text that no other number has, about a place."""
    return f"{text_of(number)} please {number}"


def place_of(text: str) -> str:
    """Return the place that a question is about."""
    return text.partition(" please ")[0].rpartition(" the ")[2]


def well(asked: Asked) -> Says:
    """Answer a question with a label and its place."""
    place = {"label": PLACE, "text": place_of(asked.text)}
    return Says(answer={"label": LABEL, "entities": [place]})


def ask(client: Client, numbers: Iterable[int], topic: str = "ask") -> None:
    """Publish questions, each to a topic and with an id of its own."""
    for number in numbers:
        client.send(f"{topic}/{number}", question(number), message_id=f"q-{number}")


def results(client: Client) -> dict[str, list[Result]]:
    """Return all results by id, in the order they came."""
    found: dict[str, list[Result]] = defaultdict(list)
    for heard in list(client.results.values()):
        for result in heard:
            found[result["id"]].append(result)
    return found


def finals(client: Client) -> dict[str, Result]:
    """Return the final result of each id.

    One that comes twice says the same twice; a case's is the same byte for byte.
    """
    found: dict[str, Result] = {}
    for name, heard in results(client).items():
        last = [result for result in heard if result["final"]]
        for result in last:
            known = found.setdefault(name, result)
            if "upstream" in known or "upstream" in result:
                assert result == known
    return found


def wait_finals(client: Client, number: int, seconds: float = DEADLINE_S) -> None:
    """Wait until that many messages, known by their topics, have a final result."""
    client.wait(lambda: _ended(client) >= number, seconds)


def final(client: Client, topic: str, seconds: float = DEADLINE_S) -> Result:
    """Wait for the final result of the message on a topic, and return it."""
    client.wait(lambda: any(r["final"] for r in client.results[topic]), seconds)
    return next(r for r in client.results[topic] if r["final"])


def entries(agent: Agent) -> list[LedgerEntry]:
    """Return the egress ledger, which must be whole."""
    with closing(outbox(agent)) as db:
        assert ledger.verify(db) is None
        return ledger.entries(db, limit=1_000_000)


def in_outbox(agent: Agent, which: str = "1") -> int:
    """Return how many cases are in the outbox, of those that SQL wants."""
    with closing(outbox(agent)) as db:
        found = db.execute(f"SELECT count(*) FROM cases WHERE {which}")  # noqa: S608
        return int(found.fetchone()[0])


def outbox(agent: Agent) -> sqlite3.Connection:
    """Open the outbox for reading, beside its owner."""
    path = agent.state / "outbox.db"
    return sqlite3.connect(f"file:{path}?mode=ro", uri=True)


def fill(folder: Path) -> Path:
    """Write a file that takes all the room there is."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (65_536, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    assert os.statvfs(folder).f_bavail == 0
    return filler


def calls(upstream: Scripted) -> Counter[str]:
    """Return how often upstream was asked about each text."""
    return Counter(asked.text for asked in list(upstream.asked))


def wait_health(client: Client, key: str, value: object) -> None:
    """Wait until health says so of upstream."""

    def said() -> bool:
        told = client.said[f"slm/{DEVICE}/health"]
        return bool(told) and json.loads(told[-1])["upstream"][key] == value

    client.wait(said)


def wait_alert(client: Client, name: str, *, up: bool) -> str:
    """Wait until an alert is up, or over; return its detail."""
    told = client.said[f"slm/{DEVICE}/alert/{name}"]
    client.wait(lambda: bool(told) and bool(told[-1]) is up)
    return str(json.loads(told[-1])["detail"]) if up else ""


def _ended(client: Client) -> int:
    heard = list(client.results.values())
    return sum(any(result["final"] for result in each) for each in heard)


def upstream_client(
    terms: UpstreamSettings,
    transport: Transport,
    budget: BudgetLedger,
    store: Store,
    finder: Finder | None,
    deaths: Path = NOWHERE,
    on_poison: Callable[[str], None] = print,
) -> UpstreamClient:
    """Return a client of the device `pi`, with a thread of its own for the gate.

    `deaths` is the file that counts how often the gate ended the process.
    """
    worker = ThreadPoolExecutor(1)
    most = terms.max_output_tokens
    questions = Questions("pi", store, finder, worker, most, Deaths(deaths))
    return UpstreamClient(terms, transport, budget, store, questions, on_poison)
