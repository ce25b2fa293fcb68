"""What the demo shows: at any width every row has its status, and loses nothing."""

from typing import Any

import pytest
from rich.console import Console

from agent.cli.demo_view import TableView

ANSWER: dict[str, Any] = {
    "status": "unresolved",
    "label": "iot_hue_lightoff",
    "reason": "out_of_scope",
    "entities": [{"label": "house_place", "text": "kitchen\x1b[2J"}],
    "by": "upstream",
    "score": 0.5,
    "ms": {"total": 12.34},
}
TEXT = "turn off the lights in the kitchen and in the hall [red]please"


@pytest.mark.parametrize("width", [80, 100, 160])
def test_a_row(width: int) -> None:
    """The status comes first and is whole; what is too long goes on below."""
    view = TableView()
    console = view._console = Console(width=width)
    with console.capture() as capture, view.shown():
        view.answer(TEXT, ANSWER)
        view.answer("x", {"reason": "not_utf8"})
        view.missing("y")
    lines = capture.get().splitlines()
    assert all(len(line.rstrip()) <= width for line in lines)
    rows = [
        line for line in lines if line.split(" ")[0] in {"unresolved", "dead", "no"}
    ]
    assert [row[:11].strip() for row in rows] == [
        "unresolved",
        "dead letter",
        "no answer",
    ]
    shown = "".join("".join(lines).split())
    for words in (TEXT, ANSWER["label"], "out_of_scope", "not_utf8"):
        for word in words.split():
            assert word in shown
    assert "house_place=kitchen" in shown
    assert "simulated" in rows[0]
    assert "12.3" in rows[0]
    assert "\x1b[2J" not in capture.get()
