"""A client with local evaluation against the local gateway: flags are changed, added and removed while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from bucketeer_async import Client, LocalEvaluation, ReasonType, User
from bucketeer_async.gateway import GatewayState, create_app, flag
from tests.clock import VirtualLoop

USER = User("user")


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualLoop}


@asynccontextmanager
async def polling(state: GatewayState) -> AsyncIterator[Client]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(create_app(state))) as http:
        local = LocalEvaluation(polling_interval=60.0)
        async with Client(
            endpoint="http://127.0.0.1", api_key="server-key", tag="shop", local_evaluation=local, http=http
        ) as client:
            await client.wait_ready()
            yield client


async def test_a_flag_flips_at_the_next_poll() -> None:
    state = GatewayState(flags=[flag("new-checkout", tags=["shop"])])
    async with polling(state) as client:
        assert await client.bool_variation(USER, "new-checkout", False) is True

        state.set_flag(flag("new-checkout", default="off", tags=["shop"]))
        await asyncio.sleep(70.0)

        assert await client.bool_variation(USER, "new-checkout", True) is False
    assert state.counts()["evaluation"]["accepted"] == 2


async def test_flags_come_and_go() -> None:
    state = GatewayState(flags=[flag("old", tags=["shop"])])
    async with polling(state) as client:
        state.set_flag(flag("new", tags=["shop"]))
        state.remove_flag("old")
        await asyncio.sleep(70.0)

        assert await client.bool_variation(USER, "new", False) is True
        details = await client.bool_variation_details(USER, "old", False)
        assert details.reason.type is ReasonType.ERROR_FLAG_NOT_FOUND
