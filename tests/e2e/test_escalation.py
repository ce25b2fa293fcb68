"""Cases: asked about upstream, by all the rules, and back as one final result."""

import base64
import hashlib
import json
import os
import signal
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from agent.escalation.budget import MOST_CALLS
from harness.casework import (
    BRISK,
    HASTE,
    LABEL,
    PLACE,
    UNBROKEN,
    ask,
    asking,
    calls,
    entries,
    final,
    finals,
    gone,
    http,
    in_outbox,
    place_of,
    question,
    results,
    wait_alert,
    wait_finals,
    wait_health,
    well,
)
from harness.proxy import PUBACK, PUBLISH, Fate, Proxy, Way, all_pass, kind
from harness.stage import DEVICE, Agent, Client, Mosquitto, free_port
from harness.upstreams import (
    Asked,
    Says,
    ScriptedBroker,
    ScriptedLLM,
    after,
    completion,
)

NewAgent = Callable[..., Agent]
ONE = {"ask": asking()}
SURE = "turn off the lights in the kitchen"  # to the bundle `home`
STRICT = "[decide]\nmax_error = 0.0001\n"  # so that nothing is sure enough


def test_hold(broker: Mosquitto, new_agent: NewAgent, client: Client) -> None:
    """With `hold` there is nothing but one final result, as upstream said it."""
    may = threading.Event()
    with ScriptedLLM(after(may, well)) as llm:
        agent = new_agent(broker.port, upstream=http(llm), pipelines=ONE)
        agent.start()
        ask(client, [7])
        llm.wait_asked(1)
        client.wait_acked(1)
        assert in_outbox(agent, "finish IS NULL") == 1
        assert not client.results
        may.set()
        said = final(client, "ask/7")
        assert agent.terminate() == 0
        assert in_outbox(agent) == 0
    assert client.answers == 1
    text, place = question(7), place_of(question(7))
    start = text.index(place)
    assert list(said)[-1] == "upstream"
    assert said["entities"] == [
        {
            "label": PLACE,
            "text": place,
            "start": start,
            "end": start + len(place),
            "score": None,
        }
    ]
    assert [said[key] for key in ("id", "rev", "topic")] == ["q-7", 1, "ask/7"]
    assert (said["status"], said["by"], said["label"]) == (
        "resolved",
        "upstream",
        LABEL,
    )
    assert (said["reason"], said["upstream"]) == ("policy", "answered")
    assert (said["score"], said["error_bound"]) == (None, None)
    assert said["model"] == "scripted-1"
    assert said["ms"]["total"] > said["ms"]["queue"]


def test_provisional(proxy: Proxy, new_agent: NewAgent, client: Client) -> None:
    """With `provisional` the local guess comes first, and never after the answer.

    Nobody is asked before the broker has it, and it is not said again if the message
    comes again after its end.
    """
    pipelines = {"ask": asking(more='on_unresolved = "provisional"')}

    def lose(way: Way, packet: bytes) -> Fate:
        lost = way is Way.BROKER and kind(packet) == PUBACK
        return Fate.DROP if lost else Fate.PASS

    with ScriptedLLM(well) as llm:
        agent = new_agent(proxy.port, upstream=http(llm), pipelines=pipelines)
        agent.start()
        ask(client, range(40))
        wait_finals(client, 40)
        proxy.gate = lose
        ask(client, [40])
        client.wait(lambda: bool(client.results["ask/40"]))
        assert [r["rev"] for r in client.results["ask/40"]] == [0]
        assert agent.count_log("case_ended") == 40
        proxy.gate = all_pass
        proxy.drop_connections()
        final(client, "ask/40")
        ask(client, range(41))
        client.wait_acked(82)
        ask(client, [41])
        final(client, "ask/41")
        assert agent.terminate() == 0
    for heard in client.results.values():
        revisions = [result["rev"] for result in heard]
        assert revisions == sorted(revisions)
        assert [r["rev"] == 1 for r in heard] == [r["final"] for r in heard]
        local, last = heard[0], heard[-1]
        assert (local["status"], local["by"]) == ("unresolved", "encoder")
        assert "upstream" not in local
        assert (last["by"], last["reason"]) == ("upstream", local["reason"])
    assert Counter(len(heard) for heard in client.results.values())[2] >= 40
    assert set(calls(llm).values()) == {1}


@pytest.mark.parametrize("lost", ["its PUBACK", "ours"])
def test_killed_on_the_way_of_a_provisional_result(
    proxy: Proxy, new_agent: NewAgent, client: Client, lost: str
) -> None:
    """Killed before its case is committed, a message says it again; after, never.

    Either way it is asked about once, and has one final result.
    """
    loser = Way.BROKER if lost == "its PUBACK" else Way.DEVICE

    def lose(way: Way, packet: bytes) -> Fate:
        return Fate.DROP if way is loser and kind(packet) == PUBACK else Fate.PASS

    pipelines = {"ask": asking(more='on_unresolved = "provisional"')}
    with ScriptedLLM(well) as llm:
        agent = new_agent(proxy.port, upstream=http(llm), pipelines=pipelines)
        agent.start()
        proxy.gate = lose
        ask(client, [1])
        if lost == "ours":
            final(client, "ask/1")
        else:
            client.wait(lambda: bool(client.results["ask/1"]))
        agent.kill()
        proxy.gate = all_pass
        agent.start()
        ask(client, [2])
        final(client, "ask/1")
        final(client, "ask/2")
        assert agent.terminate() == 0
    assert set(calls(llm).values()) == {1}
    revisions = [said["rev"] for said in client.results["ask/1"]]
    assert revisions == sorted(revisions)
    assert revisions.count(0) == (2 if lost == "its PUBACK" else 1)


GOOD: dict[str, Any] = {"label": LABEL, "entities": []}
BAD: dict[str, Says | None] = {  # answers, by the text that is asked about
    "null": Says(answer={"label": None, "entities": []}),
    "refusal": Says("abstain"),
    "label": Says(answer=GOOD | {"label": "make_coffee_for_all"}),
    "entity": Says(answer=GOOD | {"entities": [{"label": PLACE, "text": "the moon"}]}),
    "type": Says(answer=GOOD | {"entities": [{"label": "planet", "text": "turn"}]}),
    "json": Says("error"),
    "huge": Says(raw=b" " * 10_000_000),
    "portal": Says(raw=b"<html>Please log in</html>"),
    "cut": Says(answer=GOOD, cut=True),
    "500": Says(answer=GOOD, http=500),
    "404": Says(answer=GOOD, http=404),
    "413": Says(answer=GOOD, http=413),
    "never": None,
}


def test_unusable_answers(
    broker: Mosquitto, new_agent: NewAgent, client: Client
) -> None:
    """An answer that breaks a rule goes back once, then the case ends `abstained`.

    Where nobody answers it ends `timeout`, where nobody ever will `refused`; always
    with the best local guess.
    """
    twice = {"label", "entity", "type", "json"}
    ways = {
        **dict.fromkeys(("null", "refusal", *twice), "abstained"),
        **dict.fromkeys(
            ("huge", "portal", "cut", "500", "404", "413", "never"), "timeout"
        ),
    }
    terms = "rate = 1000.0\nconcurrency = 16\ntimeout_s = 1.0\ndeadline_s = 3.0"
    with ScriptedLLM(lambda asked: BAD[asked.text.partition(":")[0]]) as llm:
        agent = new_agent(
            broker.port,
            upstream=http(llm, terms),
            pipelines=ONE,
            hurry=UNBROKEN,  # each case is on its own
        )
        agent.start()
        for way in ways:
            client.send(f"ask/{way}", f"{way}: {SURE}", message_id=way)
        wait_finals(client, len(ways))
        assert agent.terminate() == 0
    asked = calls(llm)
    for way, outcome in ways.items():
        [said] = client.results[f"ask/{way}"]
        assert (said["upstream"], said["rev"], said["final"]) == (outcome, 1, True)
        assert (said["status"], said["reason"]) == ("unresolved", "policy")
        assert (said["by"], said["label"]) == ("encoder", LABEL)
        assert said["score"] > 0.5
        number = asked[f"{way}: {SURE}"]
        if outcome == "timeout":
            assert number >= 1
        else:
            assert number == (2 if way in twice else 1), way
    repairs = {
        each.text.partition(":")[0]: [said["content"] for said in messages[2:]]
        for each in llm.asked
        if len(messages := each.document["messages"]) > 2
    }
    assert repairs.keys() == twice
    assert "make_coffee_for_all" in repairs["label"][0]
    assert "is not one of the labels" in repairs["label"][1]
    assert "does not stand in the text" in repairs["entity"][1]


def test_useless_answers_are_told(
    broker: Mosquitto, new_agent: NewAgent, client: Client
) -> None:
    """Each is a warning with its reason; `explain`, health and an alert say why, too.

    None of them tells what was asked or answered.
    """
    with ScriptedLLM(lambda _asked: Says(status="error")) as llm:
        agent = new_agent(
            broker.port,
            upstream=http(llm),
            pipelines=ONE,
            hurry={"daemon.status.HEALTH_S": 0.2},
        )
        agent.start()
        ask(client, range(3))
        wait_finals(client, 3)
        detail = wait_alert(client, "answers_unusable", up=True)
        base = f"slm/{DEVICE}"
        client.send(f"{base}/request/explain", json.dumps({"id": "q-1"}).encode())
        client.wait(lambda: bool(client.said[f"{base}/response/explain"]))
        explained = json.loads(client.said[f"{base}/response/explain"][-1])["data"]
        client.wait(
            lambda: (
                b'"no_json":6' in client.said[f"{base}/health"][-1].replace(b" ", b"")
            )
        )
        warning = agent.wait_log("answer_unusable", id="q-1")
        assert agent.terminate() == 0
    assert {said["upstream"] for said in finals(client).values()} == {"abstained"}
    assert "6 of 6" in detail
    assert "no_json 6" in detail
    assert explained["unusable_answers"] == 2 * [
        {"pipeline": "ask", "reason": "no_json"}
    ]
    assert warning["reason"] == "no_json"
    words = f"{detail}{explained['unusable_answers']}{warning}"
    assert "Certainly" not in words
    assert question(1) not in words


def test_repaired(broker: Mosquitto, new_agent: NewAgent, client: Client) -> None:
    """The second answer may be the right one; a long bad one is not sent back whole."""

    def second_thought(asked: Asked) -> Says:
        if len(asked.document["messages"]) > 2:
            return well(asked)
        return Says(answer={"label": "x" * 100_000, "entities": []})

    with ScriptedLLM(second_thought) as llm:
        agent = new_agent(broker.port, upstream=http(llm), pipelines=ONE)
        agent.start()
        ask(client, [1])
        said = final(client, "ask/1")
        assert agent.terminate() == 0
    assert (said["by"], said["upstream"]) == ("upstream", "answered")
    first, second = (len(asked.body) for asked in llm.asked)
    assert second < first + 10_000


def test_late_and_foreign_replies(
    broker: Mosquitto, new_agent: NewAgent, client: Client
) -> None:
    """A reply that is late, for somebody else's id or a second one changes nothing.

    It is counted.
    """

    def wrong(asked: Asked) -> Says | None:
        if asked.text == question(1):
            return None
        raw = json.dumps({"id": "another", "status": "ok", "answer": {}}).encode()
        return Says(raw=raw)

    with closing(ScriptedBroker(broker.port, wrong)) as upstream:
        agent = new_agent(
            broker.port,
            upstream=f'transport = "mqtt"\n{HASTE}\ndeadline_s = 1.0',
            pipelines=ONE,
            hurry={"daemon.status.HEALTH_S": 0.2},
        )
        agent.start()
        ask(client, [1, 2])
        wait_finals(client, 2)
        assert {said["upstream"] for said in finals(client).values()} == {"timeout"}
        upstream.reply(next(a for a in upstream.asked if a.text == question(1)), Says())
        wait_health(client, "late_replies", 2)
        upstream.script = well
        ask(client, [3])
        final(client, "ask/3")
        [third] = [asked for asked in upstream.asked if asked.text == question(3)]
        upstream.reply(third, Says(answer={"label": "iot_coffee", "entities": []}))
        wait_health(client, "late_replies", 3)
        assert agent.terminate() == 0
    assert client.answers == 3
    assert client.results["ask/3"][0]["label"] == LABEL


POLICIES = {  # and who answers a light and an alarm: sure of both, sure of nothing
    "prefer": ("prefer_local", "local local upstream upstream"),
    "local": ("always_local", "local local local local"),
    "up": ("always_upstream", "upstream upstream upstream upstream"),
    "never": ("never_upstream", "local local nobody nobody"),
    "labels": (
        "prefer_local always_upstream always_local",
        "upstream local upstream local",
    ),
    "others": (
        "always_upstream prefer_local never_upstream",
        "local local upstream nobody",
    ),
}


def test_policies(broker: Mosquitto, new_agent: NewAgent, client: Client) -> None:
    """Who answers is the pipeline's policy, unless the label of the guess has one."""
    texts = [SURE, "set an alarm for nine"]
    pipelines = {}
    for name, (policy, _) in POLICIES.items():
        for strict in ("", STRICT):
            road, *roads = policy.split()
            labels = [
                f'{label} = "{each}"'
                for label, each in zip((LABEL, "alarm_set"), roads, strict=False)
            ]
            pipelines[f"{name}-{bool(strict):d}"] = (
                [f"{name}/{bool(strict):d}/+"],
                (
                    f'{strict}[upstream]\npolicy = "{road}"\nprivacy = "allow"\n'
                    f"labels = {{ {', '.join(labels)} }}\n"
                ),
            )
    answer = Says(answer={"label": "qa_factoid", "entities": []})
    with ScriptedLLM(lambda _: answer) as llm:
        agent = new_agent(
            broker.port,
            upstream=http(llm, f"{HASTE}\ncache = {{ entries = 0 }}"),
            pipelines=pipelines,
        )
        agent.start()
        for topics, _ in pipelines.values():
            for number, text in enumerate(texts):
                client.send(topics[0].replace("+", str(number)), text)
        wait_finals(client, len(pipelines) * len(texts))
        assert agent.terminate() == 0
    for name, (_, expected) in POLICIES.items():
        found = []
        for topic in ("0/0", "0/1", "1/0", "1/1"):
            [said] = client.results[f"{name}/{topic}"]
            up = said["by"] == "upstream"
            assert ("upstream" in said) == up
            local = "local" if said["status"] == "resolved" else "nobody"
            found.append("upstream" if up else local)
            assert bool(said["reason"]) == (found[-1] != "local")
        assert found == expected.split(), name
    assert len(llm.asked) == sum(w[1].count("upstream") for w in POLICIES.values())


def test_field_rules(broker: Mosquitto, new_agent: NewAgent, client: Client) -> None:
    """An answer without what it needs, or with what it may not be, goes upstream."""
    rules = (
        '[upstream]\nprivacy = "allow"\n'
        '[fields.time]\nrequired = true\nlabels = ["alarm_set"]\n'
        '[fields.email_address]\ncheck = "EMAIL_ADDRESS"\n'
        '[fields.house_place]\npattern = "[^b].*"\n'
    )
    sent = {
        "set an alarm": "missing_field",
        "set an alarm for nine": None,
        SURE: None,
        "turn off the lights in the bedroom": "invalid_field",
        "send an email to marta@example.org about the invoice": None,
    }
    with ScriptedLLM(lambda _: Says("abstain")) as llm:
        agent = new_agent(
            broker.port, upstream=http(llm), pipelines={"ruled": (["r/+"], rules)}
        )
        agent.start()
        for number, text in enumerate(sent):
            client.send(f"r/{number}", text)
        wait_finals(client, len(sent))
        assert agent.terminate() == 0
    for number, reason in enumerate(sent.values()):
        [said] = client.results[f"r/{number}"]
        assert (said["reason"], said["status"] == "resolved") == (reason, not reason)
    assert {a.text for a in llm.asked} == {text for text, why in sent.items() if why}


def test_cache(broker: Mosquitto, new_agent: NewAgent, client: Client) -> None:
    """The same text is asked about once, also after a crash; another pipeline asks."""
    pipelines = {"ask": asking(), "other": asking("other/+")}
    with ScriptedLLM(well) as llm:
        agent = new_agent(broker.port, upstream=http(llm), pipelines=pipelines)
        agent.start()
        client.send("ask/1", question(1), message_id="a")
        first = final(client, "ask/1")
        client.send("ask/2", question(1), message_id="b")
        second = final(client, "ask/2")
        agent.kill()
        agent.start()
        client.send("ask/3", question(1), message_id="c")
        third = final(client, "ask/3")
        assert len(llm.asked) == 1
        client.send("other/1", question(1), message_id="d")
        assert final(client, "other/1")["by"] == "upstream"
        assert agent.terminate() == 0
        assert len(entries(agent)) == len(llm.asked) == 2
    assert [r["by"] for r in (first, second, third)] == ["upstream", "cache", "cache"]
    for again in (second, third):
        same = ("label", "entities", "model", "status", "upstream", "reason")
        assert [again[key] for key in same] == [first[key] for key in same]


def test_privacy_never(broker: Mosquitto, new_agent: NewAgent, client: Client) -> None:
    """With `never` not a byte leaves: upstream does not even see a connection."""
    never = f'{STRICT}[upstream]\nprivacy = "never"\n'
    with ScriptedLLM(well) as llm:
        agent = new_agent(
            broker.port, upstream=http(llm), pipelines={"n": (["n/+"], never)}
        )
        agent.start()
        client.send("n/1", SURE)
        said = final(client, "n/1")
        assert agent.terminate() == 0
        assert (llm.connections, llm.asked, entries(agent)) == (0, [], [])
    assert (said["status"], said["rev"], said["final"]) == ("unresolved", 0, True)
    assert "upstream" not in said


@pytest.mark.parametrize("change", ["reload", "crash"])
@pytest.mark.parametrize("way", ["http", "mqtt"])
def test_never_means_never(
    broker: Mosquitto, new_agent: NewAgent, client: Client, way: str, change: str
) -> None:
    """From when `never` holds nothing leaves, though cases wait that were to.

    By no transport, over reload and crash, and whoever is there to answer by then.
    """
    port = free_port()
    up = gone(port, "") if way == "http" else 'transport = "mqtt"'
    redact = f'{STRICT}[upstream]\nprivacy = "redact"\n'
    agent = new_agent(
        broker.port,
        upstream=f"{up}\nconcurrency = 8\ntimeout_s = 1.0\ndeadline_s = 600.0",
        pipelines={"ask": (["ask/+"], redact)},
        hurry={"daemon.status.HEALTH_S": 0.2, "escalation.cases.REST_S": 0.5},
    )
    agent.start()
    ask(client, range(5))
    client.wait(lambda: in_outbox(agent) == 5)
    wait_alert(client, "upstream_gone", up=True)
    spec = agent.config.parent / "ask.toml"
    spec.write_text(spec.read_text("utf-8").replace("redact", "never"), "utf-8")
    if change == "reload":
        os.kill(agent.pid, signal.SIGHUP)
        agent.wait_log("ready", 2)
    else:
        agent.kill()
    before = len(entries(agent))
    with ScriptedLLM(well, port) as llm, closing(ScriptedBroker(broker.port)) as other:
        if change == "crash":
            agent.start()
        wait_finals(client, 5)
        ask(client, range(5, 10))
        wait_finals(client, 10)
        agent.kill()
        agent.start()
        ask(client, range(10, 15))
        wait_finals(client, 15)
        assert agent.terminate() == 0
        assert (llm.connections, llm.asked, other.asked) == (0, [], [])
    assert len(entries(agent)) == before
    waited = [client.results[f"ask/{number}"][0] for number in range(5)]
    assert {said["upstream"] for said in waited} == {"refused"}
    assert all("upstream" not in client.results[f"ask/{n}"][0] for n in range(5, 15))


def test_privacy_redact(broker: Mosquitto, new_agent: NewAgent, client: Client) -> None:
    """With `redact` no personal data is in the bytes, and the answer has it again."""
    secrets = ["Marta Kowalski", "marta.kowalski@example.org", "+44 20 7946 0958"]
    name, address, number = secrets
    text = f"tell {name} to call {number} or write to {address}"

    def copy(asked: Asked) -> Says:
        *_, last = asked.text.split()
        return Says(
            answer={
                "label": "email_sendemail",
                "entities": [{"label": "email_address", "text": last}],
            }
        )

    more = 'privacy = "redact"'
    pipelines = {
        "ask": (["ask/+"], f'[upstream]\npolicy = "always_upstream"\n{more}\n')
    }
    with ScriptedLLM(copy) as llm:
        agent = new_agent(broker.port, upstream=http(llm), pipelines=pipelines)
        agent.start()
        client.send("ask/1", text, message_id="r")
        said = final(client, "ask/1")
        assert agent.terminate() == 0
        [asked] = llm.asked
        [entry] = entries(agent)
    for secret in secrets:
        for word in secret.split():
            assert word.encode() not in asked.body
    assert "[EMAIL_ADDRESS_1]" in asked.text
    assert entry.egress.redactions["EMAIL_ADDRESS"] == 1
    [entity] = said["entities"]
    assert entity["text"] == address
    assert text[entity["start"] : entity["end"]] == address


@pytest.mark.parametrize("limit", ["calls_per_day", "tokens_per_day", "money_per_day"])
def test_budget(
    broker: Mosquitto, new_agent: NewAgent, client: Client, limit: str
) -> None:
    """However many ask at once and whoever dies, no budget is ever exceeded.

    What is left over ends `budget`, and not before it is spent.
    """
    used = (5000, 100)  # tokens of a call; at most it could take twice as many

    def dear(asked: Asked) -> Says:
        said = well(asked)
        return Says(answer=said.answer, tokens=used)

    each = {"calls_per_day": 1, "tokens_per_day": 5100, "money_per_day": 0.0105}[limit]
    device, own = 12 * each, 5 * each
    terms = (
        f"{HASTE}\nprice_in = 2.0\nprice_out = 5.0\nmax_output_tokens = 100\n"
        f"budget = {{ {limit} = {device} }}"
    )
    pipelines = {
        "ask": asking(),
        "small": asking("small/+", f"budget = {{ {limit} = {own} }}"),
    }
    with ScriptedLLM(dear) as llm:
        agent = new_agent(broker.port, upstream=http(llm, terms), pipelines=pipelines)
        agent.start()
        ask(client, range(100, 110), "small")
        wait_finals(client, 10)
        asked = len(llm.asked)
        ask(client, range(5))
        llm.wait_asked(asked + 1)
        agent.kill()
        agent.start()
        ended = agent.count_log("case_ended")
        ask(client, range(20))
        agent.wait_log("case_ended", ended + 1)
        agent.kill()
        agent.start()
        wait_finals(client, 30)
        assert agent.terminate() == 0
    small = [a for a in llm.asked if place_of(a.text) and "please 10" in a.text]
    most_tokens = 12_000  # of a call before its usage is known
    room = 1 if limit == "calls_per_day" else most_tokens / used[0] + 1
    assert 5 - room < len(small) <= 5
    assert len(llm.asked) <= 12
    outcomes = Counter(said["upstream"] for said in finals(client).values())
    assert set(outcomes) <= {"answered", "budget"}
    assert outcomes["budget"] >= 30 - 12
    assert results(client).keys() == finals(client).keys()


def test_budget_edge(broker: Mosquitto, new_agent: NewAgent, client: Client) -> None:
    """What calls in flight take at most is not spent: others wait until it is known."""
    terms = f"{HASTE}\nmax_output_tokens = 100\nbudget = {{ tokens_per_day = 30000 }}"
    together = threading.Barrier(2, timeout=1)

    def slow(asked: Asked) -> Says:
        try:
            together.wait()  # never: the budget has no room for two at once
        except threading.BrokenBarrierError:
            together.reset()
        return well(asked)

    with ScriptedLLM(slow) as llm:
        agent = new_agent(broker.port, upstream=http(llm, terms), pipelines=ONE)
        agent.start()
        ask(client, range(6))
        wait_finals(client, 6)
        assert agent.terminate() == 0
    assert {said["upstream"] for said in finals(client).values()} == {"answered"}


def test_budget_of_calls_that_fail(
    broker: Mosquitto, new_agent: NewAgent, client: Client
) -> None:
    """A call that may have been paid counts, though nothing came of it."""
    terms = f"{HASTE}\nbudget = {{ calls_per_day = 5 }}"
    with ScriptedLLM(lambda _: Says(http=500)) as llm:
        agent = new_agent(
            broker.port,
            upstream=http(llm, terms),
            pipelines=ONE,
            hurry={
                **UNBROKEN,
                "escalation.cases.REST_S": 0.1,
            },
        )
        agent.start()
        ask(client, range(3))
        wait_finals(client, 3)
        assert agent.terminate() == 0
        assert len(llm.asked) == 5
    assert {said["upstream"] for said in finals(client).values()} == {"budget"}


def test_budget_of_calls_nobody_counts(
    broker: Mosquitto, new_agent: NewAgent, client: Client
) -> None:
    """An endpoint that never says what a call took does not get around a budget."""

    def silent(asked: Asked) -> Says:
        document = json.loads(completion(well(asked)))
        del document["usage"]
        return Says(raw=json.dumps(document).encode())

    terms = f"{HASTE}\nmax_output_tokens = 100\nbudget = {{ tokens_per_day = 60000 }}"
    with ScriptedLLM(silent) as llm:
        agent = new_agent(broker.port, upstream=http(llm, terms), pipelines=ONE)
        agent.start()
        ask(client, range(20))
        wait_finals(client, 20)
        assert agent.terminate() == 0
    bytes_sent = [len(asked.body) for asked in llm.asked]
    assert 0 < sum(bytes_sent) <= 60_000  # a token is at least a byte
    outcomes = Counter(said["upstream"] for said in finals(client).values())
    assert outcomes == {"answered": len(bytes_sent), "budget": 20 - len(bytes_sent)}


def test_budget_over_an_outage_of_the_broker_side(
    broker: Mosquitto, new_agent: NewAgent, client: Client
) -> None:
    """However often a case is sent to a broker side that is away, it is booked once.

    When it is back there is as much left as if it had never been away.
    """
    terms = "rate = 1000.0\nconcurrency = 4\ntimeout_s = 0.3"
    budget = "budget = { calls_per_day = 4 }"
    with closing(ScriptedBroker(broker.port, lambda _: None)) as upstream:
        agent = new_agent(
            broker.port,
            upstream=f'transport = "mqtt"\n{terms}\n{budget}',
            pipelines=ONE,
            hurry={
                **UNBROKEN,
                "escalation.cases.REST_S": 0.1,
            },
        )
        agent.start()
        ask(client, range(4))
        upstream.wait_asked(20)
        agent.kill()
        agent.start()
        upstream.wait_asked(40)
        assert not client.results
        upstream.script = well
        wait_finals(client, 4)
        ask(client, [5])
        wait_finals(client, 5)
        assert agent.terminate() == 0
    outcomes = Counter(said["upstream"] for said in finals(client).values())
    assert outcomes == {"answered": 4, "budget": 1}


def test_enough_is_enough(
    broker: Mosquitto, new_agent: NewAgent, client: Client
) -> None:
    """A case that nobody answers rests ever longer, and ends after so many calls.

    Calls that surely cost nothing do not count.
    """
    rest_s = 0.02
    port = free_port()
    agent = new_agent(
        broker.port,
        upstream=gone(port),
        pipelines=ONE,
        hurry={
            **UNBROKEN,
            "escalation.cases.REST_S": rest_s,
            "escalation.cases.TURN_S": 0.02,
        },
    )
    agent.start()
    ask(client, [1])
    client.wait_acked(1)
    agent.wait_log("upstream_unavailable")
    fails = Says(http=500)
    told = iter([fails, fails, None])
    with ScriptedLLM(lambda _: next(told, fails), port) as llm:
        llm.wait_asked(2)
        agent.kill()
        agent.start()
        assert final(client, "ask/1")["upstream"] == "timeout"
        agent.wait_log("asked_too_often")
        assert agent.terminate() == 0
        assert len(llm.asked) == MOST_CALLS
    at = [entry.egress.at for entry in entries(agent)][-4:]
    gaps = [after - before for before, after in pairwise(at)]
    assert all(gap >= rest_s * 2**n for n, gap in enumerate(gaps, MOST_CALLS - 6))


def test_budget_queue(broker: Mosquitto, new_agent: NewAgent, client: Client) -> None:
    """With `queue` cases over budget wait, over restarts, and go when there is more."""
    terms = HASTE + '\nbudget = {{ calls_per_day = {}, when_spent = "queue" }}'
    with ScriptedLLM(well) as llm:
        agent = new_agent(
            broker.port, upstream=http(llm, terms.format(3)), pipelines=ONE
        )
        agent.start()
        ask(client, range(10))
        wait_finals(client, 3)
        client.wait_acked(10)
        agent.wait_log("budget_spent")
        agent.kill()
        agent.start()
        agent.wait_log("budget_spent", 2)
        assert in_outbox(agent, "finish IS NULL") == 7
        assert agent.terminate() == 0
        assert len(llm.asked) == len(finals(client)) == 3
        agent.write(http(llm, terms.format(10)))
        agent.start()
        wait_finals(client, 10)
        assert agent.terminate() == 0
    assert len(llm.asked) == 10
    assert {said["upstream"] for said in finals(client).values()} == {"answered"}


def test_deadline_and_alert(
    broker: Mosquitto, new_agent: NewAgent, client: Client
) -> None:
    """Where nobody listens cases end at their deadlines, and an alert is up.

    It goes when somebody answers again.
    """
    port = free_port()
    pipelines = {"ask": asking(more="deadline_s = 2.0"), "patient": asking("p/+")}
    agent = new_agent(
        broker.port,
        upstream=gone(port),
        pipelines=pipelines,
        hurry={**BRISK, "escalation.cases.REST_S": 1.0},
    )
    agent.start()
    ask(client, range(100))
    client.send("p/1", question(200), message_id="patient")
    wait_alert(client, "upstream_gone", up=True)
    wait_finals(client, 100)
    assert {said["upstream"] for said in finals(client).values()} == {"timeout"}
    with ScriptedLLM(well, port) as llm:
        assert final(client, "p/1")["upstream"] == "answered"
        wait_alert(client, "upstream_gone", up=False)
        assert agent.terminate() == 0
        assert calls(llm) == {question(200): 1}


def test_one_case_does_not_stop_others(
    broker: Mosquitto, new_agent: NewAgent, client: Client
) -> None:
    """A case that nobody can answer rests, and those behind it have their turn."""

    def moody(asked: Asked) -> Says | None:
        return None if asked.text == question(0) else well(asked)

    with ScriptedLLM(moody) as llm:
        terms = "rate = 1000.0\nconcurrency = 1\ntimeout_s = 0.5"
        agent = new_agent(
            broker.port, upstream=http(llm, terms), pipelines=ONE, hurry=BRISK
        )
        agent.start()
        ask(client, range(10))
        wait_finals(client, 9)
        assert agent.terminate() == 0
        assert in_outbox(agent) == 1
    assert "ask/0" not in client.results
    assert calls(llm)[question(0)] == 2  # by then upstream counts as failing


def test_a_final_result_is_kept_until_acknowledged(
    proxy: Proxy, new_agent: NewAgent, client: Client
) -> None:
    """A final result that gets lost on its way is published again, the same."""
    lost = threading.Event()

    def lose(way: Way, packet: bytes) -> Fate:
        if way is Way.DEVICE and b"/result/" in packet and kind(packet) == PUBLISH:
            lost.set()
            return Fate.DROP
        return Fate.PASS

    with ScriptedLLM(well) as llm:
        agent = new_agent(proxy.port, upstream=http(llm), pipelines=ONE)
        agent.start()
        proxy.gate = lose
        ask(client, [1])
        assert lost.wait(60)
        proxy.gate = all_pass
        proxy.drop_connections()
        first = final(client, "ask/1")
        lost.clear()
        proxy.gate = lose
        ask(client, [2])
        assert lost.wait(60)
        agent.kill()
        proxy.gate = all_pass
        agent.start()
        second = final(client, "ask/2")
        assert agent.terminate() == 0
        assert set(calls(llm).values()) == {1}
    assert (first["upstream"], second["upstream"]) == ("answered", "answered")


def test_redelivery(broker: Mosquitto, new_agent: NewAgent, client: Client) -> None:
    """A message that comes again, while it waits or after its end, is one case."""
    may = threading.Event()
    with ScriptedLLM(after(may, well)) as llm:
        agent = new_agent(broker.port, upstream=http(llm), pipelines=ONE)
        agent.start()
        ask(client, [1, 1])
        llm.wait_asked(1)
        ask(client, [1])
        agent.wait_log("handled", 3)
        may.set()
        final(client, "ask/1")
        ask(client, [1])
        agent.wait_log("handled", 4)
        agent.kill()
        agent.start()
        ask(client, [1])
        ask(client, [2])
        final(client, "ask/2")
        assert agent.terminate() == 0
        assert len(entries(agent)) == 2
    assert calls(llm) == {question(1): 1, question(2): 1}
    assert client.answers == 2


def test_ledger(broker: Mosquitto, new_agent: NewAgent, client: Client) -> None:
    """Every request that came is in the ledger with its hash, also over a crash."""

    def moody(asked: Asked) -> Says:
        number = llm.calls(asked.text)
        return (
            Says(http=500) if number == 1 and "please 1" in asked.text else well(asked)
        )

    with ScriptedLLM(moody) as llm:
        agent = new_agent(
            broker.port,
            upstream=http(llm, f"{HASTE}\n"),
            pipelines=ONE,
            hurry=UNBROKEN,
        )
        agent.start()
        ask(client, range(30))
        llm.wait_asked(10)
        agent.kill()
        agent.start()
        wait_finals(client, 30)
        assert agent.terminate() == 0
        books = entries(agent)
    noted = Counter(entry.egress.sha256 for entry in books)
    came = Counter(hashlib.sha256(asked.body).hexdigest() for asked in llm.asked)
    assert came <= noted
    # What was noted and did not come was about to leave when the process was killed.
    assert (noted - came).total() <= 8
    sizes = {hashlib.sha256(a.body).hexdigest(): len(a.body) for a in llm.asked}
    for entry in books:
        egress = entry.egress
        assert (egress.transport, egress.to) == ("http", llm.url)
        assert egress.bytes == sizes.get(egress.sha256, egress.bytes)
        assert egress.redactions == {}


def test_upstream_removed(
    broker: Mosquitto, new_agent: NewAgent, client: Client
) -> None:
    """Without [upstream] what waits ends `refused`, and nobody is asked any more."""
    prefer = (["ask/+"], f'{STRICT}[upstream]\nprivacy = "allow"\n')
    with ScriptedLLM(lambda _: None) as llm:
        agent = new_agent(
            broker.port,
            upstream=http(llm),
            pipelines={"ask": prefer},
            hurry={"daemon.status.HEALTH_S": 0.2},  # says often enough what to look at
        )
        agent.start()
        for number in range(20):
            client.send(f"ask/{number}", f"{SURE} {number}", message_id=f"{number}")
        llm.wait_asked(2)  # nobody answered yet: no more are asked
        client.wait(lambda: in_outbox(agent) == 20)
        agent.kill()
        asked = len(llm.asked)
        agent.write()
        agent.start()
        wait_finals(client, 20)
        client.send("ask/20", SURE)
        assert final(client, "ask/20")["rev"] == 0
        assert agent.terminate() == 0
        assert len(llm.asked) == asked
        assert in_outbox(agent) == 0
    ended = [client.results[f"ask/{number}"] for number in range(20)]
    for [said] in ended:
        assert (said["upstream"], said["status"]) == ("refused", "unresolved")
        assert said["label"]


def test_a_rotated_key(broker: Mosquitto, new_agent: NewAgent, client: Client) -> None:
    """While upstream takes no key of ours, cases wait, and an alert says why."""
    terms = f"{HASTE}\ndeadline_s = 600.0"
    hurry = {**BRISK, "escalation.cases.REST_S": 0.5}
    with ScriptedLLM(lambda _: Says(raw=b"{}", http=401)) as llm:
        agent = new_agent(
            broker.port, upstream=http(llm, terms), pipelines=ONE, hurry=hurry
        )
        agent.start()
        ask(client, range(10))
        detail = wait_alert(client, "upstream_gone", up=True)
        assert detail == "status 401: is the key right?"
        llm.wait_asked(10)
        assert not client.results
        llm.script = well
        wait_finals(client, 10)
        wait_alert(client, "upstream_gone", up=False)
        assert agent.terminate() == 0
    assert {said["upstream"] for said in finals(client).values()} == {"answered"}


def test_a_case_of_another_version(
    broker: Mosquitto, new_agent: NewAgent, client: Client
) -> None:
    """What this version cannot read ends as a dead letter, and its neighbours as ever.

    Whether it is taken up to be asked about, or its deadline passes first.
    """
    with ScriptedLLM(lambda _: None) as llm:
        agent = new_agent(broker.port, upstream=http(llm), pipelines=ONE)
        agent.start()
        ask(client, range(3))
        llm.wait_asked(2)
        agent.kill()
        with closing(sqlite3.connect(agent.state / "outbox.db")) as db, db:
            db.execute(
                "UPDATE cases SET body ="
                " CAST(json_set(body, '$.reason', 'of_the_future') AS BLOB)"
                " WHERE body ->> '$.id' = 'q-0'"
            )
            db.execute(
                "UPDATE cases SET body = x'6e6f204a534f4e', deadline = 0"
                " WHERE body ->> '$.id' = 'q-1'"
            )
        llm.script = well
        agent.start()
        final(client, "ask/2")
        client.wait(lambda: len(client.dead) == 2)
        assert agent.terminate() == 0
    assert in_outbox(agent) == 0
    [known] = client.dead["ask/0"]
    assert (known["id"], known["reason"]) == ("q-0", "unreadable_case")
    assert question(0).encode() in base64.b64decode(known["payload"])
    [unknown] = client.dead[""]
    assert base64.b64decode(unknown["payload"]) == b"no JSON"
    assert not agent.noise


def test_stop_in_mid_stream(
    broker: Mosquitto, new_agent: NewAgent, client: Client
) -> None:
    """SIGTERM: exit 0; calls in flight are waited for, so nothing is asked twice."""
    with ScriptedLLM(well) as llm:
        agent = new_agent(broker.port, upstream=http(llm), pipelines=ONE)
        agent.start()
        ask(client, range(80))
        wait_finals(client, 20)
        assert agent.terminate() == 0
        assert in_outbox(agent, "finish IS NOT NULL") == 0
        left = 80 - len(finals(client))
        assert left
        agent.start()
        wait_finals(client, 80)
        assert agent.terminate() == 0
        assert in_outbox(agent) == 0
    assert not agent.noise
    assert set(calls(llm).values()) == {1}
    assert client.answers == 80
    assert {said["upstream"] for said in finals(client).values()} == {"answered"}


def test_stop_waits_for_calls(
    broker: Mosquitto, new_agent: NewAgent, client: Client
) -> None:
    """SIGTERM while upstream thinks: its answer is published before the exit."""
    may = threading.Event()
    with ScriptedLLM(after(may, well)) as llm:
        agent = new_agent(broker.port, upstream=http(llm), pipelines=ONE)
        agent.start()
        ask(client, [1])
        llm.wait_asked(1)
        agent.interrupt()
        agent.wait_told("STOPPING=1")
        may.set()
        assert agent.wait() == 0
        assert in_outbox(agent) == 0
    assert final(client, "ask/1")["upstream"] == "answered"


def test_stop_with_a_full_outbox(
    broker: Mosquitto, new_agent: NewAgent, client: Client
) -> None:
    """SIGTERM while messages wait for room: calls end, and none begins or is cut."""
    may = threading.Event()
    with ScriptedLLM(after(may, lambda _asked: Says(answer=GOOD))) as llm:
        agent = new_agent(
            broker.port,
            upstream=http(llm),
            outbox="max_bytes = 1048576",
            pipelines=ONE,
            hurry={"daemon.app.FINISH_S": 1.0},
        )
        agent.start()
        for number in range(110):
            text = f"{number} {'x' * 9000}"
            client.send(f"ask/{number}", text, message_id=f"{number}")
        wait_alert(client, "outbox_full", up=True)
        llm.wait_asked(2)
        agent.interrupt()
        agent.wait_told("STOPPING=1")
        may.set()
        assert agent.wait() == 0
        assert len(llm.asked) == 2
        agent.start()
        wait_finals(client, 110)
        assert agent.terminate() == 0
    assert set(calls(llm).values()) == {1}
    assert not agent.count_log("calls_cut_off")


def test_stop_without_a_broker(
    broker: Mosquitto, new_agent: NewAgent, client: Client
) -> None:
    """SIGTERM while MQTT is away: what calls bring is stored, and published later."""
    may = threading.Event()
    with ScriptedLLM(after(may, well)) as llm:
        agent = new_agent(
            broker.port,
            upstream=http(llm),
            pipelines=ONE,
            hurry={"daemon.app.FINISH_S": 1.0, **UNBROKEN},
        )
        agent.start()
        ask(client, range(4))
        llm.wait_asked(4)
        broker.stop()
        agent.wait_log("disconnected")
        agent.interrupt()
        agent.wait_told("STOPPING=1")
        may.set()
        assert agent.wait() == 0
        assert in_outbox(agent, "finish IS NOT NULL") == 4
        broker.start()
        agent.start()
        wait_finals(client, 4)
        assert agent.terminate() == 0
    assert calls(llm) == {question(number): 1 for number in range(4)}


def test_priority(broker: Mosquitto, new_agent: NewAgent, client: Client) -> None:
    """The highest priority is asked about first, then the oldest."""
    may = threading.Event()

    pipelines = {
        "low": asking("low/+", "priority = 1"),
        "high": asking("high/+", "priority = 8"),
    }
    with ScriptedLLM(after(may, well)) as llm:
        terms = "rate = 1000.0\nconcurrency = 1"
        agent = new_agent(broker.port, upstream=http(llm, terms), pipelines=pipelines)
        agent.start()
        ask(client, [0], "low")
        llm.wait_asked(1)
        ask(client, [1, 2], "low")
        ask(client, [3, 4], "high")
        agent.wait_log("handled", 5)
        client.wait_acked(5)
        may.set()
        wait_finals(client, 5)
        assert agent.terminate() == 0
    asked = [int(a.text.rpartition(" ")[2]) for a in llm.asked]
    assert asked == [0, 3, 4, 1, 2]


def test_damaged_outbox(broker: Mosquitto, new_agent: NewAgent, client: Client) -> None:
    """A damaged outbox is kept beside a fresh one, and an alert names it."""
    with ScriptedLLM(well) as llm:
        agent = new_agent(broker.port, upstream=http(llm), pipelines=ONE)
        agent.state.mkdir()
        path: Path = agent.state / "outbox.db"
        path.write_bytes(b"this is no database\n" * 500)
        agent.start()
        detail = wait_alert(client, "outbox_damaged", up=True)
        ask(client, [1])
        assert final(client, "ask/1")["upstream"] == "answered"
        assert agent.terminate() == 0
    [aside] = path.parent.glob("outbox.db.damaged-*")
    assert aside.name in detail
    assert aside.read_bytes().startswith(b"this is no database")


def test_damaged_outbox_and_budget(
    broker: Mosquitto, new_agent: NewAgent, client: Client
) -> None:
    """Where nobody can tell any more what was spent today, all of it counts as spent.

    A pipeline without a limit is none the worse.
    """
    limited = asking("small/+", "budget = { calls_per_day = 9 }")
    with ScriptedLLM(well) as llm:
        agent = new_agent(
            broker.port, upstream=http(llm), pipelines={**ONE, "small": limited}
        )
        agent.start()
        ask(client, [1], "small")
        assert final(client, "small/1")["upstream"] == "answered"
        assert agent.terminate() == 0
        (agent.state / "outbox.db").write_bytes(b"this is no database\n" * 500)
        agent.start()
        agent.wait_log("spending_unreadable")
        ask(client, [2], "small")
        ask(client, [3])
        assert final(client, "small/2")["upstream"] == "budget"
        assert final(client, "ask/3")["upstream"] == "answered"
        assert agent.terminate() == 0


def test_more_at_once_than_the_outbox_holds(
    broker: Mosquitto, new_agent: NewAgent, client: Client
) -> None:
    """What piled up before a full outbox may be more than it holds: it gets through.

    A single text that is too large for it ends `refused`.
    """
    texts = [f"{number} {'x' * 9000}" for number in range(110)]
    texts[50] = "\u00e9" * 80_000
    port = free_port()
    topics, more = asking()
    agent = new_agent(
        broker.port,
        upstream=gone(port),
        outbox="max_bytes = 1048576",
        pipelines={"ask": (topics, f"max_chars = 100000\n{more}")},
        hurry={**BRISK, "escalation.cases.REST_S": 1.0},
    )
    agent.start()
    for number, text in enumerate(texts):
        client.send(f"ask/{number}", text, message_id=f"{number}")
    wait_alert(client, "outbox_full", up=True)
    agent.wait_log("handled", 90)  # so 64, more than fit, wait to be added
    with ScriptedLLM(lambda _: Says(answer=GOOD), port):
        wait_finals(client, len(texts))
        assert agent.terminate() == 0
    outcomes = Counter(said["upstream"] for said in finals(client).values())
    assert outcomes == {"answered": 109, "refused": 1}
    assert client.answers == len(texts)


def test_answer_too_long_for_the_broker(tmp_path: Path, new_agent: NewAgent) -> None:
    """An answer that makes a result beyond the broker's packet size ends `too_long`."""
    small = "listener {port} 127.0.0.1\nallow_anonymous true\nmax_packet_size 9000\n"
    text = "kitchen " * 150

    place = {"label": PLACE, "text": "kitchen"}
    many = Says(answer={"label": LABEL, "entities": [place] * 150})
    with closing(Mosquitto(tmp_path / "broker", small)) as broker:
        broker.start()
        with ScriptedLLM(lambda _: many) as llm, Client(broker.port) as client:
            agent = new_agent(broker.port, upstream=http(llm), pipelines=ONE)
            agent.start()
            client.send("ask/1", text, message_id="long")
            said = final(client, "ask/1")
            llm.script = well
            ask(client, [2])
            final(client, "ask/2")
            assert agent.terminate() == 0
    assert (said["status"], said["reason"]) == ("unresolved", "too_long")
    assert (said["upstream"], said["label"]) == ("answered", LABEL)
    assert said["entities"] == []
    assert agent.count_log("disconnected") == 1


def test_alerts_do_not_outlive_their_process(
    broker: Mosquitto, new_agent: NewAgent, client: Client
) -> None:
    """An alert that is over by the next start is taken back."""
    port = free_port()
    agent = new_agent(broker.port, upstream=gone(port), pipelines=ONE)
    agent.start()
    ask(client, [1])
    wait_alert(client, "upstream_gone", up=True)
    agent.kill()
    with ScriptedLLM(well, port):
        agent.start()
        final(client, "ask/1")
        wait_alert(client, "upstream_gone", up=False)
        assert agent.terminate() == 0
    with Client(broker.port, "late") as late:
        late.wait_said(f"slm/{DEVICE}/status", b"offline")
        assert not late.said[f"slm/{DEVICE}/alert/upstream_gone"]
