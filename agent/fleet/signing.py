"""Signatures (Ed25519): who may say what devices do.

An envelope carries everything in one file or one retained message: the exact bytes of
the fleet file, of its list of devices if it has one, and a signature over both.
"""

import base64
import binascii
import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import to_json

from agent.core.errors import ConfigError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

PURPOSE = (
    b"slm-agent fleet file, version 1\n"  # a signature for this is for nothing else
)
LARGEST = 8 * 2**20


class Untrusted(Exception):
    """An envelope that is damaged, or that nobody signed whom we know."""


@dataclass(frozen=True, slots=True)
class Content:
    """What is signed."""

    fleet: bytes
    devices: bytes | None = None

    @property
    def digest(self) -> str:
        """Name the content, however often and by whom it was signed."""
        return hashlib.sha256(self.signed).hexdigest()

    @property
    def signed(self) -> bytes:
        """What the signature is over."""
        parts = [hashlib.sha256(self.fleet).digest()]
        if self.devices is not None:
            parts.append(hashlib.sha256(self.devices).digest())
        return PURPOSE + b"".join(parts)


class _Envelope(BaseModel):
    """The JSON object; keys in this order, without white space."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    v: int
    fleet: str
    devices: str | None
    key: str
    signature: str


def sign(content: Content, private_pem: bytes) -> bytes:
    """Return the envelope; raises ConfigError where the key is none."""
    key = _private(private_pem)
    devices = content.devices
    return to_json(
        _Envelope(
            v=1,
            fleet=_text(content.fleet),
            devices=None if devices is None else _text(devices),
            key=_id(key.public_key()),
            signature=_text(key.sign(content.signed)),
        )
    )


def opened(data: bytes) -> Content:
    """Return the content of an envelope that nobody checked; raises Untrusted."""
    return _content(_parsed(data))


def verified(data: bytes, keys: Mapping[str, "Ed25519PublicKey"]) -> Content:
    """Return what was signed with one of these keys; raises Untrusted."""
    from cryptography.exceptions import InvalidSignature

    envelope = _parsed(data)
    content = _content(envelope)
    key = keys.get(envelope.key)
    if key is None:
        raise Untrusted(
            f"signed with key {envelope.key[:16]!r}, which is not among the known "
            f"({', '.join(keys) or 'none'})"
        )
    try:
        key.verify(_bytes(envelope.signature), content.signed)
    except InvalidSignature:
        raise Untrusted(f"the signature is not that of key {envelope.key}") from None
    return content


def _parsed(data: bytes) -> _Envelope:
    """Take an envelope only as `sign` writes it, so that no byte of it may differ."""
    if len(data) > LARGEST:
        raise Untrusted(f"{len(data)} bytes, more than {LARGEST}")
    data = data.rstrip()
    try:
        envelope = _Envelope.model_validate_json(data)
    except ValidationError:
        raise Untrusted("damaged or truncated: no signed fleet file") from None
    if envelope.v != 1:
        raise Untrusted(f"version {envelope.v} of the envelope, this is for 1")
    if to_json(envelope) != data:
        raise Untrusted("damaged: not as it was written")
    return envelope


def _content(envelope: _Envelope) -> Content:
    devices = envelope.devices
    return Content(_bytes(envelope.fleet), None if devices is None else _bytes(devices))


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _bytes(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        data = None
    if data is None or _text(data) != text:  # one way to write it, no other
        raise Untrusted("damaged: not base64")
    return data


def _id(key: "Ed25519PublicKey") -> str:
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def public_keys(paths: Iterable[Path]) -> dict[str, "Ed25519PublicKey"]:
    """Read public keys, by their ids; raises ConfigError."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    found = {}
    for path in paths:
        data = _read(path)
        try:
            key = load_pem_public_key(data)
        except ValueError:
            key = None
        if not isinstance(key, Ed25519PublicKey):
            raise ConfigError(f"{path}: no Ed25519 public key (PEM)")
        found[_id(key)] = key
    return found


def _private(pem: bytes) -> "Ed25519PrivateKey":
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError("no Ed25519 private key (PEM, without a password)")
    return key


def write_keys(private: Path, public: Path) -> str:
    """Make a pair of keys, and never over others; return the id.

    Raises ConfigError.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    key = Ed25519PrivateKey.generate()
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    shown = key.public_key().public_bytes(
        Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
    )
    _write_new(private, secret, 0o600)
    _write_new(public, shown, 0o644)
    return _id(key.public_key())


def _write_new(path: Path, data: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
    except FileExistsError:
        raise ConfigError(f"{path}: is there already") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
