"""Fixtures of all tests: coroutine tests run on anyio's plugin, on the event loop that the environment names.

Property tests run with one Hypothesis profile.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from bucketeer_async.gateway import LocalGateway

# No limits on the wall clock: on a busy machine, an example and its generation may take any time. A failure prints
# how to reproduce it. All other settings are Hypothesis's defaults: random, and derandomized in CI.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("suite")


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Module | pytest.Class, name: str, obj: object) -> None:
    """Mark every coroutine test for anyio's plugin; only newer versions of the plugin have an option for this."""
    if collector.istestfunction(obj, name) and inspect.iscoroutinefunction(obj):
        pytest.mark.anyio(obj)


@pytest.fixture(params=[1_000, 25_000])
def recursion_limit(request: pytest.FixtureRequest) -> Iterator[None]:
    """Two limits of the interpreter's recursion; the second one is as roomy as the parsers of other versions are."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(request.param)
    yield
    sys.setrecursionlimit(before)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """asyncio in real time, on the loop that the environment names; a module in virtual time overrides this fixture."""
    match os.environ.get("BUCKETEER_TEST_LOOP"):
        case "uvloop":
            return "asyncio", {"use_uvloop": True}
        case "eager":
            return "asyncio", {"loop_factory": eager_loop}
    return "asyncio", {}


def eager_loop() -> asyncio.AbstractEventLoop:
    """An event loop whose tasks run at once when they are made (eager tasks); from Python 3.12 on."""
    loop = asyncio.new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined] # newer than the oldest Python
    return loop


@pytest.fixture
async def gateway() -> AsyncIterator[LocalGateway]:
    async with LocalGateway() as gateway:
        yield gateway


@pytest.fixture
async def refused_handshakes() -> AsyncIterator[None]:
    """Handshakes fail at a server of the test; in debug mode, the loop reports this as an error of the server's."""
    loop = asyncio.get_running_loop()
    handler = loop.get_exception_handler()

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if handler is not None and not str(context["message"]).startswith("Error on transport creation"):
            handler(loop, context)

    loop.set_exception_handler(handle)
    yield
    loop.set_exception_handler(handler)
