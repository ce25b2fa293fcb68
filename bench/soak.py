"""A week compressed: many messages, faults on the way, and nothing that grows.

A real broker, the real daemon with an outbox of one MiB, an endpoint that is asked
about what the device is not sure of, and messages of all lengths, some of them bad. The
run has rounds; in each of them everything breaks once, and after each the daemon is
left idle and looked at. The first round is its warm-up.

Flat means, from the second round on: no growth of the resident memory beyond a margin,
by a line through all samples and between the medians of the second and the last round;
the same files and sockets whenever it is idle, and threads but for asyncio's pool; the
outbox within its bound. And each QoS 1 message, known by its id, ended once: a result,
or a dead letter.
"""

import argparse
import contextlib
import json
import os
import platform
import random
import re
import signal
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import linear_regression, median
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import psutil  # type: ignore[import-untyped]

from harness.casework import BRISK, entries, in_outbox
from harness.proxy import Proxy
from harness.stage import DEVICE, Agent, Client, Mosquitto, free_port, text_of
from harness.upstreams import Asked, Says, ScriptedLLM, first_choice

if TYPE_CHECKING:
    import subprocess

    import paho.mqtt.client as paho

MIB = 2**20
WINDOW = 1500  # most messages under way, where nothing is broken
IN_FAULT = 300  # messages sent while something is
IN_ILLNESS = 120  # while upstream answers badly
FILLING = 200  # long texts that fill the outbox: about 120 do
SAMPLE_S = 1.0
IDLE_S = 4.0  # how long an idle daemon is looked at
PATIENCE_S = 600.0
OUTBOX = "", "-wal", "-spare"
POOLED = 2  # asyncio keeps a thread more when several connect or load at once
LOG = MIB // 4  # one large transaction may make the log longer for a while
BROKER = """\
listener {port} 127.0.0.1
allow_anonymous true
set_tcp_nodelay true
max_queued_messages 0
persistence true
persistence_location {folder}/
"""
PIPELINES = {
    "home": (["home/+/utterance"], ""),
    "note": (["note/+/utterance"], 'text = "note.text"'),
}
CONCURRENCY = 8
UPSTREAM = f"""\
transport = "http"
url = "{{url}}"
model = "m"
rate = 1000.0
concurrency = {CONCURRENCY}
timeout_s = 20.0
"""
HURRY = {**BRISK, "escalation.cases.REST_S": 1.0}
EXAMPLES = """\
examples:
  python bench/soak.py                                      200,000 messages
  python bench/soak.py --messages 20000 --rounds 4          a shorter one
  python bench/soak.py --out bench/results/soak-$(uname -m).json
  python bench/soak.py --json --messages 20000 | jq .checks

needs: pip install -e '.[dev]', mosquitto
exit status: 0 flat; 1 something grows, or a message did not end once;
2 a value is wrong
"""


class Unsettled(Exception):
    """The daemon does not come to rest, or something died."""


# --- what is sent ---------------------------------------------------------------------


class Shot(NamedTuple):
    """A message; `reason` is that of the dead letter it must end as."""

    topic: str
    payload: bytes
    content_type: str = ""
    reason: str | None = None
    qos: int = 1


BAD = (
    Shot("home", b"turn \xff\xfe off", "", "not_utf8"),
    Shot("note", b'{"note": {"text": "turn off', "", "not_json"),
    Shot("note", b'{"text": "turn off"}', "", "missing_field"),
    Shot("note", b'{"note": {"text": ["turn", "off"]}}', "", "wrong_type"),
    Shot("home", b"", "", "empty"),
    Shot("home", b" \t\r\n\xc2\xa0 ", "", "empty"),
    Shot("home", b"turn off the light " * 600, "", "too_long"),
    Shot("home", b"turn\0off", "", "control_characters"),
    Shot("home", b"off", "text/plain; charset=klingon", "unknown_encoding"),
)
HUGE = Shot("home", b"turn off the light " * 52_000, "", "too_long")
NESTED = Shot("note", b"[" * 90_000, "", "not_json")


def shot(number: int) -> Shot:
    """Return message `number`: always the same, each kind as often in every round."""
    for every, place, make in KINDS:
        if number % every == place:
            return make(number)
    return _plain(number)


def _plain(number: int, qos: int = 1) -> Shot:
    return Shot("home", text_of(number).encode(), qos=qos)


def _field(number: int) -> Shot:
    note = {"note": {"text": text_of(number)}, "n": number}
    return Shot("note", json.dumps(note).encode())


def _bad(number: int) -> Shot:
    return BAD[number // 30 % len(BAD)]


def _longer(number: int) -> Shot:
    return Shot("home", _joined(number, 2 + number // 20 % 7).encode())


def _longest(number: int) -> Shot:
    return Shot("home", _joined(number, 40 + number // 1000 * 7 % 160)[:9900].encode())


def _unknown(number: int) -> Shot:
    return Shot("home", _strange(number))


def _unknown_again(number: int) -> Shot:
    return Shot("home", _strange(number // 200 % 7))


def _joined(number: int, parts: int) -> str:
    return " and ".join(text_of(number + 13 * part) for part in range(parts))


def _strange(number: int, more: str = "") -> bytes:
    """Return a text that no model knows, and no other number has."""
    dice = random.Random(number)  # noqa: S311
    words = ["".join(dice.choices("bdfgklmnprstaeiou", k=6)) for _ in range(8)]
    return f"{' '.join(words)} {number} {more}".encode()


# How often, at which place, and what; the rest is plain. What is out of scope goes
# upstream.
KINDS: tuple[tuple[int, int, Callable[[int], Shot]], ...] = (
    (2500, 11, lambda _: HUGE),
    (2500, 1211, lambda _: NESTED),
    (1000, 7, _longest),
    (30, 3, _bad),
    (200, 5, _unknown_again),
    (40, 5, _unknown),
    (20, 9, _field),
    (20, 11, lambda number: _plain(number, qos=0)),
    (20, 13, _longer),
)


# --- who hears it, and who answers ----------------------------------------------------


class Ears(Client):
    """A client that remembers of each message how it ended, and no more."""

    def __init__(self, port: int) -> None:
        """Connect."""
        self.ended: dict[int, tuple[str | None, ...]] = {}
        self.unlike: dict[int, tuple[str | None, ...]] = {}  # ended so, too
        self.strangers = 0
        self.repeats = 0
        self.at_most_once = 0  # answers to messages at QoS 0
        self.sent: dict[int, str | None] = {}  # at QoS 1, and the reason to refuse it
        super().__init__(port, "soak")

    def shoot(self, number: int, one: Shot) -> None:
        """Publish it under its number."""
        topic = f"{one.topic}/{number % 100}/utterance"
        if one.qos:
            self.sent[number] = one.reason
        self.send(
            topic,
            one.payload,
            message_id=f"s-{number}",
            content_type=one.content_type,
            qos=one.qos,
        )

    @property
    def missing(self) -> int:
        """How many messages have not ended."""
        return len(self.sent) - len(self.ended)

    def wrong(self) -> int:
        """Return how many ended as they should not."""
        return sum(
            end[:2] != ("deadletter", self.sent[number])
            if self.sent[number]
            else end[0] != "result"
            for number, end in self.ended.items()
        )

    def alert(self, name: str) -> bool:
        """Tell whether an alert is up."""
        told = self.said[f"slm/{DEVICE}/alert/{name}"]
        return bool(told and told[-1])

    def _published(self, *_: object) -> None:
        """Keep no list of what was acknowledged."""

    def _heard(self, _client: object, _data: object, raw: "paho.MQTTMessage") -> None:
        kind = raw.topic.split("/")[2]
        payload = bytes(raw.payload)
        with self._changed:
            if kind in {"result", "deadletter"}:
                self._note(kind, json.loads(payload))
            else:
                self.said[raw.topic] = [payload]
            self._changed.notify_all()

    def _note(self, kind: str, said: dict[str, Any]) -> None:
        name = str(said["id"])
        if not name.startswith("s-"):
            self.strangers += 1
            return
        number = int(name[2:])
        if number not in self.sent:
            self.at_most_once += 1
            return
        keys = ("reason",) if kind == "deadletter" else ("status", "label", "upstream")
        end = (kind, *(said.get(key) for key in keys))
        self.repeats += number in self.ended
        if self.ended.setdefault(number, end) != end:
            self.unlike[number] = end


class Quiet(Agent):
    """The daemon, of whose log the lines about single messages are not kept."""

    def _read(self, process: "subprocess.Popen[str]") -> None:
        if process.stderr is None:
            raise Unsettled("no log")
        with process.stderr as stream:
            for line in stream:
                if '"event": "handled"' in line or '"event": "case_ended"' in line:
                    continue
                with self._changed:
                    if line.startswith('{"'):
                        self.lines.append(json.loads(line))
                    else:
                        self.noise.append(line.rstrip())
                    self._changed.notify_all()


class Model:
    """Owns the endpoint, and makes it good, bad, or none at all."""

    def __init__(self) -> None:
        """Serve."""
        self.calls = 0
        self.is_ill = False
        self._llm = _Forgetful(self._say)
        self.port = self._llm.port
        self.url = self._llm.url

    def close(self) -> None:
        """Be gone."""
        self._llm.close()

    def open(self) -> None:
        """Be there again, where it was."""
        self._llm = _Forgetful(self._say, self.port)

    def _say(self, asked: Asked) -> Says:
        self.calls += 1
        ill = 3 if self.is_ill else 50  # one of so many calls is answered badly
        if self.calls % ill:
            return first_choice(asked)
        bad = (Says(http=503), Says(cut=True), Says(raw=b"no"), Says(status="error"))
        return bad[self.calls // ill % len(bad)]


class _Forgetful(ScriptedLLM):
    def note(self, asked: Asked) -> None:
        """Keep nothing."""


# --- what is looked at ----------------------------------------------------------------


class Sample(NamedTuple):
    """The daemon at a moment; MB are a million bytes."""

    round: int
    sent: int
    rss_mb: float
    files: int
    threads: int
    outbox: int  # bytes, with log and spare


class Idle(NamedTuple):
    """The daemon at rest: what it holds, but for connections kept for upstream."""

    handles: dict[str, int]
    upstream: int
    threads: int
    rss_mb: float
    outbox: int
    rest: int  # bytes of the other files of its state


@dataclass
class Watch:
    """Looks at a daemon every now and then, in a thread of its own."""

    agent: Agent
    ears: Ears
    metrics: int
    round: int = 0
    samples: list[Sample] = field(default_factory=list)
    scraped: int = 0

    def __post_init__(self) -> None:
        """Take the process."""
        self._process = psutil.Process(self.agent.pid)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Look no more."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(SAMPLE_S):
            with contextlib.suppress(psutil.NoSuchProcess):
                self.samples.append(self._sample())
            with contextlib.suppress(OSError):  # during a reload nobody serves
                url = f"http://127.0.0.1:{self.metrics}/metrics"
                with urllib.request.urlopen(url, timeout=10) as answer:
                    answer.read()
                self.scraped += 1

    def _sample(self) -> Sample:
        return Sample(
            self.round,
            len(self.ears.sent),
            round(self._process.memory_info().rss / 1e6, 2),
            self._process.num_fds(),
            self._process.num_threads(),
            sum(_size(self.agent.state / f"outbox.db{part}") for part in OUTBOX),
        )

    def idle(self, port: int) -> Idle:
        """Return the least that an idle daemon holds; `port` is that of upstream."""
        limit = time.monotonic() + IDLE_S
        looks = []
        while time.monotonic() < limit:
            looks.append(self._look(port))
            time.sleep(0.1)
        least = min(looks, key=lambda look: sum(look.handles.values()))
        return least._replace(threads=min(look.threads for look in looks))

    def _look(self, port: int) -> Idle:
        handles: Counter[str] = Counter()
        for link in list(Path(f"/proc/{self._process.pid}/fd").iterdir()):
            with contextlib.suppress(FileNotFoundError):
                handles[re.sub(r":\[\d+\]$", "", Path(link.readlink()).name)] += 1
        peers = self._process.net_connections("tcp")
        upstream = sum(bool(peer.raddr) and peer.raddr.port == port for peer in peers)
        handles["socket"] -= upstream
        one = self._sample()
        rest = [
            p for p in self.agent.state.iterdir() if not p.name.startswith("outbox")
        ]
        return Idle(
            dict(sorted(handles.items())),
            upstream,
            one.threads,
            one.rss_mb,
            one.outbox,
            sum(map(_size, rest)),
        )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


# --- what happens ---------------------------------------------------------------------


class Soak:
    """Owns everything, and sends messages while things break."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        """Start it all."""
        self.number = 0
        self.faults: Counter[str] = Counter()
        self._reloads = 1
        self.broker = Mosquitto(folder / "broker", BROKER)
        stack.callback(self.broker.close)
        self.broker.start()
        self.proxy = Proxy(self.broker.port)
        stack.callback(self.proxy.cut)
        self.model = Model()
        stack.callback(self.model.close)
        self.ears = stack.enter_context(closing(Ears(self.broker.port)))
        metrics = free_port()
        self.agent = Quiet(
            folder / DEVICE,
            self.proxy.port,
            mqtt=f"[metrics]\nport = {metrics}",
            pipelines=PIPELINES,
            upstream=UPSTREAM.format(url=self.model.url),
            outbox=f"max_bytes = {MIB}",
            hurry=HURRY,
        )
        stack.callback(self.agent.close)
        self.agent.start()
        self.watch = stack.enter_context(Watch(self.agent, self.ears, metrics))

    def round(self, messages: int, seed: int, tick: Callable[[int], None]) -> Idle:
        """Send messages while everything breaks once; return what is held thereafter.

        `tick` hears how many were sent.
        """
        self.watch.round = seed
        end = self.number + messages
        kinds = list(FAULTS)
        random.Random(seed).shuffle(kinds)  # noqa: S311
        batch = min(IN_FAULT, messages // (2 * len(kinds)))
        for place, kind in enumerate(kinds):
            until = self.number + (end - self.number) // (len(kinds) - place)
            with FAULTS[kind](self):
                self._send(batch)
            self.faults[kind] += 1
            self._send_calmly(until - self.number, tick)
        self._wait(lambda: self.ears.missing == 0)
        return self.watch.idle(self.model.port)

    def finish(self) -> int:
        """End the daemon; return how many lines its ledger has, which is whole."""
        if self.agent.terminate() != 0:
            raise Unsettled(f"the daemon did not end well\n{self.agent.tail()}")
        left = in_outbox(self.agent)
        if left:
            raise Unsettled(f"{left} cases are left in the outbox")
        if self.agent.noise:
            raise Unsettled("\n".join(["the daemon said", *self.agent.noise[-20:]]))
        return len(entries(self.agent))

    def _send(self, count: int) -> None:
        for _ in range(count):
            self.ears.shoot(self.number, shot(self.number))
            self.number += 1

    def _send_calmly(self, count: int, tick: Callable[[int], None]) -> None:
        for done in range(0, count, 50):
            self._wait(lambda: self.ears.missing < WINDOW)
            self._send(min(50, count - done))
            tick(self.number)

    def _wait(self, done: Callable[[], bool]) -> None:
        try:
            self.ears.wait(done, PATIENCE_S)
        except AssertionError:
            raise Unsettled(
                f"{self.ears.missing} messages do not end\n{self.agent.tail()}"
            ) from None

    # -- faults: begun at once, over with the context

    @contextlib.contextmanager
    def dropped(self) -> Iterator[None]:
        """Break the connection."""
        self.proxy.drop_connections()
        yield

    @contextlib.contextmanager
    def cut(self) -> Iterator[None]:
        """Be without a network for a while."""
        self.proxy.cut()
        yield
        time.sleep(1.0)  # not to wait for something: this is the fault
        self.proxy.restore()

    @contextlib.contextmanager
    def no_broker(self) -> Iterator[None]:
        """Stop the broker, and start it again."""
        self.broker.stop()
        yield
        self.broker.start()

    @contextlib.contextmanager
    def no_upstream(self) -> Iterator[None]:
        """Have nobody to ask, then somebody who answers badly."""
        self.model.close()
        yield
        self.model.is_ill = True
        self.model.open()
        self._send(IN_ILLNESS)
        self.model.is_ill = False

    @contextlib.contextmanager
    def reload(self) -> Iterator[None]:
        """Read everything anew."""
        os.kill(self.agent.pid, signal.SIGHUP)
        yield
        self._reloads += 1
        self.agent.wait_log("ready", self._reloads)

    @contextlib.contextmanager
    def full_outbox(self) -> Iterator[None]:
        """Have nobody to ask until the outbox is full."""
        self.model.close()
        for _ in range(FILLING):
            text = _strange(self.number, "x" * 2000)
            self.ears.shoot(self.number, Shot("home", text))
            self.number += 1
        self._wait(lambda: self.ears.alert("outbox_full"))
        yield
        self.model.open()


FAULTS: dict[str, Callable[[Soak], AbstractContextManager[None]]] = {
    "connection dropped": Soak.dropped,
    "network cut": Soak.cut,
    "broker stopped": Soak.no_broker,
    "upstream gone, then bad": Soak.no_upstream,
    "reload": Soak.reload,
    "outbox full": Soak.full_outbox,
}


# --- what is made of it ---------------------------------------------------------------


class Check(NamedTuple):
    """Something that must be so: what was found, and what is right."""

    what: str
    found: str
    right: str
    well: bool


def soak(
    messages: int, rounds: int, margin_mb: float, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Run it; `tell` hears how far it is. Raises Unsettled."""
    load = os.getloadavg()[0]
    began = time.monotonic()
    idles: list[Idle] = []
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="slm-soak-"))
        run = Soak(Path(folder), stack)

        def tick(number: int) -> None:
            if number // 1000 > (number - 50) // 1000:
                tell(_so_far(run, number, messages, time.monotonic() - began))

        for number in range(rounds):
            part = (messages - run.number) // (rounds - number)
            idles.append(run.round(part, number, tick))
            tell(f"round {number + 1} of {rounds}: {_said(idles[-1])}")
        took_s = time.monotonic() - began
        run.watch.__exit__()
        requests = run.finish()
    ears, samples = run.ears, run.watch.samples
    checks = [
        *memory(samples, rounds, margin_mb),
        *holdings(idles, samples),
        *ends(ears),
    ]
    return {
        "machine": machine() | {"load_before": round(load, 2)},
        "messages": run.number,
        "rounds": rounds,
        "took_s": round(took_s, 1),
        "messages_per_s": round(run.number / took_s, 1),
        "faults": dict(run.faults),
        "qos1": len(ears.sent),
        "results": sum(end[0] == "result" for end in ears.ended.values()),
        "dead_letters": sum(end[0] == "deadletter" for end in ears.ended.values()),
        "cases": sum(
            end[0] == "result" and bool(end[-1]) for end in ears.ended.values()
        ),
        "upstream_calls": run.model.calls,
        "requests_in_ledger": requests,
        "said_again": ears.repeats,
        "rss_mb_max": max(sample.rss_mb for sample in samples),
        "idle": [idle._asdict() for idle in idles],
        "samples": thinned(samples, rounds),
        "in_two_ways": [(ears.ended[n], end) for n, end in ears.unlike.items()],
        "checks": [check._asdict() for check in checks],
        "flat": all(check.well for check in checks),
    }


def memory(samples: Sequence[Sample], rounds: int, margin_mb: float) -> list[Check]:
    """Check that resident memory does not grow once the first round is over."""
    warm = [sample for sample in samples if sample.round > 0]
    slope, _ = linear_regression(
        [sample.sent for sample in warm], [sample.rss_mb for sample in warm]
    )
    grown = slope * (warm[-1].sent - warm[0].sent)
    first, last = (
        median(sample.rss_mb for sample in warm if sample.round == number)
        for number in (1, rounds - 1)
    )
    right = f"at most {margin_mb:+.1f} MB"
    return [
        Check(
            "memory, by the slope",
            f"{grown:+.2f} MB ({slope * 1e5:+.2f} MB in 100,000 messages)",
            right,
            grown <= margin_mb,
        ),
        Check(
            "memory, by medians",
            f"{last - first:+.2f} MB ({first:.1f}, then {last:.1f})",
            right,
            last - first <= margin_mb,
        ),
    ]


def holdings(idles: Sequence[Idle], samples: Sequence[Sample]) -> list[Check]:
    """Check files, sockets, threads and the disk."""
    warm = idles[1:]
    handles = [sum(idle.handles.values()) for idle in warm]
    kinds = sorted({name for idle in warm for name in idle.handles})
    unlike = [k for k in kinds if len({idle.handles.get(k, 0) for idle in warm}) > 1]
    threads = [idle.threads for idle in warm]
    most = max(sample.outbox for sample in samples)
    rest = [idle.rest for idle in warm]
    return [
        Check(
            "files and sockets, idle",
            _range(handles) + (f" (unlike: {', '.join(unlike)})" if unlike else ""),
            "always the same",
            not unlike,
        ),
        Check(
            "connections to upstream, idle",
            _range([idle.upstream for idle in warm]),
            f"at most {CONCURRENCY}",
            all(idle.upstream <= CONCURRENCY for idle in warm),
        ),
        Check(
            "threads, idle",
            _range(threads),
            f"at most {POOLED} apart",
            max(threads) - min(threads) <= POOLED,
        ),
        Check(
            "outbox on disk, idle, with log and spare",
            f"{_range([idle.outbox // 1024 for idle in warm])} KiB",
            f"at most {MIB // 1024} KiB",
            all(idle.outbox <= MIB for idle in warm),
        ),
        Check(
            "outbox on disk, ever",
            f"{most / 1024:.0f} KiB",
            f"at most {(MIB + LOG) // 1024} KiB",
            most <= MIB + LOG,
        ),
        Check(
            "the rest of the state on disk",
            f"{min(rest) / 1024:.0f} to {max(rest) / 1024:.0f} KiB",
            "always the same",
            len(set(rest)) == 1,
        ),
    ]


def ends(ears: Ears) -> list[Check]:
    """Check that every message ended, once, and as it should."""
    open_ = len(ears.sent.keys() - ears.ended.keys())
    return [
        Check("messages that did not end", *_none(open_)),
        Check("messages that ended in two ways", *_none(len(ears.unlike))),
        Check("messages that ended otherwise than they must", *_none(ears.wrong())),
        Check("answers to nobody's message", *_none(ears.strangers)),
    ]


def _none(count: int) -> tuple[str, str, bool]:
    return f"{count:,}", "none", count == 0


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"


def thinned(samples: Sequence[Sample], rounds: int) -> list[dict[str, Any]]:
    """Return of each round what a chart of it needs."""
    table = []
    for number in range(rounds):
        of = [sample for sample in samples if sample.round == number]
        rss = sorted(sample.rss_mb for sample in of)
        table.append(
            {
                "sent": of[-1].sent,
                "rss_mb_min": rss[0],
                "rss_mb_median": median(rss),
                "rss_mb_max": rss[-1],
                "files_max": max(sample.files for sample in of),
                "threads_max": max(sample.threads for sample in of),
                "outbox_max": max(sample.outbox for sample in of),
            }
        )
    return table


def machine() -> dict[str, Any]:
    """Say where this was measured."""
    cpuinfo = ""
    with contextlib.suppress(OSError):
        cpuinfo = Path("/proc/cpuinfo").read_text("utf-8")
    model = re.search(r"^(?:model name|Model)\s*:\s*(.*)$", cpuinfo, re.MULTILINE)
    return {
        "cpu": model[1] if model else platform.processor(),
        "cores": os.cpu_count(),
        "arch": platform.machine(),
        "python": platform.python_version(),
    }


# --- for people -----------------------------------------------------------------------


def _so_far(run: Soak, number: int, messages: int, seconds: float) -> str:
    sample = run.watch.samples[-1] if run.watch.samples else None
    held = f", {sample.rss_mb:.0f} MB" if sample else ""
    return f"{number:,} of {messages:,} messages, {number / seconds:.0f}/s{held}"


def _said(idle: Idle) -> str:
    return (
        f"{idle.rss_mb:.1f} MB, {sum(idle.handles.values())} files and sockets, "
        f"{idle.threads} threads, outbox {idle.outbox / 1024:.0f} KiB"
    )


def show(figures: dict[str, Any]) -> None:
    """Print what was found, as a table."""
    where = figures["machine"]
    faults = ", ".join(f"{kind} ({n})" for kind, n in figures["faults"].items())
    print(
        f"{figures['messages']:,} messages in {figures['took_s']:.0f} s "
        f"({figures['messages_per_s']:.0f}/s) on {where['cpu']}, "
        f"{where['cores']} cores, {where['arch']}\n{faults}\n"
        f"{figures['results']:,} results, of which {figures['cases']:,} were cases; "
        f"{figures['dead_letters']:,} dead letters; {figures['said_again']:,} said "
        f"again; {figures['upstream_calls']:,} calls; "
        f"at most {figures['rss_mb_max']:.0f} MB resident\n"
    )
    for check in figures["checks"]:
        mark = "ok" if check["well"] else "NOT FLAT"
        print(f"{mark:10}{check['what']:46}{check['found']:46}{check['right']}")


def teller() -> Callable[[str], None]:
    """Return what says how far it is: one line that changes, or one now and then."""
    if sys.stderr.isatty():
        return lambda line: print(
            f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True
        )
    last = [-30.0]

    def tell(line: str) -> None:
        if line.startswith("round") or time.monotonic() - last[0] > 30:  # noqa: PLR2004
            last[0] = time.monotonic()
            print(line, file=sys.stderr, flush=True)

    return tell


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line; exit status 2 where it is wrong."""
    parser = argparse.ArgumentParser(
        prog="python bench/soak.py",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--messages", type=int, default=200_000, metavar="N", help="default: 200000"
    )
    parser.add_argument(
        "--rounds", type=int, default=10, metavar="N", help="default: 10"
    )
    parser.add_argument(
        "--margin-mb",
        type=float,
        default=8.0,
        metavar="MB",
        help="how much resident memory may grow; default: 8",
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write the figures as JSON, too"
    )
    options = parser.parse_args(arguments)
    if options.rounds < 3:  # noqa: PLR2004
        parser.error("--rounds: at least 3, of which the first is the warm-up")
    if options.messages < 1200 * options.rounds:
        parser.error("--messages: at least 1200 for each round")
    if options.out and not options.out.parent.is_dir():
        parser.error(f"--out: there is no folder {options.out.parent}")
    return options


def main(arguments: Sequence[str]) -> int:
    """Soak, print, and return the exit status."""
    options = parsed(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leave nobody running
    try:
        figures = soak(options.messages, options.rounds, options.margin_mb, teller())
    except Unsettled as error:
        print(f"\nnot settled: {error}", file=sys.stderr)
        return 1
    if sys.stderr.isatty():
        print(file=sys.stderr)
    if options.out:
        options.out.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
    if options.json:
        print(json.dumps(figures, indent=2))
    else:
        show(figures)
    return 0 if figures["flat"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
