"""The nouns: Message -> Text -> Prediction -> Decision -> Result.

Frozen values without behaviour. This module imports only the standard library,
and everything else may import it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Tier(StrEnum):
    """Which tier, or who else, answered: the `by` of a result."""

    LINEAR = "linear"
    ENCODER = "encoder"
    DECODER = "decoder"
    UPSTREAM = "upstream"
    CACHE = "cache"
    LEARNED = "learned"


class Reason(StrEnum):
    """Why a message was not resolved locally; the same word on the wire and in logs.

    The first group ends in an `unresolved` result or goes upstream. The second ends in
    a dead letter. Two are in both: `missing_field`, if the answer lacks a required
    entity, and `too_long`, if the result does not fit the broker's packet size, end in
    an `unresolved` result.
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
    POISON = "poison"  # it ended the process three times, or its packet is broken


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
    """How a case ended: the `upstream` of its result."""

    ANSWERED = "answered"
    ABSTAINED = "abstained"  # upstream said that nothing fits, or gave no valid answer
    REFUSED = "refused"  # upstream will never accept it, or it must not leave
    TIMEOUT = "timeout"  # no answer before the deadline
    FULL = "full"  # dropped from a full outbox
    BUDGET = "budget"  # the day's budget was spent


class Routing(StrEnum):
    """Who is to answer: a pipeline's policy, or that of a label."""

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
    MAC_ADDRESS = "MAC_ADDRESS"
    LOCATION = "LOCATION"


class Guarantee(StrEnum):
    """Which errors a bound counts: a wrong label, any wrong entity, or either."""

    LABEL = "label"
    ENTITIES = "entities"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class Message:
    """An MQTT application message and the way to acknowledge it.

    `id` is the producer's own id, or one that we made; a redelivery has the same id.
    `seq` counts arrivals; `epoch` numbers the connection that the message came by.
    `subscriptions` are the MQTT 5 subscription identifiers that it matched, if any;
    `correlation`, `response_topic` and `user` are properties of MQTT 5 as well.
    `retained`: the broker had it before we subscribed. `again`: it may have been
    delivered before. `cut`: bytes of the payload beyond our limit, which are not here.
    `defect`: what of its packet could not be read; empty: nothing. `mid` is its packet
    identifier; 0: none, at QoS 0.
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
    cut: int = 0
    defect: str = ""
    mid: int = 0


@dataclass(frozen=True, slots=True)
class Text:
    """The text that a pipeline read from a message, and the id of its result."""

    text: str
    id: str


@dataclass(frozen=True, slots=True)
class Entity:
    """A span of the text: character offsets, `end` exclusive.

    `score` is from 0 to 1; None in answers of upstream, which have none.
    """

    label: str
    text: str
    start: int
    end: int
    score: float | None


@dataclass(frozen=True, slots=True)
class RawPrediction:
    """The prediction of a tier before calibration; scores of its entities are raw.

    `label_evidence` and `entities_evidence` are the numbers from which calibration
    computes the probability that the answer is right. The first is the log-odds that
    the model itself gives its answer; the others depend on the model family.
    `outside` is the model's own probability that the text is out of scope; None if it
    was not trained to recognise that. `opinion` is for a later tier: the
    log-probability of each label, in the bundle's order; empty if there is none.
    `forms` is the probability of each form of the utterance, in the order of `Form`;
    empty if the model was not taught forms. `ruled` are the forms that rules see.
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

    `label` and `score` are None if the bundle does not classify. `entities_score` is
    the probability that all entities are right and none is missing; None if the bundle
    does not extract. `outside` is the probability that the text is out of scope.
    `forms` and `ruled` are as in a raw prediction; of `forms` those that are allowed
    must have `form_floor` together.
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
    """The prediction is sure enough to be the answer.

    `reason` says why the local models did not resolve it, if upstream answered.
    """

    prediction: Prediction
    error_bound: float | None  # certified share of wrong answers; None: not certified
    reason: Reason | None = None


@dataclass(frozen=True, slots=True)
class Unresolved:
    """No local tier is sure enough; `prediction` is the best guess, if there is one."""

    reason: Reason
    prediction: Prediction | None = None


Decision = Resolved | Unresolved


@dataclass(frozen=True, slots=True)
class Timing:
    """Durations in milliseconds.

    `queue` is the wait for the worker, `predict` the time in the models, `total` from
    arrival to the result.
    """

    queue: float
    predict: float
    total: float


@dataclass(frozen=True, slots=True)
class Result:
    """A result for a consumer; each message has one final result in each pipeline."""

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
    upstream: Outcome | None = None  # None: it was no case


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """What a consumer gets of a message that has no result: the original, and why.

    `payload` is what there is of the original, `size` how many bytes that had: a packet
    beyond our limit is cut while it is read.
    """

    id: str
    device: str
    pipeline: str
    topic: str
    reason: Reason
    detail: str  # for people; never the text itself
    payload: bytes
    size: int
    received_at: datetime
