"""`slm-agent demo`: the whole system on an embedded broker, with sample messages.

Upstream is simulated (`cli/simulated.py`), and everything that is printed says so.
"""

import asyncio
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from agent.cli.demo_view import JsonView, TableView, View
from agent.cli.embedded import Asker, asking, daemon, nats
from agent.cli.simulated import MODEL, Simulated, simulated
from agent.config.section import shipped
from agent.core.errors import Undelivered
from agent.core.jsonl import read_lines, read_records
from agent.evaluation.examples import read_examples
from agent.telemetry.counters import percentiles

OLD = '"3.1.1"'  # the MQTT that the embedded broker speaks
# What a small hosted model cost by list price, in dollars for a million tokens.
PRICE_IN, PRICE_OUT = 0.15, 0.60
UPSTREAM = """
[upstream]
transport = "http"
url = "{url}"
model = "{model}"
price_in = {price_in}
price_out = {price_out}
"""
ANSWER_S = 30.0  # no answer within this long is a failure
SAMPLES = "home.samples.txt"
KNOWN = "home.upstream.jsonl"  # what the simulated upstream knows by heart


class Asked(BaseModel):
    """A line of a `.jsonl` file of messages; labelled data will do."""

    text: str


@dataclass(slots=True)
class DemoSession:
    """What was asked and what came back."""

    texts: list[str] = field(default_factory=list)
    answers: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    planned: int = 0  # how many texts are to be asked at least
    upstream: Simulated | None = None

    @property
    def wanted(self) -> int:
        """How many messages must have ended."""
        return max(self.planned, len(self.texts))

    def summary(self) -> dict[str, Any]:
        """Return the figures that end the demo; times in ms from arrival to publish."""
        firsts = [answers[0] for answers in self.answers.values() if answers]
        results = [answer for answer in firsts if "status" in answer]
        outcomes = Counter(answer["status"] for answer in results)
        local = [answer for answer in results if "upstream" not in answer]
        here = sum(answer["status"] == "resolved" for answer in local)
        times = [answer["ms"]["total"] for answer in local]
        p50, p99 = percentiles(times)
        resolved = outcomes["resolved"]
        return {
            "messages": self.wanted,
            "results": sum(len(a) for a in self.answers.values()),
            "resolved": resolved,
            "resolved_locally": here,
            "resolved_upstream": resolved - here,
            "unresolved": outcomes["unresolved"],
            "dead_letters": len(firsts) - len(results),
            "share_resolved": round(resolved / len(results), 4) if results else None,
            "share_local": round(here / len(results), 4) if results else None,
            "ms_p50": p50,
            "ms_p99": p99,
            "complete": self.complete,
            "upstream": self._costs(),
        }

    def _costs(self) -> dict[str, Any]:
        """Return what the simulated upstream would have cost by list price, dollars."""
        asked = self.upstream
        if asked is None or not asked.calls:
            return {"simulated": True, "calls": 0, "cost": 0.0, "cost_all": None}
        cost = (asked.tokens_in * PRICE_IN + asked.tokens_out * PRICE_OUT) / 1e6
        return {
            "simulated": True,
            "calls": asked.calls,
            "cost": round(cost, 6),
            "cost_all": round(cost / asked.calls * self.wanted, 6),
        }

    @property
    def complete(self) -> bool:
        """Whether every message ended in exactly one final result."""
        return all(
            len(answers := self.answers.get(number, [])) == 1
            and answers[0].get("final") is True
            for number in range(self.wanted)
        )


def read_messages(path: Path | None) -> list[str]:
    """Read a text file (a message a line) or JSON Lines with a `text` field each.

    None reads the shipped samples. Blank lines are no messages.
    """
    path = path or shipped("pipelines") / SAMPLES
    if path.suffix == ".jsonl":
        return [asked.text for asked in read_records(path, Asked, "messages")]
    return [line for _, line in read_lines(path, "messages")]


async def run(texts: Sequence[str], *, once: bool, as_json: bool) -> int:
    """Ask everything, print every answer; return the exit status."""
    interactive = not once and not as_json and sys.stdin.isatty()
    view = JsonView() if as_json else TableView()
    session = DemoSession(planned=len(texts))
    with view.shown():
        async with _stage() as (asker, session.upstream):
            for text in texts:
                if not await _ask(asker, session, view, text):
                    break  # broker or daemon is gone: the others would wait in vain
            await _settle(asker, session, view)
            view.summary(session.summary())
            if interactive:
                await _converse(asker, session, view)
    return 0 if session.complete else 1


@asynccontextmanager
async def _stage() -> AsyncIterator[tuple[Asker, Simulated]]:
    with tempfile.TemporaryDirectory(prefix="slm-agent-demo-") as name:
        folder = Path(name)
        known = read_examples(shipped("pipelines") / KNOWN)
        with simulated(known) as serving:
            upstream = UPSTREAM.format(
                url=serving.url, model=MODEL, price_in=PRICE_IN, price_out=PRICE_OUT
            )
            async with (
                nats(folder) as port,
                daemon(folder, port, OLD, upstream),
                asking(port) as asker,
            ):
                yield asker, serving


async def _ask(asker: Asker, session: DemoSession, view: View, text: str) -> bool:
    """Publish one text and wait for its first answer, so that times are honest.

    False if none came.
    """
    number = len(session.texts)
    session.texts.append(text)
    try:
        async with asyncio.timeout(ANSWER_S):
            await asker.ask(number, text)
            while number not in session.answers:
                _hear(session, view, *await asker.answer())
    except (TimeoutError, Undelivered):
        view.missing(text)
        return False
    return True


async def _settle(asker: Asker, session: DemoSession, view: View) -> None:
    """Take what came twice; a duplicate would follow at once on an idle system."""
    await asyncio.sleep(0.2)
    for kind, answer in asker.answers():
        _hear(session, view, kind, answer)


def _hear(session: DemoSession, view: View, kind: str, answer: dict[str, Any]) -> None:
    number = int(answer["topic"].split("/")[1])
    if kind == "deadletter":
        answer = {k: v for k, v in answer.items() if k != "payload"}
    session.answers.setdefault(number, []).append(answer)
    view.answer(session.texts[number], answer)


async def _converse(asker: Asker, session: DemoSession, view: View) -> None:
    print("\nType a sentence; Ctrl-C or Ctrl-D ends.")  # noqa: T201
    loop = asyncio.get_running_loop()
    typed: asyncio.Queue[str] = asyncio.Queue()

    def read_line() -> None:
        typed.put_nowait(sys.stdin.readline())

    loop.add_reader(sys.stdin, read_line)
    try:
        while True:
            print("> ", end="", flush=True)  # noqa: T201
            line = await typed.get()
            if not line:
                return
            if line.strip():
                await _ask(asker, session, view, line.strip())
    except asyncio.CancelledError:
        print()  # noqa: T201  Ctrl-C is how one leaves
    finally:
        loop.remove_reader(sys.stdin)
