"""agent.toml as a frozen model: one device."""

import re
import socket
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from agent.config.section import (
    YEAR_S,
    Limits,
    Name,
    Place,
    Section,
    default_state,
    shipped,
)
from agent.mqtt.topic_filters import checked_base, checked_string, checked_topic


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


def _is_url_if_any(url: str) -> str:
    return _is_url(url) if url else url


def _is_http_url_if_any(url: str) -> str:
    return _is_http_url(url) if url else url


def _is_http_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        port_is_zero = parts.port == 0  # others that are no port raise ValueError
    except ValueError:
        raise ValueError("is no URL") from None  # its message may quote a password
    if parts.scheme not in {"http", "https"} or not parts.hostname or port_is_zero:
        raise ValueError("reads http(s)://host[:port][/path]")
    if parts.username is not None or parts.password is not None:
        raise ValueError("holds no password; use key_file")
    if parts.query or parts.fragment:
        raise ValueError("has no '?' and no '#'")
    return url


MqttString = Annotated[str, AfterValidator(checked_string)]


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
    client_id: MqttString = Field(default="", max_length=128)
    """Must be this device's alone. Default: slm-agent-<device id>."""
    username: MqttString = ""
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
    max_packet_bytes: int = Field(default=16 * 2**20, ge=1024, le=268_435_455)
    """Largest packet we take; the broker drops a larger one (MQTT 5).

    MQTT 3.1.1 has no word for it. There of a larger one only the beginning is kept, it
    ends as a dead letter, and this is also the largest packet that we send.
    """
    max_backlog: int = Field(default=1000, ge=1, le=1_000_000)
    """Most messages in hand, at most half of them QoS 0.

    Beyond, QoS 0 is dropped and counted, QoS 1 left to the broker until there is room.
    """
    max_backlog_bytes: int = Field(default=32 * 2**20, ge=2**20, le=2**40)
    """Most payload bytes in hand; beyond, as with max_backlog."""


class StateSection(Section):
    """What survives a restart."""

    dir: Place = Field(default_factory=lambda: default_state("slm-agent"))
    """Folder for state. Default: $STATE_DIRECTORY, which systemd sets; else
    /var/lib/slm-agent for root and where it exists; else the user's,
    $XDG_STATE_HOME/slm-agent."""


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

    workers: int = Field(default=0, ge=0, le=16)
    """Texts that are worked on at once. 0: one for each core, at most 4."""
    threads: int = Field(default=1, ge=1, le=64)
    """Threads of one inference. More than one helps only long texts."""
    max_batch: int = Field(default=16, ge=1, le=512)
    """Most messages the workers take at a time; no answer depends on it."""


class Budget(Limits):
    """What the whole device may spend upstream in a day (UTC)."""

    when_spent: Literal["queue", "answer_unresolved"] = "answer_unresolved"
    """`queue` lets cases wait for the next day, if their deadline does."""


class Cache(Section):
    """Answers that are given again for exactly the same text."""

    entries: int = Field(default=2000, ge=0, le=100_000)
    """Most answers kept; 0: none."""
    age_s: int = Field(default=7 * 86_400, ge=1, le=10 * YEAR_S)
    """How old an answer may be."""


class UpstreamSection(Section):
    """On which terms upstream is asked, whatever the transport."""

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


class MqttUpstreamSection(UpstreamSection):
    """`slm-agent broker`, or whoever speaks its protocol."""

    transport: Literal["mqtt"]
    """How upstream is asked."""
    url: Annotated[str, AfterValidator(_is_url_if_any)] = ""
    """Empty: the broker of [mqtt]; else mqtt(s)://host:port."""
    topic: Annotated[str, AfterValidator(checked_base)] = "slm/upstream"
    """Cases go to <topic>/<pipeline>."""
    username: MqttString = ""
    """User name, where url is given."""
    password_file: Place | None = None
    """File whose first line is the password, where url is given."""
    ca_file: Place | None = None
    """CA certificates (PEM) of the upstream. Default: the system's."""


class HttpUpstreamSection(UpstreamSection):
    """Any OpenAI-compatible endpoint."""

    transport: Literal["http"]
    """How upstream is asked."""
    url: Annotated[str, AfterValidator(_is_http_url)]
    """The base URL, as https://host/v1."""
    model: str = Field(min_length=1, max_length=200)
    """The model's name at the endpoint."""
    key_file: Place | None = None
    """File whose first line is the API key."""
    proxy: Annotated[str, AfterValidator(_is_http_url_if_any)] = ""
    """HTTP proxy between, as http://host:port; empty: none, whatever the environment
    says."""
    ca_file: Place | None = None
    """CA certificates (PEM) of the upstream. Default: the system's."""


Upstream = MqttUpstreamSection | HttpUpstreamSection


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
    prefix: Annotated[str, AfterValidator(checked_base)] = "homeassistant"
    """Its discovery prefix."""


class Log(Section):
    """What is logged."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """At info: one line a message, never its text."""
    ids: Literal["plain", "hash"] = "plain"
    """How a message's id is logged: as it is, or the first 16 digits of its sha256."""


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
    state: StateSection = Field(default_factory=StateSection)
    pipelines: Pipelines = Field(default_factory=Pipelines)
    models: Models = Field(default_factory=Models)
    engine: EngineSection = EngineSection()
    log: Log = Log()
    metrics: Metrics = Metrics()
    homeassistant: HomeAssistant = HomeAssistant()
    outbox: Outbox = Outbox()
    upstream: Upstream | None = Field(default=None, discriminator="transport")
    """Absent: nothing ever leaves the device."""
    fleet: FleetSection | None = None
    """Absent: this file alone counts."""
