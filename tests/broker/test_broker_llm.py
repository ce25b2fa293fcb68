"""Asking through LiteLLM: once, of nobody but the model, and errors sorted."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from agent.broker import llm
from agent.broker.config import LlmSection
from agent.broker.llm import Completion, ErrorKind, Failed, LanguageModel
from agent.protocol.cases import Request
from harness.brokers import GOOD, case
from harness.provider import Provider, after

pytestmark = pytest.mark.filterwarnings("ignore:.*ReadOnly:UserWarning")
HERE = Path(__file__).resolve().parent
SPY = """
import sys
sys.path[:0] = [{here!r}]
def spy(event, args):
    if event in ("socket.connect", "socket.getaddrinfo"):
        where = args[1] if event == "socket.connect" else args[0]
        if "127.0.0.1" not in str(where):
            print(event, where)
    if event == "open" and str(args[0]).endswith(".env"):
        print(event, args[0])
sys.addaudithook(spy)
import asyncio, json
from pathlib import Path
from test_broker_providers import ANSWER, FORMS, REQUEST, example
from harness.provider import Provider
from agent.broker import llm
async def main():
    for name in FORMS:
        with Provider(lambda _call: json.dumps(ANSWER)) as provider:
            file = example(name, provider.base, Path({folder!r}))
            model = llm.open_models(file)[0]
            await llm.ask(model, REQUEST, model.first_form, 1, 60)
asyncio.run(main())
"""


def model(base: str, **having: object) -> LanguageModel:
    """Return a model at an address."""
    fields = {"model": "openai/m", "api_base": f"{base}/v1", **having}
    return LanguageModel(LlmSection.model_validate(fields), 1.0, 10.0, "secret")


async def ask(
    asked: LanguageModel, request: Request, timeout_s: float = 30
) -> Completion:
    """Ask a model once."""
    return await llm.ask(asked, request, asked.first_form, 1, timeout_s)


def test_no_other_traffic(tmp_path: Path) -> None:
    """Imported and asked, LiteLLM connects to the model and nowhere else."""
    (tmp_path / ".env").write_text("OPENAI_API_KEY=x\n", "utf-8")
    script = SPY.format(here=str(HERE), folder=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={"PYTHONPATH": str(HERE.parents[1]), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.parametrize(
    ("status", "trouble", "billed"),
    [
        (400, ErrorKind.REFUSED, False),
        (401, ErrorKind.UNAVAILABLE, False),
        (404, ErrorKind.UNAVAILABLE, False),
        (429, ErrorKind.BUSY, False),
        (500, ErrorKind.UNAVAILABLE, True),
        (503, ErrorKind.UNAVAILABLE, False),
    ],
)
async def test_errors(status: int, trouble: ErrorKind, *, billed: bool) -> None:
    """An error is asked about once, sorted, and never quotes the message."""
    with Provider(lambda _call: status) as provider:
        with pytest.raises(Failed) as error:
            await ask(model(provider.base), case(1, text="a secret text"))
        assert len(provider.calls) == 1
    assert (error.value.trouble, error.value.billed) == (trouble, billed)
    assert "secret" not in str(error.value)


async def test_timeout() -> None:
    """What takes too long is given up, and may have been billed."""
    over = threading.Event()
    with Provider(after(over, GOOD)) as provider:
        with pytest.raises(Failed) as error:
            await ask(model(provider.base), case(1), 0.5)
        over.set()
    assert (error.value.trouble, error.value.billed) == (ErrorKind.TIMEOUT, True)


@pytest.mark.parametrize(
    ("structured", "form"),
    [("json_object", {"type": "json_object"}), ("none", None)],
)
async def test_less_structure(structured: str, form: object) -> None:
    """A model that takes no schema is sent less, and the schema in its prompt."""
    with Provider(lambda _call: GOOD) as provider:
        asked = model(
            provider.base,
            structured=structured,
            temperature="default",
            options={"seed": 7},
        )
        await ask(asked, case(1))
    [call] = provider.calls
    assert call.body.get("response_format") == form
    assert "temperature" not in call.body
    assert call.body["seed"] == 7
    assert '"additionalProperties":false' in call.body["messages"][0]["content"]


def test_the_most_a_call_takes() -> None:
    """The bound counts every byte of prompt and schema as a token."""
    asked = model("http://127.0.0.1")
    sent, received = asked.at_most(case(1, text="x" * 10_000), 1)
    less, longer = asked.at_most(case(1, text="x"), 2)
    assert sent - less == 9_999
    assert (received, longer) == (400, 800)
    assert less > 1500
