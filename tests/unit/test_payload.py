"""Reading: any bytes become a text or a reason, and nothing else."""

import encodings
import json
import tracemalloc
from codecs import lookup
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.core.errors import Unreadable
from agent.core.types import Reason, Text
from agent.mqtt.message_ids import checked_id
from agent.protocol.payload import UNFIT, Reader, is_text_encoding, read
from harness.tiny import arrived

FIELD = Reader(text="a.b", id="n")


def outcome(
    payload: bytes, reader: Reader, content_type: str | None = None
) -> Text | Unreadable:
    """Return the text, or why there is none; let everything else be raised."""
    try:
        return read(arrived(payload, content_type=content_type), reader)
    except Unreadable as why:
        return why


@pytest.mark.parametrize(
    ("payload", "content_type", "reader", "text"),
    [
        (b"turn on the lamp", None, Reader(), "turn on the lamp"),
        ("日本 🦊".encode(), None, Reader(), "日本 🦊"),
        (b" a\t\r\nb ", None, Reader(), " a\t\r\nb "),
        (b'{"a": {"b": "on"}}', None, FIELD, "on"),
        (b'{"a": {"b": "\\u00e9\\ud83e\\udd8a"}}', None, FIELD, "é🦊"),
        (b'{"a": {"b": "on"}, "n": 1}', None, FIELD, "on"),
        (b'{"a.b": 1, "a": {"b": "on"}}', None, FIELD, "on"),
        (b"caf\xe9", None, Reader(encoding="latin-1"), "café"),
        (b"caf\xe9", "text/plain; charset=iso-8859-1", Reader(), "café"),
        (b"caf\xe9", 'text/plain;CHARSET = "Latin1"', Reader(), "café"),
        (b"a", "text/plain", Reader(), "a"),
        ("日本".encode("shift-jis"), "x; charset=Shift_JIS", Reader(), "日本"),
        ("é".encode("utf-16"), "x; charset=utf-16", Reader(), "é"),
        (b"\xef\xbb\xbfon", None, Reader(), "on"),
        (b'\xef\xbb\xbf{"a": {"b": "on"}}', None, FIELD, "on"),
        (b"x" * 10, None, Reader(max_chars=10), "x" * 10),
        ("日".encode() * 10, None, Reader(max_chars=10), "日" * 10),
    ],
)
def test_readable(
    payload: bytes, content_type: str | None, reader: Reader, text: str
) -> None:
    """The text is the payload or its field, unchanged but for a byte order mark."""
    message = arrived(payload, content_type=content_type)
    assert read(message, reader).text == text


@pytest.mark.parametrize(
    ("payload", "content_type", "reader", "reason"),
    [
        (b"\xff\xfe", None, Reader(), Reason.NOT_UTF8),
        (b"\xed\xa0\x80", None, Reader(), Reason.NOT_UTF8),  # a surrogate
        (b"\xc0\xaf", None, Reader(), Reason.NOT_UTF8),  # overlong
        (b"on", "x; charset=klingon", Reader(), Reason.UNKNOWN_ENCODING),
        (b"on", "x; charset=rot13", Reader(), Reason.UNKNOWN_ENCODING),
        (b"6f6e", "x; charset=hex", Reader(), Reason.UNKNOWN_ENCODING),
        (b"on-", "x; charset=punycode", Reader(), Reason.UNKNOWN_ENCODING),
        (b"+2AA-", "x; charset=utf-7", FIELD, Reason.UNKNOWN_ENCODING),
        (b"\\d", "x; charset=unicode_escape", Reader(), Reason.UNKNOWN_ENCODING),
        (b"on", "x; charset=undefined", Reader(), Reason.UNKNOWN_ENCODING),
        (b"on", "x; charset=a\0b", Reader(), Reason.UNKNOWN_ENCODING),
        (b"on", "x; charset=\ud800", Reader(), Reason.UNKNOWN_ENCODING),
        (b"on", "x; charset=" + "x" * 60_000, Reader(), Reason.UNKNOWN_ENCODING),
        (b"on", None, FIELD, Reason.NOT_JSON),
        (b"", None, FIELD, Reason.NOT_JSON),
        (b'{"a": {"b": "on"}', None, FIELD, Reason.NOT_JSON),
        (b'{"a": {"b": NaN}}', None, FIELD, Reason.NOT_JSON),
        (b'{"a": {"b": "\\ud800"}}', None, FIELD, Reason.NOT_JSON),
        (b"[" * 100_000, None, FIELD, Reason.NOT_JSON),
        (b'{"n": ' + b"1" * 5000 + b"}", None, FIELD, Reason.MISSING_FIELD),
        (b'{"a": {"b": "on"}, "c": ' + b"[" * 9000, None, FIELD, Reason.NOT_JSON),
        (b'["\\ud800"]', None, FIELD, Reason.NOT_JSON),
        (b"{}", None, FIELD, Reason.MISSING_FIELD),
        (b'{"a": "b"}', None, FIELD, Reason.MISSING_FIELD),
        (b'["a"]', None, FIELD, Reason.MISSING_FIELD),
        (b'"a"', None, FIELD, Reason.MISSING_FIELD),
        (b"null", None, FIELD, Reason.MISSING_FIELD),
        (b'{"a": {"b": null}}', None, FIELD, Reason.WRONG_TYPE),
        (b'{"a": {"b": 1}}', None, FIELD, Reason.WRONG_TYPE),
        (b'{"a": {"b": true}}', None, FIELD, Reason.WRONG_TYPE),
        (b'{"a": {"b": ["on"]}}', None, FIELD, Reason.WRONG_TYPE),
        (b"", None, Reader(), Reason.EMPTY),
        (b" \t\r\n", None, Reader(), Reason.EMPTY),
        ("\u3000\u2003".encode(), None, Reader(), Reason.EMPTY),
        (b"\xef\xbb\xbf", None, Reader(), Reason.EMPTY),
        (b'{"a": {"b": ""}}', None, FIELD, Reason.EMPTY),
        (b"x" * 11, None, Reader(max_chars=10), Reason.TOO_LONG),
        (b" " * 11, None, Reader(max_chars=10), Reason.TOO_LONG),
        (b"x" * 11, None, Reader(max_bytes=10), Reason.TOO_LONG),
        (b'{"a": ' + b"[" * 10, None, replace(FIELD, max_bytes=15), Reason.TOO_LONG),
        (b"o\x00n", None, Reader(), Reason.CONTROL_CHARACTERS),
        (b"\x1b[31mon", None, Reader(), Reason.CONTROL_CHARACTERS),
        ("on\u0085".encode(), None, Reader(), Reason.CONTROL_CHARACTERS),
        (b'{"a": {"b": "o\\u0000n"}}', None, FIELD, Reason.CONTROL_CHARACTERS),
    ],
)
def test_unreadable(
    payload: bytes, content_type: str | None, reader: Reader, reason: Reason
) -> None:
    """Each way to be unreadable has its one reason."""
    with pytest.raises(Unreadable) as caught:
        read(arrived(payload, content_type=content_type), reader)
    assert caught.value.reason is reason


def test_what_was_cut_is_too_long_and_what_is_broken_is_poison() -> None:
    """Neither is decoded, though what is left of it were a text."""
    with pytest.raises(Unreadable, match="12 bytes, at most 262144") as caught:
        read(replace(arrived(b"on"), cut=10), Reader())
    assert caught.value.reason is Reason.TOO_LONG
    with pytest.raises(Unreadable, match="a property") as caught:
        read(replace(arrived(b"on"), defect="a property"), Reader())
    assert caught.value.reason is Reason.POISON


def test_a_bomb_takes_no_memory() -> None:
    """What is nested beside the text is skipped, not built: 4 MB of lists take none."""
    bomb = b'{"x": [' + b"[]," * 1_400_000 + b'[]], "a": {"b": "on"}}'
    reader = replace(FIELD, max_bytes=10**7)
    tracemalloc.start()
    try:
        assert read(arrived(bomb), reader).text == "on"
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * len(bomb)


@pytest.mark.parametrize(
    ("value", "id_"),
    [
        ('"order-7"', "order-7"),
        ("7", "7"),
        ('"é日"', "é日"),
        ('"' + "x" * 256 + '"', "x" * 256),
        ('"' + "x" * 257 + '"', "made-1"),
        ("1" * 4300, "made-1"),
        ('""', "made-1"),
        ('"a\\nb"', "made-1"),
        ("true", "made-1"),
        ("7.5", "made-1"),
        ("null", "made-1"),
        ('{"a": 1}', "made-1"),
    ],
)
def test_id_from_the_payload(value: str, id_: str) -> None:
    """A producer's id is kept if it can serve as one; else the message's own stays."""
    payload = f'{{"a": {{"b": "on"}}, "n": {value}}}'.encode()
    assert read(arrived(payload), FIELD).id == id_


def test_no_id_in_the_payload() -> None:
    """Without the field, or without a path to it, the message's own id stays."""
    assert read(arrived(b'{"a": {"b": "on"}}'), FIELD).id == "made-1"
    assert read(arrived(b'{"t": "on", "n": 7}'), Reader(text="t")).id == "made-1"


def test_id_beside_a_whole_payload() -> None:
    """A pipeline may take the whole JSON as its text and the id out of it."""
    found = read(arrived(b'{"n": 7}'), Reader(id="n"))
    assert (found.text, found.id) == ('{"n": 7}', "7")


CHARSETS = st.sampled_from(
    ["utf-8", "utf-16", "utf-32", "utf-7", "gb18030", "hz", "iso-2022-jp", "big5"]
) | st.text(max_size=12)
READERS = st.sampled_from([Reader(), Reader(id="n"), FIELD, Reader(text="a")])


@given(st.binary(), st.none() | CHARSETS, READERS)
@example(b'{"a": "\\ud83e"}', None, Reader(text="a"))
@example(b'{"a": "x", "n": ' + b"1" * 4301 + b"}", None, Reader(text="a", id="n"))
def test_nothing_but_unreadable_is_raised(
    payload: bytes, charset: str | None, reader: Reader
) -> None:
    """Arbitrary bytes in an arbitrary charset give a fit text or Unreadable."""
    content_type = None if charset is None else f"text/plain; charset={charset}"
    found = outcome(payload, reader, content_type)
    if isinstance(found, Unreadable):
        assert found.detail.encode()
    else:
        assert found.text.strip()
        assert found.text.encode()
        assert not UNFIT.search(found.text)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_json_of_any_shape(value: object) -> None:
    """Any JSON where the text should be is a text or Unreadable."""
    payload = json.dumps({"a": {"b": value}, "n": value}).encode()
    found = outcome(payload, FIELD)
    if isinstance(found, Unreadable):
        assert found.reason is not Reason.MISSING_FIELD
    else:
        assert found.text == value


@given(st.sampled_from(sorted(encodings.aliases.aliases)), st.binary(max_size=40))
def test_every_charset_python_knows(charset: str, payload: bytes) -> None:
    """No codec of Python's can be named that decodes to anything but fit text."""
    found = outcome(payload, Reader(), f"x; charset={charset}")
    if isinstance(found, Text):
        assert found.text.encode()
        assert lookup(charset).name not in {"utf-7", "punycode", "idna"}


def test_unknown_charsets_leave_no_trace() -> None:
    """Python remembers every codec it was ever asked for; senders cannot fill that."""
    before = len(encodings._cache)
    for number in range(100):
        assert not is_text_encoding(f"klingon{number}")
    assert len(encodings._cache) == before


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("utf-8", True),
        ("UTF8", True),
        ("utf-8-sig", True),
        ("ISO-8859-15", True),
        ("windows-1252", True),
        ("cp1252", True),
        ("koi8-r", True),
        ("ascii", True),
        ("", False),
        ("rot13", False),
        ("base64", False),
        ("zip", False),
        ("idna", False),
        ("aliases", False),
        ("klingon", False),
        ("é", False),
    ],
)
def test_encodings(name: str, *, known: bool) -> None:
    """Charsets are known by any of their names; what is no charset is not."""
    assert is_text_encoding(name) is known


@pytest.mark.parametrize(
    ("candidate", "found"),
    [
        ("a", "a"),
        ("a b", "a b"),
        ("x" * 256, "x" * 256),
        ("x" * 257, None),
        ("", None),
        ("a\n", None),
        ("a\u2028", None),
        ("\ud800", None),
    ],
)
def test_checked_id(candidate: str, found: str | None) -> None:
    """An id is 1 to 256 printable characters."""
    assert checked_id(candidate) == found


def test_details_never_hold_the_text() -> None:
    """What is logged of an unreadable message says what is wrong, not what it says."""
    for payload in (b'{"secret words', b'{"a": {"b": ["secret words"]}}', b"secret\0"):
        with pytest.raises(Unreadable) as caught:
            read(arrived(payload), FIELD)
        assert "secret" not in caught.value.detail
