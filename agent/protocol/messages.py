"""What goes over the wire: topics and JSON payloads, version 1 of each."""

import base64
import hashlib
from datetime import UTC, datetime
from typing import Any

from pydantic_core import to_json

from agent.core.types import (
    DeadLetter,
    Decision,
    Form,
    Prediction,
    Resolved,
    Result,
    Timing,
)

VERSION = 1
LONGEST_DETAIL = 300  # characters
# What changes the meaning of a request most comes first.
GRAVEST = (
    Form.NEGATED,
    Form.SEVERAL,
    Form.QUESTION,
    Form.CONDITIONAL,
    Form.DELAYED,
    Form.STATEMENT,
    Form.REQUEST,
)


class Topics:
    """The names under `slm/<device>/` (docs/architecture.md lists them)."""

    def __init__(self, device: str) -> None:
        """`device` is the device's id."""
        self._base = f"slm/{device}"
        self.status = f"{self._base}/status"
        self.birth = f"{self._base}/birth"
        self.health = f"{self._base}/health"

    @property
    def fleet(self) -> str:
        """Which fleet file the device wants, runs, and why."""
        return f"{self._base}/fleet"

    @property
    def answer(self) -> str:
        """Where upstream answers, by MQTT."""
        return f"{self._base}/answer"

    @property
    def requests(self) -> str:
        """The filter of what the device may be asked to do."""
        return f"{self._base}/request/+"

    def request(self, name: str) -> str:
        """Where the device takes a request of this name."""
        return f"{self._base}/request/{name}"

    def response(self, name: str) -> str:
        """Where the answer to a request goes."""
        return f"{self._base}/response/{name}"

    def alert(self, name: str) -> str:
        """Retained while the alert is active, emptied when it is cleared."""
        return f"{self._base}/alert/{name}"

    def result(self, pipeline: str) -> str:
        """Where results go unless the pipeline names another topic."""
        return f"{self._base}/result/{pipeline}"

    def dead_letter(self, pipeline: str) -> str:
        """Where messages end that no text could be read from."""
        return f"{self._base}/deadletter/{pipeline}"


def iso(moment: datetime) -> str:
    """Return a time in UTC as RFC 3339: `2026-11-23T17:20:18.123Z`."""
    utc = moment.astimezone(UTC)
    return utc.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def ending_payload(ending: Result | DeadLetter) -> bytes:
    """Encode a result or a dead letter as the JSON object that consumers rely on.

    The original may have megabytes, so it is not copied more often than it must.
    """
    if isinstance(ending, Result):
        return result_payload(ending)
    around = to_json(_letter(ending, ""))
    # Inside a JSON string this cannot stand: its quotes would be escaped.
    head, mark, tail = around.partition(b'"payload":"')
    return b"".join([head, mark, base64.b64encode(ending.payload), tail])


def ending_object(ending: Result | DeadLetter) -> dict[str, Any]:
    """Return a result or a dead letter as the object that consumers rely on."""
    if isinstance(ending, DeadLetter):
        return dead_letter_object(ending)
    return result_object(ending)


def result_payload(result: Result) -> bytes:
    """Encode a result as the JSON object that consumers rely on."""
    return to_json(result_object(result))


def result_object(result: Result) -> dict[str, Any]:
    """Return a result as the object of the contract, every key of it always present.

    What was a case says besides what came of it: `upstream`.
    """
    return {
        "v": VERSION,
        "id": result.id,
        "rev": result.rev,
        "final": result.final,
        "device": result.device,
        "pipeline": result.pipeline,
        "topic": result.topic,
        **decision_object(result.decision),
        "model": result.model,
        "received_at": iso(result.received_at),
        "ms": milliseconds(result.timing),
        **({"upstream": result.upstream.value} if result.upstream else {}),
    }


def decision_object(decision: Decision) -> dict[str, Any]:
    """Return status, guess and reason; entities carry character offsets."""
    resolved = isinstance(decision, Resolved)
    prediction = decision.prediction
    return {
        "status": "resolved" if resolved else "unresolved",
        **guess_object(prediction),
        "reason": decision.reason and decision.reason.value,
        "error_bound": decision.error_bound if isinstance(decision, Resolved) else None,
    }


def guess_object(prediction: Prediction | None) -> dict[str, Any]:
    """Return who says what, how sure, with entities by character offsets.

    `form` is that of the utterance, where it seems to be no plain request.
    """
    if prediction is None:
        return {"by": None, "label": None, "score": None, "entities": []}
    form = form_of(prediction)
    return {
        "by": prediction.by.value,
        "label": prediction.label,
        "score": score_of(prediction),
        "entities": [
            {
                "label": entity.label,
                "text": entity.text,
                "start": entity.start,
                "end": entity.end,
                "score": None if entity.score is None else round(entity.score, 4),
            }
            for entity in prediction.entities
        ],
        **({} if form in {None, Form.REQUEST} else {"form": _wire(form)}),
    }


def score_of(prediction: Prediction | None) -> float | None:
    """Return the score of a result, rounded as it is published.

    Where nobody asked for a label, it is that of all entities together.
    """
    if prediction is None:
        return None
    extracted = prediction.label is None and prediction.score is None
    score = prediction.entities_score if extracted else prediction.score
    return None if score is None else round(score, 4)


def form_of(prediction: Prediction) -> Form | None:
    """Return what form the text seems to have; None where nobody looked.

    The gravest of what rules see and what the model thinks likeliest.
    """
    seen = set(prediction.ruled)
    if prediction.forms:
        shares = dict(zip(Form, prediction.forms, strict=True))
        seen.add(max(Form, key=lambda form: shares[form]))
    return next((form for form in GRAVEST if form in seen), None)


def _wire(form: Form) -> str:
    return (Form.CONDITIONAL if form is Form.DELAYED else form).value


def milliseconds(timing: Timing) -> dict[str, float]:
    """Return durations, ready for JSON."""
    return {
        "queue": round(timing.queue, 3),
        "predict": round(timing.predict, 3),
        "total": round(timing.total, 3),
    }


def dead_letter_object(letter: DeadLetter) -> dict[str, Any]:
    """Return a dead letter as the object of the contract, the original in base64.

    The original is not hashed where we have only a part of it.
    """
    return _letter(letter, base64.b64encode(letter.payload).decode("ascii"))


def _letter(letter: DeadLetter, payload: str) -> dict[str, Any]:
    cut = len(letter.payload) < letter.size
    digest = None if cut else hashlib.sha256(letter.payload).hexdigest()
    return {
        "v": VERSION,
        "id": letter.id,
        "device": letter.device,
        "pipeline": letter.pipeline,
        "topic": letter.topic,
        "reason": letter.reason.value,
        "detail": letter.detail[:LONGEST_DETAIL],
        "payload": payload,
        "truncated": cut,
        "bytes": letter.size,
        "sha256": digest,
        "time": iso(letter.received_at),
    }
