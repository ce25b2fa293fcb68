"""broker.toml: what is meant is taken, anything else is one line."""

import json
from pathlib import Path

import pytest

from agent.broker import llm
from agent.broker.config import cases_filter, endpoints, load, may_reply_to
from agent.core.errors import ConfigError

MODEL = '[[models]]\nmodel = "openai/gpt-4o"\n'


def write(folder: Path, text: str) -> Path:
    """Write broker.toml."""
    file = folder / "broker.toml"
    file.write_text(text, "utf-8")
    return file


def test_defaults(tmp_path: Path) -> None:
    """A model is all that must be given."""
    file = load(write(tmp_path, MODEL))
    assert cases_filter(file) == "$share/slm-broker/slm/upstream/+"
    cases, group = endpoints(file)
    assert cases.client_id == f"slm-broker-{file.broker.name}"
    assert (cases.session_expiry_s, group.session_expiry_s) == (3600, 0)
    assert not file.budget.any


def test_old_mqtt(tmp_path: Path) -> None:
    """MQTT 3.1.1 has no shared subscriptions."""
    file = load(write(tmp_path, '[mqtt]\nversion = "3.1.1"\n' + MODEL))
    assert cases_filter(file) == "slm/upstream/+"
    assert endpoints(file)[0].version == 4


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "models: must be given"),
        ("models = []", "models: "),
        ('[[models]]\nmodel = "gpt-4o"', "models.0.model: reads <provid"),
        (MODEL + "colour = 1", "models.0.colour: unknown key"),
        (MODEL + "[brokr]", "brokr: unknown key, did you mean 'broker'?"),
        (MODEL + "price_in = 1", "models.0: price_in goes together with price_out"),
        (MODEL + "options = { stream = true }", "stream is not an option"),
        (MODEL + 'api_base = "ftp://x"', "reads http(s)://host"),
        (MODEL + '[broker]\ntopic = "a/#"', "broker.topic: "),
        (MODEL + '[mqtt]\nca_file = "x"', "mqtt.ca_file: needs a url with mqtts://"),
    ],
)
def test_errors(tmp_path: Path, text: str, line: str) -> None:
    """An error is one line that names file and key."""
    file = write(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        load(file)
    assert str(error.value).startswith(f"{file}: ")
    assert line in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_no_secret_in_errors(tmp_path: Path) -> None:
    """A password in an address is refused, and not repeated."""
    file = write(tmp_path, MODEL + 'api_base = "http://me:hunter2@host"')
    with pytest.raises(ConfigError, match="use key_file") as error:
        load(file)
    assert "hunter2" not in str(error.value)


def test_no_option_in_errors(tmp_path: Path) -> None:
    """What stands in options may be a secret, and is not repeated."""
    file = write(tmp_path, MODEL + 'options = { api_key = "hunter2" }')
    with pytest.raises(ConfigError, match="api_key is not an option") as error:
        load(file)
    assert "hunter2" not in str(error.value)


def test_money_needs_a_price(tmp_path: Path) -> None:
    """A budget in money is refused where nobody knows what a model costs."""
    text = '[budget]\nmoney_per_day = 1.0\n[[models]]\nmodel = "openai/of-my-own"\n'
    with pytest.raises(ConfigError, match=r"models.0: nobody knows what .* costs"):
        llm.open_models(load(write(tmp_path, text)))


def test_missing_key(tmp_path: Path) -> None:
    """A key file that is not there stops the start."""
    text = MODEL + 'key_file = "no.key"'
    with pytest.raises(ConfigError, match=r"models.0.key_file: .*no.key"):
        llm.open_models(load(write(tmp_path, text)))


@pytest.mark.parametrize(
    ("topic", "may"),
    [
        ("slm/pi/answer", True),
        ("slm/other/answer", False),
        ("zigbee2mqtt/lamp/set", False),
        ("", False),
        ("a/+", False),
        ("$SYS/a", False),
        ("slm/upstream/home", False),
        ("slm/broker/one/claim", False),
        ("x" * 2000, False),
        ("a\x01b", False),
        ("a\x7fb", False),
        ("a\ufffeb", False),
    ],
)
def test_where_replies_go(tmp_path: Path, topic: str, *, may: bool) -> None:
    """Replies go to topics that somebody else may hear, and nowhere else."""
    assert may_reply_to(topic, "pi", load(write(tmp_path, MODEL))) is may


@pytest.mark.parametrize(
    ("filters", "topic", "may"),
    [
        (["site/+/+/answer"], "site/a/pi/answer", True),
        (["site/+/+/answer"], "site/a/b/answer", False),
        (["answers"], "answers", True),
        (["#"], "a/b", True),
        (["#"], "slm/broker/one/claim", False),
        (["x", "slm/+/answer"], "slm/pi/answer", True),
    ],
)
def test_where_an_operator_lets_replies_go(
    tmp_path: Path, filters: list[str], topic: str, *, may: bool
) -> None:
    """A `+` stands for the device; a filter without one names nobody."""
    text = f"{MODEL}\n[broker]\nreply_topics = {json.dumps(filters)}\n"
    assert may_reply_to(topic, "pi", load(write(tmp_path, text))) is may
