"""MQTT 3.1.1, TLS, user names and what the broker does not allow."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from harness.stage import DEVICE, Agent, Client, Mosquitto, free_port, topic_of

TWO_DOORS = """\
per_listener_settings true
listener {{port}} 127.0.0.1
allow_anonymous true
listener {second} 127.0.0.1
{more}
"""


def two_doors(folder: Path, more: str) -> tuple[Mosquitto, int]:
    """Return a broker open on its port, guarded on a second one, and that port."""
    second = free_port()
    settings = TWO_DOORS.format(second=second, more=more.format(folder=folder))
    return Mosquitto(folder, settings), second


def test_mqtt_311(
    broker: Mosquitto, new_agent: Callable[..., Agent], client: Client
) -> None:
    """With MQTT 3.1.1 all is answered, too, also what was in hand at a kill -9."""
    agent = new_agent(broker.port, mqtt='version = "3.1.1"')
    agent.start()
    client.ask(range(300))
    client.wait_answered(100)
    agent.kill()
    client.wait_said(f"slm/{DEVICE}/status", b"offline")
    agent.start()
    client.wait_answered(300)
    assert agent.terminate() == 0
    found = [{r["id"] for r in results} for results in client.results.values()]
    assert len(set.union(*found)) == 300  # one id each, also over kill -9


# -- TLS


def openssl(folder: Path, *words: str) -> None:
    """Run openssl in a folder."""
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make two authorities; the first signs the broker's and a device's certificate."""
    folder = tmp_path_factory.mktemp("tls")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    for name in ("ca", "other"):
        names = [
            "-subj",
            f"/CN={name}",
            "-keyout",
            f"{name}.key",
            "-out",
            f"{name}.pem",
        ]
        openssl(folder, "req", "-x509", *key, *names, "-days", "2")
    for name in ("server", "device"):
        names = [
            "-subj",
            f"/CN={name}",
            "-keyout",
            f"{name}.key",
            "-out",
            f"{name}.csr",
        ]
        openssl(folder, "req", *key, *names)
        (folder / "san").write_text("subjectAltName = IP:127.0.0.1\n")
        signer = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2"]
        names = ["-in", f"{name}.csr", "-out", f"{name}.pem", "-extfile", "san"]
        openssl(folder, "x509", "-req", *signer, *names)
    return folder


@pytest.fixture
def tls(tmp_path: Path, certificates: Path) -> Iterator[tuple[Mosquitto, str]]:
    """Run a broker that wants a client certificate; give it and its mqtts:// url."""
    broker, port = two_doors(
        tmp_path / "broker",
        f"cafile {certificates}/ca.pem\ncertfile {certificates}/server.pem\n"
        f"keyfile {certificates}/server.key\nrequire_certificate true\n"
        "allow_anonymous true",
    )
    with closing(broker):
        broker.start()
        yield broker, f"mqtts://127.0.0.1:{port}"


def test_tls(
    tls: tuple[Mosquitto, str], certificates: Path, new_agent: Callable[..., Agent]
) -> None:
    """With CA, client certificate and key all runs over TLS, big messages, too."""
    broker, url = tls
    files = [("ca_file", "ca.pem"), ("cert_file", "device.pem")]
    lines = [
        f'{k} = "{certificates / v}"' for k, v in [*files, ("key_file", "device.key")]
    ]
    agent = new_agent(broker.port, url=url, mqtt="\n".join(lines))
    agent.start()
    with Client(broker.port) as client:
        client.ask(range(200), ids=True)
        client.send(topic_of(777), b"turn on the light " * 60_000)
        client.ask(range(200, 300), ids=True)
        client.wait_answered(301)
        assert agent.terminate() == 0
        assert client.answers == 301
        assert len(client.dead[topic_of(777)]) == 1


@pytest.mark.parametrize("lacking", ["right CA", "certificate"])
def test_tls_refused(
    tls: tuple[Mosquitto, str],
    certificates: Path,
    new_agent: Callable[..., Agent],
    lacking: str,
) -> None:
    """With the wrong CA or without a certificate nothing connects; it keeps trying."""
    broker, url = tls
    authority = "other.pem" if lacking == "right CA" else "ca.pem"
    lines = [f'ca_file = "{certificates / authority}"']
    if lacking == "right CA":
        lines.append(f'cert_file = "{certificates / "device.pem"}"')
        lines.append(f'key_file = "{certificates / "device.key"}"')
    agent = new_agent(broker.port, url=url, mqtt="\n".join(lines))
    agent.start(ready=False)
    failed = agent.wait_log("connect_failed")
    assert (lacking != "right CA") or "CERTIFICATE_VERIFY_FAILED" in failed["why"]
    assert agent.count_log("connected") == 0
    assert agent.terminate() == 0


# -- who may, and what


def set_password(broker: Mosquitto, user: str, password: str) -> None:
    """Write the broker's password file."""
    path = broker.folder / "passwords"
    path.touch()
    words = ["mosquitto_passwd", "-b", str(path), user, password]
    subprocess.run(words, check=True, capture_output=True)


def test_password(tmp_path: Path, new_agent: Callable[..., Agent]) -> None:
    """With a wrong password the daemon keeps trying, and is in once it is right."""
    broker, port = two_doors(
        tmp_path / "broker", "allow_anonymous false\npassword_file {folder}/passwords"
    )
    set_password(broker, "pi", "something else")
    secret = tmp_path / "secret"
    secret.write_text("correct horse\nsecond line\n")
    user = tmp_path / "user"
    user.write_text("pi\n")
    with closing(broker):
        broker.start()
        agent = new_agent(
            broker.port,
            url=f"mqtt://127.0.0.1:{port}",
            mqtt=f'username_file = "{user}"\npassword_file = "{secret}"',
        )
        agent.start(ready=False)
        assert "Not authorized" in agent.wait_log("connect_failed")["why"]
        set_password(broker, "pi", "correct horse")
        broker.reload()
        agent.wait_told("READY=1")
        with Client(broker.port) as client:
            client.ask([1])
            client.wait_answered(1)
        assert agent.terminate() == 0
    assert not any(
        "correct horse" in str(line) for line in [*agent.lines, *agent.noise]
    )


def test_result_refused(tmp_path: Path, new_agent: Callable[..., Agent]) -> None:
    """A result the broker refuses is not acknowledged; allowed, it arrives."""
    broker = Mosquitto(
        tmp_path / "broker",
        "listener {port} 127.0.0.1\nallow_anonymous true\nacl_file {folder}/acl\n",
    )
    rules = "topic read #\ntopic write home/#\n"
    said = "".join(
        f"topic write slm/{DEVICE}/{n}\n" for n in ("status", "birth", "health")
    )
    (broker.folder / "acl").write_text(rules + said)
    with closing(broker):
        broker.start()
        agent = new_agent(broker.port)
        agent.start()
        with Client(broker.port) as client:
            client.ask(range(20), ids=True)
            refused = agent.wait_log("publish_refused")
            assert refused["topics"] == [f"slm/{DEVICE}/result/home"]
            agent.wait_log("connected", 2)
            (broker.folder / "acl").write_text("topic readwrite #\n")
            broker.reload()
            client.wait_answered(20)
            assert agent.terminate() == 0
            assert {r["id"] for rs in client.results.values() for r in rs} == {
                f"m-{number}" for number in range(20)
            }
