"""Slots for requests: how long a request waits for one, who waits for whom, and the close while requests wait."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpcore
import httpx
import pytest
import trustme

from bucketeer_async import (
    ApiClient,
    ClosedError,
    ConfigurationError,
    DroppedReason,
    Processor,
    ProcessorConfig,
    RequestTimeoutError,
    User,
)
from bucketeer_async._transport import _api, _connections
from tests.clock import VirtualLoop

USER = User("user")

in_real_time = pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["real-time"])


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualLoop}


def now() -> float:
    return asyncio.get_running_loop().time()


class Slow:
    """A slow gateway that records the paths of its requests."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.paths: list[str] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.paths.append(request.url.path)
        await asyncio.sleep(self.seconds)
        return httpx.Response(200, json={"time": "1"})


def one_connection(http: httpx.AsyncClient) -> ApiClient:
    return ApiClient(endpoint="http://localhost", api_key="key", http=http, max_connections=1)


async def test_an_event_that_waits_for_a_connection_was_never_sent_and_blames_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    slow = Slow(60.0)
    async with httpx.AsyncClient(transport=httpx.MockTransport(slow)) as http:
        api = one_connection(http)
        occupying = asyncio.create_task(api.ping(timeout=100.0))
        await asyncio.sleep(0.1)
        processor = Processor(api, ProcessorConfig(flush_size=1, request_timeout=5.0))
        await processor.start()
        receipt = processor.push_goal_event_nowait(USER, "goal")
        await asyncio.sleep(20.0)  # longer than a post may take
        statistics = processor.statistics()
        report = await processor.aclose(1.0)
        occupying.cancel()
        await api.aclose()

    assert (statistics.circuit, statistics.posts, statistics.total.in_flight) == ("closed", 0, 1)
    assert report.total.undelivered == 1
    assert receipt.outcome is not None
    assert receipt.outcome.reason == DroppedReason.UNDELIVERED
    assert slow.paths == ["/ping"]
    assert "cannot be delivered" not in caplog.text


async def test_a_request_that_waits_for_a_connection_ends_when_the_client_is_closed() -> None:
    slow = Slow(60.0)
    async with httpx.AsyncClient(transport=httpx.MockTransport(slow)) as http:
        api = one_connection(http)
        requests = [asyncio.create_task(api.ping(timeout=100.0)) for _ in range(3)]
        await asyncio.sleep(1.0)

        await api.aclose()
        errors = await asyncio.gather(*requests, return_exceptions=True)

    assert now() == 1.0
    assert [type(error) for error in errors] == [ClosedError] * 3
    assert slow.paths == ["/ping"]


async def test_waiting_and_both_tries_share_one_deadline() -> None:
    slow = Slow(0.8)
    async with httpx.AsyncClient(transport=httpx.MockTransport(slow)) as http:
        api = one_connection(http)
        began = now()
        results = await asyncio.gather(*(api.ping(timeout=1.0) for _ in range(2)), return_exceptions=True)

        assert now() - began == pytest.approx(1.0)
        assert [result for result in results if not isinstance(result, RequestTimeoutError)] == [1]
        await api.aclose()


@pytest.fixture
def own_clients(monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    """A slow gateway behind the HTTP clients that an API client makes for itself; virtual time knows no threads."""
    slow = Slow(60.0)

    async def at_once(work: Any, *arguments: Any) -> Any:
        return work(*arguments)

    def new_client(_max_connections: int) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.MockTransport(slow))

    monkeypatch.setattr(_api, "client_factory", lambda *_arguments: new_client)
    monkeypatch.setattr(_connections, "in_thread", at_once)
    return slow


async def test_posts_do_not_wait_for_other_requests(own_clients: Slow) -> None:
    api = ApiClient(endpoint="http://localhost", api_key="key", max_connections=1)
    occupying = asyncio.create_task(api.ping(timeout=100.0))
    await asyncio.sleep(0.1)
    async with Processor(api, ProcessorConfig(flush_size=1)) as processor:
        processor.push_goal_event_nowait(USER, "goal")
        await asyncio.sleep(0.1)

        assert own_clients.paths == ["/ping", "/register_events"]
    await occupying
    await api.aclose()


async def test_other_requests_do_not_wait_for_posts(own_clients: Slow) -> None:
    api = ApiClient(endpoint="http://localhost", api_key="key", max_connections=1)
    async with Processor(api, ProcessorConfig(flush_size=1)) as processor:
        for _ in range(3):
            processor.push_goal_event_nowait(USER, "goal")
        await asyncio.sleep(0.1)
        ping = asyncio.create_task(api.ping(timeout=100.0))
        await asyncio.sleep(0.1)

        assert own_clients.paths == ["/register_events", "/ping"]
        assert await ping == 1
    await api.aclose()


async def test_a_client_that_could_not_be_made_is_made_by_the_next_request(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def make(*_arguments: object) -> Any:
        made.append(1)
        if len(made) == 1:
            raise OSError("no such file")
        return httpx.AsyncClient(transport=httpx.MockTransport(Slow(0.0)))

    async def at_once(work: Any, *arguments: Any) -> Any:  # virtual time knows no threads
        return work(*arguments)

    monkeypatch.setattr(_api, "client_factory", lambda *_arguments: make)
    monkeypatch.setattr(_connections, "in_thread", at_once)
    api = ApiClient(endpoint="http://localhost", api_key="key")

    with pytest.raises(ConfigurationError, match="no such file"):
        await api.ping()
    assert await api.ping() == 1
    assert len(made) == 2
    await api.aclose()


@in_real_time
async def test_the_time_in_which_the_http_client_is_made_counts() -> None:
    async with busy_executor():
        api = ApiClient(endpoint="127.0.0.1:1", api_key="key")
        began = now()
        with pytest.raises(RequestTimeoutError, match="no connection was ready in time") as caught:
            await asyncio.wait_for(api.ping(timeout=0.05), 20)
        took = now() - began

        assert 0.05 <= took < 20  # the executor is busy until the end of the block
        assert not caught.value.maybe_sent
        await api.aclose()


@asynccontextmanager
async def busy_executor() -> AsyncIterator[None]:
    """Keep every thread of the loop's default executor busy."""
    loop, release = asyncio.get_running_loop(), threading.Event()
    executor = ThreadPoolExecutor(2)
    loop.set_default_executor(executor)
    try:
        for _ in range(2):
            loop.run_in_executor(None, release.wait, 60)
        yield
    finally:
        release.set()
        await loop.shutdown_default_executor()


async def test_a_request_that_waits_for_a_connection_ends_at_once_though_a_processor_still_drains() -> None:
    class Draining:
        def begin_closing(self) -> None:
            begun.set()

    slow, begun, draining = Slow(30.0), asyncio.Event(), Draining()
    async with httpx.AsyncClient(transport=httpx.MockTransport(slow)) as http:
        api = one_connection(http)
        lease = api.lease(draining.begin_closing)
        async with lease.slots:
            waiting = asyncio.create_task(api.ping())
            await asyncio.sleep(1.0)
            closing = asyncio.create_task(api.aclose())
            with pytest.raises(ClosedError):
                await waiting

            assert now() == 1.0
            await begun.wait()
            assert not closing.done()
        lease.release()
        await closing
        assert slow.paths == []


@in_real_time
async def test_closing_while_the_http_client_is_made_does_not_wait_for_it() -> None:
    async with busy_executor():
        api = ApiClient(endpoint="127.0.0.1:1", api_key="key", timeout=50.0)
        asking = [asyncio.create_task(call()) for call in (api.ping, api.start)]
        await asyncio.sleep(0.01)

        await asyncio.wait_for(api.aclose(), 20)

        for each in asking:
            with pytest.raises(ClosedError, match="closed while it was starting"):
                await asyncio.wait_for(each, 20)


@in_real_time
async def test_a_failed_attempt_to_make_the_http_client_is_made_again_by_the_next_request(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    right = tmp_path / "right.pem"
    trustme.CA().cert_pem.write_to_path(str(right))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing.pem"))
    api = ApiClient(endpoint="127.0.0.1:1", api_key="key")
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="the HTTP client cannot be made"):
            await api.ping()

    monkeypatch.setenv("SSL_CERT_FILE", str(right))
    await api.start()
    await api.aclose()


async def test_a_slot_given_up_by_a_cancelled_request_goes_to_the_next() -> None:
    slow = Slow(1.0)
    async with httpx.AsyncClient(transport=httpx.MockTransport(slow)) as http:
        api = one_connection(http)
        asking = [asyncio.create_task(api.ping()) for _ in range(4)]
        await asyncio.sleep(0.5)
        asking[1].cancel()
        with anyio.move_on_after(0.5):
            await asyncio.sleep(60)
        asking[2].cancel()  # in the turn in which it may have been given the slot

        await asyncio.wait(asking)
        await api.ping()

        assert not asking[0].cancelled()
        assert not asking[3].cancelled()
        assert api._connections.get()._pools.slots._value == 1


class LateHandshake(httpcore.AsyncNetworkStream):
    """A connection, to a proxy or not, whose TLS handshake takes so many seconds and cannot be cancelled."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.answer = b"HTTP/1.1 200 OK\r\n\r\n"  # of the proxy

    async def start_tls(self, *_: object, **__: object) -> httpcore.AsyncNetworkStream:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(self.seconds)
        self.answer = b'HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n{"time":"1"}'
        return self

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        answer, self.answer = self.answer[:max_bytes], self.answer[max_bytes:]
        return answer

    async def write(self, buffer: bytes, timeout: float | None = None) -> None: ...
    async def aclose(self) -> None: ...
    def get_extra_info(self, info: str) -> None: ...


class LateHandshakes(httpcore.AsyncNetworkBackend):
    """A network with a late handshake at first."""

    def __init__(self) -> None:
        self.seconds = 0.2

    async def connect_tcp(self, *_: object, **__: object) -> httpcore.AsyncNetworkStream:
        seconds, self.seconds = self.seconds, 0.0
        return LateHandshake(seconds)


@in_real_time
@pytest.mark.parametrize(
    ("is_borrowed", "proxy"),
    [(False, None), (False, "http://proxy.test"), (True, None)],
    ids=["own", "own, by proxy", "borrowed"],
)
async def test_a_request_that_ends_with_its_handshake_costs_no_connection(
    monkeypatch: pytest.MonkeyPatch, is_borrowed: bool, proxy: str | None
) -> None:
    network = LateHandshakes()
    for module in ("connection", "connection_pool"):
        monkeypatch.setattr(f"httpcore._async.{module}.AutoBackend", lambda: network)
    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=1)) as http:
        borrowed = http if is_borrowed else None
        async with ApiClient(endpoint="a.test", api_key="key", max_connections=1, proxy=proxy, http=borrowed) as api:
            with pytest.raises(RequestTimeoutError) as caught:
                await api.ping(timeout=0.1)

            assert not caught.value.maybe_sent
            assert await api.ping(timeout=10.0) == 1
