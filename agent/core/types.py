"""The nouns: Message -> Text -> Prediction -> Decision -> Result.

Frozen values without behaviour. This module imports only the standard library,
and everything else may import it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Tier(StrEnum):
    """Who answered: the `by` of a result."""

    LINEAR = "linear"
    ENCODER = "encoder"
    DECODER = "decoder"
    UPSTREAM = "upstream"
    CACHE = "cache"
    LEARNED = "learned"


class Reason(StrEnum):
    """Why a message was not resolved locally: one word on the wire, in logs, in counts.

    The first group ends in an `unresolved` result or goes upstream, and so does a
    `missing_field` of the answer; the second ends in a dead letter, and so does
    `too_long`, but for a result that the broker's packet size had no room for.
    """

    LOW_CONFIDENCE = "low_confidence"
    OUT_OF_SCOPE = "out_of_scope"
    UNCALIBRATED = "uncalibrated"
    MODEL_FAILED = "model_failed"
    INVALID_FIELD = "invalid_field"
    POLICY = "policy"
    NEGATED = "negated"  # from here on: the form, which the pipeline does not allow
    SEVERAL_REQUESTS = "several_requests"
    QUESTION = "question"
    STATEMENT = "statement"
    CONDITIONAL = "conditional"

    NOT_UTF8 = "not_utf8"
    UNKNOWN_ENCODING = "unknown_encoding"
    NOT_JSON = "not_json"
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    EMPTY = "empty"
    TOO_LONG = "too_long"
    CONTROL_CHARACTERS = "control_characters"
    UNREADABLE_CASE = "unreadable_case"  # in the outbox, by another version


class Form(StrEnum):
    """What kind of utterance a text is; a form that is not allowed is a `Reason`."""

    REQUEST = "request"
    NEGATED = "negated"  # or cancelled
    SEVERAL = "several_requests"
    QUESTION = "question"  # about a state, or how to do it
    STATEMENT = "statement"  # a report
    CONDITIONAL = "conditional"
    DELAYED = "delayed"  # `conditional` on the wire: what is wanted is not wanted now


class Outcome(StrEnum):
    """What came of asking upstream: the `upstream` of a result that was a case."""

    ANSWERED = "answered"
    ABSTAINED = "abstained"  # it said that nothing fits, or nothing usable
    REFUSED = "refused"  # it will never take this request, or it must not leave
    TIMEOUT = "timeout"  # no answer before the deadline
    FULL = "full"  # dropped from a full outbox
    BUDGET = "budget"  # the day's budget was spent


class Routing(StrEnum):
    """Who is to answer: a pipeline's policy, which a label may overrule."""

    PREFER_LOCAL = "prefer_local"
    ALWAYS_LOCAL = "always_local"
    ALWAYS_UPSTREAM = "always_upstream"
    NEVER_UPSTREAM = "never_upstream"


class Task(StrEnum):
    """What a pipeline wants from its bundle, in one pass of the model."""

    CLASSIFY = "classify"
    EXTRACT = "extract"


class CheckedKind(StrEnum):
    """Kinds of personal data that checked patterns find (`inference.patterns`)."""

    IBAN_CODE = "IBAN_CODE"
    CREDIT_CARD = "CREDIT_CARD"
    EMAIL_ADDRESS = "EMAIL_ADDRESS"
    IP_ADDRESS = "IP_ADDRESS"
    US_SSN = "US_SSN"
    DOMAIN_NAME = "DOMAIN_NAME"
    PHONE_NUMBER = "PHONE_NUMBER"


class Guarantee(StrEnum):
    """What an error bound speaks of: a wrong label, any wrong entity, or either."""

    LABEL = "label"
    ENTITIES = "entities"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class Message:
    """An MQTT application message and the way to acknowledge it.

    `id` names the message for good: the producer's own id, or one that a
    redelivery gets again. `seq` counts arrivals; `epoch` is the connection it came by.
    `subscriptions` are the MQTT 5 subscription identifiers it matched, if any;
    `correlation`, `response_topic` and `user` are properties of MQTT 5, too.
    `retained`: the broker had it before we subscribed; `again`: it may have been sent
    to us before.
    """

    topic: str
    payload: bytes
    qos: int
    id: str
    seq: int
    epoch: int
    received_at: datetime
    arrived: float  # time.perf_counter() seconds, for durations
    ack: Callable[[], None]
    content_type: str | None = None
    subscriptions: tuple[int, ...] = ()
    correlation: bytes | None = None
    response_topic: str | None = None
    user: tuple[tuple[str, str], ...] = ()
    retained: bool = False
    again: bool = False


@dataclass(frozen=True, slots=True)
class Text:
    """What a pipeline read out of a message."""

    text: str
    id: str


@dataclass(frozen=True, slots=True)
class Entity:
    """A span of the text; character offsets, `end` exclusive.

    `score` is None where nobody measured it: upstream's answers.
    """

    label: str
    text: str
    start: int
    end: int
    score: float | None


@dataclass(frozen=True, slots=True)
class RawPrediction:
    """What a tier says before calibration; the scores of its entities are raw.

    The evidence is what tells right from wrong answers: numbers whose first is the
    log-odds that the model itself gives its answer, and whose meaning is the family's.
    `outside` is the model's own probability that the text is none of its business;
    None where it was not taught what is outside. `opinion` is for a later tier to heed:
    the log-probability of each label, in the bundle's order; empty if there is none.
    `forms` is the probability of each form of the utterance, in the order of `Form`;
    empty where the model was not taught forms. `ruled` are those that rules see.
    """

    label: str | None
    entities: tuple[Entity, ...] = ()
    label_evidence: tuple[float, ...] = ()
    entities_evidence: tuple[float, ...] = ()
    outside: float | None = None
    opinion: tuple[float, ...] = ()
    forms: tuple[float, ...] = ()
    ruled: tuple[Form, ...] = ()


@dataclass(frozen=True, slots=True)
class Prediction:
    """The best local guess of one tier; scores are calibrated, 0 to 1.

    `label` and `score` are None where the bundle does not classify. `entities_score`
    is how likely all entities are right and none is missing; None where the bundle
    does not extract. `forms` and `ruled` are as in a guess; of `forms` those that are
    allowed must have `form_floor` together.
    """

    by: Tier
    label: str | None
    score: float | None
    entities: tuple[Entity, ...] = ()
    entities_score: float | None = None
    outside: float | None = None
    forms: tuple[float, ...] = ()
    ruled: tuple[Form, ...] = ()
    form_floor: float = 0.5


@dataclass(frozen=True, slots=True)
class Resolved:
    """The prediction is good enough to be the answer.

    `reason` says why the local models passed, where upstream answered instead.
    """

    prediction: Prediction
    error_bound: float | None  # certified share of wrong answers; None: not certified
    reason: Reason | None = None


@dataclass(frozen=True, slots=True)
class Unresolved:
    """Nobody local may answer; the best guess stays attached, if there is one."""

    reason: Reason
    prediction: Prediction | None = None


Decision = Resolved | Unresolved


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds: waiting for the worker, in the model, from arrival to publish."""

    queue: float
    predict: float
    total: float


@dataclass(frozen=True, slots=True)
class Result:
    """What a consumer gets, exactly once final for each message and pipeline."""

    id: str
    device: str
    pipeline: str
    topic: str
    decision: Decision
    model: str
    received_at: datetime
    timing: Timing
    rev: int = 0
    final: bool = True
    upstream: Outcome | None = None  # None: not asked
