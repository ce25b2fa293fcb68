"""A fleet file on its way from the desk, over a real broker."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from paho.mqtt import subscribe

from agent.cli.main import cli
from agent.core.errors import ConfigError, Undelivered
from harness.stage import Mosquitto, free_port

TOML = "version = {}\nunlisted = 'accept'\n"


def pushed(folder: Path, version: int, *words: str, more: str = "") -> bytes:
    """Sign a version and push it; return what was signed."""
    (folder / "fleet.signed.json").unlink(missing_ok=True)
    (folder / "fleet.toml").write_text(TOML.format(version) + more)
    runner = CliRunner()
    if not (folder / "ours.key").exists():
        assert not runner.invoke(cli, ["fleet", "keygen", f"{folder}/ours"]).exit_code
    for command in (
        ("sign", f"{folder}/fleet.toml", "--key", f"{folder}/ours.key"),
        ("push", f"{folder}/fleet.signed.json", *words),
    ):
        found = runner.invoke(cli, ["fleet", *command])
        if found.exception:
            raise found.exception
        assert f"version {version}" in found.output
    return (folder / "fleet.signed.json").read_bytes().rstrip()


def retained(port: int, topic: str) -> bytes:
    """Return what the broker holds for a topic."""
    message = subscribe.simple(topic, hostname="127.0.0.1", port=port)
    assert message.retain
    return bytes(message.payload)


def test_push(broker: Mosquitto, tmp_path: Path) -> None:
    """A pushed file is retained as it was signed; a newer one takes its place."""
    url = ("--url", f"mqtt://127.0.0.1:{broker.port}")
    first = pushed(tmp_path, 1, *url)
    assert retained(broker.port, "slm/fleet") == first
    second = pushed(tmp_path, 2, *url, "--public-key", f"{tmp_path}/ours.pub")
    assert retained(broker.port, "slm/fleet") == second != first
    aside = pushed(tmp_path, 3, *url, "--topic", "plants/fleet")
    assert retained(broker.port, "plants/fleet") == aside


def test_push_as_agent_toml_says(broker: Mosquitto, tmp_path: Path) -> None:
    """With --config broker, topic and keys are those of the devices."""
    config = tmp_path / "agent.toml"
    config.write_text(
        f'mqtt = {{ url = "mqtt://127.0.0.1:{broker.port}", version = "3.1.1" }}\n'
        '[fleet]\npublic_key_files = ["ours.pub"]\ntopic = "slm/oslo"\n'
    )
    signed = pushed(tmp_path, 1, "--config", str(config))
    assert retained(broker.port, "slm/oslo") == signed


@pytest.mark.parametrize("keys", [False, True])
def test_push_never_goes_back(broker: Mosquitto, tmp_path: Path, *, keys: bool) -> None:
    """An older version, or another of the same number, is pushed by force alone."""
    url = ["--url", f"mqtt://127.0.0.1:{broker.port}"]
    second = pushed(tmp_path, 2, *url)
    if keys:
        url += ["--public-key", f"{tmp_path}/ours.pub"]
    assert pushed(tmp_path, 2, *url) == second  # the same again is no other
    for version, more in ((1, ""), (2, "enable = ['home']\n")):
        with pytest.raises(ConfigError, match="slm/fleet: version 2 is there"):
            pushed(tmp_path, version, *url, more=more)
    assert retained(broker.port, "slm/fleet") == second
    first = pushed(tmp_path, 1, *url, "--force")
    assert retained(broker.port, "slm/fleet") == first


def test_push_over_what_no_device_believes(broker: Mosquitto, tmp_path: Path) -> None:
    """A stranger's file does not keep ours away from those who know our key."""
    url = ["--url", f"mqtt://127.0.0.1:{broker.port}"]
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    pushed(stranger, 9, *url)
    ours = pushed(tmp_path, 1, "--force", *url, "--topic", "elsewhere")
    url += ["--public-key", f"{tmp_path}/ours.pub"]
    assert pushed(tmp_path, 1, *url) == ours
    assert retained(broker.port, "slm/fleet") == ours


def test_push_to_nobody(tmp_path: Path) -> None:
    """Without a broker the push fails, and says so."""
    with pytest.raises(Undelivered):
        pushed(tmp_path, 1, "--url", f"mqtt://127.0.0.1:{free_port()}")
