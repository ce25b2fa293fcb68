"""pipelines/<name>.toml as a frozen model: the way from topic to result."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from agent.config.section import YEAR_S, Limits, Name, Section
from agent.core.expressions import compiled
from agent.core.types import CheckedKind, Guarantee, Task
from agent.mqtt.topic_filters import checked_filter, checked_topic
from agent.protocol.payload import is_text_encoding

TypeName = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_-]{0,39}$")]
RoadName = Literal["prefer_local", "always_local", "always_upstream", "never_upstream"]


def _is_encoding(name: str) -> str:
    if not is_text_encoding(name):
        raise ValueError("is not a text encoding known to Python")
    return name


def _is_pattern(pattern: str) -> str:
    compiled(pattern)
    return pattern


def _is_path(path: str) -> str:
    """Refuse what is meant for elements of a list: no message could be read."""
    if path and not all(path.split(".")):
        raise ValueError("reads a.b.c: names of keys with a dot between them")
    if any(mark in path for mark in ("[", "]", "*")):
        raise ValueError(
            "reads a.b.c: names of keys with a dot between them; a list has no names, "
            "so no text in it can be reached"
        )
    return path


def _is_checked(kind: str) -> str:
    if kind and kind not in set(CheckedKind):
        raise ValueError(f"is none of {', '.join(CheckedKind)}")
    return kind


FormName = Literal[
    "request",
    "negated",
    "several_requests",
    "question",
    "statement",
    "conditional",
    "delayed",
]


class Input(Section):
    """Which messages, and where their text is."""

    topics: list[Annotated[str, AfterValidator(checked_filter)]] = Field(min_length=1)
    """Topic filters; `$share/<group>/...` shares the load with other agents."""
    text: Annotated[str, AfterValidator(_is_path)] = ""
    """Path of the text in a JSON payload, "a.b.c"; empty: the whole payload."""
    id: Annotated[str, AfterValidator(_is_path)] = ""
    """Path of the producer's message id in a JSON payload; empty: none."""
    encoding: Annotated[str, AfterValidator(_is_encoding)] = "utf-8"
    """Encoding of payloads, where the content type of MQTT 5 names no other."""
    expect_s: Annotated[float, Field(gt=0, le=YEAR_S)] | None = None
    """Raise the alert `input_stalled` when no message came for so many seconds."""
    max_bytes: int = Field(default=262_144, ge=1, le=268_435_455)
    """Larger payloads are refused as `too_long`, unread."""
    max_chars: int = Field(default=10_000, ge=1, le=100_000)
    """Longer texts are refused as `too_long`; texts up to here are read whole."""


class ModelSection(Section):
    """Which bundle answers."""

    bundle: Name
    """Name of a folder under [models] dir."""


class DecideLabel(Section):
    """What differs where the local answer is one label."""

    forms: Annotated[list[FormName], Field(min_length=1)] | None = None
    """The forms of utterance that this label answers; default: those of the bundle."""
    max_error: Annotated[float, Field(gt=0, lt=1)] | None = None
    """A stricter share of wrong answers. Labels with the same are certified together,
    as a group of their own."""


class Decide(Section):
    """When a local answer may stand."""

    max_error: float = Field(default=0.05, gt=0, lt=1)
    """The share of wrong answers you accept among the resolved ones."""
    min_score: float = Field(default=0.0, ge=0, le=1)
    """Resolve nothing below this score, though `max_error` allowed it."""
    guarantee: Literal["label", "entities", "both"] | None = None
    """What wrong means: the label, any entity missing, extra or different, or either.

    Default: the label where there is one, else the entities.
    """
    forms: Annotated[list[FormName], Field(min_length=1)] | None = None
    """The forms of utterance that are answered: `request`, `negated` (or cancelled),
    `several_requests`, `question`, `statement`, `conditional`, `delayed`. What has
    another is unresolved, with its form as the reason (`conditional` for both last).
    Default: those of the bundle."""
    labels: dict[str, DecideLabel] = {}
    """What differs for some labels."""

    @model_validator(mode="after")
    def _stricter(self) -> Self:
        for label, one in self.labels.items():
            if one.max_error is not None and one.max_error > self.max_error:
                raise ValueError(
                    f"labels.{label}.max_error: {one.max_error:g} is no stricter than "
                    f"max_error, {self.max_error:g}"
                )
        return self


class Output(Section):
    """Where results go."""

    topic: Annotated[str, AfterValidator(checked_topic)] = Field("", max_length=1024)
    """Result topic; empty: slm/<device>/result/<pipeline>."""


class EscalationSection(Section):
    """What of this pipeline goes upstream, and how; needs [upstream] in agent.toml."""

    policy: RoadName = "prefer_local"
    """`prefer_local` asks upstream what is not sure enough here, `always_local` takes
    the local guess however sure, `always_upstream` asks always, `never_upstream` leaves
    unresolved what is not sure enough."""
    labels: dict[str, RoadName] = {}
    """Another policy where the local guess is this label."""
    privacy: Literal["never", "redact", "allow"] = "redact"
    """`never` lets no text leave, `redact` hides personal data first, `allow` sends the
    text as it is."""
    visible: list[str] = []
    """Types of personal data that `redact` leaves to be seen, as DATE_TIME."""
    on_unresolved: Literal["hold", "provisional"] = "hold"
    """While upstream is asked: publish nothing, or the best guess as not final."""
    deadline_s: Annotated[float, Field(gt=0, le=30 * 86_400)] | None = None
    """How long a message may wait for its answer. Default: upstream.deadline_s."""
    priority: int = Field(default=5, ge=0, le=9)
    """Larger goes first, and is dropped last."""
    budget: Limits = Limits()
    """What this pipeline may spend, within the device's budget."""
    descriptions: dict[str, str] = {}
    """What a label or entity type means, for upstream. Default: its name in words."""


class PrivacySection(Section):
    """What `upstream.privacy = "redact"` hides beside what it always does."""

    patterns: dict[TypeName, Annotated[str, AfterValidator(_is_pattern)]] = {}
    """Patterns of your own, by the type they find, in RE2's syntax, for a text whose
    digits are 0 to 9: { BADGE = "B-[0-9]{5}" }."""
    scripts: list[TypeName] = []
    """Scripts beside LATIN whose letters may be seen, as CYRILLIC."""


class FieldRule(Section):
    """What an entity must be for an answer to stand locally."""

    required: bool = False
    """The answer needs at least one such entity."""
    labels: list[str] = []
    """Required only for these labels; empty: for all."""
    pattern: Annotated[str, AfterValidator(_is_pattern)] = ""
    """A regular expression, in RE2's syntax, that the whole entity must match."""
    check: Annotated[str, AfterValidator(_is_checked)] = ""
    """A checked kind of data that the entity must be, such as EMAIL_ADDRESS."""


class PipelineFile(Section):
    """pipelines/<name>.toml: the way from topic to result."""

    description: str = ""
    """One line for people."""
    kind: Literal["understand", "classify", "extract"] = "understand"
    """`classify` gives a label, `extract` entities, `understand` both in one pass."""
    input: Input
    model: ModelSection
    decide: Decide = Decide()
    fields: dict[str, FieldRule] = {}
    """Rules for entities, by type: an answer that breaks one goes upstream."""
    privacy: PrivacySection = PrivacySection()
    explain: Literal["hash", "text"] = "hash"
    """What the request `explain` tells of a message's text: its sha256, or the text."""
    output: Output = Output()
    upstream: EscalationSection = EscalationSection()

    @property
    def tasks(self) -> frozenset[Task]:
        """What the bundle must be able to do."""
        if self.kind == "understand":
            return frozenset(Task)
        return frozenset({Task(self.kind)})

    @property
    def guarantee(self) -> Guarantee:
        """What the error bound speaks of."""
        if self.decide.guarantee is not None:
            return Guarantee(self.decide.guarantee)
        labels = Task.CLASSIFY in self.tasks
        return Guarantee.LABEL if labels else Guarantee.ENTITIES

    @model_validator(mode="after")
    def _guarantees_what_it_does(self) -> Self:
        unfit = {"classify": ("entities", "both"), "extract": ("label", "both")}
        if self.decide.guarantee in unfit.get(self.kind, ()):
            raise ValueError(
                f"decide.guarantee: {self.decide.guarantee!r} does not go with "
                f"kind {self.kind!r}"
            )
        return self
