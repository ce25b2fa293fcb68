"""Configuration from TOML: frozen models, unknown keys refused, one line an error."""

import difflib
import hashlib
import re
import socket
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import ErrorDetails

from agent.core.errors import ConfigError
from agent.core.types import CheckedKind, Guarantee, Task
from agent.mqtt.connection import Login
from agent.mqtt.topic_filters import checked_filter, checked_topic, matches, overlap
from agent.protocol.payload import is_text_encoding

DEFAULT_PATH = Path("/etc/slm-agent/agent.toml")

File = TypeVar("File", bound=BaseModel)


def _beside(path: Path, info: ValidationInfo) -> Path:
    """Take a relative path as beside the file that names it."""
    return info.context / path if isinstance(info.context, Path) else path


Place = Annotated[Path, Field(strict=False), AfterValidator(_beside)]
RoadName = Literal["prefer_local", "always_local", "always_upstream", "never_upstream"]
FormName = Literal[
    *("request", "negated", "several_requests", "question", "statement"),
    *("conditional", "delayed"),
]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+$", max_length=64)]


@cache
def shipped(folder: str) -> Path:
    """Return a data folder: in the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / folder
    return inside if inside.is_dir() else package.parent / folder


def host_name() -> str:
    """Return the host's name, fit for topics."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname())[:64] or "device"


def _is_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"mqtt", "mqtts"} or not parts.hostname:
        raise ValueError("reads mqtt://host[:port] or mqtts://host[:port]")
    if parts.username or parts.password:
        raise ValueError("holds no password; use username and password_file")
    if parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise ValueError("ends after the port")
    if parts.port == 0:  # others that are no port raise ValueError here
        raise ValueError("has no port 0")
    return url


def _is_encoding(name: str) -> str:
    if not is_text_encoding(name):
        raise ValueError("is not a text encoding known to Python")
    return name


def _is_pattern(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from error
    return pattern


def _is_checked(kind: str) -> str:
    if kind and kind not in set(CheckedKind):
        raise ValueError(f"is none of {', '.join(CheckedKind)}")
    return kind


class Section(BaseModel):
    """A table of a configuration file."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True
    )


class Device(Section):
    """Who this device is."""

    id: Name = Field(default_factory=host_name)
    """Names the device in topics and results. Default: the host name."""
    labels: dict[str, str] = {}
    """Free labels, told in `birth`, for example { site = "perth" }."""


class Mqtt(Section):
    """The broker and how to talk to it."""

    url: Annotated[str, AfterValidator(_is_url)] = "mqtt://127.0.0.1:1883"
    """mqtt://host:port, or mqtts://host:port for TLS."""
    version: Literal[5, "5", "3.1.1"] = 5
    """5, or "3.1.1" for brokers without MQTT 5 (refusals are invisible then)."""
    client_id: str = Field(default="", max_length=128)
    """Must be this device's alone. Default: slm-agent-<device id>."""
    username: str = ""
    """User name; or name a file with username_file."""
    username_file: Place | None = None
    """File whose first line is the user name."""
    password_file: Place | None = None
    """File whose first line is the password."""
    ca_file: Place | None = None
    """CA certificates (PEM) for TLS. Default: the system's."""
    cert_file: Place | None = None
    """Client certificate (PEM) for TLS."""
    key_file: Place | None = None
    """Key of the client certificate (PEM)."""
    keepalive_s: int = Field(default=30, ge=2, le=3600)
    """Seconds without traffic before the link is probed; a dead one is dropped then."""
    session_expiry_s: int = Field(default=604_800, ge=0, le=0xFFFFFFFE)
    """How long the broker keeps our session while we are away (MQTT 5)."""
    max_inflight: int = Field(default=64, ge=1, le=65_535)
    """Receive Maximum: messages the broker may send before we acknowledge (MQTT 5)."""
    max_packet_bytes: int = Field(default=16 * 2**20, ge=1024, le=268_435_460)
    """Largest packet we take; a larger one the broker drops (MQTT 5)."""
    max_backlog: int = Field(default=1000, ge=1)
    """Most messages in hand, at most half of them QoS 0.

    Beyond, QoS 0 is dropped and counted, QoS 1 left to the broker until there is room.
    """
    max_backlog_bytes: int = Field(default=32 * 2**20, ge=2**20)
    """Most payload bytes in hand; beyond, as with max_backlog."""


class StateSection(Section):
    """What survives a restart."""

    dir: Place = Path("/var/lib/slm-agent")
    """Folder for state; systemd's StateDirectory= makes it."""


class Pipelines(Section):
    """Which pipelines run."""

    dir: Place = Field(default_factory=lambda: shipped("pipelines"))
    """Folder with <pipeline>.toml files. Default: the shipped ones."""
    enable: list[Name] = Field(default=["home"], min_length=1)
    """Names of the pipelines to run."""


class Models(Section):
    """Where bundles are."""

    dir: Place = Field(default_factory=lambda: shipped("models"))
    """Folder with one folder a bundle. Default: the shipped ones."""
    on_mismatch: Literal["refuse", "escalate_all", "warn"] = "refuse"
    """When a calibration was made with another model, tokenizer, labels or runtime.

    `refuse` does not start, `escalate_all` resolves nothing locally, `warn` goes on
    without stating an error bound.
    """


class EngineSection(Section):
    """How the models are run."""

    threads: int = Field(default=1, ge=1, le=64)
    """Threads of one inference. More than one helps only long texts."""
    max_batch: int = Field(default=16, ge=1, le=512)
    """Most messages the worker takes at a time; no answer depends on it."""


@dataclass(frozen=True, slots=True)
class Limit:
    """What a scope may spend in a day; None: as much as it likes."""

    scope: str
    calls: int | None
    tokens: int | None
    micros: int | None


class Limits(Section):
    """What may be spent upstream in a day (UTC); absent: no limit."""

    calls_per_day: Annotated[int, Field(ge=0)] | None = None
    """Most calls."""
    tokens_per_day: Annotated[int, Field(ge=0)] | None = None
    """Most tokens, in and out."""
    money_per_day: Annotated[float, Field(ge=0, lt=1e6)] | None = None
    """Most money, in the currency of the prices, which it needs."""

    @property
    def any(self) -> bool:
        """Whether anything is limited."""
        return any(value is not None for value in self.model_dump().values())


class Budget(Limits):
    """What the whole device may spend upstream in a day (UTC)."""

    when_spent: Literal["queue", "answer_unresolved"] = "answer_unresolved"
    """`queue` lets cases wait for the next day, if their deadline does."""


class Cache(Section):
    """Answers that are given again for exactly the same text."""

    entries: int = Field(default=2000, ge=0, le=100_000)
    """Most answers kept; 0: none."""
    age_s: int = Field(default=7 * 86_400, ge=1)
    """How old an answer may be."""


class UpstreamSection(Section):
    """Who answers what the device cannot, and on which terms."""

    transport: Literal["mqtt", "http"]
    """`mqtt`: slm-agent broker, or whoever speaks its protocol; `http`: any
    OpenAI-compatible endpoint."""
    url: str = ""
    """For mqtt empty (the broker of [mqtt]) or mqtt(s)://host:port; for http the base
    URL, as https://host/v1."""
    topic: Annotated[str, AfterValidator(checked_topic)] = "slm/upstream"
    """mqtt: cases go to <topic>/<pipeline>."""
    model: str = Field(default="", max_length=200)
    """http: the model's name at the endpoint."""
    key_file: Place | None = None
    """http: file whose first line is the API key."""
    username: str = ""
    """mqtt with a url of its own: user name."""
    password_file: Place | None = None
    """mqtt with a url of its own: file whose first line is the password."""
    ca_file: Place | None = None
    """CA certificates (PEM) of the upstream. Default: the system's."""
    timeout_s: float = Field(default=30.0, gt=0, le=600)
    """How long one call may take."""
    deadline_s: float = Field(default=3600.0, gt=0, le=30 * 86_400)
    """How long a message may wait for its answer; a pipeline may set its own."""
    concurrency: int = Field(default=4, ge=1, le=64)
    """Most calls at once."""
    rate: float = Field(default=5.0, gt=0, le=1000)
    """Most calls a second, also after an outage."""
    max_output_tokens: int = Field(default=400, ge=16, le=8192)
    """Most tokens of an answer."""
    price_in: float = Field(default=0.0, ge=0, lt=1e6)
    """Money for a million tokens sent: for what a call may cost, which is booked before
    it, and for replies that do not say what they did."""
    price_out: float = Field(default=0.0, ge=0, lt=1e6)
    """Money for a million tokens received."""
    budget: Budget = Budget()
    cache: Cache = Cache()


class Outbox(Section):
    """Where cases wait: a file below state.dir."""

    max_bytes: int = Field(default=32 * 2**20, ge=2**20, le=2**40)
    """Most bytes on disk."""
    when_full: Literal["stop_acking", "drop_oldest", "drop_lowest"] = "stop_acking"
    """`stop_acking` leaves new messages to the broker; `drop_oldest` ends the oldest
    case unresolved to make room, `drop_lowest` the oldest of the lowest priority."""


class Metrics(Section):
    """Prometheus metrics, over HTTP."""

    port: int = Field(default=9464, ge=0, le=65_535)
    """Port; 0: none."""
    address: str = "127.0.0.1"
    """Address to listen on. The default is reached from this device only."""


class HomeAssistant(Section):
    """Discovery by Home Assistant, by MQTT."""

    enable: bool = False
    """Whether to describe this device to Home Assistant."""
    prefix: Annotated[str, AfterValidator(checked_topic)] = "homeassistant"
    """Its discovery prefix."""


class Log(Section):
    """What is logged."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """At info: one line a message, never its text."""


class FleetSection(Section):
    """The fleet this device belongs to: a signed file, laid over this one."""

    public_key_files: list[Place] = Field(min_length=1)
    """Public keys (PEM); a fleet file signed with one of them is taken. Several, for a
    change of keys."""
    topic: Annotated[str, AfterValidator(checked_topic)] = "slm/fleet"
    """Retained topic that the fleet file comes by; empty: none."""
    file: Place | None = None
    """Signed fleet file that is read at each start and reload."""
    probation_s: float = Field(default=300.0, gt=0, le=86_400)
    """How long a new version must do well before it stands; else the last good one
    comes back."""


class AgentFile(Section):
    """agent.toml: one device."""

    device: Device = Field(default_factory=Device)
    mqtt: Mqtt = Mqtt()
    state: StateSection = StateSection()
    pipelines: Pipelines = Field(default_factory=Pipelines)
    models: Models = Field(default_factory=Models)
    engine: EngineSection = EngineSection()
    log: Log = Log()
    metrics: Metrics = Metrics()
    homeassistant: HomeAssistant = HomeAssistant()
    outbox: Outbox = Outbox()
    upstream: UpstreamSection | None = None
    """Absent: nothing ever leaves the device."""
    fleet: FleetSection | None = None
    """Absent: this file alone counts."""


class Input(Section):
    """Which messages, and where their text is."""

    topics: list[Annotated[str, AfterValidator(checked_filter)]] = Field(min_length=1)
    """Topic filters; `$share/<group>/...` shares the load with other agents."""
    text: str = ""
    """Path of the text in a JSON payload, "a.b.c"; empty: the whole payload."""
    id: str = ""
    """Path of the producer's message id in a JSON payload; empty: none."""
    encoding: Annotated[str, AfterValidator(_is_encoding)] = "utf-8"
    """Encoding of payloads, where the content type of MQTT 5 names no other."""
    expect_s: Annotated[float, Field(gt=0)] | None = None
    """Raise the alert `input_stalled` when no message came for so many seconds."""
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


class FieldRule(Section):
    """What an entity must be for an answer to stand locally."""

    required: bool = False
    """The answer needs at least one such entity."""
    labels: list[str] = []
    """Required only for these labels; empty: for all."""
    pattern: Annotated[str, AfterValidator(_is_pattern)] = ""
    """A regular expression that the whole entity must match."""
    check: Annotated[str, AfterValidator(_is_checked)] = ""
    """A checked kind of data that the entity must be, such as EMAIL_ADDRESS."""


class PipelineFile(Section):
    """pipelines/<name>.toml: one road from topic to result."""

    description: str = ""
    """One line for people."""
    kind: Literal["understand", "classify", "extract"] = "understand"
    """`classify` gives a label, `extract` entities, `understand` both in one pass."""
    input: Input
    model: ModelSection
    decide: Decide = Decide()
    fields: dict[str, FieldRule] = {}
    """Rules for entities, by type: an answer that breaks one goes upstream."""
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


@dataclass(frozen=True, slots=True)
class Config:
    """Everything the daemon was told, validated and resolved."""

    agent: AgentFile
    pipelines: Mapping[str, PipelineFile]
    hash: str  # sha256 of the effective configuration, for `birth`

    @property
    def client_id(self) -> str:
        """Stable, so that the broker keeps our session."""
        return self.agent.mqtt.client_id or f"slm-agent-{self.agent.device.id}"

    def bundle_dir(self, pipeline: str) -> Path:
        """Return the folder of the bundle that a pipeline asks."""
        return self.agent.models.dir / self.pipelines[pipeline].model.bundle

    def calibration_file(self, pipeline: str) -> Path:
        """Return where `slm-agent calibrate` puts an operator's own calibration."""
        return self.agent.pipelines.dir / f"{pipeline}.calibration.json"

    def calibration(self, pipeline: str) -> Path | None:
        """Return the operator's own calibration, if there is one."""
        path = self.calibration_file(pipeline)
        return path if path.is_file() else None

    def login(self) -> Login:
        """Read the credential files; raises ConfigError."""
        return login_of(self.agent.mqtt)


def login_of(mqtt: Mqtt) -> Login:
    """Read the credential files; raises ConfigError."""
    user = mqtt.username
    if mqtt.username_file:
        user = first_line(mqtt.username_file, "mqtt.username_file")
    secret = None
    if mqtt.password_file:
        secret = first_line(mqtt.password_file, "mqtt.password_file")
    return Login(user or None, secret)


def load(path: Path | None, enable: tuple[str, ...] = ()) -> Config:
    """Load agent.toml and the enabled pipelines; raises ConfigError.

    `path` None means the default path, and built-in defaults where that is missing.
    `enable` replaces the list in the file (for commands about one pipeline).
    """
    if path is None and not DEFAULT_PATH.exists():
        agent = AgentFile()
    else:
        path = path or DEFAULT_PATH
        agent = read_file(AgentFile, path)
    check_tls(agent.mqtt, path or DEFAULT_PATH)
    names = list(enable) or agent.pipelines.enable
    pipelines = {name: _pipeline(agent.pipelines.dir, name) for name in names}
    return assembled(agent, pipelines)


def assembled(agent: AgentFile, pipelines: Mapping[str, PipelineFile]) -> Config:
    """Check what each is for the others; raises ConfigError."""
    _check_loops(agent, pipelines)
    _check_overlaps(pipelines)
    _check_upstream(agent, pipelines)
    document = "".join(
        model.model_dump_json() for model in (agent, *pipelines.values())
    )
    digest = hashlib.sha256(document.encode()).hexdigest()
    return Config(agent, pipelines, digest)


def schemas() -> dict[str, Any]:
    """Return a JSON Schema for each kind of file."""
    return {
        "agent.toml": AgentFile.model_json_schema(),
        "pipelines/*.toml": PipelineFile.model_json_schema(),
    }


def _pipeline(folder: Path, name: str) -> PipelineFile:
    path = folder / f"{name}.toml"
    if not path.exists():
        known = sorted(p.stem for p in folder.glob("*.toml"))
        hint = nearest(name, known)
        there = f"there are: {', '.join(known)}" if known else "the folder has none"
        raise ConfigError(f"{path}: no such pipeline{hint} ({there})")
    return read_file(PipelineFile, path)


def read_file(model: type[File], path: Path) -> File:
    """Read a TOML file; raises ConfigError with a line for each thing wrong."""
    return _validated(model, read_toml(path), path)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file as it is; raises ConfigError."""
    try:
        return parse_toml(path.read_bytes(), path)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error


def parse_toml(data: bytes, name: str | Path) -> dict[str, Any]:
    """Return what bytes say as TOML; raises ConfigError, naming where they are from."""
    try:
        return tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{name}: not valid TOML: {error}") from error


def _validated(model: type[File], document: dict[str, Any], path: Path) -> File:
    try:
        return model.model_validate(document, context=path.parent)
    except ValidationError as error:
        lines = [f"{path}: {explain(model, e)}" for e in error.errors()]
        raise ConfigError("\n".join(lines)) from error


def explain(model: type[BaseModel], error: ErrorDetails) -> str:
    """Say in one line which key is wrong and what would be right."""
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = _keys_at(model, error["loc"][:-1])
        return f"{key}: unknown key{nearest(str(error['loc'][-1]), known)}"
    if error["type"] == "missing":
        return f"{key}: must be given"
    if any(part in key for part in ("url", "api_base", "options")):
        # It may hold a password, and errors end in journals.
        return f"{key}: {error['msg']}"
    return f"{key}: {error['msg']} (it is {error['input']!r})"


def _keys_at(model: type[BaseModel], where: tuple[int | str, ...]) -> list[str]:
    for part in where:
        inner = model.model_fields[str(part)].annotation
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        model = inner
    return list(model.model_fields)


def nearest(word: str, known: list[str]) -> str:
    """Return the known word that may be meant, as the end of a sentence."""
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f", did you mean {found[0]!r}?" if found else ""


def check_tls(mqtt: Mqtt, path: Path) -> None:
    """Refuse TLS files and credentials that cannot be meant; raises ConfigError."""
    given = [k for k in ("ca_file", "cert_file", "key_file") if getattr(mqtt, k)]
    if given and not mqtt.url.startswith("mqtts:"):
        raise ConfigError(f"{path}: mqtt.{given[0]}: needs a url with mqtts://")
    if bool(mqtt.cert_file) != bool(mqtt.key_file):
        raise ConfigError(f"{path}: mqtt.cert_file: goes together with key_file")
    if mqtt.password_file and not (mqtt.username or mqtt.username_file):
        raise ConfigError(f"{path}: mqtt.password_file: needs username(_file), too")
    if mqtt.username and mqtt.username_file:
        raise ConfigError(f"{path}: mqtt.username: give it or username_file, not both")


def _check_loops(agent: AgentFile, pipelines: Mapping[str, PipelineFile]) -> None:
    """Refuse a result topic that some pipeline would read again, for ever."""
    own = f"slm/{agent.device.id}"
    for name, pipeline in pipelines.items():
        for topic in _published(own, name, pipeline):
            for reader, other in pipelines.items():
                for wanted in other.input.topics:
                    if matches(wanted, topic):
                        raise ConfigError(
                            f"pipelines/{name}.toml: output.topic: {topic!r} is read "
                            f"again by pipeline {reader!r} ({wanted!r})"
                        )


def _check_overlaps(pipelines: Mapping[str, PipelineFile]) -> None:
    """Refuse two filters of one pipeline that a message may fall under at once.

    Brokers may then send it twice, and it would be answered twice.
    """
    for name, pipeline in pipelines.items():
        for one, other in combinations(pipeline.input.topics, 2):
            if overlap(one, other):
                raise ConfigError(
                    f"pipelines/{name}.toml: input.topics: {one!r} and {other!r} "
                    "overlap; a message under both would be answered twice"
                )


def _check_upstream(agent: AgentFile, pipelines: Mapping[str, PipelineFile]) -> None:
    """Refuse a policy that nobody could follow: no message would ever be resolved."""
    _check_prices(agent, pipelines)
    for name, pipeline in pipelines.items():
        asked = pipeline.upstream
        if "always_upstream" not in {asked.policy, *asked.labels.values()}:
            continue
        where = f"pipelines/{name}.toml: upstream.policy: always_upstream"
        if agent.upstream is None:
            raise ConfigError(f"{where} needs [upstream] in agent.toml")
        if asked.privacy == "never":
            raise ConfigError(f"{where} does not go with privacy 'never'")


def _check_prices(agent: AgentFile, pipelines: Mapping[str, PipelineFile]) -> None:
    """Refuse a budget in money that could not bind: nobody says what a call costs."""
    upstream = agent.upstream
    if upstream is None or upstream.price_in or upstream.price_out:
        return
    limited = {"agent.toml": upstream.budget.money_per_day}
    for name, pipeline in pipelines.items():
        limited[f"pipelines/{name}.toml"] = pipeline.upstream.budget.money_per_day
    for file, money in limited.items():
        if money is not None:
            raise ConfigError(
                f"{file}: upstream.budget.money_per_day: needs upstream.price_in and "
                "upstream.price_out in agent.toml: what a call may cost is booked "
                "before it is made"
            )


def _published(own: str, name: str, pipeline: PipelineFile) -> Iterator[str]:
    yield pipeline.output.topic or f"{own}/result/{name}"
    yield f"{own}/deadletter/{name}"
    yield f"{own}/health"
    yield f"{own}/fleet"


def first_line(path: Path, key: str) -> str:
    """Return the first line of a credential file; raises ConfigError."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{key}: {path}: {error}") from error
    if not lines or not lines[0]:
        raise ConfigError(f"{key}: {path}: the first line is empty")
    return lines[0]
