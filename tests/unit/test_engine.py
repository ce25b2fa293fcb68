"""The engine: one parcel for each message, in order, whatever the model does."""

import asyncio
import gc
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from agent.core.types import (
    Decision,
    Guarantee,
    Message,
    RawPrediction,
    Task,
    Text,
    Tier,
)
from agent.inference import engine as engine_module
from agent.inference.bundle import Bundle, Stage
from agent.inference.calibration import Logistic, TierCalibration
from agent.inference.decide import Policy
from agent.inference.engine import Engine, Outgoing, TextTask, WorkItem, answer
from agent.inference.pipeline import Pipeline
from agent.mqtt.message_ids import IdTable
from agent.protocol.messages import ending_object
from agent.protocol.payload import Reader
from agent.telemetry.counters import Counters
from harness.tiny import arrived

pytestmark = pytest.mark.timeout(10)  # a step that waits has nothing to do


@dataclass
class Brittle:
    """A model that cannot bear some texts, and remembers what it was asked."""

    fails_on: str = "bad"
    asked: list[list[str]] = field(default_factory=list)

    def predict(self, texts: Sequence[str], _earlier: object) -> list[RawPrediction]:
        """Return the same for every text; raise if a bad one is among them."""
        self.asked.append(list(texts))
        if any(self.fails_on in text for text in texts):
            raise MemoryError
        return [RawPrediction(text, label_evidence=(2.0,)) for text in texts]


@dataclass
class Bench:
    """An engine whose parcels pile up in a list."""

    engine: Engine
    outgoings: list[Outgoing]
    counters: Counters

    def results(self) -> list[dict[str, Any]]:
        """Return every result and dead letter as an object, in order."""
        sends = [send for outgoing in self.outgoings for send in outgoing.sends]
        return [ending_object(send.ending) for send in sends]


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """Return an engine that takes three messages at once."""
    outgoings: list[Outgoing] = []
    counters = Counters()
    engine = Engine("pi-3", 3, counters, outgoings.append)
    yield Bench(engine, outgoings, counters)
    engine._pool.shutdown()


def road(bundle: Bundle, name: str = "home", **changes: object) -> Pipeline:
    """Return a pipeline that asks the bundle for everything."""
    made = Pipeline(
        name=name,
        tasks=frozenset(Task),
        filters=("home/+/utterance",),
        reader=Reader(),
        bundle=bundle,
        policy=Policy(Guarantee.LABEL, 0.5),
        result_topic=f"result/{name}",
        dead_letter_topic=f"dead/{name}",
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def asking(bundle: Bundle, model: Brittle) -> Bundle:
    """Return the bundle with another model, whose guesses all score 0.88."""
    scored = TierCalibration(label=Logistic(weights=(1.0,), bias=0.0))
    return replace(bundle, stages=(Stage(Tier.ENCODER, model, scored),))


def message(payload: bytes, number: int = 1) -> Message:
    """Return a message with its own id."""
    return arrived(payload, number=number)


async def test_a_message_becomes_a_result(bench: Bench, bundle: Bundle) -> None:
    """The parcel holds the result, ready to be published on the pipeline's topic."""
    order = WorkItem(message(b"turn on the lamp in the kitchen"), (road(bundle),))
    bench.engine.put(order)
    await bench.engine.work_once()
    [outgoing] = bench.outgoings
    assert outgoing.message is order.message
    assert [send.topic for send in outgoing.sends] == ["result/home"]
    [result] = bench.results()
    assert (result["id"], result["device"]) == ("made-1", "pi-3")
    assert (result["status"], result["label"]) == ("resolved", "lamp_on")
    assert [e["text"] for e in result["entities"]] == ["kitchen"]
    assert result["model"] == "tiny@1.0.0"
    assert 0 < result["ms"]["predict"] <= result["ms"]["total"]


async def test_takes_all_that_waits_up_to_a_batch(bench: Bench, bundle: Bundle) -> None:
    """The busier, the more is taken at a time, and order stays."""
    model = Brittle()
    pipeline = road(asking(bundle, model))
    for number in range(7):
        bench.engine.put(WorkItem(message(b"%d" % number, number), (pipeline,)))
    for _ in range(3):
        await bench.engine.work_once()
    assert model.asked == [["0", "1", "2"], ["3", "4", "5"], ["6"]]
    assert [p.message.seq & 7 for p in bench.outgoings] == list(range(7))
    assert [r["label"] for r in bench.results()] == list("0123456")


async def test_unreadable_messages_keep_their_place(
    bench: Bench, bundle: Bundle
) -> None:
    """A bad message ends as a dead letter between the results of its neighbours."""
    pipeline = road(bundle)
    for number, payload in enumerate((b"hello", b"\xff" * 20, b"turn off")):
        bench.engine.put(WorkItem(message(payload, number), (pipeline,)))
    await bench.engine.work_once()
    topics = [send.topic for outgoing in bench.outgoings for send in outgoing.sends]
    assert topics == ["result/home", "dead/home", "result/home"]
    good, dead, fine = bench.results()
    assert (good["label"], fine["label"]) == ("chat", "lamp_off")
    assert (dead["reason"], dead["id"]) == ("not_utf8", "made-1")
    assert (dead["bytes"], dead["truncated"]) == (20, False)
    assert bench.counters.dead_letters == {"not_utf8": 1}


async def test_one_topic_feeds_several_pipelines(bench: Bench, bundle: Bundle) -> None:
    """Each pipeline gives its own result; all leave in one parcel."""
    fields = Reader(text="t")
    pipelines = (
        road(bundle, "whole"),
        road(bundle, "field", reader=fields),
        road(bundle, "labels", tasks=frozenset({Task.CLASSIFY})),
    )
    bench.engine.put(WorkItem(message(b"turn on the kitchen"), pipelines))
    await bench.engine.work_once()
    [outgoing] = bench.outgoings
    assert [send.topic for send in outgoing.sends] == [
        "result/whole",
        "dead/field",
        "result/labels",
    ]
    whole, _, labels = bench.results()
    assert len(whole["entities"]) == 1
    assert labels["entities"] == []


async def test_one_bad_text_takes_no_neighbour_with_it(
    bench: Bench, bundle: Bundle
) -> None:
    """When a batch fails, each text is asked alone; only the culprit is unresolved."""
    pipeline = road(asking(bundle, Brittle()))
    for number, payload in enumerate((b"a", b"bad", b"c")):
        bench.engine.put(WorkItem(message(payload, number), (pipeline,)))
    with capture_logs() as logs:
        await bench.engine.work_once()
    statuses = [(r["status"], r["reason"], r["label"]) for r in bench.results()]
    assert statuses == [
        ("resolved", None, "a"),
        ("unresolved", "model_failed", None),
        ("resolved", None, "c"),
    ]
    assert [e["event"] for e in logs].count("model_failed") == 1


async def test_low_confidence(bench: Bench, bundle: Bundle) -> None:
    """What the policy does not let stand comes out unresolved, with the best guess."""
    pipeline = road(bundle, policy=Policy(Guarantee.LABEL, 0.999))
    bench.engine.put(WorkItem(message(b"turn on"), (pipeline,)))
    await bench.engine.work_once()
    [result] = bench.results()
    assert (result["status"], result["reason"]) == ("unresolved", "low_confidence")
    assert result["label"] == "lamp_on"


async def test_log(bench: Bench, bundle: Bundle) -> None:
    """One line a message, with its id and outcome, and never the text."""
    secrets = (b"my secret pin", b"secret\0", b"bad secret")
    pipeline = road(asking(bundle, Brittle()))
    for number, payload in enumerate(secrets):
        bench.engine.put(WorkItem(message(payload, number), (pipeline,)))
    with capture_logs() as logs:
        await bench.engine.work_once()
    assert "secret" not in str(logs)
    lines = [(e["event"], e["id"]) for e in logs if "id" in e]
    assert lines == [
        ("handled", "made-0"),
        ("dead_letter", "made-1"),
        ("handled", "made-2"),
    ]


async def test_the_score_in_the_log(bench: Bench, bundle: Bundle) -> None:
    """The log has the score of the result, that of entities without a label, too."""
    extracting = replace(road(bundle), tasks=frozenset({Task.EXTRACT}))
    for number, pipeline in enumerate((road(bundle), extracting)):
        bench.engine.put(WorkItem(message(b"hello kitchen", number), (pipeline,)))
    with capture_logs() as logs:
        await bench.engine.work_once()
    scores = [event["score"] for event in logs if event["event"] == "handled"]
    assert scores == [result["score"] for result in bench.results()]
    assert None not in scores


def test_each_bundle_is_asked_once(bundle: Bundle) -> None:
    """A batch over several bundles asks each for all its texts, and nobody mixes up."""
    models = [Brittle(), Brittle()]
    roads = [
        road(
            replace(
                asking(bundle, model),
                manifest=bundle.manifest.model_copy(update={"name": f"m{n}"}),
            ),
            f"road{n}",
        )
        for n, model in enumerate(models)
    ]
    jobs = [TextTask(roads[n % 2], Text(str(n), str(n))) for n in range(5)]
    found = [decision.prediction for decision in answer(jobs)]
    assert [p and p.label for p in found] == list("01234")
    assert [model.asked for model in models] == [[["0", "2", "4"]], [["1", "3"]]]


async def test_busy(bench: Bench, bundle: Bundle) -> None:
    """Idle is 0 seconds busy, before the first batch and after each."""
    assert bench.engine.busy_s() == 0.0
    bench.engine.put(WorkItem(message(b"hello"), (road(bundle),)))
    await bench.engine.work_once()
    assert bench.engine.busy_s() == 0.0


class Died(Exception):
    """Stands for the end of the process."""


@pytest.fixture
def ids(tmp_path: Path) -> Iterator[IdTable]:
    """Return a table of ids and deaths."""
    with IdTable(tmp_path / "ids") as table:
        yield table


@dataclass
class Deadly:
    """A model that ends the process at some texts."""

    asked: list[list[str]] = field(default_factory=list)

    def predict(self, texts: Sequence[str], _earlier: object) -> list[RawPrediction]:
        """Answer, or die."""
        self.asked.append(list(texts))
        if "die" in texts:
            raise Died
        return [RawPrediction(text, label_evidence=(2.0,)) for text in texts]


def answer_or_die(jobs: Sequence[TextTask]) -> list[Decision]:
    """Answer as the engine does, but let nobody survive what ends the process."""
    if not jobs:
        return []
    return jobs[0].pipeline.answer([job.text.text for job in jobs])


async def lives(
    ids: IdTable, bundle: Bundle, model: Deadly, payloads: Sequence[bytes]
) -> tuple[list[dict[str, Any]], bool]:
    """Let a process live until it dies or has answered all; return its answers."""
    outgoings: list[Outgoing] = []
    engine = Engine("pi", 8, Counters(), outgoings.append, ids)
    pipeline = road(asking(bundle, model))
    for mid, payload in enumerate(payloads, 1):
        ids.name(mid, redelivered=True, topic="t", payload=payload)
        told = replace(message(payload, mid), mid=mid)
        engine.put(WorkItem(told, (pipeline,)))
    try:
        while len(outgoings) < len(payloads):
            await engine.work_once()
    except Died:
        return Bench(engine, outgoings, Counters()).results(), False
    finally:
        engine._pool.shutdown()
    return Bench(engine, outgoings, Counters()).results(), True


async def test_a_message_that_ends_the_process_ends_as_poison(
    ids: IdTable, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After three deaths it is read no more; its neighbours are not counted for it.

    From the second on it is worked on alone, and what stands before it is answered.
    """
    monkeypatch.setattr(engine_module, "answer", answer_or_die)
    payloads = [b"a", b"die", b"c"]
    model = Deadly()
    for _ in range(3):
        found, alive = await lives(ids, bundle, model, payloads)
        assert not alive
    alone = [["a"], ["die"]]
    assert model.asked == [["a", "die", "c"], *alone, *alone]
    found, alive = await lives(ids, bundle, model, payloads)
    assert alive
    assert [each.get("label") for each in found] == ["a", None, "c"]
    assert (found[1]["reason"], found[1]["bytes"]) == ("poison", 3)
    assert "3 times" in found[1]["detail"]
    again, alive = await lives(ids, bundle, model, payloads)  # until it is acknowledged
    assert again[1]["reason"] == "poison"
    ids.acknowledged(2)
    assert not (await lives(ids, bundle, model, payloads))[1]


async def test_a_stop_is_no_death(ids: IdTable, bundle: Bundle) -> None:
    """What is cut off by an orderly end is worked on again as if nothing had been."""
    there = threading.Event()
    go_on = threading.Event()

    class Slow(Deadly):
        def predict(self, texts: Sequence[str], earlier: object) -> list[RawPrediction]:
            """Wait."""
            there.set()
            go_on.wait(10)
            return super().predict(texts, earlier)

    working = asyncio.ensure_future(lives(ids, bundle, Slow(), [b"a"]))
    await asyncio.to_thread(there.wait)
    assert ids.deaths(1) == 1
    working.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert ids.deaths(1) == 0


async def test_nothing_holds_on_to_a_message(bench: Bench, bundle: Bundle) -> None:
    """What was unreadable, megabytes maybe, is free at once, not some time later."""
    payload = bytes(range(128, 256))
    before = sys.getrefcount(payload)
    gc.disable()
    try:
        bench.engine.put(WorkItem(message(payload), (road(bundle),)))
        await bench.engine.work_once()
        bench.outgoings.clear()
        assert sys.getrefcount(payload) == before
    finally:
        gc.enable()


@dataclass
class Meeting:
    """A model that answers once as many texts are with it as there are workers."""

    together: threading.Barrier

    def predict(self, texts: Sequence[str], _earlier: object) -> list[RawPrediction]:
        """Wait for the others; fails where they do not come."""
        self.together.wait(5)
        return [RawPrediction(text, label_evidence=(2.0,)) for text in texts]


async def test_workers_share_what_waits(bundle: Bundle) -> None:
    """Each takes its share at the same time; the parcels come in order of arrival."""
    outgoings: list[Outgoing] = []
    engine = Engine("pi", 9, Counters(), outgoings.append, workers=3)
    pipeline = road(asking(bundle, Meeting(threading.Barrier(3))))  # type: ignore[arg-type]
    for number in range(7):
        engine.put(WorkItem(message(b"text %d" % number, number), (pipeline,)))
    await engine.work_once()
    engine._pool.shutdown()
    labels = [
        ending_object(outgoing.sends[0].ending)["label"] for outgoing in outgoings
    ]
    assert labels == [f"text {number}" for number in range(7)]


async def test_fewer_texts_than_workers(bundle: Bundle) -> None:
    """One text is one share; none are none."""
    outgoings: list[Outgoing] = []
    engine = Engine("pi", 9, Counters(), outgoings.append, workers=3)
    engine.put(WorkItem(message(b"text"), (road(asking(bundle, Brittle())),)))
    engine.put(WorkItem(message(b"\xff", 2), (road(bundle),)))
    await engine.work_once()
    engine.put(WorkItem(message(b"\xff", 3), (road(bundle),)))
    await engine.work_once()
    engine._pool.shutdown()
    assert [len(outgoing.sends) for outgoing in outgoings] == [1, 1, 1]
