"""The gateway is away: for a while, for long, for longer than events live, or merely slow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.clock import VirtualLoop
from tests.faults.world import Way, fair, refused, world

Measured = Callable[[str], None]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualLoop}


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.mark.fault("F1")
async def test_a_gateway_that_is_down_for_3_seconds_costs_nothing(measured: Measured) -> None:
    async with world() as here:
        here.sky.weather = refused
        await here.push(10_000)
        await asyncio.sleep(3.0)
        here.sky.weather = fair
        back = now()

        assert await here.processor.flush()

        recovery = now() - back
        assert here.lost == 0
        assert recovery <= 5.0
        measured(f"lost {here.lost} of 10 000, delivered {recovery:.1f} s after the return")


@pytest.mark.fault("F4")
async def test_a_slow_gateway_holds_up_nobody(measured: Measured) -> None:
    async def slow(request: httpx.Request, way: Way) -> httpx.Response:
        await asyncio.sleep(15.0)
        return await way(request)

    async with world() as here:
        here.sky.weather = slow
        await here.push(2_000)
        pushed_at = now()
        await here.processor.flush()

        assert pushed_at < 2.0
        assert here.sky.most_under_way <= 4
        assert here.lost == 0
        measured(f"{here.sky.most_under_way} posts at once, lost {here.lost}")
