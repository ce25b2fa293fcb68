"""`slm-agent eval`: score a pipeline on labelled data, one text at a time."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from agent.core.errors import Unreadable
from agent.core.types import Decision, Unresolved
from agent.evaluation.examples import Example
from agent.evaluation.intervals import intervals
from agent.evaluation.scoring import ScoredAnswer, scoreboard
from agent.inference.decide import confidence
from agent.inference.pipeline import Pipeline
from agent.protocol.messages import decision_object
from agent.protocol.payload import checked
from agent.telemetry.counters import percentiles

WARM_UP = 20


def answer(pipeline: Pipeline, text: str) -> Decision:
    """Return the decision of a pipeline about one text, as in the daemon."""
    try:
        readable = checked(text, pipeline.reader.max_chars)
    except Unreadable as why:
        return Unresolved(why.reason)
    [decision] = pipeline.answer([readable])
    return decision


def timed(pipeline: Pipeline, text: str) -> tuple[Decision, float]:
    """Return the decision about one text and the milliseconds it took."""
    started = time.perf_counter()
    decision = answer(pipeline, text)
    return decision, (time.perf_counter() - started) * 1000


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The figures of `eval --json`, and the answer to each example, in order.

    Shares are from 0 to 1, times in milliseconds.
    """

    figures: dict[str, Any]
    answers: tuple[ScoredAnswer, ...]
    labels: frozenset[str]  # of the bundle


def evaluate(
    pipeline: Pipeline, examples: Sequence[Example], progress: Callable[[], None]
) -> Evaluation:
    """Ask a pipeline about each example; `progress` is called after each.

    Raises what the models raise.
    """
    for example in examples[:WARM_UP]:
        answer(pipeline, example.text)
    answers = []
    times = []
    for example in examples:
        decision, ms = timed(pipeline, example.text)
        times.append(ms)
        answers.append(ScoredAnswer(example, decision, _confidence(pipeline, decision)))
        progress()
    labels = frozenset(pipeline.bundle.manifest.labels)
    figures = asdict(scoreboard(answers, labels))
    p50, p99 = percentiles(times)
    figures |= {
        "pipeline": pipeline.name,
        "model": pipeline.bundle.id,
        "texts_per_s": round(len(times) / sum(times) * 1000, 1),
        "ms_p50": p50,
        "ms_p99": p99,
    }
    rounded = {
        key: round(value, 4) if isinstance(value, float) else value
        for key, value in figures.items()
    }
    rounded["intervals"] = {
        name: [round(end, 4) for end in interval]
        for name, interval in intervals(answers, labels).items()
    }
    return Evaluation(rounded, tuple(answers), labels)


def prediction_line(example: Example, decision: Decision) -> dict[str, Any]:
    """Return a decision as the object of a line of `--predictions`."""
    answer = decision_object(decision)
    spans = [
        {key: entity[key] for key in ("start", "end", "label", "score")}
        for entity in answer["entities"]
    ]
    kept = {key: answer[key] for key in ("status", "by", "label", "score")}
    return {
        **kept,
        "spans": spans,
        "reason": answer["reason"],
        "text": example.text,
        "gold": example.model_dump(mode="json", include={"label", "spans"}),
    }


def _confidence(pipeline: Pipeline, decision: Decision) -> float:
    if decision.prediction is None:
        return 0.0
    return confidence(decision.prediction, pipeline.policy.guarantee)
