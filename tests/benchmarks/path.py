"""Count the functions of the package that one event, and one flag evaluation, pass through.

``python -m tests.benchmarks.path`` prints both counts, ``--names`` the functions too, in the order of their first call.
A profile hook counts every distinct function of the package, but for comprehensions and lambdas, and for the gateway,
which runs in the same process.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final

import httpx

import bucketeer_async
from bucketeer_async import ApiClient, Client, LocalEvaluation, Processor, ProcessorConfig, User
from bucketeer_async.gateway import GatewayState, create_app

_PACKAGE: Final = str(Path(bucketeer_async.__file__).parent) + "/"
_LEFT_OUT: Final = (_PACKAGE + "gateway/", _PACKAGE + "_proto/")
_ENDPOINT: Final = "http://localhost"
_USER: Final = User("user-1", {"plan": "pro"})
_FLAG: Final[dict[str, Any]] = {
    "id": "flag",
    "version": 1,
    "enabled": True,
    "tags": ["shop"],
    "updatedAt": 0,
    "variationType": "BOOLEAN",
    "variations": [{"id": "on", "value": "true"}, {"id": "off", "value": "false"}],
    "offVariation": "off",
    "defaultStrategy": {"type": "FIXED", "fixedStrategy": {"variation": "on"}},
}


async def functions_passed(act: Callable[[], Awaitable[object]]) -> list[str]:
    """Return the distinct functions of the package that run, on any thread, until ``act`` is done."""
    seen: dict[CodeType, None] = {}

    def note(frame: FrameType, event: str, _argument: object) -> None:
        code = frame.f_code
        if (
            event == "call"
            and code.co_filename.startswith(_PACKAGE)
            and not code.co_filename.startswith(_LEFT_OUT)
            and not code.co_name.startswith("<")
        ):
            seen[code] = None

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        await act()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type] # None ends it
    return [f"{code.co_filename.removeprefix(_PACKAGE)}:{code.co_qualname}" for code in seen]


async def event_path(*, warm: bool) -> list[str]:
    """Return the functions that one awaited goal push passes, from the call to its settled receipt."""
    gateway = httpx.AsyncClient(transport=httpx.ASGITransport(create_app(GatewayState())))
    api = ApiClient(endpoint=_ENDPOINT, api_key="client-key", http=gateway)
    async with gateway, api, Processor(api, ProcessorConfig(tag="shop", flush_size=1)) as processor:

        async def push() -> None:
            receipt = await processor.push_goal_event(_USER, "purchase", 49.9)
            await receipt.settled()
            await asyncio.sleep(0.01)  # until the flush task is free again

        if warm:
            await push()
        return await functions_passed(push)


async def evaluation_path() -> list[str]:
    """Return the functions that one warm local ``bool_variation`` passes, with the events that are due for it."""
    state = GatewayState(flags=[_FLAG])
    gateway = httpx.AsyncClient(transport=httpx.ASGITransport(create_app(state)))
    client = Client(
        endpoint=_ENDPOINT,
        api_key="server-key",
        tag="shop",
        http=gateway,
        local_evaluation=LocalEvaluation(),
        events=ProcessorConfig(),
    )
    async with gateway, client:
        await client.wait_ready()

        async def evaluate() -> None:
            assert await client.bool_variation(_USER, "flag", False)

        await evaluate()
        return await functions_passed(evaluate)


async def _main(*, names: bool) -> None:
    for title, path in (
        ("awaited goal push, warm", await event_path(warm=True)),
        ("awaited goal push, cold", await event_path(warm=False)),
        ("local bool_variation, warm", await evaluation_path()),
    ):
        files = {name.partition(":")[0] for name in path}
        print(f"{title}: {len(path)} functions of {len(files)} files")
        for name in path if names else ():
            print("   ", name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--names", action="store_true", help="print the functions too")
    asyncio.run(_main(names=parser.parse_args().names))
