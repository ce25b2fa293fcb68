"""Messages in, results out: the way of a message when nothing goes wrong."""

import re
from typing import Any

from harness.stage import DEVICE, Agent, Client, text_of, topic_of

TYPES: dict[str, Any] = {
    "v": int,
    "id": str,
    "rev": int,
    "final": bool,
    "device": str,
    "pipeline": str,
    "topic": str,
    "status": str,
    "by": str,
    "label": str,
    "score": float,
    "entities": list,
    "reason": str | None,
    "error_bound": float | None,
    "model": str,
    "received_at": str,
    "ms": dict,
}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def check_result(result: dict[str, Any], text: str) -> None:
    """Check a result against the contract, word for word."""
    assert list(result) == list(TYPES)
    for key, kind in TYPES.items():
        assert isinstance(result[key], kind), (key, result[key])
    assert (result["v"], result["rev"], result["final"]) == (1, 0, True)
    assert (result["device"], result["pipeline"]) == (DEVICE, "home")
    assert result["by"] in {"linear", "encoder"}
    assert (result["status"] == "resolved") == (result["reason"] is None)
    assert 0 <= result["score"] <= 1
    assert TIME.fullmatch(result["received_at"])
    for entity in result["entities"]:
        assert list(entity) == ["label", "text", "start", "end", "score"]
        assert text[entity["start"] : entity["end"]] == entity["text"]
    ms = result["ms"]
    assert list(ms) == ["queue", "predict", "total"]
    assert 0 <= ms["queue"] <= ms["total"]
    assert 0 < ms["predict"] <= ms["total"]


def test_burst(agent: Agent, client: Client) -> None:
    """Each of 1,000 messages sent at once gets one final result, with its own id."""
    client.ask(range(1000), ids=True)
    client.wait_answered(1000)
    assert agent.terminate() == 0  # nothing more can come
    assert client.answers == 1000
    for number in range(1000):
        [result] = client.results[topic_of(number)]
        check_result(result, text_of(number))
        assert result["id"] == f"m-{number}"
    resolved = [r for [r] in client.results.values() if r["status"] == "resolved"]
    assert len(resolved) > 850  # the bundle resolves about 89 of 100 of these
    assert not agent.noise
