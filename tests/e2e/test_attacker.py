"""An attacker behind the shipped access list: what each account reaches."""

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from harness.stage import DEADLINE_S, REPOSITORY, Agent, Mosquitto, part, text_of

SHIPPED = REPOSITORY / "systemd"
PAGE = (REPOSITORY / "SECURITY.md").read_text("utf-8")
TABLE = PAGE.partition("## Who may publish and read what")[2].partition("\n## ")[0]
LINES = [line for line in TABLE.splitlines() if line.startswith("|")]
CELLS = [[cell.strip() for cell in line.strip("|").split("|")] for line in LINES]
ACCOUNTS = CELLS[0][1:]
REACH = {
    topic.strip("`"): dict(zip(ACCOUNTS, cells, strict=True))
    for topic, *cells in CELLS[2:]
}
PROBE = "probe"  # an account of ours that may do everything
REFUSED = 0x87  # not authorized (MQTT 5, 3.4.2.1)


def with_names(text: str) -> str:
    """Return the shipped mosquitto.conf with the lines for names instead of none."""
    text = text.replace("\nallow_anonymous true\n", "\n")
    for key in ("allow_anonymous false", "password_file", "acl_file"):
        assert f"\n# {key}" in text, key
        text = text.replace(f"\n# {key}", f"\n{key}")
    text = text.replace("/etc/mosquitto/passwd\n", "{folder}/passwd\n")
    return text.replace("/etc/mosquitto/slm-agent.acl", "{folder}/acl")


def configured(change: Callable[[str], str] = str) -> str:
    """Return the shipped mosquitto.conf for a port and a folder of ours."""
    text = change((SHIPPED / "mosquitto.conf").read_text("utf-8"))
    assert "\nlistener 1883 127.0.0.1\n" in text  # from this device alone
    text = text.replace("listener 1883", "listener {port}")
    return text + "persistence_location {folder}/\n"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    """Run a Mosquitto with the shipped configuration, names and access list."""
    folder = tmp_path_factory.mktemp("guarded")
    shutil.copy(SHIPPED / "mosquitto.acl", folder / "acl")
    with (folder / "acl").open("a") as acl:
        acl.write(f"\nuser {PROBE}\ntopic readwrite #\n")
    (folder / "passwd").touch()
    for account in (*ACCOUNTS, PROBE):
        words = ["mosquitto_passwd", "-b", str(folder / "passwd"), account, account]
        subprocess.run(words, check=True, capture_output=True)
    with closing(Mosquitto(folder, configured(with_names))) as running:
        running.start()
        yield running


class Login:
    """Owns a connection with somebody's credentials."""

    def __init__(
        self, port: int, account: str, password: str | None = None, client_id: str = ""
    ) -> None:
        """Try to connect."""
        self.heard: list[tuple[str, bytes]] = []
        self.refused: bool | None = None
        self._codes: dict[int, ReasonCode] = {}
        self._changed = threading.Condition()
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=paho.MQTTv5,
            reconnect_on_failure=False,
        )
        if account:
            secret = account if password is None else password
            self._client.username_pw_set(account, secret)
        self._client.on_connect = self._connected
        self._client.on_message = self._heard
        self._client.on_publish = self._answered
        self._client.on_subscribe = self._granted
        session = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        session.SessionExpiryInterval = 3600
        self._client.connect(
            "127.0.0.1", port, clean_start=not client_id, properties=session
        )
        self._client.loop_start()
        self.wait(lambda: self.refused is not None)

    def close(self) -> None:
        """Disconnect."""
        part(self._client)

    def wait(self, done: Callable[[], bool]) -> None:
        """Wait for something that the broker says."""
        with self._changed:
            assert self._changed.wait_for(done, DEADLINE_S)

    def publishes(self, topic: str, payload: bytes) -> bool:
        """Publish; tell whether the broker took it."""
        mid = self._client.publish(topic, payload, qos=1).mid
        self.wait(lambda: mid in self._codes)
        assert self._codes[mid].value in {0, 0x10, REFUSED}, self._codes[mid]
        return self._codes[mid].value != REFUSED

    def subscribe(self, filters: Iterable[str]) -> None:
        """Subscribe; whether that is granted says little, what is heard counts.

        All that was sent to us before the answer is heard when this returns.
        """
        _, mid = self._client.subscribe([(topic, 1) for topic in filters])
        assert mid
        self.wait(lambda: mid in self._codes)

    def _connected(self, *said: object) -> None:
        code = said[3]
        assert isinstance(code, ReasonCode)
        with self._changed:
            self.refused = code.is_failure
            self._changed.notify_all()

    def _heard(self, _client: object, _data: object, raw: paho.MQTTMessage) -> None:
        with self._changed:
            self.heard.append((raw.topic, bytes(raw.payload)))
            self._changed.notify_all()

    def _answered(self, *said: object) -> None:
        mid, code = said[2], said[3]
        assert isinstance(mid, int)
        assert isinstance(code, ReasonCode)
        with self._changed:
            self._codes[mid] = code
            self._changed.notify_all()

    def _granted(self, *said: object) -> None:
        mid, codes = said[2], said[3]
        assert isinstance(mid, int)
        assert isinstance(codes, list)
        with self._changed:
            self._codes[mid] = codes[0]
            self._changed.notify_all()


def publishes(broker: Mosquitto, account: str, topic: str) -> bool:
    """Tell whether an account may publish on a topic.

    By a connection of its own: Mosquitto 2.0.11 ends one on which it refused something.
    """
    with closing(Login(broker.port, account)) as attacker:
        return attacker.publishes(topic, b"forged")


def reached(broker: Mosquitto, account: str) -> dict[str, str]:
    """Return what an account reads and publishes of all topics of the table."""
    with ExitStack() as stack:
        probe = stack.enter_context(closing(Login(broker.port, PROBE)))
        attacker = stack.enter_context(closing(Login(broker.port, account)))
        attacker.subscribe(["#", *REACH])
        for topic in REACH:
            assert probe.publishes(topic, b"secret")
        attacker.subscribe(["end"])
        read = {topic for topic, payload in attacker.heard if payload == b"secret"}
        probe.subscribe(REACH)
        written = {topic for topic in REACH if publishes(broker, account, topic)}
        probe.subscribe(["end"])
        assert {topic for topic, said in probe.heard if said == b"forged"} == written
    return {
        topic: "r" * (topic in read) + "w" * (topic in written) or "-"
        for topic in REACH
    }


@pytest.mark.parametrize("account", ACCOUNTS)
def test_an_account_reaches_what_the_table_says(
    guarded: Mosquitto, account: str
) -> None:
    """Nothing more, by name or by wildcard, and nothing less."""
    said = {topic: reach[account] for topic, reach in REACH.items()}
    assert reached(guarded, account) == said


def test_the_table_is_about_the_shipped_list() -> None:
    """Each account of the access list has its column, and each rule a topic."""
    acl = (SHIPPED / "mosquitto.acl").read_text("utf-8")
    assert re.findall(r"^user (\S+)$", acl, re.MULTILINE) == [
        "pi-3",
        "producer",
        "consumer",
        "operator",
        "upstream",
        "homeassistant",
    ]
    assert set(ACCOUNTS) == set(re.findall(r"^user (\S+)$", acl, re.MULTILINE))
    for rule in re.findall(r"^topic \w+ (\S+)$", acl, re.MULTILINE):
        assert any(paho.topic_matches_sub(rule, topic) for topic in REACH), rule


@pytest.mark.parametrize(
    ("account", "password"), [("", None), ("pi-3", ""), ("pi-3", "x"), ("root", "root")]
)
def test_without_an_account_nobody_gets_in(
    guarded: Mosquitto, account: str, password: str | None
) -> None:
    """No name, a wrong password and a name that is none are refused."""
    with closing(Login(guarded.port, account, password)) as attacker:
        assert attacker.refused


def test_as_shipped_every_program_on_the_device_may_do_everything(
    tmp_path: Path,
) -> None:
    """Without names there is nothing to reach for: the page says so."""
    with closing(Mosquitto(tmp_path, configured())) as broker, ExitStack() as stack:
        broker.start()
        anybody = stack.enter_context(closing(Login(broker.port, "")))
        anybody.subscribe(["slm/pi-3/request/reload"])
        assert anybody.publishes("slm/pi-3/request/reload", b"{}")
        anybody.wait(lambda: bool(anybody.heard))


def test_the_device_works_behind_the_list(
    guarded: Mosquitto, new_agent: Callable[..., Agent], tmp_path: Path
) -> None:
    """The daemon has what it needs; a producer neither reads nor controls it."""
    secret = tmp_path / "password"
    secret.write_text("pi-3\n")
    login = f'username = "pi-3"\npassword_file = "{secret}"'
    agent = new_agent(guarded.port, device="pi-3", mqtt=login)
    more = "[homeassistant]\nenable = true\n"
    agent.config.write_text(agent.config.read_text() + more)
    with ExitStack() as stack:
        consumer = stack.enter_context(closing(Login(guarded.port, "consumer")))
        consumer.subscribe(["slm/#"])
        agent.start()
        assert not publishes(guarded, "producer", "slm/pi-3/request/reload")
        assert not publishes(guarded, "producer", "slm/pi-3/answer")
        attacker = stack.enter_context(closing(Login(guarded.port, "producer")))
        attacker.subscribe(["#"])
        assert attacker.publishes("home/hall/utterance", text_of(1).encode())
        consumer.wait(lambda: bool(consumer.heard))
        [(topic, said)] = consumer.heard
        assert topic == "slm/pi-3/result/home"
        assert json.loads(said)["topic"] == "home/hall/utterance"
        attacker.subscribe(["end"])
        assert attacker.heard == []
    assert agent.count_log("request") == agent.count_log("reloading") == 0
    assert agent.terminate() == 0


@pytest.mark.parametrize(
    ("client_id", "lost"), [("slm-agent-pi-3", True), ("another", False)]
)
def test_who_knows_a_client_id_takes_the_session(
    guarded: Mosquitto, client_id: str, *, lost: bool
) -> None:
    """What is left, as the page says: an id that nobody guesses keeps the messages."""
    device = Login(guarded.port, "pi-3", client_id="slm-agent-pi-3")
    device.subscribe(["home/+/utterance"])
    device.close()
    with closing(Login(guarded.port, "producer", client_id=client_id)) as thief:
        assert thief.publishes("home/hall/utterance", b"for the device")
        thief.subscribe(["end"])
        assert thief.heard == []  # it cannot read them
    with closing(Login(guarded.port, "pi-3", client_id="slm-agent-pi-3")) as device:
        device.subscribe(["end"])
        assert (device.heard == []) is lost
