"""Asking by HTTP: what is posted, and what an answer of the endpoint means."""

import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from agent.core.errors import ConfigError
from agent.escalation.http import (
    Dialect,
    HttpTransport,
    Response,
    dialect_of,
    failure,
    open_http,
    pause,
    plainer,
    used,
)
from agent.escalation.transport import Rejected, Unavailable, priced
from agent.mqtt.connection import Endpoint
from agent.protocol.cases import Repair, Request, Usage
from agent.protocol.prompt import messages, response_format
from harness.upstreams import http_upstream, opened_as_told

OWN = Endpoint("mqtt://127.0.0.1:1883", "device")
SETTINGS = http_upstream("https://llm.example/v1/", model="small", max_output_tokens=99)
ASKED = Request(
    id="m-1",
    device="pi",
    pipeline="home",
    text="gr\u00fc\u00dfe \U0001f600",
    labels={"on": "turn on"},
    deadline_ms=1,
)


@pytest.fixture
def http() -> HttpTransport:
    """Return a transport to nowhere."""
    return open_http(SETTINGS)


def test_body(http: HttpTransport) -> None:
    """The body is the one prompt, the schema, and what keeps an answer short."""
    document = json.loads(http.encode(ASKED, 99))
    assert document == {
        "model": "small",
        "messages": messages(ASKED),
        "response_format": response_format(ASKED),
        "temperature": 0,
        "max_tokens": 99,
    }
    assert "gr\u00fc\u00dfe \U0001f600".encode() in http.encode(ASKED, 99)


def test_body_is_always_utf8(http: HttpTransport) -> None:
    """An answer that no UTF-8 can spell does not keep its repair from being asked."""
    repair = Repair(answer="\ud800", error="is no label")
    json.loads(http.encode(ASKED.model_copy(update={"repair": repair}), 99))


def test_names(http: HttpTransport) -> None:
    """Ledger and logs learn who is asked; a slash at the end is none of its name."""
    assert (http.name, http.to, http.late) == ("http", "https://llm.example/v1", 0)


# -- dialects


@pytest.mark.parametrize("form", ["json_schema", "json_object", "text"])
@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("temperature", [True, False])
def test_dialect_of_a_body(
    http: HttpTransport, form: Any, limit: Any, *, temperature: bool
) -> None:
    """A body shows the dialect it was written in."""
    dialect = Dialect(form, limit, temperature)
    http._dialects["home"] = dialect
    assert dialect_of(http.encode(ASKED, 99)) == dialect
    assert dialect_of(http.encode(ASKED.model_copy(update={"pipeline": "x"}), 99)) == (
        Dialect()
    )


COMPLAINTS: dict[str, dict[str, Any]] = {  # as endpoints word them
    "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
    "'max_completion_tokens' instead.": {"limit": "max_completion_tokens"},
    "Unsupported value: 'temperature' does not support 0 with this model. Only the "
    "default (1) value is supported.": {"temperature": False},
    "Invalid parameter: 'response_format' of type 'json_schema' is not supported with "
    "this model.": {"format": "json_object"},
    "{\"message\": \"[{'loc': ('body', 'response_format', 'type'), ...}]\"}": {
        "format": "json_object"
    },
    "The model does not exist.": {},
    "": {},
    "\ufffd": {},
}


@pytest.mark.parametrize(("complaint", "change"), COMPLAINTS.items())
def test_complaints(complaint: str, change: dict[str, Any]) -> None:
    """What an endpoint complains of is left off, or put in another way."""
    assert plainer(Dialect(), complaint.encode()) == replace(Dialect(), **change)


def test_plainer_has_an_end() -> None:
    """Whoever complains of everything is soon asked no more."""
    dialect = Dialect()
    for _ in range(5):
        complaint = b"response_format temperature max_completion_tokens"
        dialect = plainer(dialect, complaint)
    assert dialect == Dialect("text", "max_completion_tokens", temperature=False)
    assert plainer(dialect, complaint) == dialect


# -- what a status means


@pytest.mark.parametrize("status", [400, 413, 422])
def test_rejected(status: int) -> None:
    """A fault of this very request will be one the next time, too."""
    assert isinstance(failure(Response(status, {}, b""), ""), Rejected)


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, b'{"error": {"code": "invalid_api_key"}}', "is the key right?"),
        (404, b"", "are upstream.url and upstream.model right?"),
        (407, b"<html>", "a proxy wants a login"),
        (400, b'[{"error": {"message": "API key not valid"}}]', "status 400"),
        (400, b'{"error": {"message": "Your credit balance is too low"}}', "400"),
        (400, b'{"error": {"message": "Invalid model name passed in"}}', "400"),
        (400, b'{"error": {"type": "no_db_connection"}}', "(no_db_connection)"),
    ],
)
def test_faults_of_the_operator(status: int, body: bytes, said: str) -> None:
    """What is no fault of the request may be mended; and the reason says where."""
    found = failure(Response(status, {}, body), "")
    assert isinstance(found, Unavailable)
    assert said in str(found)


@pytest.mark.parametrize(
    ("status", "maybe_paid"),
    [
        (301, False),
        (307, False),
        (401, False),
        (402, False),
        (403, False),
        (404, False),
        (405, False),
        (407, False),
        (408, True),
        (409, True),
        (425, False),
        (429, False),
        (451, False),
        (500, True),
        (502, True),
        (503, False),
        (504, True),
        (204, True),
        (529, True),
    ],
)
def test_unavailable(status: int, *, maybe_paid: bool) -> None:
    """Others may end; some say that no model was asked."""
    found = failure(Response(status, {"retry-after": "7"}, b""), "")
    assert isinstance(found, Unavailable)
    assert found.maybe_paid is maybe_paid
    assert found.retry_after_s == 7
    assert str(status) in str(found)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"error": {"code": "invalid_api_key", "type": "x"}}', "(invalid_api_key)"),
        (b'{"error": {"code": null, "type": "server_error"}}', "(server_error)"),
        (b'{"error": {"code": 401, "message": "turn it off"}}', ""),
        (b'{"error": {"code": "turn it off"}}', ""),
        (b'{"error": {"code": "kitchen_light"}}', ""),
        (b'{"error": "turn it off"}', ""),
        (b'{"detail": "turn it off"}', ""),
        (b"[1]", ""),
        (b"turn it off", ""),
        (b"", ""),
    ],
)
def test_reason(body: bytes, said: str) -> None:
    """The reason is the status and a code, if it is surely no text of the message."""
    reason = str(failure(Response(400, {}, body), "the kitchen_light, turn it off"))
    assert reason == f"status 400 {said}".strip()


def in_seconds(seconds: int) -> str:
    """Return a date as HTTP writes it."""
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


def test_pause_until() -> None:
    """Retry-After as a date from now on is a pause until then; one gone by is none."""
    assert 500 <= (pause(in_seconds(600)) or 0.0) <= 600
    assert pause(in_seconds(-600)) == 0


@pytest.mark.parametrize(
    ("said", "least", "most"),
    [
        ("0", 0, 0),
        ("120", 120, 120),
        ("1.5", 1.5, 1.5),
        ("999999999999", 86_400, 86_400),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 86_400, 86_400),
        ("Wed, 21 Oct 2015 07:28:00 -0000", 0, 0),
    ],
)
def test_pause(said: str, least: float, most: float) -> None:
    """Retry-After is seconds or a date, and never longer than a day."""
    assert least <= (pause(said) or 0.0) <= most


@pytest.mark.parametrize(
    "said", [None, "", "soon", "-1", "nan", "inf", "1e9", "\u0661", "1 Jan", "31 Foo 1"]
)
def test_no_pause(said: str | None) -> None:
    """What is no Retry-After asks for nothing."""
    assert pause(said) is None


# -- what it took


@pytest.mark.parametrize(
    ("usage", "header", "expected"),
    [
        (
            {"prompt_tokens": 5, "completion_tokens": 2},
            None,
            Usage(input_tokens=5, output_tokens=2),
        ),
        (
            {"prompt_tokens": 5, "cost": 0.5},
            None,
            Usage(input_tokens=5, output_tokens=0, cost=0.5),
        ),
        (
            {"prompt_tokens": 5, "cost": 0.5},
            "0.7",
            Usage(input_tokens=5, output_tokens=0, cost=0.5),
        ),
        (
            {"prompt_tokens": 5},
            "1.2e-05",
            Usage(input_tokens=5, output_tokens=0, cost=1.2e-5),
        ),
        ({"prompt_tokens": 5}, "None", Usage(input_tokens=5)),
        ({"prompt_tokens": 5}, "inf", Usage(input_tokens=5)),
        (None, None, Usage()),
        ("many", "-1", Usage()),
        ({"prompt_tokens": -5}, None, Usage()),
        ({"prompt_tokens": 10**30}, None, Usage()),
        ({"prompt_tokens": 5, "cost": float("nan")}, None, Usage()),
    ],
)
def test_used(usage: Any, header: str | None, expected: Usage) -> None:
    """Tokens and cost are read where they are told; nonsense is none."""
    headers = {} if header is None else {"x-litellm-response-cost": header}
    assert used(usage, headers) == expected


def test_priced() -> None:
    """The price list counts where no cost was told; nothing known stays unknown."""
    listed = SETTINGS.model_copy(update={"price_in": 2.0, "price_out": 8.0})
    usage = Usage(input_tokens=1000, output_tokens=100)
    free = usage.model_copy(update={"cost": 0.0})
    told = usage.model_copy(update={"cost": 0.5})
    assert priced(usage, listed).cost == pytest.approx(0.0028)
    assert priced(told, listed).cost == 0.5
    assert priced(free, listed).cost == pytest.approx(0.0028)
    assert priced(usage, SETTINGS).cost is None
    assert priced(free, SETTINGS).cost == 0.0


# -- what cannot work


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ({"url": ""}, "url"),
        ({"model": ""}, "model"),
        ({"url": "llm.example/v1"}, "url"),
        ({"url": "mqtt://llm.example"}, "url"),
        ({"url": "https:///v1"}, "url"),
        ({"url": "https://llm.example:0/v1"}, "url"),
        ({"url": "https://llm.example:99999/v1"}, "url"),
        ({"url": "https://[::1/v1"}, "url"),
        ({"url": "https://a\u0000b/v1"}, "url"),
        ({"url": "https://me:hunter2@llm.example/v1"}, "url"),
        ({"url": "https://llm.example/v1?key=hunter2"}, "url"),
        ({"url": "https://llm.example/v1#hunter2"}, "url"),
        ({"url": "http://llm.example/v1", "ca_file": Path("/ca.pem")}, "ca_file"),
        ({"ca_file": Path("/no/file")}, "ca_file"),
        ({"key_file": Path("/no/file")}, "key_file"),
        ({"topic": "site/llm"}, "topic"),
        ({"username": "fleet"}, "username"),
        ({"password_file": Path("/secret")}, "password_file"),
    ],
)
def test_what_cannot_work(tmp_path: Path, more: dict[str, Any], key: str) -> None:
    """What would fail later, or be ignored, is said at once, with its key alone."""
    told = {"transport": "http", "url": "https://llm.example/v1", "model": "small"}
    with pytest.raises(ConfigError, match=rf"\bupstream\.{key}: ") as error:
        opened_as_told(tmp_path, {**told, **more})
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    "content", [b"", b"\nsk-1", b"  \n", b"sk 1", b"sk-\xff", "sk-\u00e9".encode()]
)
def test_no_key(tmp_path: Path, content: bytes) -> None:
    """A file that holds no key is an error, and what it holds is not repeated."""
    path = tmp_path / "key"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"^upstream\.key_file: ") as error:
        open_http(SETTINGS.model_copy(update={"key_file": path}))
    assert "sk" not in str(error.value).replace(str(path), "")


def test_no_ca(tmp_path: Path) -> None:
    """A file that holds no certificates is an error."""
    path = tmp_path / "ca.pem"
    path.write_text("no certificate")
    with pytest.raises(ConfigError, match=r"^upstream\.ca_file: "):
        open_http(SETTINGS.model_copy(update={"ca_file": path}))


def test_the_key_is_not_shown(tmp_path: Path) -> None:
    """No repr of the transport, or of what it is made of, shows the key."""
    path = tmp_path / "key"
    path.write_text("sk-hunter2\n")
    transport = open_http(SETTINGS.model_copy(update={"key_file": path}))
    shown = [transport, vars(transport), transport._client, transport._client.headers]
    assert "hunter2" not in repr(shown)
    assert transport._client.headers["authorization"] == "Bearer sk-hunter2"


def test_httpx_is_loaded_for_http_only() -> None:
    """A device that asks by MQTT never loads httpx."""
    code = """\
import sys
from agent.escalation.transports import open_transport
from agent.mqtt.connection import Endpoint
from harness.upstreams import http_upstream, mqtt_upstream
own = Endpoint("mqtt://127.0.0.1:1883", "device")
open_transport(mqtt_upstream(), "pi", own)
assert "httpx" not in sys.modules
open_transport(http_upstream("http://127.0.0.1/v1"), "pi", own)
assert "httpx" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
