"""Ways to ask upstream: `open_transport` returns the one that the operator chose."""

from collections.abc import Mapping
from dataclasses import fields
from urllib.parse import SplitResult, urlsplit

from agent.core.errors import ConfigError
from agent.escalation.mqtt import MqttTransport, endpoint_of
from agent.escalation.transport import (
    EncodeAgain,
    Rejected,
    Settings,
    Transport,
    Unavailable,
)
from agent.mqtt.connection import Endpoint

__all__ = [
    "EncodeAgain",
    "Rejected",
    "Settings",
    "Transport",
    "Unavailable",
    "open_transport",
]

# What one transport would silently ignore, by the transport that would.
FOREIGN: Mapping[str, tuple[str, ...]] = {
    "mqtt": ("model", "key_file"),
    "http": ("topic", "username", "password_file"),
}


def open_transport(settings: Settings, device: str, own: Endpoint) -> Transport:
    """Return the transport; raises ConfigError for what cannot work.

    Nothing is connected yet. `device` is the device's id, `own` its connection to its
    broker: the one to ask where no url is given.
    """
    _check_foreign(settings)
    parts = _checked_url(settings)
    if settings.transport == "mqtt":
        return MqttTransport(settings, device, endpoint_of(settings, own))
    # Here, so that no device loads httpx that asks by MQTT: 5 MB.
    from agent.escalation.http import open_http  # noqa: PLC0415

    if not settings.url:
        raise ConfigError("upstream.url: transport 'http' needs it")
    if not settings.model:
        raise ConfigError("upstream.model: transport 'http' needs it")
    if settings.ca_file and parts.scheme != "https":
        raise ConfigError("upstream.ca_file: needs a url with https://")
    return open_http(settings)


def _check_foreign(settings: Settings) -> None:
    defaults = {field.name: field.default for field in fields(settings)}
    for name in FOREIGN[settings.transport]:
        if getattr(settings, name) != defaults[name]:
            raise ConfigError(
                f"upstream.{name}: means nothing to transport {settings.transport!r}"
            )


def _checked_url(settings: Settings) -> SplitResult:
    """Return the url's parts; an error never repeats it, it may hold a password."""
    schemes = {"mqtt": ("mqtt", "mqtts"), "http": ("http", "https")}
    one, other = schemes[settings.transport]
    try:
        parts = urlsplit(settings.url)
        port_is_zero = parts.port == 0  # others that are no port raise ValueError
    except ValueError as error:
        raise ConfigError("upstream.url: is no url") from error
    if not settings.url:
        return parts
    if parts.scheme not in {one, other} or not parts.hostname or port_is_zero:
        raise ConfigError(f"upstream.url: begins {one}://host or {other}://host")
    if parts.username is not None or parts.password is not None:
        raise ConfigError("upstream.url: holds no password; use a file")
    if parts.query or parts.fragment:
        raise ConfigError("upstream.url: has no '?' and no '#'")
    if settings.transport == "mqtt" and parts.path not in {"", "/"}:
        raise ConfigError("upstream.url: ends after the port")
    return parts
