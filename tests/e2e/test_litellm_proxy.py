"""Asking a real LiteLLM proxy: its HTTP, its errors, its prices; its models are mocks.

It reaches nobody: every way out leads to a trap that counts who falls into it.
"""

import contextlib
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.escalation.http import HttpTransport, open_http
from agent.escalation.transport import Unavailable
from agent.protocol.cases import Request, checked
from harness.stage import free_port
from harness.upstreams import ScriptedLLM, http_upstream

pytestmark = pytest.mark.slow
START_S = 120.0
KEY = "sk-of-this-test"
CONFIG = """\
model_list:
- model_name: good
  litellm_params:
    model: openai/good
    api_key: none
    mock_response: '{"label": "light_off", "entities": [{"label": "place", "text": "shed"}]}'
    input_cost_per_token: 0.000002
    output_cost_per_token: 0.000008
- model_name: chatty
  litellm_params:
    model: openai/chatty
    api_key: none
    mock_response: Certainly! That would be light_off.
- model_name: busy
  litellm_params:
    model: openai/busy
    api_key: none
    mock_response: litellm.RateLimitError
- model_name: broken
  litellm_params:
    model: openai/broken
    api_key: none
    mock_response: litellm.InternalServerError
router_settings:
  num_retries: 0
  disable_cooldowns: true
general_settings:
  master_key: %s
litellm_settings:
  telemetry: false
  num_retries: 0
"""  # noqa: E501
ASKED = Request(
    id="m-1",
    device="pi",
    pipeline="home",
    text="no light in the shed, please",
    labels={"light_on": "turn on a light", "light_off": "turn it off"},
    entities={"place": "where"},
    deadline_ms=int((time.time() + 3600) * 1000),
)


@pytest.fixture(scope="module")
def trap() -> Iterator[ScriptedLLM]:
    """Run a server where everything ends that wants to get out."""
    with ScriptedLLM() as running:
        yield running


@pytest.fixture(scope="module")
def proxy(trap: ScriptedLLM, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run the proxy in a process of its own; return its URL."""
    folder = tmp_path_factory.mktemp("litellm")
    config = folder / "config.yaml"
    config.write_text(CONFIG % KEY)
    port = free_port()
    program = Path(sys.executable).with_name("litellm")
    assert program.exists(), "pip install '.[dev]' brings the LiteLLM proxy"
    out = f"http://127.0.0.1:{trap.port}"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "DISABLE_ADMIN_UI": "True",
        "HTTP_PROXY": out,
        "HTTPS_PROXY": out,
        "ALL_PROXY": out,
        "NO_PROXY": "127.0.0.1",
    }
    words = ["--config", config, "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, *words, "--telemetry", "False"],
            env=environment,
            cwd=folder,
            stdout=log,
            stderr=log,
        )
    try:
        _wait_alive(f"http://127.0.0.1:{port}/health/liveliness", process, folder)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


def _wait_alive(url: str, process: "subprocess.Popen[bytes]", folder: Path) -> None:
    limit = time.monotonic() + START_S
    while True:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):  # noqa: S310
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
            raise AssertionError((folder / "log").read_text("utf-8", "replace"))
        assert time.monotonic() < limit, (folder / "log").read_text("utf-8", "replace")


def to(proxy: str, model: str, folder: Path, key: str = KEY) -> HttpTransport:
    """Return a transport to one of the proxy's models."""
    path = folder / "key"
    path.write_text(key)
    return open_http(http_upstream(proxy, model=model, key_file=path))


async def test_answer(proxy: str, tmp_path: Path) -> None:
    """An answer comes back valid, with the tokens it took and the proxy's price."""
    transport = to(proxy, "good", tmp_path)
    reply = await transport.ask(ASKED, transport.encode(ASKED, 400), 60)
    assert checked(reply.answer, ASKED).label == "light_off"
    assert reply.usage.input_tokens > 0
    assert reply.usage.output_tokens > 0
    assert reply.usage.cost == pytest.approx(
        2e-6 * reply.usage.input_tokens + 8e-6 * reply.usage.output_tokens
    )
    await transport._client.aclose()


async def test_no_json(proxy: str, tmp_path: Path) -> None:
    """What a model says in words comes back as an error that can be repaired."""
    transport = to(proxy, "chatty", tmp_path)
    reply = await transport.ask(ASKED, transport.encode(ASKED, 400), 60)
    assert reply.status == "error"
    assert reply.answer == "Certainly! That would be light_off."
    await transport._client.aclose()


@pytest.mark.parametrize(
    ("model", "status", "maybe_paid"), [("busy", 429, False), ("broken", 500, True)]
)
async def test_unavailable(
    proxy: str, tmp_path: Path, model: str, status: int, *, maybe_paid: bool
) -> None:
    """A model that is busy or broken may answer another time."""
    transport = to(proxy, model, tmp_path)
    with pytest.raises(Unavailable, match=f"status {status}") as unavailable:
        await transport.ask(ASKED, transport.encode(ASKED, 400), 60)
    assert unavailable.value.maybe_paid is maybe_paid
    await transport._client.aclose()


@pytest.mark.parametrize(("model", "key"), [("unheard-of", KEY), ("good", "sk-wrong")])
async def test_unmended(proxy: str, tmp_path: Path, model: str, key: str) -> None:
    """A model that is not there, and a wrong key, cost nothing, and may be mended."""
    transport = to(proxy, model, tmp_path, key)
    with pytest.raises(Unavailable, match="status 4") as unavailable:
        await transport.ask(ASKED, transport.encode(ASKED, 400), 60)
    assert not unavailable.value.maybe_paid
    assert "shed" not in str(unavailable.value)
    await transport._client.aclose()


def test_nobody_got_out(proxy: str, trap: ScriptedLLM) -> None:
    """The proxy asked nobody: all of this needs no network."""
    assert proxy
    assert trap.connections == 0
