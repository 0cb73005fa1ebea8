"""The gateway on real ports: inside this loop, and as a process."""

from __future__ import annotations

import asyncio
import signal
import sys

import httpx
import pytest

from bucketeer_async import ApiClient, Processor, User
from bucketeer_async.gateway import LocalGateway


async def test_the_local_gateway_serves_a_processor() -> None:
    async with LocalGateway() as gateway:
        async with ApiClient(endpoint=gateway.url, api_key="client-key") as api, Processor(api) as processor:
            receipt = await processor.push_goal_event(User("user"), "goal")
        assert [event.id for event in gateway.events] == [receipt.event_id]

    with pytest.raises(RuntimeError, match="inside its async with"):
        _ = gateway.url


async def test_two_gateways_live_beside_each_other() -> None:
    async with LocalGateway() as one, LocalGateway() as two:
        assert one.url != two.url
        async with httpx.AsyncClient() as http:
            assert [(await http.get(f"{each.url}/ping")).status_code for each in (one, two)] == [200, 200]


@pytest.mark.parametrize("key", [None, "my-key"])
async def test_the_gateway_runs_by_itself_until_a_signal(key: str | None) -> None:
    arguments = [] if key is None else ["--client-key", key]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bucketeer_async.gateway", "--port", "0", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    url = (await process.stdout.readline()).decode().split()[-1]
    async with ApiClient(endpoint=url, api_key=key or "client-key") as api, Processor(api) as processor:
        await processor.push_goal_event(User("user"), "goal")
        assert await processor.flush()
        assert processor.statistics().goal.delivered == 1

    process.send_signal(signal.SIGTERM)
    _, errors = await asyncio.wait_for(process.communicate(), 10)

    assert errors == b""
    assert process.returncode in {0, -signal.SIGTERM}
