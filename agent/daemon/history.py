"""The last messages, so that their results can be explained, over a reload as well.

Never what was in them, unless their pipeline allows it.
"""

import hashlib
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from agent.core.types import DeadLetter, Form, Prediction, Result, Routing
from agent.fleet.resolve import LOCAL, PIPELINES, SHIPPED
from agent.fleet.values import Values
from agent.inference.decide import Policy
from agent.inference.engine import Outgoing
from agent.inference.pipeline import Pipeline
from agent.protocol.cases import Case
from agent.protocol.messages import ending_object, guess_object, iso, milliseconds
from agent.protocol.payload import Reader

RECENT = 1000  # messages that can be explained
RECENT_BYTES = 8 * 2**20  # and what they may take
TEXT_MAX = 10_000  # bytes of a text that is kept
VALUE_BYTES = 500  # that a value takes, beside its texts; so does an entity
SHOWN = (
    "pipeline",
    "status",
    "final",
    "by",
    "label",
    "score",
    "entities",
    "reason",
    "error_bound",
    "model",
    "ms",
    "detail",
)
THRESHOLD = {None, "low_confidence", "out_of_scope"}  # reasons that it decides
# Which key decides otherwise; what is missing here, none does: the model failed, or the
# text is none.
OF_RESULTS = {
    "missing_field": "fields",
    "invalid_field": "fields",
    "uncalibrated": "models.on_mismatch",  # of agent.toml
}
FORMS = frozenset(Form) - {Form.REQUEST}  # reasons, too
OF_DEAD_LETTERS = {
    "too_long": "input.max_chars",
    "not_utf8": "input.encoding",
    "missing_field": "input.text",
    "wrong_type": "input.text",
}


@dataclass(frozen=True, slots=True)
class DecisionTerms:
    """By what a pipeline decided, and where that stands: `values` are a fleet's."""

    pipeline: str
    reader: Reader
    policy: Policy
    max_error: float
    threshold_key: str  # what gives the threshold
    tells: bool  # what a text was
    values: Values

    def decided_by(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Say which key of the configuration decided, and what it came to.

        `result` is a result, a case or a dead letter, as JSON; no key: null.
        """
        key = self._key(result)
        return {
            "file": key and self._file(key),
            "key": key,
            "max_error": self.max_error,
            "guarantee": self.policy.guarantee,
            "threshold": self.policy.threshold,
            "policy": self.policy.routing_of(result.get("label")),
        }

    def _key(self, result: Mapping[str, Any]) -> str | None:
        reason, label = result.get("reason"), result.get("label")
        if "status" not in result:
            if reason == "not_json":
                return "input.text" if self.reader.text else "input.id"
            return OF_DEAD_LETTERS.get(str(reason))
        local = self.policy.routing_of(label) is Routing.ALWAYS_LOCAL
        if reason == "policy" or (reason is None and local):
            named = label in self.policy.routing_by_label
            return f"upstream.labels.{label}" if named else "upstream.policy"
        if reason in THRESHOLD:
            return self.threshold_key
        if reason in FORMS:
            named = label in self.policy.forms.labels
            return f"decide.labels.{label}.forms" if named else "decide.forms"
        return OF_RESULTS.get(str(reason))

    def _file(self, key: str) -> str:
        """Name where the key stands, or would."""
        ours = key != OF_RESULTS["uncalibrated"]
        above = (PIPELINES, self.pipeline) if ours else ("agent",)
        path = (*above, *key.split("."))
        leaves = (v for k, v in self.values.items() if k[: len(path)] == path)
        leaf = next(leaves, None)
        if leaf and leaf.origin not in {LOCAL, SHIPPED}:
            return f"fleet: {leaf.where}"
        return f"pipelines/{self.pipeline}.toml" if ours else "agent.toml"


def decision_terms(
    pipelines: Iterable[Pipeline], values: Values
) -> dict[str, DecisionTerms]:
    """Return by what each pipeline decides; it holds on to no model."""
    return {
        p.name: DecisionTerms(
            pipeline=p.name,
            reader=p.reader,
            policy=p.policy,
            max_error=p.max_error,
            threshold_key="decide.min_score" if p.floored else "decide.max_error",
            tells=p.explains_text,
            values=values,
        )
        for p in pipelines
    }


@dataclass(frozen=True, slots=True)
class Handled:
    """What is remembered of a message that was answered."""

    topic: str
    received_at: datetime
    sha256: str
    text: str | None
    endings: tuple[Result | DeadLetter, ...]  # without what dead letters carry
    cases: tuple[Case, ...]  # without their texts
    terms: Mapping[str, DecisionTerms] = field(repr=False)

    @property
    def size(self) -> int:
        """How many bytes it takes, roughly."""
        guesses = [
            *(e.decision.prediction for e in self.endings if isinstance(e, Result)),
            *(case.guess for case in self.cases),
        ]
        names = [each.id + each.topic for each in (*self.endings, *self.cases)]
        texts = [self.topic, self.text or "", *names]
        return sum(map(len, texts)) + sum(map(_guess_bytes, guesses))

    def explained(self) -> dict[str, Any]:
        """Return it ready for JSON, each answer with what decided it."""
        return {
            "topic": self.topic,
            "received_at": iso(self.received_at),
            "payload_sha256": self.sha256,
            "text": self.text,
            "results": [self._result(ending_object(each)) for each in self.endings],
            "cases": [self._case(case) for case in self.cases],
        }

    def _result(self, result: Mapping[str, Any]) -> dict[str, Any]:
        shown = {key: result.get(key) for key in SHOWN}
        if "form" in result:
            shown["form"] = result["form"]
        return shown | {"decided_by": self.terms[result["pipeline"]].decided_by(result)}

    def _case(self, case: Case) -> dict[str, Any]:
        fields = {"reason": case.reason.value, **guess_object(case.guess)}
        decided = self.terms[case.pipeline].decided_by({"status": "case", **fields})
        return {
            "pipeline": case.pipeline,
            **fields,
            "model": case.model,
            "ms": milliseconds(case.timing),
            "deadline": iso(case.deadline),
            "decided_by": decided,
        }


class History:
    """Owns the memory of the last messages."""

    def __init__(self) -> None:
        """Nothing is remembered yet, and no pipeline known."""
        self._terms: Mapping[str, DecisionTerms] = {}
        self._open: frozenset[str] = frozenset()
        self._handled: deque[Handled] = deque()
        self._bytes = 0

    def govern(self, terms: Mapping[str, DecisionTerms]) -> None:
        """Take the terms of what is added from now on.

        Where a pipeline tells texts no longer, none is told that is remembered.
        """
        before, self._terms = self._open, terms
        self._open = frozenset(name for name, each in terms.items() if each.tells)
        if before - self._open:
            self._handled = deque(replace(each, text=None) for each in self._handled)
            self._bytes = sum(each.size for each in self._handled)

    def add(self, outgoing: Outgoing) -> None:
        """Remember a message and what came of it, but for what was in it."""
        message, payload = outgoing.message, outgoing.message.payload
        endings = [_kept(send.ending) for send in outgoing.sends if not send.case]
        text = None
        if any(each.pipeline in self._open for each in (*endings, *outgoing.cases)):
            text = payload[:TEXT_MAX].decode("utf-8", "replace")
        handled = Handled(
            topic=message.topic,
            received_at=message.received_at,
            sha256=hashlib.sha256(payload).hexdigest(),
            text=text,
            endings=tuple(endings),
            cases=tuple(replace(case, text="") for case in outgoing.cases),
            terms=self._terms,
        )
        self._handled.append(handled)
        self._bytes += handled.size
        while len(self._handled) > RECENT or self._bytes > RECENT_BYTES:
            self._bytes -= self._handled.popleft().size

    def find(self, result: str) -> Handled | None:
        """Return the last message with a result or case of this id."""
        for handled in reversed(self._handled):
            if any(e.id == result for e in (*handled.cases, *handled.endings)):
                return handled
        return None


def _kept(ending: Result | DeadLetter) -> Result | DeadLetter:
    """Leave out what a dead letter carries."""
    return replace(ending, payload=b"") if isinstance(ending, DeadLetter) else ending


def _guess_bytes(guess: Prediction | None) -> int:
    entities = guess.entities if guess else ()
    return VALUE_BYTES * (1 + len(entities)) + sum(len(e.text) for e in entities)
