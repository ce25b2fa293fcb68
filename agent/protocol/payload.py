"""From payload bytes to the text a model may see, or a clear reason why not."""

import encodings
import pkgutil
import re
from dataclasses import dataclass
from encodings.aliases import aliases
from functools import cache
from typing import Any

from pydantic_core import from_json

from agent.core.errors import Unreadable
from agent.core.types import Message, Reason, Text
from agent.mqtt.message_ids import checked_id

CHARSET = re.compile(r"charset\s*=\s*\"?([^\s;\"]*)", re.IGNORECASE)
# Control characters but tab, line feed, vertical tab, form feed, carriage return;
# and lone surrogates, which JSON can spell but UTF-8 cannot.
UNFIT = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
# Python's codecs that are no charsets of payloads. A sender names the charset, so what
# is quadratic (punycode), speaks Python or makes lone surrogates (UTF-7) stays out.
NO_CHARSETS = {
    *("base64_codec", "bz2_codec", "hex_codec", "quopri_codec", "rot_13", "uu_codec"),
    *("zlib_codec", "charmap", "idna", "punycode", "raw_unicode_escape", "undefined"),
    *("unicode_escape", "utf_7", "mbcs", "oem", "aliases"),
}


@dataclass(frozen=True, slots=True)
class Reader:
    """How one pipeline reads its messages.

    `text` and `id` are paths into a JSON payload ("a.b.c"); an empty `text` takes the
    whole payload. `max_chars` is the longest text worth predicting, in characters.
    """

    text: str = ""
    id: str = ""
    encoding: str = "utf-8"
    max_chars: int = 10_000


def read(message: Message, reader: Reader) -> Text:
    """Return the text of a message and the id it goes by.

    Raises Unreadable with the reason that ends the message as a dead letter.
    """
    decoded = _decode(message, reader.encoding)
    if not reader.text and not reader.id:
        return Text(checked(decoded, reader.max_chars), message.id)
    document = _parse(decoded)
    text = _field(document, reader.text) if reader.text else decoded
    if not isinstance(text, str):
        raise Unreadable(
            Reason.WRONG_TYPE,
            f"field {reader.text!r} is {_json_type(text)}, not a string",
        )
    return Text(checked(text, reader.max_chars), _id(document, reader.id, message.id))


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
    found = CHARSET.search(content_type) if content_type else None
    return found[1] if found else None


def _parse(decoded: str) -> Any:
    try:
        return from_json(decoded, allow_inf_nan=False)
    except ValueError as error:
        raise Unreadable(Reason.NOT_JSON, str(error)) from error


def _field(document: Any, path: str) -> Any:
    value = document
    for name in path.split("."):
        if not isinstance(value, dict) or name not in value:
            raise Unreadable(Reason.MISSING_FIELD, f"no field {path!r}")
        value = value[name]
    return value


def _id(document: Any, path: str, made: str) -> str:
    """Return the producer's id from the payload, else the message's own.

    An id is a name for de-duplication, so a missing or absurd one is no reason to
    refuse the text.
    """
    if not path:
        return made
    try:
        value = _field(document, path)
    except Unreadable:
        return made
    if isinstance(value, bool) or not isinstance(value, str | int):
        return made
    return checked_id(str(value)) or made


def checked(text: str, max_chars: int) -> str:
    """Return the text if a model may see it; raises Unreadable."""
    if len(text) > max_chars:
        raise Unreadable(
            Reason.TOO_LONG, f"{len(text)} characters, at most {max_chars} are taken"
        )
    if not text.strip():
        raise Unreadable(Reason.EMPTY, "no text but white space")
    found = UNFIT.search(text)
    if found:
        surrogate = "\ud800" <= found[0] <= "\udfff"
        raise Unreadable(
            Reason.NOT_UTF8 if surrogate else Reason.CONTROL_CHARACTERS,
            f"character U+{ord(found[0]):04X} at position {found.start()}",
        )
    return text


def _json_type(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a number", float: "a number", list: "an array"}
    return names.get(type(value), "an object")
