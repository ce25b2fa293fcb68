"""Asking by HTTP: what is posted, and what an answer of the endpoint means."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.core.errors import ConfigError
from agent.escalation.http import HttpTransport, form_of, open_http
from agent.escalation.transport import priced
from agent.mqtt.endpoint import Endpoint
from agent.protocol.cases import Repair, Request, Usage
from agent.protocol.forms import PromptForm
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


@pytest.mark.parametrize("form", ["json_schema", "json_object", "text"])
@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("temperature", [True, False])
@pytest.mark.parametrize("system", [True, False])
def test_form_of_a_body(
    http: HttpTransport, form: Any, limit: Any, *, temperature: bool, system: bool
) -> None:
    """A body shows the form it was written in, which is its pipeline's."""
    wanted = PromptForm(form, limit, temperature, system)
    http._forms.worked("home", wanted)
    assert form_of(http.encode(ASKED, 99)) == wanted
    other = ASKED.model_copy(update={"pipeline": "x"})
    assert form_of(http.encode(other, 99)) == PromptForm()


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
from agent.mqtt.endpoint import Endpoint
from harness.upstreams import http_upstream, mqtt_upstream
own = Endpoint("mqtt://127.0.0.1:1883", "device")
open_transport(mqtt_upstream(), "pi", own)
assert "httpx" not in sys.modules
open_transport(http_upstream("http://127.0.0.1/v1"), "pi", own)
assert "httpx" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
