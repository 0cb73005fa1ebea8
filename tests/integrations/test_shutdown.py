"""How real processes end: nothing lost, nothing said, nothing left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from bucketeer_async.gateway import Fault, LocalGateway

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"

SERVE_FASTAPI = """
import socket, sys, uvicorn
sys.path.insert(0, sys.argv[1])
from fastapi_service import app
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
"""

SERVE_AIOHTTP = """
import socket, sys
from aiohttp import web
sys.path.insert(0, sys.argv[1])
from aiohttp_service import create_app
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
web.run_app(create_app(), sock=listener, print=None, access_log=None)
"""

FORGETFUL = """
import asyncio, os
from bucketeer_async import ApiClient, Processor, User

async def main():
    api_client = ApiClient(endpoint=os.environ["BUCKETEER_API_ENDPOINT"], api_key="client-key")
    if os.environ.get("CLOSE_CLIENT"):
        async with api_client:
            await work(api_client)
    else:
        await work(api_client)

async def work(api_client):
    processor = Processor(api_client)
    await processor.start()
    for number in range(1000):
        await processor.push_goal_event(User("user"), "goal")
    print(0, flush=True)
    if os.environ.get("WAIT"):
        await asyncio.sleep(60)

asyncio.run(main())
"""


@asynccontextmanager
async def child(code: str, gateway: LocalGateway, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-X", "dev", "-W", "error", "-c", code, str(EXAMPLES)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ
        | {"BUCKETEER_API_ENDPOINT": gateway.url, "BUCKETEER_API_KEY": "client-key", "PYTHONWARNINGS": ""}
        | environment,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def port_of(process: asyncio.subprocess.Process) -> int:
    assert process.stdout is not None
    return int(await asyncio.wait_for(process.stdout.readline(), 30))


async def end(process: asyncio.subprocess.Process, number: signal.Signals | None) -> str:
    """Send the signal; return what the process said on its way out."""
    if number is not None:
        process.send_signal(number)
    _, errors = await asyncio.wait_for(process.communicate(), 30)
    return errors.decode()


async def visit(port: int, count: int) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
        for number in range(count):
            response = await http.post(f"/checkout/user-{number}")
            assert response.json() == {"recorded": True}
        assert (await http.get("/stats")).json()["accepted"] == 2 * count


@pytest.mark.parametrize("code", [SERVE_FASTAPI, SERVE_AIOHTTP], ids=["uvicorn", "aiohttp"])
@pytest.mark.parametrize("failing", [False, True], ids=["well", "failing"])
async def test_sigterm_drains_a_service(code: str, failing: bool) -> None:
    async with LocalGateway() as gateway, child(code, gateway) as process:
        if failing:
            gateway.fail(Fault(status=503, requests=2))
        await visit(await port_of(process), 60)
        errors = await end(process, signal.SIGTERM)

        assert len(gateway.events) == len({event.id for event in gateway.events}) == 120
    expected = "events cannot be delivered (status 503)" if failing else ""
    assert errors.startswith(expected)
    assert len(errors.splitlines()) == failing
    assert process.returncode in {0, -signal.SIGTERM}


async def test_a_service_that_is_restarted_loses_nothing() -> None:
    async with LocalGateway() as gateway:
        for _ in range(2):
            async with child(SERVE_FASTAPI, gateway) as process:
                await visit(await port_of(process), 10)
                assert await end(process, signal.SIGTERM) == ""

        assert len({event.id for event in gateway.events}) == 40


@pytest.mark.parametrize("client", ["forgotten", "closed"])
async def test_ctrl_c_with_a_forgotten_close_is_drained_by_asyncio_run(client: str) -> None:
    environment = {"WAIT": "1", "CLOSE_CLIENT": "1" if client == "closed" else ""}
    async with LocalGateway() as gateway, child(FORGETFUL, gateway, **environment) as process:
        await port_of(process)
        errors = await end(process, signal.SIGINT)

        assert len({event.id for event in gateway.events}) == 1000
    assert "KeyboardInterrupt" in errors
    assert "Task was destroyed" not in errors
    assert "never retrieved" not in errors
    assert "bucketeer_async" not in errors


@pytest.mark.parametrize("client", ["forgotten", "closed"])
async def test_a_forgotten_close_is_drained_by_asyncio_run(client: str) -> None:
    environment = {"CLOSE_CLIENT": "1" if client == "closed" else ""}
    async with LocalGateway() as gateway, child(FORGETFUL, gateway, **environment) as process:
        errors = await end(process, None)

        assert len({event.id for event in gateway.events}) == 1000
    assert "Task was destroyed" not in errors
    assert "never retrieved" not in errors
    assert process.returncode == 0
