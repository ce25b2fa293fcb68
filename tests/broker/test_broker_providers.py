"""Every example configuration sends what its provider's API takes, schema included."""

import json
from pathlib import Path
from typing import Any

import pytest

from agent.broker import llm
from agent.broker.config import BrokerFile, load
from agent.protocol.cases import Request, checked
from harness.provider import Call, Provider

# LiteLLM silences this itself, which pytest undoes.
pytestmark = pytest.mark.filterwarnings("ignore:.*ReadOnly:UserWarning")

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples" / "broker"
ANSWER = {"label": "off", "entities": [{"label": "place", "text": "kitchen"}]}
REQUEST = Request(
    id="m-1",
    device="pi",
    pipeline="home",
    text="turn off the kitchen lights",
    labels={"off": "switch off", "on": "switch on"},
    entities={"place": "a room"},
    deadline_ms=4_000_000_000_000,
)


def in_openai(call: Call) -> Any:
    """Return the schema where OpenAI-compatible APIs take it."""
    form = call.body["response_format"]
    assert form["type"] == "json_schema"
    assert form["json_schema"]["strict"] is True
    return form["json_schema"]["schema"]


def in_claude(call: Call) -> Any:
    """Return the schema where Anthropic's Messages API takes it."""
    assert call.headers["anthropic-version"] == "2023-06-01"
    assert call.headers["anthropic-beta"].startswith("structured-outputs-")
    assert call.body["output_format"]["type"] == "json_schema"
    return call.body["output_format"]["schema"]


def in_gemini(call: Call) -> Any:
    """Return the schema where Gemini's generateContent takes it."""
    config = call.body["generationConfig"]
    assert config["response_mime_type"] == "application/json"
    return config["response_json_schema"]


FORMS = {
    "openai": ("/v1/chat/completions", "gpt-4o", "authorization", in_openai),
    "claude": ("/v1/messages", "claude-sonnet-4-5", "x-api-key", in_claude),
    "gemini": (
        "/v1beta/models/gemini-2.5-flash:generateContent",
        None,
        "x-goog-api-key",
        in_gemini,
    ),
    "llama-vllm": (
        "/v1/chat/completions",
        "meta-llama/Meta-Llama-3-8B-Instruct",
        None,
        in_openai,
    ),
    "llama-ollama": ("/api/chat", "llama3", None, lambda call: call.body["format"]),
    "mistral": (
        "/v1/chat/completions",
        "mistral-large-latest",
        "authorization",
        in_openai,
    ),
}
# What stands before the path in the provider's public address.
PREFIX = {"openai": "/v1", "gemini": "/v1beta", "llama-vllm": "/v1", "mistral": "/v1"}


def example(name: str, base: str, folder: Path) -> BrokerFile:
    """Load an example, with keys of ours and its models on loopback."""
    text = (EXAMPLES / f"{name}.toml").read_text("utf-8")
    text = text.replace("/run/credentials/slm-agent-broker.service", str(folder))
    for key in ("openai", "anthropic", "gemini", "mistral"):
        (folder / f"{key}.key").write_text("secret-key\n", "utf-8")
    file = folder / "broker.toml"
    file.write_text(text, "utf-8")
    loaded = load(file)
    at = {"api_base": base + PREFIX.get(name, "")}
    models = [model.model_copy(update=at) for model in loaded.models]
    return loaded.model_copy(update={"models": models})


def enums(schema: Any) -> list[list[str | None]]:
    """Return every list of allowed values in a schema."""
    if isinstance(schema, list):
        return [found for item in schema for found in enums(item)]
    if not isinstance(schema, dict):
        return []
    own = [schema["enum"]] if "enum" in schema else []
    return own + [found for item in schema.values() for found in enums(item)]


def test_every_example_is_proven() -> None:
    """There is no example without a form that this module checks."""
    assert {path.stem for path in EXAMPLES.glob("*.toml")} == FORMS.keys()


@pytest.mark.parametrize("name", FORMS)
async def test_example(name: str, tmp_path: Path) -> None:
    """The example asks once, in its provider's form, and reads the answer."""
    path, model, auth, schema_in = FORMS[name]
    with Provider(lambda _call: json.dumps(ANSWER)) as provider:
        file = example(name, provider.base, tmp_path)
        opened = llm.open_models(file)[0]
        said = await llm.ask(opened, REQUEST, opened.first_form, 1, 30)
    [call] = provider.calls
    assert call.path == path
    assert call.body.get("model") == model
    if auth:
        assert call.headers[auth].removeprefix("Bearer ") == "secret-key"
    schema = schema_in(call)
    assert schema["required"] == ["label", "entities"]
    assert enums(schema) == [["off", "on", None], ["place"]]
    assert call.text == REQUEST.text
    assert '"temperature": 0' in json.dumps(call.body)
    assert str(file.models[0].max_output_tokens) in json.dumps(call.body)
    answer = checked(said.verdict.answer, REQUEST)
    assert answer.label == "off"
    assert [entity.text for entity in answer.entities] == ["kitchen"]
    assert (said.input_tokens, said.output_tokens) == (100, 20)
    assert said.cost == pytest.approx(said_cost(name))


def said_cost(name: str) -> float:
    """Return what 100 tokens in and 20 out cost; the price lists move slowly."""
    prices = {
        "openai": (2.5, 10),
        "claude": (3, 15),
        "gemini": (0.3, 2.5),
        "mistral": (0.5, 1.5),
    }
    sent, received = prices.get(name, (0, 0))
    return (100 * sent + 20 * received) / 1e6


async def test_claude_by_tool(tmp_path: Path) -> None:
    """Where Claude takes no schema for its answer, the schema is that of a tool."""
    with Provider(lambda _call: json.dumps(ANSWER)) as provider:
        file = example("claude", provider.base, tmp_path)
        old = {"model": "anthropic/claude-3-haiku-20240307", "price_in": 1.0}
        old |= {"price_out": 5.0}
        file = file.model_copy(
            update={"models": [file.models[0].model_copy(update=old)]}
        )
        opened = llm.open_models(file)[0]
        said = await llm.ask(opened, REQUEST, opened.first_form, 1, 30)
    [call] = provider.calls
    [tool] = call.body["tools"]
    assert call.body["tool_choice"] == {"type": "tool", "name": tool["name"]}
    assert enums(tool["input_schema"]) == [["off", "on", None], ["place"]]
    assert checked(said.verdict.answer, REQUEST).label == "off"
