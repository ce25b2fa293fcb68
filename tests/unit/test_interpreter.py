"""The command that installs an extra is one that works where slm-agent came from."""

import json
from importlib import metadata
from typing import Any

import pytest

from agent.core import interpreter


class Installed:
    """A distribution with pip's note, or without one."""

    def __init__(self, note: dict[str, Any] | None) -> None:
        """`note` is the content of direct_url.json (PEP 610)."""
        self._note = note

    def read_text(self, name: str) -> str | None:
        """Return the note."""
        assert name == "direct_url.json"
        return None if self._note is None else json.dumps(self._note)


@pytest.mark.parametrize(
    ("note", "command"),
    [
        (
            {"url": "file:///srv/my%20checkout", "dir_info": {"editable": True}},
            "pip install -e '/srv/my checkout[broker]'",
        ),
        (
            {"url": "file:///tmp/slm_agent-1.0-py3-none-any.whl", "archive_info": {}},
            "pip install 'slm-agent[broker] @ file:///tmp/slm_agent-1.0-py3-none-any.whl'",
        ),
        (
            {"url": "https://git.example/slm-agent", "vcs_info": {"vcs": "git"}},
            "pip install 'slm-agent[broker] @ https://git.example/slm-agent'",
        ),
        (None, "pip install '.[broker]' in a checkout of slm-agent"),
    ],
)
def test_by_the_note(
    monkeypatch: pytest.MonkeyPatch, note: dict[str, Any] | None, command: str
) -> None:
    """A checkout, a wheel and an address are named; without a note, a checkout is."""
    monkeypatch.setattr(interpreter, "distribution", lambda _: Installed(note))
    assert interpreter.pip_install("broker") == command


def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without metadata, as in the Debian package's folder, a checkout is named."""

    def missing(name: str) -> Installed:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(interpreter, "distribution", missing)
    expected = "pip install '.[demo]' in a checkout of slm-agent"
    assert interpreter.pip_install("demo") == expected
