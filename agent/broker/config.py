"""broker.toml: what the operator of the upstream side says."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from agent.config.agent_file import Cache, Log, Metrics, Mqtt, StateSection, host_name
from agent.config.checks import check_tls
from agent.config.load import login_of, read_file
from agent.config.section import YEAR_S, Limits, Name, Place, Section, default_state
from agent.core.errors import ConfigError
from agent.core.files import first_line
from agent.mqtt.endpoint import Endpoint, Will, tls_context
from agent.mqtt.topic_filters import (
    checked_base,
    checked_filter,
    checked_topic,
    matches,
)

LONGEST_TOPIC = 1024  # bytes of a topic for replies
DEFAULT_PATH = Path("/etc/slm-agent/broker.toml")
RESERVED = frozenset(
    {
        "model",
        "messages",
        "api_key",
        "api_base",
        "base_url",
        "response_format",
        "timeout",
        "num_retries",
        "max_retries",
        "max_tokens",
        "temperature",
        "fallbacks",
        "stream",
        "n",
        "mock_response",
        "caching",
        "drop_params",
    }
)


def _is_api_base(url: str) -> str:
    parts = urlsplit(url)
    if url and (parts.scheme not in {"http", "https"} or not parts.hostname):
        raise ValueError("reads http(s)://host[:port][/path]")
    if parts.username or parts.password:
        raise ValueError("holds no password; use key_file")
    return url


def _is_model(name: str) -> str:
    provider, _, model = name.partition("/")
    if not provider or not model:
        raise ValueError("reads <provider>/<model>, as openai/gpt-4o")
    return name


def _are_options(options: dict[str, Any]) -> dict[str, Any]:
    taken = sorted(RESERVED & options.keys())
    if taken:
        raise ValueError(f"{taken[0]} is not an option, but set by the broker")
    return options


class BrokerCache(Cache):
    """Answers given again for exactly the same question."""

    entries: int = Field(default=20_000, ge=0, le=100_000)
    """Most answers kept; 0: none."""
    shared: bool = False
    """Whether an answer that one device paid for is given to others, too."""


class BrokerSection(Section):
    """Who this broker is, and how it takes cases."""

    name: Name = Field(default_factory=host_name)
    """Must be this broker's alone. Default: the host name."""
    topic: Annotated[str, AfterValidator(checked_base)] = "slm/upstream"
    """Cases are taken from <topic>/+."""
    group: Name = "slm-broker"
    """Brokers of one group share the cases, and each is asked only once."""
    reply_topics: list[Annotated[str, AfterValidator(checked_filter)]] = Field(
        default=["slm/+/answer"]
    )
    """Where replies may go; `+` stands for the device that the case names. A case that
    wants its reply elsewhere is refused."""
    concurrency: int = Field(default=16, ge=1, le=1000)
    """Most calls to models at once."""
    timeout_s: float = Field(default=30.0, gt=0, le=600)
    """How long one call may take."""
    attempts: int = Field(default=2, ge=1, le=10)
    """How often all models are tried before a case is answered with an error."""
    keep_s: int = Field(default=86_400, ge=60, le=10 * YEAR_S)
    """How long the answer to a case is kept, for when the case is sent again."""
    max_bytes: int = Field(default=256 * 2**20, ge=2**20, le=2**40)
    """Most bytes of state on disk."""
    cache: BrokerCache = BrokerCache()
    """Answers given again for exactly the same question."""


class BrokerState(StateSection):
    """What survives a restart."""

    dir: Place = Field(default_factory=lambda: default_state("slm-agent-broker"))
    """Folder for state. Default: $STATE_DIRECTORY, which systemd sets; else
    /var/lib/slm-agent-broker for root and where it exists; else the user's,
    $XDG_STATE_HOME/slm-agent-broker."""


class BrokerMetrics(Metrics):
    """Prometheus metrics, over HTTP."""

    port: int = Field(default=9465, ge=0, le=65_535)
    """Port; 0: none."""


class LlmSection(Section):
    """A language model; the first is asked, the others are its fallbacks in order."""

    model: Annotated[str, AfterValidator(_is_model)]
    """Its name for LiteLLM: <provider>/<model>."""
    api_base: Annotated[str, AfterValidator(_is_api_base)] = ""
    """Where it is. Default: the provider's public address."""
    key_file: Place | None = None
    """File whose first line is the API key."""
    structured: Literal["json_schema", "json_object", "none"] = "json_schema"
    """How it is held to the form of an answer; answers are checked in any case."""
    temperature: Annotated[float, Field(ge=0, le=10)] | Literal["default"] = 0.0
    """`default` sends none, for models that do not take 0."""
    max_output_tokens: int = Field(default=400, ge=16, le=65_536)
    """Most tokens of an answer, thinking included."""
    price_in: Annotated[float, Field(ge=0, lt=1e6)] | None = None
    """Money for a million tokens sent. Default: LiteLLM's price list (USD)."""
    price_out: Annotated[float, Field(ge=0, lt=1e6)] | None = None
    """Money for a million tokens received. Default: LiteLLM's price list (USD)."""
    proxy: Annotated[str, AfterValidator(_is_api_base)] = ""
    """HTTP proxy between, as http://host:port; empty: none, whatever the environment
    says."""
    options: Annotated[dict[str, Any], AfterValidator(_are_options)] = Field(default={})
    """More for LiteLLM, as it is: { reasoning_effort = "low" }."""


class BrokerFile(Section):
    """broker.toml: one broker."""

    mqtt: Mqtt = Mqtt(session_expiry_s=3600)
    broker: BrokerSection = Field(default_factory=BrokerSection)
    state: BrokerState = Field(default_factory=BrokerState)
    models: list[LlmSection] = Field(min_length=1)
    budget: Limits = Limits()
    metrics: BrokerMetrics = BrokerMetrics()
    log: Log = Log()


@dataclass(frozen=True, slots=True)
class BrokerTopics:
    """Where brokers of a group speak of themselves, and to each other."""

    name: str
    group: str

    @property
    def status(self) -> str:
        """Retained: online | offline."""
        return f"slm/broker/{self.name}/status"

    @property
    def health(self) -> str:
        """Retained: counters as JSON."""
        return f"slm/broker/{self.name}/health"

    def alert(self, name: str) -> str:
        """Retained while the alert is active, emptied when it is cleared."""
        return f"slm/broker/{self.name}/alert/{name}"

    @property
    def members(self) -> str:
        """Under it retained, by name: online | offline, as the group sees it."""
        return f"slm/broker/{self.group}/member"

    @property
    def claims(self) -> str:
        """Who works on which case."""
        return f"slm/broker/{self.group}/claim"

    @property
    def answers(self) -> str:
        """What came of it."""
        return f"slm/broker/{self.group}/answer"


def load(path: Path | None) -> BrokerFile:
    """Load broker.toml; raises ConfigError."""
    path = path or DEFAULT_PATH
    file = read_file(BrokerFile, path)
    check_tls(file.mqtt, path)
    for number, model in enumerate(file.models):
        if (model.price_in is None) != (model.price_out is None):
            raise ConfigError(
                f"{path}: models.{number}: price_in goes together with price_out"
            )
    if "session_expiry_s" not in file.mqtt.model_fields_set:
        mqtt = file.mqtt.model_copy(update={"session_expiry_s": 3600})
        file = file.model_copy(update={"mqtt": mqtt})
    return file


def key_of(model: LlmSection, number: int) -> str | None:
    """Read a model's API key; raises ConfigError."""
    if model.key_file is None:
        return None
    return first_line(model.key_file, f"models.{number}.key_file")


def cases_filter(file: BrokerFile) -> str:
    """Return what is subscribed to: shared with the group where MQTT can do it."""
    plain = f"{file.broker.topic}/+"
    return plain if is_old(file.mqtt) else f"$share/{file.broker.group}/{plain}"


def is_old(mqtt: Mqtt) -> bool:
    """Tell whether it is MQTT 3.1.1: no shared subscriptions, no correlation."""
    return mqtt.version == "3.1.1"


def endpoints(file: BrokerFile) -> tuple[Endpoint, Endpoint]:
    """Return the connection for cases and the one for the group; raises ConfigError.

    Two, because a window full of cases must not keep out what other brokers say. The
    group's has no session: what it missed, it asks for.
    """
    mqtt, name = file.mqtt, file.broker.name
    client_id = mqtt.client_id or f"slm-broker-{name}"
    made = partial(
        Endpoint,
        url=mqtt.url,
        login=login_of(mqtt),
        version=4 if is_old(mqtt) else 5,
        ca_file=mqtt.ca_file,
        cert_file=mqtt.cert_file,
        key_file=mqtt.key_file,
        keepalive_s=mqtt.keepalive_s,
        max_inflight=mqtt.max_inflight,
        max_packet_bytes=mqtt.max_packet_bytes,
    )
    topics = BrokerTopics(name, file.broker.group)
    cases = made(
        client_id=client_id,
        session_expiry_s=mqtt.session_expiry_s,
        will=Will(topics.status, b"offline"),
    )
    group = made(
        client_id=f"{client_id}-group",
        session_expiry_s=0,
        will=Will(f"{topics.members}/{name}", b"offline"),
    )
    if mqtt.url.startswith("mqtts:"):
        try:
            tls_context(cases)
        except OSError as error:
            raise ConfigError(f"mqtt: TLS files: {error}") from error
    return cases, group


def may_reply_to(topic: str, device: str, file: BrokerFile) -> bool:
    """Tell whether a reply to a device may go to a topic.

    Never where we listen ourselves, nor to another device, as far as the topic names
    one: where a `+` of broker.reply_topics stands for it.
    """
    try:
        checked_topic(topic)
    except ValueError:
        return False
    if not topic or len(topic.encode()) > LONGEST_TOPIC or topic.startswith("$"):
        return False
    ours = (f"{file.broker.topic}/+", "slm/broker/#")
    if any(matches(filter_, topic) for filter_ in ours):
        return False
    return any(
        matches(filter_, topic) and _names(filter_, topic, device)
        for filter_ in file.broker.reply_topics
    )


def _names(filter_: str, topic: str, device: str) -> bool:
    """Tell whether a filter's `+` stands for the device; one without any: for all."""
    levels = zip(filter_.split("/"), topic.split("/"), strict=False)
    named = [level for part, level in levels if part == "+"]
    return not named or device in named
