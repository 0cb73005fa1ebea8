"""The gateway on real ports: in the event loop of the test, and as a process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from bucketeer_async import ApiClient, Processor, User
from bucketeer_async.gateway import LocalGateway, flag
from bucketeer_async.gateway.__main__ import main


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


@contextlib.asynccontextmanager
async def gateway_process(*arguments: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """Run the gateway as a process; yield the process and the URL. Nothing is logged for asyncio's debug mode."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bucketeer_async.gateway", "--port", "0", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONASYNCIODEBUG": ""},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield process, (await process.stdout.readline()).decode().rpartition(" ")[2].strip()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize("key", [None, "my-key"])
@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
async def test_the_gateway_runs_by_itself_until_a_signal(key: str | None, ending: signal.Signals) -> None:
    async with gateway_process(*([] if key is None else ["--client-key", key])) as (process, url):
        async with ApiClient(endpoint=url, api_key=key or "client-key") as api, Processor(api) as processor:
            await processor.push_goal_event(User("user"), "goal")
            assert await processor.flush()
            assert processor.statistics().goal.delivered == 1

        process.send_signal(ending)
        _, errors = await asyncio.wait_for(process.communicate(), 10)

    assert errors == b""
    assert process.returncode in {0, -ending}


async def test_the_gateway_by_itself_follows_a_file(tmp_path: Path) -> None:
    path = tmp_path / "flags.json"
    path.write_text(json.dumps({"flags": [flag("a", tags=["shop"])]}))
    async with (
        gateway_process("--flags", str(path)) as (process, url),
        ApiClient(endpoint=url, api_key="client-key") as api,
    ):

        async def variation() -> str:
            evaluation = (await api.get_evaluation(User("user"), "a", tag="shop")).evaluation
            return evaluation.variation_id if evaluation else ""

        before = await variation()
        path.write_text(json.dumps({"flags": [flag("a", tags=["shop"], enabled=False)]}))
        async with asyncio.timeout(10):
            while (after := await variation()) == before:
                pass
        path.write_text("{")
        assert process.stderr is not None
        warning = await asyncio.wait_for(process.stderr.readline(), 10)

        assert (before, after, await variation()) == ("on", "off", "off")
        assert b"the gateway keeps the last valid flags: " in warning


def test_the_gateway_by_itself_does_not_start_with_a_file_that_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "flags.json"
    path.write_text(json.dumps({"flags": [flag("a", off="maybe")]}))

    with pytest.raises(SystemExit, match="2"):
        main(["--port", "0", "--flags", str(path)])

    shown = capsys.readouterr()
    assert shown.out == ""
    assert "flags[0]: flag 'a': offVariation must be one of off, on, not 'maybe'" in shown.err
