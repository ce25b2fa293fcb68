"""What cannot be read ends as one dead letter, and the rest flows on."""

import base64
from collections.abc import Callable

from harness.stage import DEVICE, Agent, Client, Mosquitto, text_of, topic_of

# kind -> topic level, payload, content type, reason
BAD: dict[str, tuple[str, bytes, str, str]] = {
    "not-utf8": ("home", b"turn \xff\xfe off", "", "not_utf8"),
    "not-json": ("note", b'{"text": "turn off', "", "not_json"),
    "no-field": ("note", b'{"txt": "turn off"}', "", "missing_field"),
    "wrong-type": ("note", b'{"text": ["turn", "off"]}', "", "wrong_type"),
    "empty": ("home", b"", "", "empty"),
    "white": ("home", b" \t\r\n\xc2\xa0 ", "", "empty"),
    "huge": ("home", b"turn off the light " * 52_000, "", "too_long"),
    "nul": ("home", b"turn\0off", "", "control_characters"),
    "nested": (
        "note",
        b'{"text": ' + b"[" * 90_000 + b"]" * 90_000 + b"}",
        "",
        "not_json",
    ),
    "charset": ("home", b"turn off", "text/plain; charset=klingon", "unknown_encoding"),
}
PIPELINES = {
    "home": (["home/+/utterance"], ""),
    "note": (["note/+/utterance"], 'text = "text"'),
}
ROUNDS = 12


def test_bad_input(
    broker: Mosquitto, new_agent: Callable[..., Agent], client: Client
) -> None:
    """Ten kinds of bad input: a dead letter each with reason; the good is answered.

    Round after round the daemon's memory stays what it was.
    """
    agent = new_agent(broker.port, pipelines=PIPELINES, fresh=True)
    agent.start()
    memory = []
    for round_ in range(ROUNDS):
        good = range(round_ * 100, round_ * 100 + 40)
        for number, kind in zip(good, list(BAD) * 4, strict=True):
            family, payload, content_type, _ = BAD[kind]
            topic = f"{family}/{kind}-{number}/utterance"
            client.send(topic, payload, content_type=content_type)
            client.ask([number])
        client.wait_answered((round_ + 1) * 80)
        memory.append(agent.resident_mb())
    assert agent.terminate() == 0
    assert client.answers == ROUNDS * 80
    assert len(client.results) == len(client.dead) == ROUNDS * 40
    assert all(len(letters) == 1 for letters in client.dead.values())
    for topic, [letter] in client.dead.items():
        family, payload, _, reason = BAD[topic.split("/")[1].rpartition("-")[0]]
        assert letter["reason"] == reason
        assert letter["device"] == DEVICE
        assert letter["pipeline"] == family
        assert base64.b64decode(letter["payload"]) == payload
        assert (letter["bytes"], letter["truncated"]) == (len(payload), False)
    # A round brings 4 MB, and malloc gives back what it took in its own time.
    assert min(memory[-3:]) < max(memory[:3]) + 8, memory


def test_ten_megabytes(agent: Agent, client: Client) -> None:
    """A message of 10 MB ends as a dead letter, whole, and the next is answered."""
    payload = text_of(0).encode() * 300_000
    client.send(topic_of(1), payload[:10_000_000])
    client.ask([2])
    client.wait_answered(2)
    [letter] = client.dead[topic_of(1)]
    assert letter["reason"] == "too_long"
    assert len(base64.b64decode(letter["payload"])) == 10_000_000
    assert agent.terminate() == 0
