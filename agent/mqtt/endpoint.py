"""Where a broker is, and all that a CONNECT says to it."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties


@dataclass(frozen=True, slots=True)
class Login:
    """User name and password."""

    username: str | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker says when we vanish."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = True


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Everything a connection needs to know."""

    url: str
    client_id: str
    login: Login = Login()
    version: int = 5  # or 4 for MQTT 3.1.1
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    keepalive_s: int = 30
    session_expiry_s: int = 604_800
    max_inflight: int = 64
    max_packet_bytes: int = 16 * 2**20
    will: Will | None = None


def connect_properties(endpoint: Endpoint) -> Properties:
    """Return the properties of our CONNECT."""
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = endpoint.session_expiry_s
    properties.ReceiveMaximum = endpoint.max_inflight
    properties.MaximumPacketSize = endpoint.max_packet_bytes
    return properties


def tls_context(endpoint: Endpoint) -> ssl.SSLContext:
    """Verify the broker, always; show our certificate if there is one.

    Raises OSError (ssl.SSLError included) for unusable files.
    """
    context = ssl.create_default_context(
        cafile=None if endpoint.ca_file is None else str(endpoint.ca_file)
    )
    if endpoint.cert_file:
        context.load_cert_chain(endpoint.cert_file, endpoint.key_file)
    return context
