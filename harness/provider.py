"""A model's provider on loopback: records what it is asked, answers as it is told.

It speaks the forms of OpenAI (and vLLM, Mistral), Anthropic, Gemini and Ollama, told
apart by the path.
"""

import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

DEADLINE_S = 60.0


@dataclass(frozen=True)
class Call:
    """One HTTP request."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def text(self) -> str:
        """The message that is asked about."""
        return re.findall(
            r"<message>((?:(?!<message>).)*)</message>", json.dumps(self.body)
        )[-1]


Answer = str | int | dict[str, Any]  # content, HTTP status of an error, raw body


def after(event: threading.Event, answer: Answer) -> Callable[[Call], Answer]:
    """Return what gives an answer, but only once an event has come."""

    def wait(_call: Call) -> Answer:
        event.wait(DEADLINE_S)
        return answer

    return wait


class Provider:
    """Owns an HTTP server and the requests it got."""

    def __init__(self, answer: Callable[[Call], Answer]) -> None:
        """`answer` is called in a thread of its own for each request; it may block."""
        self.calls: list[Call] = []
        self.answer = answer
        self._changed = threading.Condition()
        provider = self

        class Handler(BaseHTTPRequestHandler):
            """Takes one request."""

            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                """Record and answer."""
                size = int(self.headers.get("content-length", 0))
                body = json.loads(self.rfile.read(size) or b"{}")
                headers = {k.lower(): v for k, v in self.headers.items()}
                provider._take(self, Call(self.path, headers, body))

            do_GET = do_POST  # noqa: N815  http.server's names

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}
        )
        self._thread.start()

    @property
    def base(self) -> str:
        """Its address, without a path."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        """Return the provider."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def wait_calls(self, number: int) -> None:
        """Wait until it was asked that often."""
        with self._changed:
            enough = self._changed.wait_for(
                lambda: len(self.calls) >= number, DEADLINE_S
            )
        assert enough, f"asked {len(self.calls)} times, not {number}"

    def _take(self, handler: BaseHTTPRequestHandler, call: Call) -> None:
        with self._changed:
            self.calls.append(call)
            self._changed.notify_all()
        answer = self.answer(call)
        status = answer if isinstance(answer, int) else 200
        document = {"error": {"message": "no", "type": "t", "code": "c"}}
        if isinstance(answer, str):
            document = in_form(call, answer)
        elif isinstance(answer, dict):
            document = answer
        body = json.dumps(document).encode()
        try:
            handler.send_response(status)
            handler.send_header("content-type", "application/json")
            handler.send_header("content-length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body)
        except ConnectionError:
            handler.close_connection = True  # whoever asked is gone


def in_form(call: Call, content: str) -> dict[str, Any]:
    """Return an answer in the form of the provider with this path: 100 tokens, 20."""
    model = call.body.get("model", "")
    if call.path.endswith("/messages"):
        block: dict[str, Any] = {"type": "text", "text": content}
        if "tools" in call.body:
            name = call.body["tools"][0]["name"]
            block = {"type": "tool_use", "id": "t1", "name": name}
            block["input"] = json.loads(content)
        return {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [block],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": 100, "output_tokens": 20},
        }
    if ":generateContent" in call.path:
        return {
            "candidates": [
                {
                    "content": {"role": "model", "parts": [{"text": content}]},
                    "finishReason": "STOP",
                    "index": 0,
                }
            ],
            "usageMetadata": {
                "promptTokenCount": 100,
                "candidatesTokenCount": 20,
                "totalTokenCount": 120,
            },
            "modelVersion": "gemini",
            "responseId": "r1",
        }
    if call.path.endswith("/api/chat"):
        return {
            "model": model,
            "created_at": "2026-01-01T00:00:00Z",
            "message": {"role": "assistant", "content": content},
            "done": True,
            "done_reason": "stop",
            "prompt_eval_count": 100,
            "eval_count": 20,
        }
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_790_000_000,
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": content},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
    }
