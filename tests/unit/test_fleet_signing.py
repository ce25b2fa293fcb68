"""Signatures: nothing is believed but what was signed, to the last byte."""

import json
import stat
import string
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.core.errors import ConfigError
from agent.fleet.signing import (
    LARGEST,
    Content,
    Untrusted,
    opened,
    public_keys,
    sign,
    verified,
    write_keys,
)
from harness.fleets import Keys

TOML = "version = 1\n"
DEVICES = '{"id": "pi-1"}\n'


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """Return our keys."""
    return Keys(tmp_path_factory.mktemp("keys"))


@given(st.binary(), st.none() | st.binary())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_signed_comes_back(
    keys: Keys, toml: bytes, devices: bytes | None
) -> None:
    """Any bytes are carried exactly, with or without a list of devices."""
    content = Content(toml, devices)
    data = sign(content, keys.private.read_bytes())
    assert verified(data, keys.known) == content == opened(data)
    assert verified(data + b"\n", keys.known) == content  # as editors leave files


@pytest.mark.parametrize("devices", [None, DEVICES])
def test_a_damaged_byte_anywhere(keys: Keys, devices: str | None) -> None:
    """Whichever byte of an envelope is changed, it is refused."""
    data = keys.signed(TOML, devices)
    for place in range(len(data)):
        for flip in (0x01, 0x20, 0x80):
            damaged = bytearray(data)
            damaged[place] ^= flip
            with pytest.raises(Untrusted):
                verified(bytes(damaged), keys.known)


def test_one_spelling(keys: Keys) -> None:
    """The same content spelled otherwise is refused: JSON and base64 have one way."""
    data = keys.signed("version = 10\n")  # its base64 has bits to spare
    document = json.loads(data)
    spaced = json.dumps(document).encode()
    twice = data[:-1] + b',"key":"' + document["key"].encode() + b'"}'
    escaped = data.replace(b'"key"', b'"\\u006bey"')
    assert json.loads(spaced) == json.loads(twice) == json.loads(escaped) == document
    spellings = [spaced, twice, escaped]
    for part in ("fleet", "signature"):
        text = document[part].rstrip("=")
        padding = document[part][len(text) :]
        assert padding
        spellings += [
            data.replace(document[part].encode(), f"{text[:-1]}{end}{padding}".encode())
            for end in string.ascii_letters + string.digits + "+/"
            if end != text[-1]
        ]
    for other in spellings:
        with pytest.raises(Untrusted):
            verified(other, keys.known)


def test_truncated_anywhere(keys: Keys) -> None:
    """However much of an envelope is missing, it is refused."""
    data = keys.signed(TOML, DEVICES)
    for length in range(len(data)):
        with pytest.raises(Untrusted, match="damaged"):
            verified(data[:length], keys.known)


@given(st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rubbish(keys: Keys, data: bytes) -> None:
    """Rubbish is refused, never raised as anything else."""
    with pytest.raises(Untrusted):
        verified(data, keys.known)


def test_too_large(keys: Keys) -> None:
    """What is absurdly large is not even read."""
    with pytest.raises(Untrusted, match="more than"):
        verified(b"{" * (LARGEST + 1), keys.known)


def test_another_key(keys: Keys, tmp_path: Path) -> None:
    """A file signed by somebody else is refused, and the reason names both keys."""
    stranger = Keys(tmp_path, "stranger")
    with pytest.raises(Untrusted, match=f"'{stranger.id}'.*not among.*{keys.id}"):
        verified(stranger.signed(TOML), keys.known)


def test_a_stranger_under_our_name(keys: Keys, tmp_path: Path) -> None:
    """The name of a key is no signature."""
    forged = json.loads(Keys(tmp_path, "stranger").signed(TOML)) | {"key": keys.id}
    data = json.dumps(forged, separators=(",", ":")).encode()
    with pytest.raises(Untrusted, match="the signature is not that of key"):
        verified(data, keys.known)


def test_parts_cannot_be_exchanged(keys: Keys) -> None:
    """The list of devices is signed, too: another one does not go with a signature."""
    other = json.loads(keys.signed(TOML, "other"))
    for change in ({"devices": other["devices"]}, {"devices": None}):
        forged = json.loads(keys.signed(TOML, DEVICES)) | change
        with pytest.raises(Untrusted):
            verified(json.dumps(forged, separators=(",", ":")).encode(), keys.known)


def test_change_of_keys(keys: Keys, tmp_path: Path) -> None:
    """While a device knows two keys, it takes what either signed."""
    new = Keys(tmp_path, "new")
    both = public_keys([keys.public, new.public])
    for signer in (keys, new):
        assert verified(signer.signed(TOML), both).fleet == TOML.encode()


def test_digest_is_of_the_content(keys: Keys, tmp_path: Path) -> None:
    """The same content signed with two keys is the same content."""
    one, other = keys.signed(TOML), Keys(tmp_path, "new").signed(TOML)
    assert one != other
    assert opened(one).digest == opened(other).digest
    assert opened(one).digest != opened(keys.signed(TOML, DEVICES)).digest


def test_keys_are_never_written_over(tmp_path: Path) -> None:
    """A private key is for its owner alone, and no file is lost to a new one."""
    private, public = tmp_path / "a.key", tmp_path / "a.pub"
    write_keys(private, public)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    before = private.read_bytes()
    with pytest.raises(ConfigError, match=r"a\.key: is there already"):
        write_keys(private, public)
    assert private.read_bytes() == before
    with pytest.raises(ConfigError, match="No such file"):
        write_keys(tmp_path / "no" / "a.key", public)


def test_keys_that_are_none(tmp_path: Path) -> None:
    """Files that hold no Ed25519 key are named."""
    path = tmp_path / "x.pem"
    with pytest.raises(ConfigError, match=r"x\.pem: No such file"):
        public_keys([path])
    other = generate_private_key(SECP256R1()).public_key()
    for content in (
        b"rubbish",
        other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    ):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"x\.pem: no Ed25519 public key"):
            public_keys([path])
    with pytest.raises(ConfigError, match="no Ed25519 private key"):
        sign(Content(b""), b"rubbish")
