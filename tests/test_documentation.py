"""Every Python block in the README and the guide runs, against a local gateway in place of the one it names."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp.test_utils
import httpx
import pytest

from bucketeer_async import EventKind
from bucketeer_async.gateway import LocalGateway, flag

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks() -> Iterator[Any]:
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for number, match in enumerate(BLOCK.finditer(path.read_text())):
            yield pytest.param(match[1], id=f"{path.relative_to(ROOT)}-{number}")


@pytest.fixture
async def gateway() -> AsyncIterator[LocalGateway]:
    keys = dict.fromkeys(["client-key", "your-api-key"])
    async with LocalGateway(flags=[flag("new-checkout", tags=["shop"])]) as running:
        running.state.keys |= dict.fromkeys(keys, running.state.keys["client-key"])
        running.state.keys["your-server-key"] = running.state.keys["server-key"]
        yield running


def run(code: str, url: str) -> dict[str, Any]:
    """Run a block in a thread of its own, for it may call ``asyncio.run``; return its names."""
    names: dict[str, Any] = {"__name__": "block"}
    failures: list[BaseException] = []

    def work() -> None:
        try:
            exec(compile(code.replace("https://api.example.com", url), "block", "exec", dont_inherit=True), names)
        except BaseException as error:  # noqa: BLE001 - raised again in the test
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return names


@pytest.mark.parametrize("code", list(blocks()))
async def test_block_runs(code: str, gateway: LocalGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = await asyncio.to_thread(run, code, gateway.url)

    if "FastAPI(" in code:
        app = names["app"]
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client,
        ):
            assert (await client.post("/checkout/user-1")).json() == {"new": True}
        assert {event.kind for event in gateway.events} == set(EventKind)
    elif "web.Application()" in code:
        async with aiohttp.test_utils.TestClient(aiohttp.test_utils.TestServer(names["app"])) as client:
            assert await (await client.post("/checkout/user-1")).json() == {"new": True}
        assert {event.kind for event in gateway.events} == set(EventKind)
    else:
        assert "asyncio.run(main())" in code or "with ClientThread(client)" in code
