"""What endpoints were seen to say, and what it means: the table of verdicts.

Rows are reports of users of vLLM, llama.cpp, LM Studio, Ollama, OpenRouter, Gemini,
Anthropic, OpenAI, LiteLLM and of gateways between, put to a request that asks for a
label and entities. The right answer is GOOD; DECOY stands where no answer is.
"""

import gzip
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.protocol.verdicts import Kind
from harness.upstreams import Says

GOOD = {"label": "light_on", "entities": [{"label": "place", "text": "hall"}]}
DECOY = {"label": "light_off", "entities": []}
TEXT = "turn on the lamp in the hall"
JSON, DECOYED = json.dumps(GOOD), json.dumps(DECOY)
USAGE = {"prompt_tokens": 11, "completion_tokens": 3}


@dataclass(frozen=True)
class Row:
    """What an endpoint says, and what it means.

    `part` is what is complained of, `maybe_paid` and `pause_s` are those of a failure,
    `why` stands in the reason that is told.
    """

    name: str
    kind: Kind
    body: bytes
    status: int = 200
    head: Mapping[str, str] = field(default_factory=dict)
    part: str = ""
    maybe_paid: bool = False
    pause_s: float | None = None
    why: str = ""

    @property
    def says(self) -> Says:
        """Return it as a scripted endpoint says it."""
        head = {"Content-Type": "application/json", **self.head}
        return Says(raw=self.body, http=self.status, head=head)


def chat(message: Mapping[str, Any], finish: str | None = "stop", **more: Any) -> bytes:
    """Return a completion with a message."""
    choice = {"index": 0, "message": message, "finish_reason": finish}
    document = {"id": "c-1", "object": "chat.completion", "model": "m", "created": 1}
    return json.dumps({**document, "choices": [choice], "usage": USAGE} | more).encode()


def says(content: Any, finish: str | None = "stop", **more: Any) -> bytes:
    """Return a completion with this content."""
    return chat({"role": "assistant", "content": content, **more}, finish)


def error(message: Any, **more: Any) -> bytes:
    """Return an error in OpenAI's form."""
    return json.dumps({"error": {"message": message, **more}}).encode()


def detail(said: Any) -> bytes:
    """Return an error in FastAPI's form."""
    return json.dumps({"detail": said}).encode()


def called(arguments: Any, **more: Any) -> bytes:
    """Return a completion that calls a tool."""
    function = {"name": "answer", "arguments": arguments}
    calls = [{"id": "t-1", "type": "function", "function": function}]
    message = {"role": "assistant", "content": None, "tool_calls": calls, **more}
    return chat(message, "tool_calls")


def answer(name: str, body: bytes, **more: Any) -> Row:
    """Return a row with the right answer in it."""
    return Row(name, Kind.ANSWER, body, **more)


def useless(name: str, body: bytes, kind: Kind = Kind.UNUSABLE) -> Row:
    """Return a row with an answer of no use."""
    return Row(name, kind, body)


def down(name: str, body: bytes, status: int = 200, **more: Any) -> Row:
    """Return a row that is no answer, and will pass or be mended."""
    return Row(name, Kind.UNAVAILABLE, body, status, **more)


def form(name: str, part: str, body: bytes, status: int = 400) -> Row:
    """Return a row that complains of the form of the request."""
    return Row(name, Kind.FORM, body, status, part=part)


def rejected(name: str, body: bytes, status: int = 400) -> Row:
    """Return a row that nothing else explains than the request."""
    return Row(name, Kind.REJECTED, body, status)


HTML = b"<!DOCTYPE html><html><body>Sign in to the guest network</body></html>"
PLAIN = says(JSON)
ECHO = {
    "type": "extra_forbidden",
    "loc": ["body", "thing"],
    "msg": "Extra inputs are not permitted",
    "input": {"messages": [{"content": f"API key, quota, json_schema: {TEXT}"}]},
}
EMPTY_CHOICES = json.dumps({"id": "c", "model": "m", "choices": [], "usage": USAGE})
PART = {"type": "text", "text": JSON}
THINKING = {"type": "thinking", "thinking": DECOYED}
HARMONY = (
    f"<|channel|>analysis<|message|>Perhaps {DECOYED}<|end|><|start|>assistant"
    f"<|channel|>final<|message|>{JSON}<|return|>"
)

ANSWERS = (
    answer("plain", PLAIN),
    answer("byte-order mark in the content", says(f"\ufeff{JSON}")),
    answer("byte-order mark in the body", b"\xef\xbb\xbf" + PLAIN),
    answer("blanks before the body, to keep it alive", b"\n\n   \n" + PLAIN),
    answer("fence", says(f"```json\n{JSON}\n```")),
    answer("fence in capitals", says(f"```JSON\n{JSON}\n```")),
    answer("fence of another language", says(f"~~~javascript\n{JSON}\n~~~")),
    answer("fence without an end", says(f"```json\n{JSON}")),
    answer("fence with prose around", says(f"Sure!\n```\n{JSON}\n```\nAnything else?")),
    answer("prose before", says(f"Here is the JSON you asked for: {JSON}")),
    answer("prose behind", says(f"{JSON}\n\nI chose it as {{this}} fits best.")),
    answer("think", says(f"<think>It may be {DECOYED}.</think>\n{JSON}")),
    answer("think, begun by the template", says(f"So {DECOYED}?\n</think>\n\n{JSON}")),
    answer("think in capitals", says(f"<THINK>{DECOYED}</THINK>{JSON}")),
    answer("thinking twice", says(f"<think>a</think><think>{DECOYED}</think>{JSON}")),
    answer("reasoning tag", says(f"<reasoning>{DECOYED}</reasoning>{JSON}")),
    answer("Kimi's marks", says(f"◁think▷{DECOYED}◁/think▷{JSON}")),
    answer("channels", says(HARMONY)),
    answer("template tokens", says(f"<|im_start|>assistant\n{JSON}<|im_end|>")),
    answer("end of sequence", says(f"{JSON}</s>")),
    answer("instruction tokens", says(f"[/INST] {JSON} [INST]")),
    answer("parts", says([PART])),
    answer("parts with thoughts", says([THINKING, PART])),
    answer(
        "parts cut anywhere",
        says([{"type": "text", "text": t} for t in (JSON[:9], JSON[9:])]),
    ),
    answer("parts that are strings", says(["", JSON])),
    answer("content as an object", says(GOOD)),
    answer("JSON in a string", says(json.dumps(JSON))),
    answer("JSON in a list", says(f"[{JSON}]")),
    answer("JSON under a key", says(json.dumps({"answer": GOOD}))),
    answer(
        "the schema repeated before",
        says(json.dumps({"type": "object", "properties": {}}) + f"\n{JSON}"),
    ),
    answer("tool call", called(JSON)),
    answer("tool call with an object", called(GOOD)),
    answer("tool call beside blank content", called(JSON, content="  ")),
    answer(
        "function call of old",
        chat(
            {
                "role": "assistant",
                "content": None,
                "function_call": {"name": "answer", "arguments": JSON},
            },
            "function_call",
        ),
    ),
    answer("reasoning beside", says(JSON, reasoning_content=f"Hm, {DECOYED}")),
    answer("only in the reasoning", says(None, reasoning_content=f"So it is\n{JSON}")),
    answer(
        "text of a completion of old",
        json.dumps(
            {"choices": [{"text": JSON, "finish_reason": "stop"}], "usage": USAGE}
        ).encode(),
    ),
    answer("cut, but behind the answer", says(f"{JSON} and furthermore", "length")),
    answer("no finish reason", says(JSON, None)),
    answer("unknown finish reason", says(JSON, "eos_token")),
    answer(
        "no usage", json.dumps({"choices": [{"message": {"content": JSON}}]}).encode()
    ),
    answer("nonsense as usage", chat({"content": JSON}, usage="many")),
    answer("gzip", gzip.compress(PLAIN), head={"Content-Encoding": "gzip"}),
    answer("gzip, not told", gzip.compress(PLAIN)),
    answer("deflate", zlib.compress(PLAIN), head={"Content-Encoding": "deflate"}),
    answer(
        "deflate, raw",
        zlib.compress(PLAIN, wbits=-15),
        head={"Content-Encoding": "deflate"},
    ),
    answer("status 201", PLAIN, status=201),
    answer(
        "an error key of null",
        json.dumps({**json.loads(PLAIN), "error": None}).encode(),
    ),
)
USELESS = (
    useless("prose alone", says("I would say: the light in the hall.")),
    useless("nothing said", says("")),
    useless("content null", says(None)),
    useless("thoughts alone", says(f"<think>It must be {DECOYED}</think>")),
    useless("thoughts as parts alone", says([THINKING])),
    useless("two answers that differ", says(f"{JSON} or {DECOYED}")),
    useless("half a character", says('{"label": "\\ud800"}')),
    useless("half a character in the words", says("off \ud83d")),
    useless("too deep", says("[" * 9000)),
    useless("cut", says(JSON[:20], "length"), Kind.CUT),
    useless("cut while it thinks", says(f"<think>So {DECOYED}", "length"), Kind.CUT),
    useless("cut before a word", says("", "length"), Kind.CUT),
    useless(
        "thinks to the end of its ceiling",
        says(None, "length", reasoning_content="Let me"),
        Kind.CUT,
    ),
    useless("refusal", says(None, refusal="I cannot."), Kind.DECLINED),
    useless("filter", says("", "content_filter"), Kind.DECLINED),
)
FAULTS = (
    down("error in status 200", error("upstream exploded"), why="status 200"),
    down("error of OpenRouter", error("Rate limited", code=429), why="status 429"),
    down(
        "error in the choice",
        json.dumps(
            {
                "choices": [
                    {
                        "error": {"code": 502, "message": "provider"},
                        "message": {"content": ""},
                        "finish_reason": "error",
                    }
                ]
            }
        ).encode(),
        maybe_paid=True,
        why="status 502",
    ),
    down("finish reason error", says("", "error")),
    down("finish reason error with words", says("half an ans", "error")),
    down("error as a string", b'{"error": "model runner has crashed"}'),
    down("choices null", b'{"id": "c", "choices": null}'),
    down("choices empty", EMPTY_CHOICES.encode()),
    down("no choices", b'{"object": "list", "data": []}'),
    down("choice without a message", b'{"choices": [{"index": 0}]}'),
    down("message null", b'{"choices": [{"message": null, "finish_reason": "stop"}]}'),
    down("empty body", b""),
    down("blank body", b"  \n"),
    down("no content", b"", 204),
    down("web page", HTML, head={"Content-Type": "text/html"}, why="web page"),
    down("web page that calls itself JSON", HTML, why="web page"),
    down("words", b"Service is starting"),
    down("a list", b"[]"),
    down("a detail", detail("Not Found")),
    down("cut JSON", PLAIN[:50]),
    down("brotli", b"\x0b\x02\x80hello\x03", head={"Content-Encoding": "br"}, why="br"),
    down("gzip that is none", b"\xff\xfe", head={"Content-Encoding": "gzip"}),
    down("no model loaded", error("No models loaded. Please load a model."), 400),
    down("model not found", error("The model `m` does not exist"), 404),
    down("model crashed", error("The model has crashed without additional info"), 400),
    down("invalid model", error("Invalid model name passed in model=m"), 400),
    down(
        "location",
        error("User location is not supported for the API use."),
        400,
        why="the place it is asked from",
    ),
    down("country", error("unsupported_country_region_territory"), 400),
    down(
        "account",
        error("Your organization has been disabled."),
        400,
        why="the account or its budget",
    ),
    down("credit", error("Your credit balance is too low"), 400),
    down("budget", error("Budget has been exceeded! Current cost: 10.0"), 400),
    down(
        "quota",
        error("You exceeded your current quota", code="insufficient_quota"),
        429,
        why="insufficient_quota",
    ),
    down(
        "key in 400",
        b'[{"error": {"message": "API key not valid"}}]',
        400,
        why="the key",
    ),
    down("out of memory in 400", error("CUDA out of memory"), 400),
    down(
        "database of a proxy",
        error("DB not connected", type="no_db_connection"),
        400,
        why="no_db_connection",
    ),
    down("key", error("no", code="invalid_api_key"), 401, why="is the key right?"),
    down("payment", error("pay"), 402),
    down("forbidden", b"<html>no</html>", 403),
    down("proxy login", HTML, 407),
    down("redirect", b"", 307, head={"Location": "http://127.0.0.1:1/elsewhere"}),
    down("timeout of a gateway", HTML, 504, maybe_paid=True),
    down("request timeout", b"", 408, maybe_paid=True),
    down("server error", error("internal"), 500, maybe_paid=True),
    down("bad gateway", HTML, 502, maybe_paid=True),
    down("not implemented", b"{}", 501),
    down("overloaded", error("Overloaded"), 529),
    down("busy, in seconds", b"", 429, head={"Retry-After": "17"}, pause_s=17),
    down(
        "busy, in milliseconds", b"", 429, head={"retry-after-ms": "1500"}, pause_s=1.5
    ),
    down(
        "busy, both",
        b"",
        429,
        head={"retry-after-ms": "2500", "Retry-After": "3"},
        pause_s=2.5,
    ),
    down(
        "busy, when requests are reset",
        b"",
        429,
        head={
            "x-ratelimit-reset-requests": "1m2.5s",
            "x-ratelimit-reset-tokens": "3ms",
            "x-ratelimit-remaining-requests": "0",
        },
        pause_s=62.5,
    ),
    down("busy, in words", error("Please try again in 1.2s"), 429, pause_s=1.2),
    down(
        "busy, Gemini's delay",
        b'[{"error": {"message": "slow", "details": '
        b'[{"@type": "RetryInfo", "retryDelay": "36s"}]}}]',
        429,
    ),
    down("unavailable for a while", b"", 503, head={"Retry-After": "7"}, pause_s=7),
)
FORMS = (
    form(
        "schema refused",
        "response_format",
        error(
            "Invalid parameter: 'response_format' of type 'json_schema' is not "
            "supported with this model."
        ),
    ),
    form(
        "schema refused by the model's words",
        "response_format",
        error("This model does not support structured outputs"),
    ),
    form(
        "schema keyword",
        "response_format",
        error('Invalid JSON payload received. Unknown name "additionalProperties"'),
    ),
    form("grammar", "response_format", error("failed to parse grammar"), 500),
    form(
        "guided decoding",
        "response_format",
        detail("Failed to convert guided_json to the xgrammar backend"),
    ),
    form(
        "type of another",
        "response_format",
        b"'response_format.type' must be 'json_schema' or 'text'",
    ),
    form(
        "a schema that is too large",
        "response_format",
        error("Schema exceeds the limit of 5000 properties for json_schema"),
    ),
    form(
        "FastAPI on the format",
        "response_format",
        detail(
            [
                {
                    "loc": ["body", "response_format", "type"],
                    "msg": "Input should be 'text'",
                }
            ]
        ),
        422,
    ),
    form("system role", "system", error("System role not supported")),
    form(
        "system role of a template",
        "system",
        error(
            "jinja2.exceptions.TemplateError: Conversation roles must alternate "
            "user/assistant/user/assistant/..."
        ),
        500,
    ),
    form(
        "developer instruction",
        "system",
        error("Developer instruction is not enabled for models/gemma-3-27b-it"),
    ),
    form(
        "temperature",
        "temperature",
        error(
            "Unsupported value: 'temperature' does not support 0 with this model. "
            "Only the default (1) value is supported."
        ),
    ),
    form(
        "max_tokens",
        "max_tokens",
        error(
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
            "'max_completion_tokens' instead."
        ),
    ),
)
REJECTED = (
    rejected("no word", b""),
    rejected("bad request", error("Bad Request")),
    rejected("too long", error("This model's maximum context length is 512 tokens.")),
    rejected(
        "too long, in the words of a ceiling",
        error("'max_tokens' is too large: this model's maximum context length is 512"),
    ),
    rejected("FastAPI, with an echo", detail([ECHO]), 422),
    rejected("too large", HTML, 413),
    rejected("quoting the text", error(f"cannot do: {TEXT}")),
)
ROWS = (*ANSWERS, *USELESS, *FAULTS, *FORMS, *REJECTED)
