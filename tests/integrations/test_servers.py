"""Ctrl-C and reload in real servers: nothing accepted is lost, and nothing is complained about."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from pathlib import Path

import httpx

from bucketeer_async.gateway import LocalGateway
from tests.integrations.children import EXAMPLES, NOISE, Child, python

REQUESTS = 30

AIOHTTP = """
import socket
from aiohttp import web
from aiohttp_service import create_app

listener = socket.create_server(("127.0.0.1", 0))
print(f"running on http://127.0.0.1:{listener.getsockname()[1]}")
web.run_app(create_app(), sock=listener, print=None)
"""


def settings(gateway: LocalGateway) -> dict[str, str]:
    return {
        "BUCKETEER_API_ENDPOINT": gateway.url,
        "BUCKETEER_API_KEY": "client-key",
        "PYTHONPATH": str(EXAMPLES),
    }


async def check_out(url: str, count: int = REQUESTS) -> None:
    """Send requests, each of which pushes one evaluation and one goal."""
    async with httpx.AsyncClient(base_url=url, timeout=20, trust_env=False) as client:
        answers = await asyncio.gather(*(client.post(f"/checkout/user-{number}") for number in range(count)))

    assert [answer.json() for answer in answers] == [{"recorded": True}] * count


def assert_nothing_lost(gateway: LocalGateway, requests: int) -> None:
    assert {kind: count["unique"] for kind, count in gateway.state.counts().items()} == {
        "evaluation": requests,
        "goal": requests,
        "metrics": 0,
    }


def assert_quiet(child: Child) -> None:
    assert not NOISE.search(child.output), child.output


async def test_ctrl_c_drains_under_uvicorn(gateway: LocalGateway) -> None:
    async with python("-m", "uvicorn", "--port=0", "fastapi_service:app", environment=settings(gateway)) as child:
        await check_out(await child.has_written(r"running on (http://[\d.:]+)"))
        assert gateway.events == []  # all of them wait for the interval: only the drain can deliver them

        await child.end(signal.SIGINT)

    assert_nothing_lost(gateway, REQUESTS)
    assert_quiet(child)


async def test_ctrl_c_drains_under_aiohttp(gateway: LocalGateway) -> None:
    async with python("-c", AIOHTTP, environment=settings(gateway)) as child:
        await check_out(await child.has_written(r"running on (http://[\d.:]+)"))
        assert gateway.events == []

        status = await child.end(signal.SIGINT)

    assert status == 0
    assert_nothing_lost(gateway, REQUESTS)
    assert_quiet(child)


async def test_reload_loses_nothing(gateway: LocalGateway, tmp_path: Path) -> None:
    service = Path(shutil.copy(EXAMPLES / "fastapi_service.py", tmp_path))
    options = ("--port=0", "--reload", f"--reload-dir={tmp_path}", f"--app-dir={tmp_path}")
    async with python("-m", "uvicorn", *options, "fastapi_service:app", environment=settings(gateway)) as child:
        url = await child.has_written(r"running on (http://[\d.:]+)")
        await child.has_written("startup complete")
        await check_out(url)
        await touch_until_seen(service, child)
        await child.has_written("startup complete", times=2)
        await check_out(url)

        await child.end(signal.SIGTERM)

    assert_nothing_lost(gateway, 2 * REQUESTS)
    assert_quiet(child)


def make_newer(path: Path) -> None:
    later = path.stat().st_mtime + 10
    os.utime(path, (later, later))


async def touch_until_seen(service: Path, child: Child) -> None:
    """Change a file's time; again if the reloader had not looked at it before, and so knows no difference."""
    for _ in range(10):
        make_newer(service)
        try:
            await child.has_written("Reloading", within=3)
        except TimeoutError:
            continue
        return
    raise AssertionError(child.output)
