"""A simulated upstream for the demo: an OpenAI-compatible server with a few answers.

It is no language model. It knows some texts by heart, which stand in a file of labelled
lines, and abstains on all others. The agent cannot tell: it asks by HTTP, as it would
ask any endpoint. Texts reach it redacted, so placeholders stand for anything.
"""

import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from agent.evaluation.examples import Example, Span

MODEL = "simulated-llm"
BYTES_PER_TOKEN = 4  # roughly, in English
_MESSAGE = re.compile(r"<message>(.*)</message>", re.DOTALL)
_HIDDEN = re.compile(r"\[[A-Z_]+_\d+\]")


@dataclass(slots=True)
class Simulated:
    """A running server, and what it was asked."""

    known: Sequence[Example]
    url: str = ""
    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0


@contextmanager
def simulated(known: Sequence[Example]) -> Iterator[Simulated]:
    """Serve on a loopback port while the context lasts."""
    serving = Simulated(known)

    class Handler(_Handler):
        served = serving

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    serving.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield serving
    finally:
        server.shutdown()
        server.server_close()


def answer(text: str, known: Sequence[Example]) -> dict[str, Any]:
    """Return what is known of a redacted text; a label of null if nothing is."""
    between = [re.escape(part) for part in _HIDDEN.split(text)]
    shape = re.compile("(.+)".join(between))
    for example in known:
        match = shape.fullmatch(example.text)
        if match is None:
            continue
        hidden = dict(zip(match.groups(), _HIDDEN.findall(text), strict=True))
        return {
            "label": example.label,
            "entities": [
                {"label": span.label, "text": _named(example, span, hidden)}
                for span in example.marked
            ],
        }
    return {"label": None, "entities": []}


def _named(example: Example, span: Span, hidden: Mapping[str, str]) -> str:
    """Return the words of an entity as the redacted text has them."""
    words = example.text[span.start : span.end]
    for original, placeholder in hidden.items():
        words = words.replace(original, placeholder)
    return words


class _Handler(BaseHTTPRequestHandler):
    """Answers `POST /v1/chat/completions`."""

    served: Simulated
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        length = int(self.headers.get("content-length", 0))
        asked = json.loads(self.rfile.read(length))
        prompt = "".join(chat_message["content"] for chat_message in asked["messages"])
        match = _MESSAGE.search(asked["messages"][1]["content"])
        served = self.served
        content = json.dumps(answer(match[1] if match else "", served.known))
        usage = {
            "prompt_tokens": len(prompt) // BYTES_PER_TOKEN,
            "completion_tokens": len(content) // BYTES_PER_TOKEN,
        }
        served.calls += 1
        served.tokens_in += usage["prompt_tokens"]
        served.tokens_out += usage["completion_tokens"]
        message = {"role": "assistant", "content": content}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        body = json.dumps(
            {"id": "simulated", "model": MODEL, "choices": [choice], "usage": usage}
        ).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: the demo's table is what there is to see."""
