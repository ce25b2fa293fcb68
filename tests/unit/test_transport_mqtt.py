"""Asking by MQTT: what is published, and by which connection."""

import json
from pathlib import Path
from typing import Any

import pytest

from agent.core.errors import ConfigError
from agent.escalation.mqtt import MqttTransport, endpoint_of
from agent.mqtt.endpoint import Endpoint, Login, Will
from agent.protocol.cases import LONGEST_ANSWER, Request, decode_request
from harness.upstreams import mqtt_upstream, opened_as_told

OWN = Endpoint(
    url="mqtts://broker:8883",
    client_id="slm-agent-pi",
    login=Login("pi", "secret"),
    version=4,
    ca_file=Path("/ca.pem"),
    cert_file=Path("/pi.pem"),
    key_file=Path("/pi.key"),
    keepalive_s=7,
    will=Will("slm/pi/status", b"offline"),
)
ASKED = Request(
    id="m-1",
    device="pi",
    pipeline="home",
    text="lights",
    labels={"on": "turn on"},
    deadline_ms=1_700_000_000_000,
)


def test_own_broker() -> None:
    """Without a url it is the device's broker, by its terms, with another client id.

    Its last will stays with the device's own connection.
    """
    found = endpoint_of(mqtt_upstream(), OWN)
    assert found.client_id == "slm-agent-pi-upstream"
    assert found.will is None
    assert (found.url, found.login, found.version) == (OWN.url, OWN.login, 4)
    assert (found.ca_file, found.cert_file) == (OWN.ca_file, OWN.cert_file)
    assert found.session_expiry_s >= 600  # the longest timeout
    assert LONGEST_ANSWER < found.max_packet_bytes < 2 * LONGEST_ANSWER


def test_broker_of_its_own(tmp_path: Path) -> None:
    """With a url nothing secret of the device's broker goes to the other one."""
    secret = tmp_path / "password"
    secret.write_text("pass word\nmore")
    settings = mqtt_upstream(
        url="mqtt://far:1884", username="fleet", password_file=secret
    )
    found = endpoint_of(settings, OWN)
    assert found.url == "mqtt://far:1884"
    assert found.login == Login("fleet", "pass word")
    assert (found.ca_file, found.cert_file, found.key_file) == (None, None, None)
    assert (found.version, found.keepalive_s) == (4, 7)
    plain = endpoint_of(mqtt_upstream(url="mqtt://far"), OWN)
    assert plain.login == Login()


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ({"username": "x"}, "username"),
        ({"ca_file": Path("/ca.pem")}, "ca_file"),
        ({"password_file": Path("/secret")}, "password_file"),
        ({"url": "mqtt://far", "ca_file": Path("/ca.pem")}, "ca_file"),
        ({"url": "mqtt://far", "password_file": Path("/secret")}, "password_file"),
        (
            {"url": "mqtt://far", "username": "x", "password_file": Path("/no/file")},
            "password_file",
        ),
        ({"url": "mqtts://far", "ca_file": Path("/no/file")}, "ca_file"),
        ({"url": "http://far/v1"}, "url"),
        ({"url": "mqtt://"}, "url"),
        ({"url": "mqtt://far/path"}, "url"),
        ({"url": "mqtt://far:0"}, "url"),
        ({"url": "mqtt://far:99999"}, "url"),
        ({"url": "mqtt://far?x=hunter2"}, "url"),
        ({"url": "mqtt://me:hunter2@far"}, "url"),
        ({"model": "m"}, "model"),
        ({"key_file": Path("/key")}, "key_file"),
    ],
)
def test_what_cannot_work(tmp_path: Path, more: dict[str, Any], key: str) -> None:
    """What would fail later, or be ignored, is said at once, with its key alone."""
    with pytest.raises(ConfigError, match=rf"\bupstream\.{key}: ") as error:
        opened_as_told(tmp_path, {"transport": "mqtt", **more})
    assert "hunter2" not in str(error.value)


def test_names() -> None:
    """Ledger and logs learn who is asked, without a secret."""
    transport = MqttTransport(mqtt_upstream(topic="site/llm"), "pi", OWN)
    assert transport.name == "mqtt"
    assert transport.to == "mqtts://broker:8883 site/llm"


def test_payload() -> None:
    """The payload says all by itself: 3.1.1 has nothing else, nor does a bridge."""
    body = MqttTransport(mqtt_upstream(), "pi", OWN).encode(ASKED, 400)
    document = json.loads(body)
    assert document["id"] == "m-1"
    assert document["reply_to"] == "slm/pi/answer"
    assert document["deadline_ms"] == 1_700_000_000_000
    assert document["schema"] == ASKED.schema_
    assert decode_request(body).text == "lights"
