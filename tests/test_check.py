"""The check of a client: what it asks the gateway, what it reports, and what each error says to do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from bucketeer_async import (
    ApiClient,
    ApiError,
    Client,
    ClosedError,
    ConfigurationError,
    ConnectionFailedError,
    LocalEvaluation,
    RequestTimeoutError,
)
from bucketeer_async._check import check
from bucketeer_async.gateway import GatewayState, create_app, flag
from bucketeer_async.gateway._state import GatewayKey
from tests.clock import VirtualLoop


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualLoop}


class Gateway(httpx.AsyncBaseTransport):
    """A local gateway that records requests and the size of the responses; a test may replace responses by path."""

    def __init__(self) -> None:
        self.state = GatewayState(flags=[flag(f"flag-{number}", tags=["shop"]) for number in range(50)])
        self.requests: list[tuple[str, bytes]] = []
        self.received = 0
        self.responses: dict[str, Callable[[], httpx.Response]] = {}
        self.pause = 0.0
        self._app = httpx.ASGITransport(create_app(self.state))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append((request.url.path, await request.aread()))
        await asyncio.sleep(self.pause)
        respond = self.responses.get(request.url.path) or self.responses.get("")
        response = respond() if respond else await self._app.handle_async_request(request)
        self.received += len(await response.aread())
        return response

    @asynccontextmanager
    async def client(self, key: str, *, local: bool) -> AsyncIterator[Client]:
        async with httpx.AsyncClient(transport=self) as http:
            client = Client(
                endpoint="127.0.0.1",
                api_key=key,
                tag="shop",
                http=http,
                local_evaluation=LocalEvaluation() if local else None,
            )
            yield client
            await client.aclose()


def responding(status: int, text: str = "", **headers: str) -> Callable[[], httpx.Response]:
    return lambda: httpx.Response(status, text=text, headers=headers)


def failing(error: type[httpx.TransportError]) -> Callable[[], httpx.Response]:
    def fail() -> httpx.Response:
        raise error("no route to host")

    return fail


@pytest.mark.parametrize(
    ("key", "local", "path"), [("client-key", False, "/get_evaluation"), ("server-key", True, "/get_feature_flags")]
)
async def test_a_good_key_is_reported_without_a_flag_an_event_or_a_user(key: str, path: str, *, local: bool) -> None:
    gateway = Gateway()
    async with gateway.client(key, local=local) as client:
        report = await client.check()

    assert report.role == ("server" if local else "client")
    assert report.endpoint == "https://127.0.0.1"
    assert gateway.requests == [("/ping", b""), (path, b"{}"), ("/register_events", b"{}")]
    assert gateway.received < 300
    assert {each["accepted"] for each in gateway.state.counts().values()} == {0}
    assert client.statistics().total.pushed == 0


async def test_a_running_client_may_be_checked_too() -> None:
    gateway = Gateway()
    async with gateway.client("server-key", local=True) as client, client:
        await client.wait_ready()
        pushed = client.statistics().total.pushed
        report = await client.check(timeout=1)

        assert report.role == "server"
        assert client.statistics().total.pushed == pushed


@pytest.mark.parametrize(
    ("key", "local", "fix"),
    [
        ("server-key", False, "bad role: evaluation by the gateway needs a client key"),
        ("client-key", True, "bad role: local evaluation needs a server key"),
        ("no-such-key", True, "invalid APIKey: the gateway at https://127.0.0.1 does not know the key"),
        ("disabled-key", False, "disabled APIKey: enable the key, or its environment"),
    ],
)
async def test_a_key_that_does_not_fit_is_an_error_that_says_which_one_does(key: str, fix: str, *, local: bool) -> None:
    gateway = Gateway()
    gateway.state.keys["disabled-key"] = GatewayKey(role="SDK_CLIENT", disabled=True)
    async with gateway.client(key, local=local) as client:
        with pytest.raises(ConfigurationError, match=fix) as raised:
            await client.check()

    assert key not in str(raised.value)
    assert {each["accepted"] for each in gateway.state.counts().values()} == {0}


async def test_a_key_that_may_not_send_events_is_an_error() -> None:
    gateway = Gateway()
    gateway.responses["/register_events"] = responding(403, "<html>")
    async with gateway.client("client-key", local=False) as client:
        with pytest.raises(ConfigurationError, match="whether a proxy on the way refuses the request"):
            await client.check()


@pytest.mark.parametrize(
    "response",
    [
        responding(200, "<html>welcome</html>"),
        responding(200, "{}"),
        responding(404, "<html>"),
        responding(301, "", location="https://example.com"),
        responding(405),
    ],
    ids=["HTML", "another object", "404", "a redirect", "405"],
)
async def test_an_endpoint_that_is_no_gateway_is_an_error_that_says_so(response: Callable[[], httpx.Response]) -> None:
    gateway = Gateway()
    gateway.responses[""] = response
    async with gateway.client("client-key", local=False) as client:
        with pytest.raises(
            ConfigurationError, match=r"does not respond as a Bucketeer gateway; check Client\.endpoint"
        ):
            await client.check()


@pytest.mark.parametrize("path", ["/ping", "/get_evaluation", "/register_events"])
async def test_a_gateway_that_is_failing_is_no_error_of_the_configuration(path: str) -> None:
    gateway = Gateway()
    gateway.responses[path] = responding(503, "no healthy upstream")
    async with gateway.client("client-key", local=False) as client:
        with pytest.raises(ApiError, match=r"503: the gateway at \S+ can be reached, and is failing") as raised:
            await client.check()

    assert not isinstance(raised.value, ConfigurationError)


async def test_a_gateway_that_cannot_be_reached_is_an_error_that_says_where_to_look() -> None:
    gateway = Gateway()
    gateway.responses["/ping"] = failing(httpx.ConnectError)
    async with gateway.client("client-key", local=False) as client:
        with pytest.raises(ConnectionFailedError, match=r"check Client\.endpoint, and that this host may reach https"):
            await client.check()


@pytest.mark.parametrize("pause", [1e6, 2.0])
async def test_the_time_is_that_of_all_requests_together(pause: float) -> None:
    gateway = Gateway()
    gateway.pause = pause
    async with gateway.client("client-key", local=False) as client:
        began = asyncio.get_running_loop().time()
        with pytest.raises(RequestTimeoutError, match=r"took longer than 3 s; check Client\.endpoint"):
            await client.check(timeout=3)

        assert asyncio.get_running_loop().time() - began == pytest.approx(3.0)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), "5"])
async def test_a_timeout_is_a_number_of_seconds(timeout: Any) -> None:
    gateway = Gateway()
    async with gateway.client("client-key", local=False) as client:
        with pytest.raises(ConfigurationError, match="timeout must be"):
            await client.check(timeout)


@pytest.mark.parametrize(("ahead", "skew"), [(0.0, 0.0), (90.0, 90.0), (-7_200.0, -7_200.0)])
async def test_the_report_has_how_far_the_clocks_are_apart(ahead: float, skew: float) -> None:
    gateway = Gateway()
    gateway.pause = 1.0
    gateway.responses["/ping"] = lambda: httpx.Response(200, json={"time": "1700000000"})
    async with httpx.AsyncClient(transport=gateway) as http:
        api = ApiClient(endpoint="127.0.0.1", api_key="client-key", http=http)
        report = await check(api, "client", 10.0, wall=lambda: 1_700_000_000 + ahead)
        await api.aclose()

    assert (report.server_time, report.latency) == (1_700_000_000, pytest.approx(1.0))
    assert report.skew == pytest.approx(skew)


async def test_a_closed_client_and_a_disabled_one_cannot_be_checked() -> None:
    gateway = Gateway()
    async with gateway.client("client-key", local=False) as client:
        await client.aclose()
        with pytest.raises(ClosedError):
            await client.check()
    with pytest.raises(ConfigurationError, match="the client is disabled"):
        await Client.disabled().check()
