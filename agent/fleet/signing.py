"""Signatures (Ed25519) of fleet files.

An envelope carries everything in one file or one retained message: the exact bytes of
the fleet file, those of its list of devices if it has one, and a signature over both.
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
from agent.core.files import read_bytes

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

PURPOSE = (
    b"slm-agent fleet file, version 1\n"  # so a signature is valid for nothing else
)
LARGEST = 8 * 2**20  # bytes of an envelope


class Untrusted(Exception):
    """An envelope is damaged, or not signed with a known key."""


@dataclass(frozen=True, slots=True)
class Content:
    """The signed content: the bytes of a fleet file and of its list of devices."""

    fleet: bytes
    devices: bytes | None = None

    @property
    def digest(self) -> str:
        """The sha256 of the content, hexadecimal; independent of the signature."""
        return hashlib.sha256(self.signed).hexdigest()

    @property
    def signed(self) -> bytes:
        """The bytes that the signature covers."""
        parts = [hashlib.sha256(self.fleet).digest()]
        if self.devices is not None:
            parts.append(hashlib.sha256(self.devices).digest())
        return PURPOSE + b"".join(parts)


class _Envelope(BaseModel):
    """The envelope as a JSON object; keys in this order, without white space."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    v: int
    fleet: str
    devices: str | None
    key: str
    signature: str


def sign(content: Content, private_pem: bytes) -> bytes:
    """Return the envelope of a content, signed with an Ed25519 private key (PEM).

    Raises ConfigError if the key is no such key.
    """
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
    """Return the content of an envelope without checking the signature.

    Raises Untrusted if the envelope is damaged.
    """
    return _content(_parsed(data))


def verified(data: bytes, keys: Mapping[str, "Ed25519PublicKey"]) -> Content:
    """Return the content of an envelope that was signed with one of `keys`, by id.

    Raises Untrusted if it is damaged, or the signature is of no such key.
    """
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
    """Parse an envelope; raises Untrusted unless every byte is as `sign` writes it."""
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
    if data is None or _text(data) != text:  # only the canonical encoding
        raise Untrusted("damaged: not base64")
    return data


def _id(key: "Ed25519PublicKey") -> str:
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def public_keys(paths: Iterable[Path]) -> dict[str, "Ed25519PublicKey"]:
    """Read Ed25519 public keys (PEM); return them by id, 16 hexadecimal digits.

    Raises ConfigError for a file that cannot be read or is no such key.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    keys = {}
    for path in paths:
        data = read_bytes(path)
        try:
            key = load_pem_public_key(data)
        except ValueError:
            key = None
        if not isinstance(key, Ed25519PublicKey):
            raise ConfigError(f"{path}: no Ed25519 public key (PEM)")
        keys[_id(key)] = key
    return keys


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
    """Write a new key pair, and return its id; existing files are never replaced.

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
