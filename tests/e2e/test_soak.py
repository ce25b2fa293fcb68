"""While everything breaks, nothing grows and each message ends once."""

import json

import pytest

from bench import soak


@pytest.mark.long
@pytest.mark.timeout(600)
def test_short(capsys: pytest.CaptureFixture[str]) -> None:
    """5,000 messages in three rounds: the same files after each of them.

    Memory has not settled by then, but no set of models stays behind a reload: 28 MB.
    """
    arguments = ["--messages", "5000", "--rounds", "3", "--margin-mb", "25", "--json"]
    status = soak.main(arguments)
    figures = json.loads(capsys.readouterr().out)
    assert [check for check in figures["checks"] if not check["well"]] == []
    assert status == 0
    assert set(figures["faults"].values()) == {3}
    assert figures["messages"] == 5000
    assert figures["results"] + figures["dead_letters"] == figures["qos1"]
    assert figures["cases"] > 500  # outboxes full of them


def test_growth_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """What is not flat is named, with what was found and what is right."""
    samples = [
        soak.Sample(number // 10, number * 100, 150 + number, 12 + number, 7, 1000)
        for number in range(30)
    ]
    idles = [
        soak.Idle({"socket": 5 + number}, 0, 7 + number, 150, 1000, 10)
        for number in range(5)
    ]
    checks = [*soak.memory(samples, 3, 8.0), *soak.holdings(idles, samples)]
    ill = {check.what for check in checks if not check.well}
    assert ill == {
        "memory, by the slope",
        "memory, by medians",
        "files and sockets, idle",
        "threads, idle",
    }
    assert "unlike: socket" in next(c.found for c in checks if "files" in c.what)
    assert capsys.readouterr().out == ""
