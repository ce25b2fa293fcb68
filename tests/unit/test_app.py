"""The wiring that can be seen without a broker."""

from pathlib import Path

import pytest

from agent.config.agent_file import AgentFile
from agent.config.load import Config
from agent.core.errors import ConfigError
from agent.daemon.assembly import volatile_dir
from agent.daemon.endpoint import endpoint


def configured(**mqtt: object) -> Config:
    """Return a configuration of device pi-3 with these keys of [mqtt]."""
    agent = AgentFile.model_validate({"device": {"id": "pi-3"}, "mqtt": mqtt})
    return Config(agent, {}, "0" * 64)


@pytest.mark.parametrize(("written", "spoken"), [(5, 5), ("5", 5), ("3.1.1", 4)])
def test_version(written: object, spoken: int) -> None:
    """MQTT 3.1.1 is protocol level 4 on the wire."""
    assert endpoint(configured(version=written)).version == spoken


def test_will() -> None:
    """When we vanish the broker says `offline` where we said `online`."""
    will = endpoint(configured()).will
    assert will is not None
    assert (will.topic, will.payload) == ("slm/pi-3/status", b"offline")


def test_identity() -> None:
    """The client id is the device's."""
    assert endpoint(configured()).client_id == "slm-agent-pi-3"


@pytest.mark.parametrize("content", [None, "not a certificate"])
def test_unusable_tls_files(tmp_path: Path, content: str | None) -> None:
    """TLS files that cannot be used are found before anything is connected."""
    path = tmp_path / "ca.pem"
    if content:
        path.write_text(content)
    with pytest.raises(ConfigError, match=r"TLS files .*ca\.pem"):
        endpoint(configured(url="mqtts://broker.example", ca_file=path))


@pytest.mark.parametrize(
    ("runtime", "path"),
    [
        (None, "/var/lib/slm-agent"),
        ("", "/var/lib/slm-agent"),
        ("/run/slm-agent", "/run/slm-agent"),
        ("/run/slm-agent:/run/other", "/run/slm-agent"),
    ],
)
def test_what_need_not_outlive_a_boot(
    monkeypatch: pytest.MonkeyPatch, runtime: str | None, path: str
) -> None:
    """Under systemd it lies in memory, and the SD card rests."""
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    if runtime is not None:
        monkeypatch.setenv("RUNTIME_DIRECTORY", runtime)
    assert volatile_dir(configured()) == Path(path)
