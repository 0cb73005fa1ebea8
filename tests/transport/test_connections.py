"""Slots for requests: how long a request waits for one, who waits for whom, and the close while requests wait."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

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
from bucketeer_async._transport import _api
from tests.clock import VirtualLoop

USER = User("user")


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
        assert results[0] == 1
        assert isinstance(results[1], RequestTimeoutError)
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
    monkeypatch.setattr(asyncio, "to_thread", at_once)
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
    monkeypatch.setattr(asyncio, "to_thread", at_once)
    api = ApiClient(endpoint="http://localhost", api_key="key")

    with pytest.raises(ConfigurationError, match="no such file"):
        await api.ping()
    assert await api.ping() == 1
    assert len(made) == 2
    await api.aclose()
