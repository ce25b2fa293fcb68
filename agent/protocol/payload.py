"""From payload bytes to the text a model may see, or a clear reason why not."""

import encodings
import pkgutil
import re
from dataclasses import dataclass
from encodings.aliases import aliases
from functools import cache

import msgspec
from msgspec import Raw

from agent.core.errors import Unreadable
from agent.core.types import Message, Reason, Text
from agent.mqtt.message_ids import ID_LIMIT, checked_id

CHARSET = re.compile(r"charset\s*=\s*\"?([^\s;\"]*)", re.IGNORECASE)
# Control characters but tab, line feed, vertical tab, form feed, carriage return;
# and lone surrogates, which JSON can spell but UTF-8 cannot.
UNFIT = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
# Python's codecs that are no charsets of payloads. A sender names the charset, so what
# is quadratic (punycode), speaks Python or makes lone surrogates (UTF-7) stays out.
NO_CHARSETS = {
    "base64_codec",
    "bz2_codec",
    "hex_codec",
    "quopri_codec",
    "rot_13",
    "uu_codec",
    "zlib_codec",
    "charmap",
    "idna",
    "punycode",
    "raw_unicode_escape",
    "undefined",
    "unicode_escape",
    "utf_7",
    "mbcs",
    "oem",
    "aliases",
}
INTEGER = re.compile(rb"-?[0-9]+")
STRING = "a string"
JSON_TYPES = {
    '"': STRING,
    "{": "an object",
    "[": "an array",
    "n": "null",
    **dict.fromkeys("tf", "a boolean"),
}

Fields = dict[str, Raw]
_JSON = msgspec.json.Decoder(Raw)
_OBJECT = msgspec.json.Decoder(Fields)
_STRING = msgspec.json.Decoder(str)


@dataclass(frozen=True, slots=True)
class Reader:
    """How one pipeline reads its messages.

    `text` and `id` are paths into a JSON payload ("a.b.c"); an empty `text` takes the
    whole payload. `max_chars` is the longest text worth predicting, in characters,
    `max_bytes` the largest payload worth decoding.
    """

    text: str = ""
    id: str = ""
    encoding: str = "utf-8"
    max_chars: int = 10_000
    max_bytes: int = 262_144


def read(message: Message, reader: Reader) -> Text:
    """Return the text of a message and the id it goes by.

    Raises Unreadable with the reason that ends the message as a dead letter.
    """
    if message.defect:
        raise Unreadable(Reason.POISON, message.defect)
    size = len(message.payload) + message.cut
    if size > reader.max_bytes or message.cut:
        raise Unreadable(
            Reason.TOO_LONG, f"{size} bytes, at most {reader.max_bytes} are read"
        )
    decoded = _decode(message, reader.encoding)
    if not reader.text and not reader.id:
        return Text(checked(decoded, reader.max_chars), message.id)
    fields = _fields(decoded)
    text = _text(fields, reader.text) if reader.text else decoded
    return Text(checked(text, reader.max_chars), _id(fields, reader.id, message.id))


def is_text_encoding(name: str) -> bool:
    """Tell whether payloads may be in this encoding (`rot13` is not one)."""
    return _codec(name) is not None


def _codec(name: str) -> str | None:
    """Return Python's name of an encoding, one of finitely many; None: not known.

    Python remembers every spelling it is asked for; it is never asked for a sender's.
    """
    plain = encodings.normalize_encoding(name).lower() if name.isascii() else ""
    module = aliases.get(plain) or aliases.get(plain.replace(".", "_")) or plain
    return module if module in _codecs() else None


@cache
def _codecs() -> frozenset[str]:
    modules = {module.name for module in pkgutil.iter_modules(encodings.__path__)}
    return frozenset(modules - NO_CHARSETS)


def _decode(message: Message, encoding: str) -> str:
    """Decode the payload; a byte order mark in front is no part of the text."""
    name = _charset(message.content_type) or encoding
    codec = _codec(name)
    if codec is None:
        raise Unreadable(Reason.UNKNOWN_ENCODING, f"no such encoding: {name[:60]!r}")
    try:
        return message.payload.decode(codec).removeprefix("\ufeff")
    except UnicodeError as error:
        raise Unreadable(Reason.NOT_UTF8, f"not valid {codec}: {error}") from error


def _charset(content_type: str | None) -> str | None:
    """Return the charset of an MQTT 5 content type such as `text/plain; charset=x`."""
    match = CHARSET.search(content_type) if content_type else None
    return match[1] if match else None


def _fields(document: str | Raw) -> Fields | None:
    """Return the fields of a JSON object, each as it is spelt; None: it is no object.

    No tree is built, and nothing nested is read but to find its end: the decoder is the
    one of msgspec, whose depth is bounded by that of Python's stack.
    """
    try:
        try:
            return _OBJECT.decode(document)
        except msgspec.ValidationError:  # no object, and maybe no JSON
            _JSON.decode(document)
            return None
    except (msgspec.DecodeError, RecursionError) as error:
        raise Unreadable(Reason.NOT_JSON, str(error)) from error


def _field(fields: Fields | None, path: str) -> Raw:
    *above, last = path.split(".")
    for name in above:
        fields = _fields(fields[name]) if fields and name in fields else None
    if not fields or last not in fields:
        raise Unreadable(Reason.MISSING_FIELD, f"no field {path!r}")
    return fields[last]


def _text(fields: Fields | None, path: str) -> str:
    value = _field(fields, path)
    kind = _json_type(value)
    if kind != STRING:
        raise Unreadable(Reason.WRONG_TYPE, f"field {path!r} is {kind}, not a string")
    return _STRING.decode(value)


def _id(fields: Fields | None, path: str, made: str) -> str:
    """Return the producer's id from the payload, else the message's own.

    An id is a name for de-duplication, so a missing or absurd one is no reason to
    refuse the text. A number is taken as it is spelt.
    """
    if not path:
        return made
    try:
        value = _field(fields, path)
    except Unreadable:
        return made
    spelt = bytes(memoryview(value)[: ID_LIMIT + 1])
    if INTEGER.fullmatch(spelt):
        return checked_id(spelt.decode()) or made
    return (checked_id(_STRING.decode(value)) if spelt[:1] == b'"' else None) or made


def checked(text: str, max_chars: int) -> str:
    """Return the text if a model may see it; raises Unreadable."""
    if len(text) > max_chars:
        raise Unreadable(
            Reason.TOO_LONG, f"{len(text)} characters, at most {max_chars} are taken"
        )
    if not text.strip():
        raise Unreadable(Reason.EMPTY, "no text but white space")
    match = UNFIT.search(text)
    if match:
        surrogate = "\ud800" <= match[0] <= "\udfff"
        raise Unreadable(
            Reason.NOT_UTF8 if surrogate else Reason.CONTROL_CHARACTERS,
            f"character U+{ord(match[0]):04X} at position {match.start()}",
        )
    return text


def _json_type(value: Raw) -> str:
    """Name the type of a JSON value by the first letter of its spelling."""
    return JSON_TYPES.get(chr(memoryview(value)[0]), "a number")
