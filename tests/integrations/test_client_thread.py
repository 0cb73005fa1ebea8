"""Clients in programs without an event loop: scripts, threads of a web framework, templates, and forked workers."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import CancelledError
from typing import Any, TypeVar

import httpx
import pytest
from fastapi import FastAPI
from jinja2 import Environment

from bucketeer_async import (
    Client,
    ClosedError,
    ConfigurationError,
    DrainReport,
    LocalEvaluation,
    ReasonType,
    User,
    WrongLoopError,
)
from bucketeer_async.blocking import ClientThread
from bucketeer_async.gateway import LocalGateway, flag
from tests.integrations.children import NOISE, python

_T = TypeVar("_T")

USER = User("user-1")


@pytest.fixture
async def gateway() -> AsyncIterator[LocalGateway]:
    async with LocalGateway(flags=[flag("new-checkout", tags=["shop"])]) as running:
        yield running


def new_client(url: str, *, local: bool = True) -> Client:
    local_evaluation = LocalEvaluation() if local else None
    api_key = "server-key" if local else "client-key"
    return Client(endpoint=url, api_key=api_key, tag="shop", local_evaluation=local_evaluation)


def events_of(gateway: LocalGateway, kind: str) -> int:
    counts = gateway.state.counts()[kind]
    assert counts["accepted"] == counts["unique"]
    return counts["unique"]


async def in_a_program(program: Callable[[], _T]) -> _T:
    """Call a function in a thread, which has no event loop; nothing of what it started is left."""
    before = set(threading.enumerate())
    result = await asyncio.to_thread(program)
    assert not [each for each in set(threading.enumerate()) - before if each.name == "bucketeer-client"]
    return result


async def test_a_script_evaluates_flags_and_delivers_its_events(gateway: LocalGateway) -> None:
    client = new_client(gateway.url)

    def script() -> DrainReport:
        with ClientThread(client) as thread:
            assert client.bool_variation_nowait(USER, "new-checkout", default=False) is True
            assert client.track_nowait(USER, "purchase", value=49.9).accepted
            assert thread.run(client.flush(30)) is True
            client.track_nowait(USER, "purchase")
        return thread.close()

    report = await in_a_program(script)

    assert report.complete
    assert (events_of(gateway, "evaluation"), events_of(gateway, "goal")) == (1, 2)


async def test_remote_evaluation_is_awaited_on_the_loop_of_the_client(gateway: LocalGateway) -> None:
    client = new_client(gateway.url, local=False)

    def script() -> bool:
        with ClientThread(client) as thread:
            with pytest.raises(ConfigurationError, match="needs local evaluation"):
                client.bool_variation_nowait(USER, "new-checkout", default=False)
            return thread.run(client.bool_variation(USER, "new-checkout", default=False))

    assert await in_a_program(script) is True
    assert events_of(gateway, "evaluation") == 1


async def test_a_script_that_fails_delivers_its_events_too(gateway: LocalGateway) -> None:
    client = new_client(gateway.url)

    def script() -> None:
        with ClientThread(client):
            client.track_nowait(USER, "purchase")
            raise KeyError("of the script")

    with pytest.raises(KeyError):
        await in_a_program(script)
    assert events_of(gateway, "goal") == 1


async def test_all_threads_of_a_program_share_one_start_and_one_end(gateway: LocalGateway) -> None:
    client = new_client(gateway.url)
    thread = ClientThread(client)
    together = threading.Barrier(8)
    reports: list[DrainReport] = []

    def work() -> None:
        together.wait()
        thread.start()
        for _ in range(100):
            assert client.bool_variation_nowait(USER, "new-checkout", default=False) is True
        assert [each.name for each in threading.enumerate()].count("bucketeer-client") == 1
        together.wait()
        reports.append(thread.close())

    def program() -> None:
        threads = [threading.Thread(target=work) for _ in range(8)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()

    await in_a_program(program)

    assert len(reports) == 8
    assert all(report is reports[0] for report in reports)
    assert events_of(gateway, "evaluation") == 800


async def test_what_does_not_run_says_so(gateway: LocalGateway) -> None:
    client = new_client(gateway.url)
    thread = ClientThread(client)

    def program() -> None:
        with pytest.raises(ClosedError, match="the client thread is not started in this process"):
            thread.run(client.flush())
        assert thread.close() == DrainReport()
        with thread:
            with pytest.raises(TypeError, match="timeout must be a number of seconds or None"):
                thread.close("soon")  # type: ignore[arg-type]
            with pytest.raises(KeyError):
                thread.run(fail())
        with pytest.raises(ClosedError, match="the client thread is closed"):
            thread.run(client.flush())
        with pytest.raises(ClosedError, match="make a new one, with a new client"):
            thread.start()

    async def fail() -> None:
        raise KeyError

    await in_a_program(program)


async def test_the_loop_of_the_client_does_not_wait_for_itself(gateway: LocalGateway) -> None:
    client = new_client(gateway.url)
    thread = ClientThread(client)

    async def on_the_loop() -> None:
        with pytest.raises(WrongLoopError, match="cannot wait for itself"):
            thread.run(client.flush())
        with pytest.raises(WrongLoopError, match="cannot wait for itself"):
            thread.close()

    def program() -> None:
        with thread:
            thread.run(on_the_loop())

    await in_a_program(program)


async def test_what_runs_when_the_thread_is_closed_ends_with_it(gateway: LocalGateway) -> None:
    client = new_client(gateway.url)
    thread = ClientThread(client)
    runs = threading.Event()

    async def wait() -> None:
        runs.set()
        await asyncio.Event().wait()

    def program() -> None:
        def run() -> None:
            with pytest.raises(ClosedError, match="the client thread is closed"):
                thread.run(wait())

        with thread:
            waiting = threading.Thread(target=run)
            waiting.start()
            assert runs.wait(30)
        waiting.join()

    await in_a_program(program)


async def test_a_start_that_fails_leaves_nothing() -> None:
    options = LocalEvaluation(bootstrap=b"no snapshot")
    client = Client(endpoint="127.0.0.1", api_key="key", tag="shop", local_evaluation=options)
    thread = ClientThread(client)

    def program() -> None:
        with pytest.raises(ConfigurationError, match="bootstrap"):
            thread.start()
        thread.close()

    await in_a_program(program)


async def test_without_a_thread_nothing_is_started(gateway: LocalGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    client = new_client(gateway.url)
    thread = ClientThread(client)

    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    def program() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", fail)
            with pytest.raises(ClosedError, match="a thread is needed and cannot be started"):
                thread.start()
        with thread:
            assert client.bool_variation_nowait(USER, "new-checkout", default=False) is True

    await in_a_program(program)


class Failing(Client):
    """A client with a bug."""

    async def aclose(self, timeout: Any = ...) -> DrainReport:
        await super().aclose(timeout)
        raise KeyError("a bug")


async def test_a_close_that_fails_says_so(gateway: LocalGateway) -> None:
    client = Failing(endpoint=gateway.url, api_key="client-key", tag="shop")
    thread = ClientThread(client)

    def program() -> None:
        thread.start()
        for _ in range(2):
            with pytest.raises(KeyError, match="a bug"):
                thread.close()

    await in_a_program(program)


async def test_a_coroutine_that_was_cancelled_says_so(gateway: LocalGateway) -> None:
    client = new_client(gateway.url)

    async def cancelled() -> None:
        raise asyncio.CancelledError

    def program() -> None:
        with ClientThread(client) as thread, pytest.raises(CancelledError):
            thread.run(cancelled())

    await in_a_program(program)


async def test_without_a_gateway_a_program_begins_with_defaults() -> None:
    client = new_client("http://127.0.0.1:9")

    def program() -> None:
        with ClientThread(client, ready_timeout=0.05) as thread:
            details = client.bool_variation_details_nowait(USER, "new-checkout", default=False)
            assert (details.value, details.reason.type) == (False, ReasonType.ERROR_CACHE_NOT_FOUND)
            assert not thread.close(timeout=0.0).complete

    await in_a_program(program)


@pytest.mark.parametrize(("name", "value"), [("client", None), ("ready_timeout", -1), ("ready_timeout", "5")])
def test_arguments_are_checked(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"ClientThread\.{name} must be "):
        ClientThread(**{"client": Client.disabled(), name: value})


def test_a_client_thread_cannot_be_copied() -> None:
    with pytest.raises(TypeError, match="a ClientThread cannot be copied or pickled"):
        copy.copy(ClientThread(Client.disabled()))


async def test_an_endpoint_that_is_no_coroutine_evaluates_flags(gateway: LocalGateway) -> None:
    client = new_client(gateway.url)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with client:
            await client.wait_ready()
            yield

    app = FastAPI(lifespan=lifespan)
    loop_thread = threading.get_ident()

    @app.post("/checkout/{user_id}")
    def checkout(user_id: str) -> dict[str, bool]:
        user = User(user_id)
        client.track_nowait(user, "purchase")
        assert threading.get_ident() != loop_thread
        return {"new": client.bool_variation_nowait(user, "new-checkout", default=False)}

    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as http,
    ):
        responses = await asyncio.gather(*(http.post(f"/checkout/user-{number}") for number in range(100)))

    assert [response.json() for response in responses] == [{"new": True}] * 100
    assert (events_of(gateway, "evaluation"), events_of(gateway, "goal")) == (100, 100)


async def test_a_filter_of_a_template_evaluates_flags(gateway: LocalGateway) -> None:
    client = new_client(gateway.url)
    environment = Environment(autoescape=True, enable_async=True)
    environment.filters["has"] = lambda user, feature_id: client.bool_variation_nowait(user, feature_id, default=False)
    template = environment.from_string("{% if user | has('new-checkout') %}new{% else %}old{% endif %}")

    async with client:
        await client.wait_ready()
        assert await template.render_async(user=USER) == "new"
    assert await template.render_async(user=USER) == "old"  # closed: the default

    assert events_of(gateway, "evaluation") == 1


WORKERS = """
import os, sys
from bucketeer_async import Client, LocalEvaluation, User
from bucketeer_async.blocking import ClientThread

how, end = sys.argv[1:]
user = User("user")
client = Client(
    endpoint=os.environ["BUCKETEER_API_ENDPOINT"], api_key="server-key", tag="shop", local_evaluation=LocalEvaluation()
)
thread = ClientThread(client)

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())  # in one piece, for all processes share the pipe

def task(name):
    say(name, client.bool_variation_nowait(user, "new-checkout", default=False), client.track_nowait(user, name).accepted)

if how == "preloaded":
    thread.start()
    task("parent")
workers = []
for number in range(3):
    pid = os.fork()
    if pid:
        workers.append(pid)
        continue
    task(f"worker-{number} before its start")
    if number == 2:  # never starts it, as a worker that is told to stop at once
        assert not thread.close().total.delivered
    else:
        thread.start()
        task(f"worker-{number}")
        say(f"worker-{number} delivered", thread.close().complete)
    sys.exit(0) if end == "sys.exit" else os._exit(0)
for pid in workers:
    _, status = os.waitpid(pid, 0)
    say("ended with", status)
thread.start()
task("parent afterwards")
say("parent delivered", thread.close().complete)
"""


@pytest.mark.parametrize("how", ["forked first", "preloaded"])
@pytest.mark.parametrize("end", ["sys.exit", "os._exit"])
async def test_each_forked_worker_starts_its_own(gateway: LocalGateway, how: str, end: str) -> None:
    environment = {"BUCKETEER_API_ENDPOINT": gateway.url}
    async with python("-W", "ignore::DeprecationWarning", "-c", WORKERS, how, end, environment=environment) as child:
        assert await child.ended() == 0

    lines = {line for line in child.output.splitlines() if line.startswith(("worker-", "parent"))}
    assert lines == {
        *(["parent True True"] if how == "preloaded" else []),
        *(f"worker-{number} before its start False False" for number in range(3)),
        *(f"worker-{number} True True" for number in range(2)),
        *(f"worker-{number} delivered True" for number in range(2)),
        "parent afterwards True True",
        "parent delivered True",
    }
    assert child.output.count("ended with 0") == 3
    assert not NOISE.search(child.output)
    processes = 4 if how == "preloaded" else 3
    assert (events_of(gateway, "evaluation"), events_of(gateway, "goal")) == (processes, processes)
