"""Pools of HTTP clients: how many clients a load needs, who closes them, and what the application lends; virtual time."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, ExitStack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketeer_async import ConnectionFailedError
from bucketeer_async._transport._pools import Pools
from tests.clock import VirtualLoop


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualLoop}


class FakeHttp:
    """An HTTP client that counts its uses."""

    def __init__(self, max_connections: int = 1_000) -> None:
        self.max_connections = max_connections
        self.used = self.most_used = 0
        self.is_closed = self.is_worn = False

    def use(self) -> None:
        self.used += 1
        self.most_used = max(self.most_used, self.used)
        assert not self.is_closed

    async def aclose(self) -> None:
        self.is_closed = True


class Made:
    """Pools, and the clients that they have made."""

    def __init__(self, limit: int, borrowed: FakeHttp | None = None) -> None:
        self.clients: list[FakeHttp] = []
        self.pools = Pools(self._make, limit, borrowed)  # type: ignore[arg-type]

    def _make(self, max_connections: int) -> Any:
        self.clients.append(FakeHttp(max_connections))
        return self.clients[-1]

    async def request(self, seconds: float = 1.0) -> None:
        async with self.pools.slots:
            with self.pools.client() as http:
                assert isinstance(http, FakeHttp)
                http.use()
                await asyncio.sleep(seconds)
                http.used -= 1

    async def burst(self, requests: int, seconds: float = 1.0) -> None:
        await asyncio.gather(*(self.request(seconds) for _ in range(requests)))


async def test_a_small_load_stays_on_one_client() -> None:
    made = Made(100)
    for _ in range(20):
        await made.burst(5)

    assert len(made.clients) == 1


async def test_a_large_load_is_spread_over_small_clients_and_the_rest_waits() -> None:
    made = Made(100)
    await made.burst(300)

    assert [(http.max_connections, http.most_used) for http in made.clients] == [(5, 5)] * 20
    assert asyncio.get_running_loop().time() == 3.0


async def test_clients_that_a_burst_needed_are_closed_by_later_requests() -> None:
    made = Made(100)
    await made.burst(100)
    for _ in range(100):  # a small load, for longer than a connection is kept
        await made.request()

    assert [http.is_closed for http in made.clients] == [False] + [True] * 19
    await made.burst(6)
    assert len(made.clients) == 21
    await made.pools.aclose()
    assert all(http.is_closed for http in made.clients)


async def test_a_client_in_use_is_not_closed() -> None:
    made = Made(100)
    await made.burst(10)
    async with AsyncExitStack() as stack:
        loans = stack.enter_context(ExitStack())
        for _ in range(6):
            loans.enter_context(made.pools.client())
        await asyncio.sleep(100.0)
        await made.request()

        assert [http.is_closed for http in made.clients] == [False, False]


async def test_a_client_that_may_have_lost_a_connection_is_used_no_more_and_closed_after_its_last_request() -> None:
    made = Made(5)
    requests = asyncio.create_task(made.burst(2))
    await asyncio.sleep(0.5)
    (worn,) = made.clients
    worn.is_worn = True
    await made.burst(1)
    await requests

    assert [(http.most_used, http.is_closed) for http in made.clients] == [(2, True), (1, False)]
    await made.burst(5)
    assert len(made.clients) == 2
    await made.pools.aclose()
    assert all(http.is_closed for http in made.clients)


async def test_a_client_of_the_application_is_used_for_all_and_never_closed() -> None:
    lent = FakeHttp()
    made = Made(50, lent)
    await made.burst(100)
    await made.pools.aclose()

    assert lent.most_used == 50
    assert not made.clients
    assert not lent.is_closed


async def test_nothing_is_lent_after_the_close() -> None:
    made = Made(5)
    await made.request()
    await made.pools.aclose()

    with pytest.raises(ConnectionFailedError, match="closed") as caught, made.pools.client():
        pass
    assert not caught.value.maybe_sent


@given(st.integers(1, 30), st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), max_size=60))
def test_no_load_opens_more_connections_than_allowed(limit: int, requests: list[tuple[float, float]]) -> None:
    async def story() -> None:
        made = Made(limit)

        async def later(begin: float, seconds: float) -> None:
            await asyncio.sleep(begin)
            await made.request(seconds)

        await asyncio.gather(*(later(*each) for each in requests))
        open_connections = [http.most_used for http in made.clients if not http.is_closed]
        assert all(http.most_used <= http.max_connections <= 5 for http in made.clients)
        assert sum(open_connections) <= limit
        assert made.pools.slots._value == limit

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(story())
