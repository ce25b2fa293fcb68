"""The only way out of LiteLLM: nobody is followed elsewhere, and what came is kept.

Its clients would follow redirects, with text and key, take proxies from the
environment, and keep of a response what they understand. Here each call goes by the
proxy that the configuration names, or by none, and its response is there as it came.
"""

import asyncio
from contextvars import ContextVar
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import httpx

from agent.protocol.cases import LONGEST_ANSWER
from agent.protocol.verdicts import Response

IDLE_S = 30.0  # how long an unused connection is kept
Ways = dict[str, httpx.AsyncHTTPTransport]  # by proxy


@dataclass(slots=True)
class Exchange:
    """One call: by which proxy it goes, and what came of it."""

    proxy: str
    sent: bool = False
    response: Response | None = None


EXCHANGE: ContextVar[Exchange] = ContextVar("EXCHANGE")


class Wire(httpx.AsyncBaseTransport):
    """Owns the connections to all models, those of each event loop apart."""

    def __init__(self) -> None:
        """Nothing is connected yet."""
        self._ways: WeakKeyDictionary[asyncio.AbstractEventLoop, Ways] = (
            WeakKeyDictionary()
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request of this context's exchange; without one nothing leaves."""
        exchange = EXCHANGE.get(None)
        if exchange is None:
            raise httpx.ConnectError("nobody asked for this", request=request)
        ways = self._ways.setdefault(asyncio.get_running_loop(), {})
        if exchange.proxy not in ways:
            ways[exchange.proxy] = httpx.AsyncHTTPTransport(
                proxy=exchange.proxy or None,
                limits=httpx.Limits(keepalive_expiry=IDLE_S),
                trust_env=False,
            )
        response = await ways[exchange.proxy].handle_async_request(request)
        exchange.sent = True
        try:
            body = await _read(response)
        finally:
            await response.aclose()
        headers = {name.lower(): value for name, value in response.headers.items()}
        exchange.response = Response(response.status_code, headers, body)
        for name in ("location", "transfer-encoding"):
            headers.pop(name, None)
        return httpx.Response(
            response.status_code, headers=headers, stream=httpx.ByteStream(body)
        )

    async def aclose(self) -> None:
        """Close the connections of this event loop."""
        for way in self._ways.pop(asyncio.get_running_loop(), {}).values():
            await way.aclose()

    def client(self) -> httpx.AsyncClient:
        """Return a client that has no other way."""
        return httpx.AsyncClient(
            transport=self,
            timeout=None,  # noqa: S113  each call has one, for all of it
            trust_env=False,
            follow_redirects=False,
        )


async def _read(response: httpx.Response) -> bytes:
    """Return a body as it came, and no more of it than we need."""
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > LONGEST_ANSWER:
            break
    return bytes(body)
