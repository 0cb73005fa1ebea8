"""Background tasks, which one task starts and others await; signals of progress."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import subprocess
import sys
from collections.abc import Callable

import anyio
import pytest

from bucketeer_async import WrongLoopError
from bucketeer_async._background import _ANYIO, BackgroundTask, Progress

Ready = Callable[[], None]
variable = contextvars.ContextVar("variable", default="untouched")


def background(work: Callable[[Ready], object]) -> BackgroundTask:
    return BackgroundTask(work, name="test", owner="thing")  # type: ignore[arg-type]


async def test_a_failure_that_no_caller_waits_for_is_not_reported_to_the_loop() -> None:
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context))

    async def work(_ready: Ready) -> None:
        await asyncio.sleep(0.01)
        raise ValueError("too late")

    task = background(work)
    with anyio.move_on_after(0):
        await task.ready()
    await task.join()
    gc.collect()

    assert not reported
    with pytest.raises(ValueError, match="too late"):
        await task.ready()


async def test_the_work_has_an_empty_context() -> None:
    seen = []

    async def work(ready: Ready) -> None:
        seen.append(variable.get())
        ready()

    variable.set("of the request")
    await background(work).join()

    assert seen == ["untouched"]


async def test_an_error_before_ready_is_raised_to_those_who_wait_for_it() -> None:
    async def work(_ready: Ready) -> None:
        raise KeyError("x")

    task = background(work)
    for _ in range(2):
        with pytest.raises(KeyError):
            await task.ready()
    await task.join()


async def test_an_error_after_ready_is_raised_by_join() -> None:
    async def work(ready: Ready) -> None:
        ready()
        raise KeyError("x")

    task = background(work)
    await task.ready()
    with pytest.raises(KeyError):
        await task.join()


async def test_a_cancelled_waiter_only_stops_waiting() -> None:
    async def work(ready: Ready) -> None:
        await asyncio.sleep(0.02)
        ready()
        await asyncio.sleep(0.02)

    task = background(work)
    for wait in (task.ready, task.join):
        with anyio.move_on_after(0.001) as scope:
            await wait()
        assert scope.cancelled_caught

    await task.ready()
    await task.join()


def test_another_loop_is_told() -> None:
    async def start() -> BackgroundTask:
        async def work(ready: Ready) -> None:
            ready()

        task = background(work)
        await task.join()
        return task

    task = asyncio.run(start())
    with pytest.raises(WrongLoopError, match="this thing belongs to another event loop"):
        asyncio.run(task.join())


async def test_progress_wakes_everybody_who_waits_and_forgets_them() -> None:
    progress = Progress()
    progress.notify()
    waiting = [asyncio.create_task(progress.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()

    progress.notify()
    progress.notify()

    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert results[1:] == [None, None]
    assert not progress.waiters


LOADING = """
import asyncio, sys, threading
from bucketeer_async import ApiClient, ApiError, Client, LocalEvaluation, Processor

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name in {"NAME", "httpx", "httpcore"}:
            print(name, threading.current_thread() is threading.main_thread())

sys.meta_path.insert(0, Watch())
api = ApiClient(endpoint="http://127.0.0.1:1", api_key="key")

async def ping():
    try:
        await api.ping(timeout=60)  # refused at once; long enough to load on a slow machine
    except ApiError:
        pass

async def process():
    async with api, Processor(api) as processor:
        await processor.aclose(60)

async def ask():
    local = LocalEvaluation()
    async with Client(endpoint="http://127.0.0.1:1", api_key="key", tag="", local_evaluation=local) as client:
        await client.aclose(60)

asyncio.run({"ping": ping, "process": process, "ask": ask}[sys.argv[1]]())
"""


@pytest.mark.parametrize("what", ["ping", "process", "ask"])
def test_what_takes_long_to_load_is_loaded_off_the_loop(what: str) -> None:
    program = LOADING.replace("NAME", _ANYIO)
    child = subprocess.run([sys.executable, "-c", program, what], capture_output=True, text=True, check=True)

    assert sorted(set(child.stdout.splitlines())) == [f"{_ANYIO} False", "httpcore False", "httpx False"], child.stderr
