"""`slm-agent try` with texts as an argument, from standard input, and typed."""

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.cli.main import cli
from harness.tiny import write_bundle


@pytest.fixture
def config(tmp_path: Path) -> str:
    """Write the configuration of a pipeline over a tiny bundle."""
    write_bundle(tmp_path / "models" / "tiny")
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "home.toml").write_text(
        'input = {topics = ["home/+"]}\nmodel = {bundle = "tiny"}\n'
    )
    path = tmp_path / "agent.toml"
    path.write_text('models.dir = "models"\npipelines.dir = "pipelines"\n')
    return str(path)


def asked(config: str, *arguments: str, typed: str = "") -> tuple[int, str]:
    """Return exit status and output of the command."""
    result = CliRunner().invoke(
        cli,
        ["try", "home", *arguments, "--config", config],
        input=typed,
        catch_exceptions=False,
    )
    return result.exit_code, result.output


def test_one_text(config: str) -> None:
    """A text is answered once, for people or programs."""
    status, output = asked(config, "turn on")
    assert status == 0
    assert "lamp_on" in output
    _, output = asked(config, "turn on", "--json")
    assert json.loads(output)["label"] == "lamp_on"


def test_standard_input(config: str) -> None:
    """With - each line is a text, but for empty ones; each is shown with its answer."""
    typed = "turn on\n\n  \nturn off\r\n\x1b[2Jhello"
    _, output = asked(config, "-", "--json", typed=typed)
    answers = [json.loads(line) for line in output.splitlines()]
    assert [answer["text"] for answer in answers] == [
        "turn on",
        "turn off",
        "\x1b[2Jhello",
    ]
    assert [answer["label"] for answer in answers[:2]] == ["lamp_on", "lamp_off"]
    _, output = asked(config, "-", typed=typed)
    assert output.count("status ") == 3
    assert "text      turn off" in output
    assert "\x1b" not in output


def test_no_text_and_no_terminal(config: str) -> None:
    """Without a text, and nobody to type one, the usage is said."""
    status, output = asked(config, typed="turn on\n")
    assert status == 2
    assert "give TEXT, or - to read standard input" in output


def test_typed(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a terminal it asks until the end of input; nothing typed is no text."""
    runner = CliRunner()
    with runner.isolation(input="turn on\n\nturn off\n") as (out, _, _):
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
        cli(["try", "home", "--config", config], standalone_mode=False)
        output = out.getvalue().decode()
    assert "lamp_on" in output
    assert "lamp_off" in output
    assert output.count("status ") == 2
