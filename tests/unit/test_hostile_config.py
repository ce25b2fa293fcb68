"""Configuration files that nobody can mean: one line each, and never a traceback."""

import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.broker import config as broker_config
from agent.config.load import load
from agent.core.errors import BundleError, ConfigError, Unready, refusing
from agent.daemon.endpoint import endpoint
from agent.daemon.opened import transport_of
from agent.fleet.parse import read_path
from agent.fleet.resolve import Resolver, stand_in

ROUNDS = 500  # of each kind of file
SECRET = "hunter2"  # noqa: S105
AGENT = """
[device]
id = "pi-3"
labels = { site = "perth" }
[mqtt]
url = "mqtt://broker.example"
version = 5
client_id = "slm-pi-3"
username = "pi"
password_file = "secret"
keepalive_s = 30
max_backlog = 1000
[state]
dir = "state"
[pipelines]
dir = "pipelines"
enable = ["home"]
[models]
dir = "models"
on_mismatch = "warn"
[engine]
threads = 1
[log]
level = "info"
[metrics]
port = 9464
address = "127.0.0.1"
[homeassistant]
enable = true
prefix = "homeassistant"
[outbox]
max_bytes = 33554432
when_full = "drop_oldest"
[upstream]
transport = "http"
url = "https://llm.example/v1"
model = "m"
key_file = "secret"
timeout_s = 30.0
price_in = 0.15
[upstream.budget]
calls_per_day = 100
money_per_day = 1.5
[upstream.cache]
age_s = 3600
[fleet]
public_key_files = ["fleet.pub"]
topic = "slm/fleet"
probation_s = 300.0
"""
PIPELINE = """
description = "home"
kind = "understand"
explain = "hash"
[input]
topics = ["home/+/utterance", "$share/g/office/#"]
text = "a.b"
id = "id"
encoding = "utf-8"
expect_s = 60.0
max_chars = 1000
[model]
bundle = "home"
[decide]
max_error = 0.05
min_score = 0.5
guarantee = "label"
[output]
topic = "out"
[fields.place]
required = true
labels = ["on", "off"]
pattern = "[a-z]+"
check = "EMAIL_ADDRESS"
[upstream]
policy = "prefer_local"
labels = { on = "always_local" }
privacy = "redact"
visible = ["DATE_TIME"]
on_unresolved = "hold"
deadline_s = 60.0
priority = 5
budget = { calls_per_day = 5 }
descriptions = { on = "turn it on" }
"""
BROKER = """
[mqtt]
url = "mqtt://broker.example"
password_file = "secret"
username = "b"
[broker]
name = "b1"
topic = "slm/upstream"
group = "g"
reply_topics = ["slm/#"]
concurrency = 4
keep_s = 3600
cache = { entries = 5, age_s = 60 }
[state]
dir = "state"
[[models]]
model = "openai/gpt"
api_base = "https://llm.example/v1"
key_file = "secret"
temperature = 0.5
options = { reasoning_effort = "low" }
[budget]
tokens_per_day = 1000
"""
FLEET = """
version = 3
enable = ["home"]
unset = ["agent.log.level"]
[variables]
root = "plants/${site}"
site = "perth"
both = ["${root}", "x${site}"]
[agent.mqtt]
url = "mqtt://${site}"
[agent.engine]
threads = 2
[pipelines.home.input]
topics = "${both}"
[bundles]
home = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
[rollout]
name = "r"
percent = 10
groups = ["g"]
[[group]]
name = "g"
select = { site = "perth" }
[[layer]]
name = "l"
groups = ["g"]
[layer.variables]
site = "${device.id}"
[[device]]
id = "pi-1"
labels = { site = "perth" }
variables = { site = "${label.site}" }
"""

# Values that are valid TOML, or look like it.
ODD = (
    '""',
    '"\\u0000"',
    '"a\\u0000b"',
    '"\\u001b[2J"',
    '"a\\nb"',
    f'"{"x" * 100_000}"',
    f'"{"a/" * 40_000}"',
    '"${root}"',
    '"${site}${site}"',
    '"${"',
    '"(a+)+$"',
    '"["',
    "0",
    "-1",
    "1e400",
    "inf",
    "-inf",
    "nan",
    "9" * 5000,
    "-" + "9" * 5000,
    "0x" + "f" * 5000,
    "9" * 400,
    "1." + "3" * 5000,
    "true",
    "1979-05-27T07:32:00Z",
    "07:32:00",
    "[]",
    "{}",
    "[[]]",
    '[""]',
    '["#", "#"]',
    "[" * 2000 + "]" * 2000,
    "{a=" * 300 + "1" + "}" * 300,
    '{"" = 1}',
    '["x", 1, true, {}]',
    f'"https://u:{SECRET}@llm.example"',
    f'["mqtt://u:{SECRET}@broker"]',
    f'{{ note = "{SECRET}" }}',
    '"../../../../etc/passwd"',
    '"\U0001f98a"',
    "'''\n'''",
    "",
)
DEEP = ".".join(["a"] * 1500)


def values(chance: random.Random, text: str) -> str:
    """Put an odd value in place of one, or of several."""
    lines = text.splitlines()
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        number = chance.randrange(len(lines))
        key, equals, _ = lines[number].partition(" = ")
        if equals:
            lines[number] = f"{key} = {chance.choice(ODD)}"
    return "\n".join(lines)


def added(chance: random.Random, text: str) -> str:
    """Add a line at any place: unknown keys, deep tables, keys twice."""
    lines = text.splitlines()
    keys = ("x", '"a\\u001b[2Jb"', DEEP, f'"{"k" * 5000}"', "mqtt.url", "version")
    line = f"{chance.choice((*keys, chance.choice(lines)))} = {chance.choice(ODD)}"
    deep = (f"[{DEEP}]", f"[agent.{DEEP}]", f"[[{DEEP}]]", "[mqtt]", "[[mqtt]]", "[x")
    lines.insert(chance.randrange(len(lines)), chance.choice((line, *deep)))
    return "\n".join(lines)


def cut(chance: random.Random, text: str) -> str:
    """Lose some lines, or the end."""
    lines = text.splitlines()
    for _ in range(chance.randrange(1, 6)):
        del lines[chance.randrange(len(lines))]
    return "\n".join(lines)[: chance.choice((None, chance.randrange(len(text))))]


def scrambled(chance: random.Random, text: str) -> str:
    """Change some characters."""
    letters = list(text)
    for _ in range(chance.randrange(1, 8)):
        letters[chance.randrange(len(letters))] = chance.choice("\"'[]{}=.#\n\0\x1bé9$")
    return "".join(letters)


MUTATIONS: tuple[Callable[[random.Random, str], str], ...] = (
    values,
    values,
    added,
    cut,
    scrambled,
)


def mutants(kind: str, text: str) -> Iterator[bytes]:
    """Yield files that are wrong in a way of their own, always the same."""
    for number in range(ROUNDS):
        chance = random.Random(f"{kind} {number}")  # noqa: S311
        spoilt = chance.choice(MUTATIONS)(chance, text).encode()
        if number % 50 == 0:
            spoilt = spoilt[:100] + b"\xff\xfe" + spoilt[100:]
        yield spoilt


def read_agent(folder: Path) -> None:
    """Read agent.toml and its pipeline as the daemon does, and what they name."""
    config = load(folder / "agent.toml")
    endpoint(config)
    transport_of(config)


def read_broker(folder: Path) -> None:
    """Read broker.toml as the broker does, and what it names."""
    file = broker_config.load(folder / "broker.toml")
    broker_config.endpoints(file)
    for number, model in enumerate(file.models):
        broker_config.key_of(model, number)


def read_fleet(folder: Path) -> None:
    """Read a fleet file and resolve its devices as `fleet check` does."""
    fleet = read_path(folder / "fleet.toml")
    resolver = Resolver(fleet)
    for device in fleet.entries:
        resolver.resolve(stand_in(device)).rows()


KINDS: dict[str, tuple[str, str, Callable[[Path], object]]] = {
    "agent": ("agent.toml", AGENT, read_agent),
    "pipeline": ("pipelines/home.toml", PIPELINE, read_agent),
    "broker": (
        "broker.toml",
        BROKER,
        read_broker,
    ),
    "fleet": ("fleet.toml", FLEET, read_fleet),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with all files as they should be."""
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    for name, text, _ in KINDS.values():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("kind", KINDS)
def test_the_files_are_right_before(kind: str, folder: Path) -> None:
    """What is spoilt below can be read as it is."""
    KINDS[kind][2](folder)


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_a_file_says(kind: str, folder: Path) -> None:
    """A file is taken or refused by lines that say where, and hold no secret."""
    name, text, read = KINDS[kind]
    refused = 0
    for content in mutants(kind, text):
        (folder / name).write_bytes(content)
        try:
            read(folder)
        except ConfigError as error:
            refused += 1
            for line in str(error).splitlines():
                assert len(line) < 10_000, content
                assert SECRET not in line, content
                assert "\x1b" not in line, content
                assert "please report" not in line, content
    assert ROUNDS / 2 < refused <= ROUNDS


def test_the_last_resort() -> None:
    """An error that nobody expected is one line, too; what is ours already stays."""
    with pytest.raises(ConfigError) as caught, refusing("agent.toml"):
        raise ZeroDivisionError("a\nb" * 1000)
    assert str(caught.value).startswith("agent.toml: cannot be used: ZeroDivisionError")
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)
    for ours in (BundleError("x"), Unready("x")):
        with pytest.raises(type(ours), match=r"^x$"), refusing("agent.toml"):
            raise ours


@pytest.mark.parametrize(
    ("kind", "old", "new", "key"),
    [
        ("agent", "max_backlog = 1000", "max_backlog = 9999999999999", "max_backlog"),
        ("agent", "age_s = 3600", "age_s = 9999999999999999999", "cache.age_s"),
        ("agent", "day = 100", "day = 9223372036854775808", "budget.calls_per_day"),
        ("pipeline", "expect_s = 60.0", "expect_s = inf", "input.expect_s"),
        ("broker", "keep_s = 3600", "keep_s = 9999999999999999", "broker.keep_s"),
        ("broker", "temperature = 0.5", "temperature = -1", "models.0.temperature"),
        ("agent", 'dir = "state"', r'dir = "a\u0000b"', "state.dir: has a NUL"),
        ("agent", 'key_file = "secret"', r'key_file = "a\u0000b"', "upstream.key_file"),
    ],
)
def test_what_nobody_can_mean(
    kind: str, old: str, new: str, key: str, folder: Path
) -> None:
    """Numbers that no table takes, and paths that none can be, are refused at once."""
    name, text, read = KINDS[kind]
    assert old in text
    (folder / name).write_text(text.replace(old, new))
    with pytest.raises(ConfigError, match=re.escape(key)):
        read(folder)
