"""The API client against raw sockets that misbehave, with both HTTP libraries; real time, small numbers."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import ModuleType

import httpx
import httpx2
import pytest
import trustme

from bucketeer_async import (
    ApiClient,
    ApiError,
    ConnectionFailedError,
    Processor,
    ProcessorConfig,
    RequestTimeoutError,
    RetryPolicy,
    StatusError,
    User,
)
from bucketeer_async.gateway import Fault, LocalGateway
from tests.faults.matrix import FULL

USER = User("user")
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n" + b'{"time":"1"}'


@pytest.fixture(params=[httpx, httpx2], ids=["httpx", "httpx2"])
def library(request: pytest.FixtureRequest) -> ModuleType:
    module: ModuleType = request.param
    return module


@asynccontextmanager
async def serving(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A raw server; the number is its port."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
    return head + await reader.readexactly(length)


def reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    reset(writer)


async def resets_in_the_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    writer.write(OK[:-5])
    await writer.drain()
    reset(writer)


async def hangs_up(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await read_request(reader)


async def talks_garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    writer.write(b"SSH-2.0-hello\r\n\r\n")
    await writer.drain()


async def drips(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("answer", "delivered"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", 0),
        (b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n", 0),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 1),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 1),
        (b"HTTP/1.0 200 OK\r\n\r\n{}", 1),
    ],
    ids=["no length", "HTTP/1.0", "length 0", "chunked", "a body until the end"],
)
async def test_a_response_that_may_be_cut_off_before_its_body_delivers_nothing(answer: bytes, delivered: int) -> None:
    async def answer_and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(answer)

    async with serving(answer_and_close) as port, ApiClient(endpoint=f"http://127.0.0.1:{port}", api_key="key") as api:
        async with Processor(api, ProcessorConfig(drain_timeout=0.5)) as processor:
            await processor.push_goal_event(User("user"), "goal")
            report = await processor.aclose()

    assert (report.goal.delivered, report.goal.unconfirmed) == (delivered, 1 - delivered)


# Our own client


async def test_our_own_client_sends_what_httpx_sends_and_logs_no_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    heads: list[list[bytes]] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            heads.append((await read_request(reader)).splitlines())
            writer.write(OK.replace(b"\r\n\r\n", b"\r\nset-cookie: replica=7\r\n\r\n"))
            await writer.drain()

    async with serving(answer) as port:
        async with ApiClient(endpoint=f"http://127.0.0.1:{port}", api_key="key") as api:
            await api.ping()
            await api.ping()
        ours = [line for line in caplog.messages if "/ping" in line]
        async with (
            httpx.AsyncClient() as http,
            ApiClient(endpoint=f"http://127.0.0.1:{port}", api_key="key", http=http) as api,
        ):
            await api.ping()
            await api.ping()

    assert heads[:2] == heads[2:]
    assert b"cookie: replica=7" in [line.lower() for line in heads[1]]
    assert not ours
    assert [line for line in caplog.messages if "/ping" in line]  # of the application's client, by httpx


async def test_cookies_do_not_grow_without_bound() -> None:
    lengths: list[int] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            lengths.append(len(await read_request(reader)))
            cookie = f"set-cookie: session-{len(lengths)}={'x' * 500}".encode()
            writer.write(OK.replace(b"\r\n\r\n", b"\r\n" + cookie + b"\r\n\r\n"))
            await writer.drain()

    async with serving(answer) as port:
        async with ApiClient(endpoint=f"http://127.0.0.1:{port}", api_key="key") as api:
            for _ in range(40):
                await api.ping()

    assert 4000 < max(lengths) < 5000
    assert min(lengths[-10:]) < 1000


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_an_endpoint_of_this_host_without_a_scheme_hints_at_http(host: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")

    async with serving(answer) as port, ApiClient(endpoint=f"{host}:{port}", api_key="key") as api:
        with pytest.raises(ConnectionFailedError, match=f"; if it has no TLS, the endpoint is 'http://{host}:{port}'$"):
            await api.ping()


@pytest.mark.parametrize("location", [b"http://127.0.0.1:1/", b"http://[::1", b""])
async def test_our_own_client_follows_no_redirect(location: bytes) -> None:
    async def redirects(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 302 Found\r\ncontent-length: 0\r\nlocation: " + location + b"\r\n\r\n")
        await writer.drain()

    async with serving(redirects) as port, ApiClient(endpoint=f"http://127.0.0.1:{port}", api_key="key") as api:
        with pytest.raises(StatusError) as caught:
            await api.ping()

    assert caught.value.status_code == 302


@pytest.mark.parametrize(
    ("handler", "error", "maybe_sent"),
    [
        (silent, RequestTimeoutError, True),
        (resets, ConnectionFailedError, True),
        (resets_in_the_body, ConnectionFailedError, True),
        (hangs_up, ConnectionFailedError, True),
        (talks_garbage, ConnectionFailedError, True),
        (drips, RequestTimeoutError, True),
    ],
)
async def test_what_sockets_do_becomes_our_errors(
    library: ModuleType, handler: Handler, error: type[ApiError], maybe_sent: bool
) -> None:
    async with serving(handler) as port, library.AsyncClient() as http:
        async with ApiClient(endpoint=f"http://127.0.0.1:{port}", api_key="key", http=http) as api:
            with pytest.raises(error) as caught:
                await api.register_events([b"{}"], timeout=0.3)

    assert type(caught.value) is error
    assert getattr(caught.value, "maybe_sent", None) is maybe_sent
    assert getattr(caught.value, "stale", None) is False


async def test_a_refused_connection_was_never_sent(library: ModuleType) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    async with library.AsyncClient() as http:
        async with ApiClient(endpoint=f"http://127.0.0.1:{port}", api_key="key", http=http) as api:
            with pytest.raises(ConnectionFailedError) as caught:
                await api.ping()

    assert not caught.value.maybe_sent


async def test_a_connection_closed_while_idle_is_told_as_stale_and_tried_again(library: ModuleType) -> None:
    connections = 0

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await read_request(reader)
        writer.write(OK)
        await read_request(reader)
        reset(writer)

    async with serving(once) as port, library.AsyncClient() as http:
        async with ApiClient(endpoint=f"http://127.0.0.1:{port}", api_key="key", http=http) as api:
            await api.ping()
            assert await api.ping() == 1
            with pytest.raises(ConnectionFailedError) as caught:
                await api.register_events([b"{}"])

    assert caught.value.stale
    assert connections == 2


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


def server_context(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    return context


async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    writer.write(OK)
    await writer.drain()


async def test_a_private_authority_works_by_configuration(authority: trustme.CA) -> None:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with serving(answers, server_context(authority, "127.0.0.1")) as port:
        async with ApiClient(endpoint=f"https://127.0.0.1:{port}", api_key="key", ssl_context=context) as api:
            assert await api.ping() == 1


@pytest.mark.usefixtures("refused_handshakes")
@pytest.mark.parametrize("trusted", [False, True], ids=["unknown authority", "wrong host"])
async def test_a_certificate_that_does_not_hold_gets_no_request(authority: trustme.CA, trusted: bool) -> None:
    heard = bytearray()

    async def listen(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        heard.extend(await reader.read())

    context = ssl.create_default_context()
    if trusted:
        authority.configure_trust(context)
    async with serving(listen, server_context(authority, "elsewhere.test")) as port:
        async with ApiClient(endpoint=f"https://127.0.0.1:{port}", api_key="key", ssl_context=context) as api:
            with pytest.raises(ConnectionFailedError, match="certificate") as caught:
                await api.ping()

    assert not caught.value.maybe_sent
    assert not heard


@pytest.mark.parametrize("is_sent", [False, True], ids=["TLS is silent", "the gateway is silent"])
async def test_what_a_drain_cancels_is_unconfirmed_only_if_it_was_sent(authority: trustme.CA, is_sent: bool) -> None:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    connected = asyncio.Event()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if is_sent:
            await read_request(reader)
        connected.set()
        await silent(reader, writer)

    async with serving(listen, server_context(authority, "127.0.0.1") if is_sent else None) as port:
        async with ApiClient(endpoint=f"https://127.0.0.1:{port}", api_key="key", ssl_context=context) as api:
            async with Processor(api, ProcessorConfig(flush_size=1, drain_timeout=0.1)) as processor:
                await processor.push_goal_event(USER, "goal")
                async with asyncio.timeout(20):
                    await connected.wait()
                report = await processor.aclose()

    assert (report.total.undelivered, report.total.unconfirmed) == (int(not is_sent), int(is_sent))


async def test_cancelled_questions_do_not_use_up_the_connections(library: ModuleType) -> None:
    async def slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            await asyncio.sleep(0.004)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
            await writer.drain()

    chance = random.Random(0)
    numbers = iter(range(3000 if FULL else 1000))
    limits = library.Limits(max_connections=4)
    async with serving(slowly) as port, library.AsyncClient(limits=limits) as http:
        api = ApiClient(endpoint=f"http://127.0.0.1:{port}", api_key="key", http=http, max_connections=4)

        async def cancel_some() -> None:
            for _ in numbers:
                asking = asyncio.create_task(api.get_evaluation(USER, "flag", tag="tag"))
                await asyncio.sleep(chance.uniform(0, 0.01))
                asking.cancel()
                await asyncio.wait([asking])

        async with api:
            async with asyncio.TaskGroup() as askers:
                for _ in range(12):
                    askers.create_task(cancel_some())
            answered = await asyncio.gather(*[api.get_evaluation(USER, "flag", tag="tag") for _ in range(50)])

    assert len(answered) == 50


@pytest.mark.parametrize("library_name", ["own", "httpx2"])
async def test_an_outage_over_real_sockets_loses_nothing(library_name: str) -> None:
    config = ProcessorConfig(flush_size=10, retry=RetryPolicy(initial=0.05, maximum=0.2))
    async with LocalGateway() as gateway, httpx2.AsyncClient() as http:
        borrowed = None if library_name == "own" else http
        async with ApiClient(endpoint=gateway.url, api_key="client-key", http=borrowed) as api:
            async with Processor(api, config) as processor:
                gateway.fail(Fault(status=503, requests=3))
                gateway.fail(Fault(partial=0.3, requests=3))
                receipts = [await processor.push_goal_event(USER, "goal") for _ in range(500)]
                assert await processor.flush()
                assert processor.statistics().goal.delivered == 500
        assert {event.id for event in gateway.events} == {receipt.event_id for receipt in receipts}
        assert len(gateway.events) == 500


async def test_every_event_that_can_be_pushed_is_taken_as_it_was_meant() -> None:
    async with LocalGateway() as gateway:
        async with ApiClient(endpoint=gateway.url, api_key="server-key") as api, Processor(api) as processor:
            await processor.push_goal_event(User("😀", {"": "\x00"}), "goal", -0.5)
        (event,) = gateway.events

    assert event.event["user"] == {"id": "😀", "data": {"": "\x00"}}
    assert event.event["value"] == -0.5
