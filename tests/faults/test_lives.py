"""Lives that go wrong: forks, other threads, signals, busy executors, loops that are gone; in real time."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from bucketeer_async import ApiClient, Client, ClosedError, LocalEvaluation, Processor, ProcessorConfig, User
from bucketeer_async.gateway import GatewayState, LocalGateway, create_app
from tests.clock import VirtualLoop
from tests.fakes import FakeClient

Measured = Callable[[str], None]

in_virtual_time = pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {"loop_factory": VirtualLoop})], ids=["virtual"]
)

USER = User("user")
MAKERS = [lambda: Client(**OPTIONS), lambda: ApiClient(endpoint="localhost", api_key="key")]
OPTIONS: dict[str, Any] = {"endpoint": "http://127.0.0.1:9", "api_key": "client-key", "tag": "shop"}


def in_a_child(work: Callable[[], object]) -> int:
    """Do some work in a forked child; return its exit status, which is 0 if nothing was raised."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("make", MAKERS, ids=["client", "api"])
def test_what_the_parent_has_started_is_closed_in_a_forked_child_without_an_error(make: Callable[[], Any]) -> None:
    loop = asyncio.new_event_loop()
    started = make()
    loop.run_until_complete(started.start())

    status = in_a_child(lambda: asyncio.run(started.aclose()))

    assert status == 0
    assert repr(started).endswith("running>")
    loop.run_until_complete(started.aclose())
    loop.close()


@pytest.mark.parametrize("is_started", [True, False], ids=["started", "new"])
def test_a_forked_child_says_that_nothing_is_started_in_it(is_started: bool, caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.new_event_loop()
    client = Client(**OPTIONS)
    api = ApiClient(endpoint="http://127.0.0.1:9", api_key="key")
    processor = Processor(api)
    if is_started:
        loop.run_until_complete(client.start())
        loop.run_until_complete(processor.start())
    not_started = "not started in this process (it was forked)" if is_started else "not started"

    async def use() -> None:
        assert not await client.bool_variation(USER, "flag", default=False)
        assert client.track_nowait(USER, "goal").outcome.message == not_started  # type: ignore[union-attr]
        for what, owner in ((client.flush, "client"), (client.wait_ready, "client"), (processor.flush, "processor")):
            with pytest.raises(ClosedError) as caught:
                await what()
            assert str(caught.value) == f"the {owner} is {not_started}"
        lines = [record.getMessage() for record in caplog.records]
        assert any(line.endswith(f": the client is {not_started}") for line in lines), lines
        assert any(line.endswith(f" was refused (not_running) {not_started}") for line in lines), lines

    assert in_a_child(lambda: asyncio.run(use())) == 0
    loop.run_until_complete(client.aclose())
    loop.run_until_complete(api.aclose())
    loop.close()


@pytest.mark.fault("F84")
@pytest.mark.parametrize("make", MAKERS, ids=["client", "api"])
async def test_closing_while_starting_does_not_wait_for_a_busy_executor(
    make: Callable[[], Any], measured: Measured
) -> None:
    executor = ThreadPoolExecutor(1)
    asyncio.get_running_loop().set_default_executor(executor)
    release = threading.Event()
    executor.submit(release.wait, 60)
    starting = make()
    task = asyncio.create_task(starting.start())
    await asyncio.sleep(0.05)

    began = time.monotonic()
    await starting.aclose()
    seconds = time.monotonic() - began
    release.set()

    assert seconds < 30  # the executor would have been busy for 60
    measured(f"{type(starting).__name__} closed while starting in {seconds:.2f} s")
    assert [type(error).__name__ for error in await asyncio.gather(task, return_exceptions=True)] == ["ClosedError"]


@pytest.mark.fault("F84")
@in_virtual_time
async def test_a_close_keeps_its_deadline_when_its_caller_is_cancelled(measured: Measured) -> None:
    async def never(_request: httpx.Request) -> httpx.Response:
        return await asyncio.get_running_loop().create_future()

    loop = asyncio.get_running_loop()
    async with httpx.AsyncClient(transport=httpx.MockTransport(never)) as http:
        client = Client(**OPTIONS, http=http)
        await client.start()
        await client.track(USER, "goal")
        evaluating = asyncio.create_task(client.bool_variation(USER, "flag", False))
        await asyncio.sleep(0.1)
        began = loop.time()
        closing = asyncio.create_task(client.aclose(0.5))
        await asyncio.sleep(0.1)
        closing.cancel()
        report = await client.aclose()
        seconds = loop.time() - began

        assert seconds <= 0.75
        assert report.total.undelivered + report.total.unconfirmed == 1
        assert await evaluating is False
        measured(f"close(0.5) with a cancelled caller ended after {seconds:.2f} s")


@pytest.mark.fault("F84")
@pytest.mark.parametrize("debug", [False, True])
def test_a_loop_that_is_started_in_one_thread_and_run_in_another_delivers_pushes_of_both(
    debug: bool, measured: Measured
) -> None:
    loop = asyncio.new_event_loop()
    loop.set_debug(debug)
    processor = Processor(FakeClient(), ProcessorConfig(flush_interval=0.05))
    loop.run_until_complete(processor.start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    receipt = processor.push_goal_event_nowait(USER, "goal")
    deadline = time.monotonic() + 60.0
    while receipt.outcome is None and time.monotonic() < deadline:
        time.sleep(0.01)
    report = asyncio.run_coroutine_threadsafe(processor.aclose(), loop).result(60.0)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()

    assert receipt.outcome is not None
    assert report.complete
    measured("a loop moved to another thread: delivered")


async def test_a_push_of_a_signal_handler_wakes_a_loop_that_sleeps() -> None:
    pushed: list[Any] = []
    before = signal.getsignal(signal.SIGUSR1)
    async with Processor(FakeClient(), ProcessorConfig(flush_interval=0.1)) as processor:
        signal.signal(signal.SIGUSR1, lambda *_: pushed.append(processor.push_goal_event_nowait(USER, "goal")))
        timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1))
        try:
            asyncio.get_running_loop().call_later(0.01, timer.start)
            began = time.monotonic()
            await asyncio.sleep(1.5)  # nothing else wakes the loop until then
            timer.join()
            settled = [receipt.outcome is not None for receipt in pushed]
        finally:
            signal.signal(signal.SIGUSR1, before)

    assert time.monotonic() - began >= 1.5
    assert settled == [True]


def run_in_process(code: str) -> str:
    """Run a program; return what it wrote."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30).stdout


FORK_IN_LOOP = """if True:
    import asyncio, os, sys
    from bucketeer_async import Client, ProcessorConfig, User

    async def main():
        client = Client(endpoint={url!r}, api_key="client-key", tag="shop", events=ProcessorConfig(flush_interval=0.3))
        await client.start()
        for number in range(50):
            await client.track(User("user"), f"goal-{{number}}")
        pid = os.fork()
        if pid == 0:
            sys.exit()  # asyncio.run() winds the copy of the loop up
        # The two loops share one epoll. What the child's loop closes, it takes out of it, also what wakes the parent's
        # loop from other threads: so the parent waits for the child first, and does not wind its loop up.
        os.waitpid(pid, 0)
        await client.aclose()
        os._exit(0)

    asyncio.run(main())
"""


@pytest.mark.fault("F84")
@pytest.mark.skipif(sys.version_info >= (3, 14), reason="asyncio: from 3.14 on, no loop ends in such a child")
async def test_a_child_that_is_forked_inside_the_loop_and_exits_sends_nothing_of_its_parent(
    gateway: LocalGateway, measured: Measured
) -> None:
    await asyncio.to_thread(run_in_process, FORK_IN_LOOP.format(url=gateway.url))

    (counts,) = [count for kind, count in gateway.state.counts().items() if kind == "goal"]
    assert counts["accepted"] == counts["unique"] == 50
    measured("0 posts by the forked child")


@pytest.mark.parametrize("local", [None, LocalEvaluation()], ids=["remote", "local"])
def test_a_client_whose_loop_was_closed_says_what_was_lost_and_lets_it_go(
    local: LocalEvaluation | None, caplog: pytest.LogCaptureFixture
) -> None:
    async def lose(http: httpx.AsyncClient) -> Client:
        client = Client(**OPTIONS | {"api_key": "server-key"}, http=http, local_evaluation=local)
        await client.start()
        if local:
            await client.wait_ready()  # no poll is under way
        for number in range(10):
            client.track_nowait(USER, f"goal-{number}")
        return client

    loop = asyncio.new_event_loop()
    http = httpx.AsyncClient(transport=httpx.ASGITransport(create_app(GatewayState())))
    client = loop.run_until_complete(lose(http))
    left = asyncio.all_tasks(loop)
    loop.close()
    for task in left:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    del left, task
    gone = weakref.ref(http)

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        del client, http
        gc.collect()

    lost = [str(each.message) for each in told if "abandoned" in str(each.message)]
    assert [text.split(": ")[1].split()[0] for text in lost] == ["10"] or (local and len(lost) == 1)
    assert [record.levelno for record in caplog.records if "abandoned" in record.message] == [logging.WARNING]
    assert gone() is None


def test_a_gateway_whose_start_is_cancelled_closes_its_socket() -> None:
    async def cancelled() -> int:
        gateway = LocalGateway()
        entering = asyncio.create_task(gateway.__aenter__())
        await asyncio.sleep(0)
        while gateway._socket is None:  # noqa: ASYNC110 - a few turns
            await asyncio.sleep(0)
        descriptor = gateway._socket.fileno()
        entering.cancel()
        await asyncio.wait([entering])
        assert entering.cancelled()
        await asyncio.sleep(0.1)
        assert len(asyncio.all_tasks()) == 1
        return descriptor

    descriptor = asyncio.run(cancelled())

    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


async def test_a_gateway_starts_again_after_a_start_that_was_cancelled() -> None:
    tasks = asyncio.all_tasks()
    for turns in range(1, 4):
        gateway = LocalGateway()
        entering = asyncio.create_task(gateway.__aenter__())
        for _ in range(turns):
            await asyncio.sleep(0)
        entering.cancel()
        await asyncio.wait([entering])
        assert entering.cancelled()
        assert asyncio.all_tasks() == tasks

        async with gateway, httpx.AsyncClient(timeout=5) as http:  # its socket has the descriptor of the one before
            assert (await http.get(f"{gateway.url}/ping")).status_code == 200


def test_a_loop_that_is_closed_amid_a_post_is_no_bug_of_a_flush_task(caplog: pytest.LogCaptureFixture) -> None:
    async def silent(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async def lose() -> Processor:
        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        api = ApiClient(endpoint=f"http://127.0.0.1:{port}", api_key="key")
        processor = Processor(api, ProcessorConfig(flush_size=2))
        await processor.start()
        for number in range(3):
            processor.push_goal_event_nowait(USER, f"goal-{number}")
        async with asyncio.timeout(10):
            while not processor.statistics().posts:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        return processor

    loop = asyncio.new_event_loop()
    processor = loop.run_until_complete(lose())
    left = asyncio.all_tasks(loop)
    loop.close()
    for task in left:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    del left, task

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        assert processor.statistics().goal.dropped == 3
        del processor
        gc.collect()

    assert [record.levelno for record in caplog.records if record.name == "bucketeer_async"] == [logging.WARNING]
