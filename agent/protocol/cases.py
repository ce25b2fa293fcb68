"""Cases: what is asked upstream, what may come back, and what makes an answer valid.

A `Case` is an unresolved message on its way upstream and back; the outbox keeps it. A
`Request` is what of it may leave the device, and a `Reply` what came back, in the wire
form of both transports. An answer names entities by their words: whoever made one up is
caught, and character offsets are ours to find.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import from_json

from agent.core.explain import first
from agent.core.types import Entity, Outcome, Prediction, Reason, Tier, Timing
from agent.protocol.guesses import MOST_ENTITIES, restricted
from agent.protocol.strict_json import strict_json

LONGEST_QUOTE = 4000  # characters of an unusable answer that go back for the repair
LONGEST_ANSWER = 1_000_000  # bytes of a reply; more is nobody's answer
LONGEST_NAME, LONGEST_ERROR, LONGEST_REASON = 256, 2000, 64  # characters; then cut
UNPRINTABLE = "\ufffd"
VOLATILE = {"v", "deadline_ms", "reply_to"}  # of a request that is sent again
# What is beyond is a mistake or malice, and no database or float has room for it.
MOST_TOKENS = 10**9
HIGHEST_COST = 1e9
LATEST_MS = 253_402_300_799_999  # Unix time: the end of the year 9999


class BadRequest(Exception):
    """A case that no answer can be made of; the message says what is wrong."""


class Unusable(StrEnum):
    """Why an answer that was paid for is of no use, or why there is none."""

    REJECTED = "rejected"  # no model takes this request, though others are taken

    CUT = "cut"  # longer than the longest that was allowed
    DECLINED = "declined"  # the model will not answer
    NO_JSON = "no_json"
    MALFORMED = "malformed"  # JSON of another form
    UNKNOWN_LABEL = "unknown_label"
    UNKNOWN_TYPE = "unknown_type"  # of an entity
    NOT_IN_TEXT = "not_in_text"  # an entity that does not stand there


class BadReply(Exception):
    """Not a reply, or its answer breaks a rule; the message says which, for repair."""

    def __init__(self, why: str, reason: str = Unusable.MALFORMED) -> None:
        """`reason` is for counting; it may be one that only another version knows."""
        super().__init__(why)
        self.reason = reason


Tokens = Annotated[int, Field(ge=0, le=MOST_TOKENS)]
Cost = Annotated[float, Field(ge=0, le=HIGHEST_COST)]


class WireModel(BaseModel):
    """Crosses the network: unknown keys may come from a later version."""

    model_config = ConfigDict(frozen=True, extra="ignore")


@dataclass(frozen=True, slots=True)
class Case:
    """An unresolved message; all that its final result needs, and nothing volatile."""

    id: str
    pipeline: str
    topic: str
    text: str
    reason: Reason
    guess: Prediction | None
    model: str
    received_at: datetime
    deadline: datetime
    timing: Timing
    priority: int = 0  # larger goes first

    @property
    def key(self) -> str:
        """Name the case: a message that comes again asks a pipeline only once.

        Producers on other topics may use the same ids. It stays on the device: with all
        else known, the text can be guessed from it.
        """
        named = f"{self.pipeline}\x00{self.topic}\x00{self.id}\x00{self.text}"
        return hashlib.sha256(named.encode("utf-8", "surrogatepass")).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class CaseOutcome:
    """What came of a case. Without a prediction the local guess is all there is."""

    outcome: Outcome
    prediction: Prediction | None = None
    model: str | None = None


_CASE: TypeAdapter[Case] = TypeAdapter(Case)


def field_of(body: bytes, name: str) -> str:
    """Return a text in what may be no case, nor even JSON; empty: it has none."""
    try:
        document = from_json(body)
    except ValueError:
        return ""
    value = document.get(name) if isinstance(document, dict) else None
    return value if isinstance(value, str) else ""


def encode_case(case: Case) -> bytes:
    """Return the case as JSON."""
    return _CASE.dump_json(case)


def decode_case(body: bytes) -> Case:
    """Return what `encode_case` wrote; raises ValueError for another version's."""
    try:
        return _CASE.validate_json(body)
    except ValidationError as error:
        raise ValueError(first(error)) from error


class Named(WireModel):
    """An entity as an answer names it: by its words, in the order of the text."""

    label: str
    text: str


class Repair(WireModel):
    """What was wrong with the answer before: the second and last try."""

    answer: Any
    error: str


class Request(WireModel):
    """A case as it leaves the device: after the privacy gate, for any upstream.

    `labels` and `entities` map each name that an answer may use to what it means; empty
    where the pipeline does not ask for it. `guess` is the best local one, with scores;
    of what it says only known names, numbers, and words of the text are kept.
    `deadline_ms` is Unix time.
    """

    v: Literal[1] = 1
    id: Annotated[str, Field(min_length=1, max_length=256)]
    device: Annotated[str, Field(max_length=256)]
    pipeline: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$", max_length=64)]
    text: str
    labels: dict[str, str] = {}
    entities: dict[str, str] = {}
    guess: dict[str, Any] | None = None
    redacted: Annotated[int, Field(ge=0)] = 0
    deadline_ms: Annotated[int, Field(ge=0, le=LATEST_MS)]
    reply_to: str | None = None
    repair: Repair | None = None

    @field_validator("guess")
    @classmethod
    def _restricted(
        cls, guess: dict[str, Any] | None, info: ValidationInfo
    ) -> dict[str, Any] | None:
        return guess and restricted(guess, info.data)

    @property
    def schema_(self) -> dict[str, Any]:
        """The JSON Schema of the answer."""
        return answer_schema(self.labels, self.entities)


def same_question(request: Request) -> str:
    """Name what a request asks, by whom and for which case, in hexadecimal digits.

    One that is sent again has the same name, though it may wait less long by then.
    """
    asked = request.model_dump(mode="json", exclude=VOLATILE)
    return digest(asked)


def digest(value: object) -> str:
    """Return the sha256 of JSON, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


class Usage(WireModel):
    """What an answer took; `cost` in the currency of the price list, None: unknown."""

    input_tokens: Tokens = 0
    output_tokens: Tokens = 0
    cost: Cost | None = None

    @classmethod
    def capped(cls, sent: int, received: int, cost: float | None) -> "Usage":
        """Return a usage, where a sum may be beyond what crosses the network."""
        return cls(
            input_tokens=min(sent, MOST_TOKENS),
            output_tokens=min(received, MOST_TOKENS),
            cost=None if cost is None else min(cost, HIGHEST_COST),
        )


def _clean(most: int) -> Callable[[str], str]:
    """Return what makes a foreign word fit for results and logs: printable, bounded."""

    def clean(word: str) -> str:
        return "".join(c if c.isprintable() else UNPRINTABLE for c in word[:most])

    return clean


class Reply(WireModel):
    """What came back for a request, whatever it is worth.

    `reason`: why an answer that was paid for is of no use (`Unusable`).
    """

    id: str
    status: Literal["ok", "abstain", "error"]
    answer: Any = None
    usage: Usage = Usage()
    model: Annotated[str, AfterValidator(_clean(LONGEST_NAME))] | None = None
    error: Annotated[str, AfterValidator(_clean(LONGEST_ERROR))] | None = None
    reason: Annotated[str, AfterValidator(_clean(LONGEST_REASON))] | None = None


@dataclass(frozen=True, slots=True)
class CaseAnswer:
    """A valid answer: a known label, entities that stand in the text.

    `label` is None where nothing fits (`abstains`) or where nobody asked for one.
    """

    label: str | None
    entities: tuple[Named, ...] = ()
    abstains: bool = field(default=False)


def answer_schema(
    labels: Mapping[str, str], entities: Mapping[str, str]
) -> dict[str, Any]:
    """Return the JSON Schema of an answer, in the strict subset that providers take.

    `label` may be null: nothing fits.
    """
    properties: dict[str, Any] = {}
    if labels:
        properties["label"] = {"type": ["string", "null"], "enum": [*labels, None]}
    if entities:
        entity = {
            "type": "object",
            "properties": {
                "label": {"type": "string", "enum": list(entities)},
                "text": {"type": "string"},
            },
            "required": ["label", "text"],
            "additionalProperties": False,
        }
        properties["entities"] = {"type": "array", "items": entity}
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def encode_request(request: Request) -> bytes:
    """Return the payload of the escalation RPC; it carries the answer's schema."""
    document = request.model_dump(mode="json", exclude_none=True)
    document["schema"] = request.schema_
    return _DOCUMENT.dump_json(document)


_DOCUMENT: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])


def decode_request(payload: bytes) -> Request:
    """Read the payload of the escalation RPC; raises BadRequest."""
    try:
        request = Request.model_validate(strict_json(payload))
    except ValidationError as error:
        raise BadRequest(first(error)) from error
    except ValueError as error:
        raise BadRequest(f"Invalid JSON: {error}") from error
    if not request.labels and not request.entities:
        raise BadRequest("asks for neither labels nor entities")
    return request


def decode_reply(payload: bytes) -> Reply:
    """Read a reply of the escalation RPC; raises BadReply."""
    if len(payload) > LONGEST_ANSWER:
        raise BadReply(f"{len(payload)} bytes, at most {LONGEST_ANSWER} are read")
    try:
        return Reply.model_validate(strict_json(payload))
    except ValidationError as error:
        raise BadReply(first(error)) from error
    except ValueError as error:
        raise BadReply(f"Invalid JSON: {error}") from error


class _Said(BaseModel):
    """The form of an answer, before its rules."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    label: str | None = None
    entities: list[Named] | None = Field(default=None, max_length=MOST_ENTITIES)


def checked(answer: Any, request: Request) -> CaseAnswer:
    """Return the answer if it is valid for the request; raises BadReply.

    `answer` is parsed JSON. The label must be one of the request's, and each entity
    must stand in its text, word for word.
    """
    try:
        validated = _Said.model_validate(answer)
    except ValidationError as error:
        raise BadReply(first(error)) from error
    if (
        request.labels
        and validated.label is not None
        and validated.label not in request.labels
    ):
        why = f"label: {validated.label[:80]!r} is not one of the labels"
        raise BadReply(why, Unusable.UNKNOWN_LABEL)
    if request.labels and "label" not in validated.model_fields_set:
        raise BadReply("label: is missing")
    entities = (validated.entities or ()) if request.entities else ()
    for entity in entities:
        if entity.label not in request.entities:
            why = f"entities: {entity.label[:80]!r} is not one of the types"
            raise BadReply(why, Unusable.UNKNOWN_TYPE)
    placed(entities, request.text)
    if request.labels and validated.label is None:
        return CaseAnswer(None, abstains=True)
    return CaseAnswer(validated.label if request.labels else None, tuple(entities))


def placed(named: Sequence[Named], text: str) -> tuple[Entity, ...]:
    """Find entities in the text; raises BadReply for one that does not stand there.

    The same words named twice are two places, from left to right.
    """
    taken: dict[str, int] = {}  # words -> where to look on
    seen: set[tuple[str, str]] = set()
    entities = []
    for entity in named:
        start = text.find(entity.text, taken.get(entity.text, 0)) if entity.text else -1
        if start < 0 and entity.text and (entity.label, entity.text) not in seen:
            start = text.find(entity.text)  # one place, entities of two types
        seen.add((entity.label, entity.text))
        if start < 0:
            why = f"entities: {entity.text[:80]!r} does not stand in the text"
            raise BadReply(why, Unusable.NOT_IN_TEXT)
        end = start + len(entity.text)
        taken[entity.text] = end
        entities.append(Entity(entity.label, entity.text, start, end, None))
    return tuple(sorted(entities, key=lambda entity: (entity.start, entity.end)))


def prediction(answer: CaseAnswer, text: str, by: Tier) -> Prediction:
    """Return the answer as a prediction about the original text; raises BadReply."""
    return Prediction(by, answer.label, None, placed(answer.entities, text))
