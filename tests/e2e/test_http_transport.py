"""Asking by HTTP, against an endpoint on loopback that misbehaves as told."""

import asyncio
import contextlib
import gzip
import socket
import ssl
import subprocess
import time
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.escalation.http import HttpTransport, open_http
from agent.escalation.transport import EncodeAgain, Unavailable
from agent.protocol.cases import Reply, Request
from harness.stage import free_port
from harness.upstreams import Asked, Says, ScriptedLLM, http_upstream

LONG_S = 30.0  # never waited for
ASKED = Request(
    id="m-1",
    device="pi",
    pipeline="home",
    text="turn it off",
    labels={"light_on": "turn on", "light_off": "turn off"},
    deadline_ms=int((time.time() + 3600) * 1000),
)


@pytest.fixture
def llm() -> Iterator[ScriptedLLM]:
    """Run an endpoint that answers."""
    with ScriptedLLM() as running:
        yield running


@pytest.fixture
async def http(llm: ScriptedLLM) -> AsyncIterator[HttpTransport]:
    """Open a transport to it."""
    transport = open_http(http_upstream(llm.url))
    yield transport
    await transport._client.aclose()


async def ask(transport: HttpTransport, timeout_s: float = LONG_S) -> Reply:
    """Ask once."""
    return await transport.ask(ASKED, transport.encode(ASKED, 400), timeout_s)


async def test_what_is_sent(llm: ScriptedLLM, tmp_path: Path) -> None:
    """The key goes with each request, and nothing that tells more than needed."""
    key = tmp_path / "key"
    key.write_text("sk-1\nold: sk-0\n")
    transport = open_http(http_upstream(llm.url, key_file=key))
    await ask(transport)
    [asked] = llm.asked
    assert asked.where == "/v1/chat/completions"
    assert asked.head.pop("user-agent").startswith("slm-agent/")  # type: ignore[attr-defined]
    assert asked.head == {
        "accept": "*/*",
        "accept-encoding": "gzip, deflate",
        "authorization": "Bearer sk-1",
        "connection": "keep-alive",
        "content-length": str(len(asked.body)),
        "content-type": "application/json",
        "host": f"127.0.0.1:{llm.port}",
    }
    await transport._client.aclose()


async def test_connection_is_kept(llm: ScriptedLLM, http: HttpTransport) -> None:
    """One connection serves request after request, failed ones included."""
    for status in (200, 500, 429, 200):
        llm.script = lambda _asked, status=status: Says(  # type: ignore[misc]
            answer={"label": "light_on"}, http=status
        )
        with contextlib.suppress(Unavailable):
            await ask(http)
    assert llm.connections == 1


async def test_closed_in_between(llm: ScriptedLLM, http: HttpTransport) -> None:
    """A connection that the endpoint closed while nobody asked costs no attempt."""
    await ask(http)
    llm.hang_up()
    await asyncio.to_thread(llm.wait_gone)
    assert (await ask(http)).status == "ok"
    assert llm.connections == 2


async def test_no_proxy_of_the_environment(
    llm: ScriptedLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the configuration says whom we talk to: no proxy, no .netrc, no bundle."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    transport = open_http(http_upstream(llm.url))
    assert (await ask(transport)).status == "ok"
    await transport._client.aclose()


async def test_redirects_are_not_followed(
    http: HttpTransport, llm: ScriptedLLM
) -> None:
    """A redirect leads nowhere: neither text nor key goes where nobody said."""
    with ScriptedLLM() as other:
        for status in (301, 302, 307, 308):
            head = {"Location": f"{other.url}/chat/completions"}
            llm.script = lambda _asked, s=status, h=head: Says(raw=b"", http=s, head=h)  # type: ignore[misc]
            with pytest.raises(Unavailable, match=f"status {status}") as unavailable:
                await ask(http)
            assert not unavailable.value.maybe_paid
        assert not other.asked


async def test_no_cookies(http: HttpTransport, llm: ScriptedLLM) -> None:
    """What an endpoint wants us to remember we forget."""
    head = {"Set-Cookie": "who=pi; Max-Age=9999; Path=/"}
    llm.script = lambda _asked: Says(answer={"label": None}, head=head)
    for _ in range(2):
        await ask(http)
    assert not [asked for asked in llm.asked if "cookie" in asked.head]


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after(http: HttpTransport, llm: ScriptedLLM, status: int) -> None:
    """Who asks to be left alone for a while is heard."""
    head = {"Retry-After": "17"}
    llm.script = lambda _asked: Says(raw=b"{}", http=status, head=head)
    with pytest.raises(Unavailable) as unavailable:
        await ask(http)
    assert unavailable.value.retry_after_s == 17
    assert not unavailable.value.maybe_paid


# -- dialects


def only(form: str) -> Any:
    """Return a script of an endpoint that takes one response format."""

    def script(asked: Asked) -> Says:
        found = asked.document.get("response_format", {}).get("type", "text")
        if found == form:
            return Says(answer={"label": "light_on"})
        error = f"'response_format.type' must be {form!r}, not {found!r}"
        return Says(raw=error.encode(), http=400)

    return script


@pytest.mark.parametrize(
    ("form", "attempts"), [("json_schema", 1), ("json_object", 2), ("text", 3)]
)
async def test_format(
    http: HttpTransport, llm: ScriptedLLM, form: str, attempts: int
) -> None:
    """An endpoint without structured output is asked without it, from then on.

    Each attempt is one of its own, so that what left is known byte for byte.
    """
    llm.script = only(form)
    sent = []
    for _ in range(attempts - 1):
        sent.append(http.encode(ASKED, 400))
        with pytest.raises(EncodeAgain) as again:
            await http.ask(ASKED, sent[-1], LONG_S)
        assert (again.value.maybe_paid, again.value.retry_after_s) == (False, 0.0)
    for _ in range(2):
        sent.append(http.encode(ASKED, 400))
        reply = await http.ask(ASKED, sent[-1], LONG_S)
        assert reply.answer == {"label": "light_on"}
    assert [asked.body for asked in llm.asked] == sent


async def test_format_of_a_pipeline(http: HttpTransport, llm: ScriptedLLM) -> None:
    """A schema that is too much for the endpoint is so for its pipeline alone."""
    llm.script = only("json_object")
    other = ASKED.model_copy(update={"pipeline": "media"})
    before = http.encode(other, 400)
    with pytest.raises(EncodeAgain):
        await ask(http)
    assert http.encode(other, 400) == before


async def test_format_at_once(http: HttpTransport, llm: ScriptedLLM) -> None:
    """Several that learn the same at once learn it once."""
    llm.script = only("json_object")
    body = http.encode(ASKED, 400)
    asking = [http.ask(ASKED, body, LONG_S) for _ in range(5)]
    came = await asyncio.gather(*asking, return_exceptions=True)
    assert all(isinstance(one, EncodeAgain) for one in came)
    assert (await ask(http)).status == "ok"


async def test_format_learned_meanwhile(http: HttpTransport, llm: ScriptedLLM) -> None:
    """Who asks in a form of long ago unlearns nothing."""
    llm.script = only("text")
    old = http.encode(ASKED, 400)
    for _ in range(2):
        with pytest.raises(EncodeAgain):
            await ask(http)
    with pytest.raises(EncodeAgain):
        await http.ask(ASKED, old, LONG_S)
    assert (await ask(http)).status == "ok"


async def test_without_the_extras(http: HttpTransport, llm: ScriptedLLM) -> None:
    """An endpoint that tells neither model nor usage still answers."""
    body = b'{"choices": [{"message": {"content": "{}"}}]}'
    llm.script = lambda _asked: Says(raw=body)
    assert await ask(http) == Reply(id="m-1", status="ok", answer={}, model="m")


# -- bytes that do harm


@contextlib.asynccontextmanager
async def raw_endpoint(*chunks: bytes, pause: bool) -> AsyncIterator[str]:
    """Serve bytes as they are, once; `pause` keeps the connection open after them."""
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            head = await reader.readuntil(b"\r\n\r\n")
            size = int(head.lower().partition(b"content-length: ")[2].split()[0])
            await reader.readexactly(size)
            for chunk in chunks:
                writer.write(chunk)
                await writer.drain()
            if pause:
                await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        over.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    await over.wait()
    server.close()


async def harmed(
    *chunks: bytes, timeout_s: float = LONG_S, pause: bool = False
) -> Unavailable:
    """Return why there was no answer from an endpoint that says just this."""
    async with raw_endpoint(*chunks, pause=pause) as url:
        transport = open_http(http_upstream(url))
        with pytest.raises(Unavailable) as unavailable:
            await ask(transport, timeout_s)
        await transport._client.aclose()
    return unavailable.value


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\x16\x03\x01 no HTTP",
        b"HTTP/1.1 200",
        OK,
        OK + b"Content-Length: 50\r\n\r\n{",
        OK + b"Content-Length: -1\r\n\r\n{",
        OK + b"Transfer-Encoding: chunked\r\n\r\nturn it off",
        OK + b"X: " + b"x" * 200_000 + b"\r\n\r\n",
        OK + b"X: y\r\n" * 50_000 + b"\r\n",
        b"HTTP/9.9 2000 turn it off\r\n\r\n",
    ],
    ids=[
        "nothing",
        "TLS",
        "a word",
        "no end",
        "too short",
        "negative",
        "chunks",
        "long header",
        "many headers",
        "version",
    ],
)
async def test_no_http(said: bytes) -> None:
    """Whatever comes instead of a response ends the attempt, and is not repeated."""
    found = await harmed(said)
    assert "turn it off" not in str(found)
    assert found.maybe_paid


async def test_endless_body() -> None:
    """Of a body without an end no more is read than an answer may have."""
    chunks = [b"x" * 65_536] * 500
    head = OK + b"Content-Length: 99999999999\r\n\r\n"
    found = await harmed(head, *chunks, pause=True)
    assert str(found) == "more than 1000000 bytes"
    assert found.maybe_paid


async def test_slow_body() -> None:
    """The timeout is for all of an answer, however often a piece of it comes."""
    head = OK + b"Content-Length: 5\r\n\r\n"
    found = await harmed(head, b"{", timeout_s=1, pause=True)
    assert str(found) == "no answer in 1 s"
    assert found.maybe_paid


async def test_not_everything_is_unpacked() -> None:
    """A small body stays small: no more of it is unpacked than an answer may have."""
    bomb = gzip.compress(b" " * 10**8)
    head = OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    tracemalloc.start()
    assert str(await harmed(head, bomb)) == "more than 1000000 bytes"
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10**7


async def test_no_answer_to_connect() -> None:
    """Where the connection is not even made in time, nobody was asked."""
    with socket.socket() as full:  # a queue for connections without room
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        with contextlib.ExitStack() as waiting:
            for _ in range(3):
                sock = waiting.enter_context(socket.socket())
                sock.settimeout(0)
                sock.connect_ex(("127.0.0.1", port))
            url = f"http://127.0.0.1:{port}/v1"
            transport = open_http(http_upstream(url))
            with pytest.raises(Unavailable, match="no answer in") as unavailable:
                await ask(transport, 0.3)
    assert not unavailable.value.maybe_paid
    await transport._client.aclose()


async def test_stopped(llm: ScriptedLLM) -> None:
    """Whoever still asks when the transport stops is told so, now and afterwards."""
    transport = open_http(http_upstream(llm.url))
    llm.script = lambda _asked: None
    run = asyncio.ensure_future(transport.run())
    asking = asyncio.ensure_future(ask(transport))
    await asyncio.to_thread(llm.wait_asked, 1)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    with pytest.raises(Unavailable) as unavailable:
        await asking
    assert unavailable.value.maybe_paid
    with pytest.raises(Unavailable, match="closed") as unavailable:
        await ask(transport)
    assert not unavailable.value.maybe_paid


# -- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a certificate for 127.0.0.1 that is its own authority."""
    folder = tmp_path_factory.mktemp("tls")
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
    words += "-subj /CN=here -addext subjectAltName=IP:127.0.0.1 -keyout key -out pem"
    subprocess.run(
        ["openssl", *words.split()], cwd=folder, check=True, capture_output=True
    )
    return folder / "pem"


@pytest.mark.parametrize("known", [True, False])
async def test_tls(llm: ScriptedLLM, certificate: Path, *, known: bool) -> None:
    """A certificate of the authority in `ca_file` is good; others get no request."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key"))
    llm.wrap(context)
    settings = http_upstream(
        llm.url.replace("http:", "https:"),
        ca_file=certificate if known else None,
    )
    transport = open_http(settings)
    if known:
        assert (await ask(transport)).status == "ok"
    else:
        with pytest.raises(Unavailable, match="CERTIFICATE_VERIFY") as unavailable:
            await ask(transport)
        assert not unavailable.value.maybe_paid
    assert len(llm.asked) == known
    await transport._client.aclose()
