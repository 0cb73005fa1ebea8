"""Forks and ends of real processes, on several event loops: no event lost, none doubled, no warning."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from bucketeer_async import ApiClient, Processor, ProcessorConfig, Spool
from bucketeer_async.gateway import Fault, LocalGateway, flag
from tests.faults.matrix import FULL
from tests.integrations.children import EXAMPLES, NOISE, Child, python

Measured = Callable[[str], None]

REQUESTS = 20  # each makes one evaluation, one goal, and two metrics: together too few for a batch to be sent at once
EVENTS = 4 * REQUESTS

SERVERS = {
    "uvicorn": "-m uvicorn --uds={socket} fastapi_service:app",
    "hypercorn": "-m hypercorn --bind=unix:{socket} fastapi_service:app",
    "granian": "-m granian --interface=asgi --uds={socket} fastapi_service:app",
    "gunicorn": "-m gunicorn --bind=unix:{socket} --worker-class=uvicorn_worker.UvicornWorker fastapi_service:app",
    "aiohttp": "-m aiohttp.web --path={socket} aiohttp_service:create_app",
}
#: By default, the two servers that start fastest.
SOME_SERVERS = list(SERVERS) if FULL else ["uvicorn", "aiohttp"]
#: The output of a server when it listens, or is about to.
LISTENING = r"running on|Running on|Booting worker|Started worker"

ENDING = """
import asyncio, os, sys
from bucketeer_async import ApiClient, Processor, User

closed, ending = sys.argv[1:]

async def main():
    api_client = ApiClient(endpoint=os.environ["BUCKETEER_API_ENDPOINT"], api_key="client-key")
    if closed == "nothing":
        await work(api_client, Processor(api_client))
    elif closed == "client":
        async with api_client:
            await work(api_client, Processor(api_client))
    else:
        async with api_client, Processor(api_client) as processor:
            await work(api_client, processor)

async def work(api_client, processor):
    await processor.start()
    for _ in range(1000):
        await processor.push_goal_event(User("user"), "goal")
    print("pushed", flush=True)
    if ending == "Ctrl-C":
        await asyncio.Event().wait()

try:
    asyncio.run(main())
except KeyboardInterrupt:
    print("interrupted")
"""

FORK = """
import asyncio, ctypes, multiprocessing, os, sys
from bucketeer_async import ApiClient, Processor, User

way = sys.argv[1]
api_client = ApiClient(endpoint=os.environ["BUCKETEER_API_ENDPOINT"], api_key="client-key")
processor = Processor(api_client)

def push(user, count):
    for _ in range(count):
        processor.push_goal_event_nowait(User(user), "goal")

def say(who):
    total = processor.statistics().total
    waiting = total.queued + total.in_flight
    print(f"{who}: {total.pushed} pushed, {total.delivered} delivered, {waiting} waiting", flush=True)

async def preload():
    await processor.start()
    push("parent", 1)
    await processor.flush()  # leaves a connection behind, idle
    push("parent", 999)
    while not processor.statistics().total.in_flight:
        await asyncio.sleep(0)

async def work():
    async with api_client, processor:
        push("child", 500)

def child():
    push("child", 1)
    say("child before its start")
    asyncio.run(work())
    say("child in the end")

loop = asyncio.new_event_loop()
loop.run_until_complete(preload())
say("parent at the fork")
if way == "multiprocessing":
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == 0
else:
    # The fork of the C library tells Python nothing; servers written in C use it.
    pid = os.fork() if way == "os.fork" else ctypes.PyDLL(None).fork()
    if not pid:
        child()
        sys.exit() if way == "os.fork" else os._exit(0)
    assert os.waitpid(pid, 0) == (pid, 0)
loop.run_until_complete(processor.aclose())
loop.run_until_complete(api_client.aclose())
loop.run_until_complete(loop.shutdown_default_executor())
loop.close()
say("parent in the end")
"""

OUTAGE = """
import asyncio, json, os, sys
from bucketeer_async import ApiClient, Processor, ProcessorConfig, RetryPolicy, User

def uvloop():
    import uvloop
    return uvloop.new_event_loop()

def eager():
    loop = asyncio.new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)
    return loop

async def main():
    config = ProcessorConfig(retry=RetryPolicy(initial=0.1, maximum=0.2))
    async with ApiClient(endpoint=os.environ["BUCKETEER_API_ENDPOINT"], api_key="client-key") as api_client:
        async with Processor(api_client, config) as processor:
            receipts = [await processor.push_goal_event(User("user"), "goal") for _ in range(5000)]
    total = processor.statistics().total
    settled = sum(receipt.outcome is not None for receipt in receipts)
    waiting = total.queued + total.in_flight
    print("counts", json.dumps([total.pushed, total.accepted, total.delivered, waiting, settled]))

with asyncio.Runner(loop_factory={"uvloop": uvloop, "eager": eager}[sys.argv[1]]) as runner:
    runner.run(main())
"""
FORGETFUL = """
import asyncio, os
from fastapi import FastAPI
from bucketeer_async import Client, ProcessorConfig, Spool, User

spool = Spool(os.environ["SPOOL"], durable=True) if "SPOOL" in os.environ else None
client = Client.from_env(events=ProcessorConfig(spool=spool))
app = FastAPI()

@app.post("/checkout/{user_id}")
async def checkout(user_id: str):
    await client.start()
    await client.track(User(user_id), "purchase")
    while spool and client.statistics().spool.events < client.statistics().goal.accepted:
        await asyncio.sleep(0.005)
    return {"checkout": "new", "recorded": True}
"""

#: Python 3.11 has no eager tasks.
LOOPS = ["uvloop", "eager"] if sys.version_info >= (3, 12) else ["uvloop"]

#: For our own programs: every warning is an error. Python 3.12 warns of every fork in a process with threads.
STRICT = ("-W", "error", "-W", "ignore:This process:DeprecationWarning")


def settings(gateway: LocalGateway) -> dict[str, str]:
    return {
        "BUCKETEER_API_ENDPOINT": gateway.url,
        "BUCKETEER_API_KEY": "client-key",
        "PYTHONPATH": os.pathsep.join([str(EXAMPLES), os.environ.get("PYTHONPATH", "")]),
    }


@asynccontextmanager
async def serving(
    gateway: LocalGateway, server: str, *options: str, examples: Path = EXAMPLES, **variables: str
) -> AsyncIterator[tuple[Child, httpx.AsyncClient]]:
    """Serve an example by a real server, on a socket of its own."""
    with tempfile.TemporaryDirectory() as folder:  # not pytest's folder: the path of a socket must be short
        socket = f"{folder}/socket"
        arguments = SERVERS[server].format(socket=socket).split()
        gateway.state.set_flag(flag("new-checkout", tags=["shop"]))
        environment = settings(gateway) | {
            "BUCKETEER_TAG": "shop",
            "PYTHONPATH": str(examples),
            "XDG_RUNTIME_DIR": folder,
            **variables,
        }
        async with python(*arguments, *options, environment=environment) as child:
            await child.has_written(LISTENING)
            transport = httpx.AsyncHTTPTransport(uds=socket, retries=5)
            async with httpx.AsyncClient(base_url="http://service", transport=transport, timeout=20) as http:
                yield child, http


async def check_out(http: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(*(http.post(f"/checkout/user-{number}") for number in range(REQUESTS)))
    assert [answer.json() for answer in answers] == [{"checkout": "new", "recorded": True}] * REQUESTS


async def posts(gateway: LocalGateway, least: int) -> int:
    """Wait until the gateway has received this number of posts; return the number by then."""
    async with asyncio.timeout(30):
        while gateway.state.requests["/register_events"] < least:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.005)
    return gateway.state.requests["/register_events"]


def assert_nothing_lost(gateway: LocalGateway, requests: int) -> None:
    once, twice = ({"accepted": count, "unique": count} for count in (requests, 2 * requests))
    assert gateway.state.counts() == {"evaluation": once, "goal": once, "metrics": twice}


def assert_quiet(child: Child) -> None:
    assert not NOISE.search(child.output), child.output
    assert "client-key" not in child.output


@pytest.mark.fault("F59")
@pytest.mark.parametrize("server", SOME_SERVERS)
async def test_sigterm_drains(gateway: LocalGateway, server: str, measured: Measured) -> None:
    async with serving(gateway, server) as (child, http):
        await check_out(http)
        assert gateway.events == []  # the flush interval is long: only the drain can deliver the events
        told = time.monotonic()

        status = await child.end(signal.SIGTERM)

        measured(f"{server}: lost 0 of {EVENTS}, ended {time.monotonic() - told:.1f} s after SIGTERM")
    assert_nothing_lost(gateway, REQUESTS)
    assert_quiet(child)
    assert status in {0, -signal.SIGTERM}


@pytest.mark.fault("F59")
async def test_a_second_sigterm_does_not_end_the_drain(measured: Measured) -> None:
    async with asyncio.TaskGroup() as at_once:  # the servers mostly wait
        servers = [at_once.create_task(tell_twice(server), name=server) for server in SOME_SERVERS]

    measured(f"lost 0 of {EVENTS * len(servers)} with {len(servers)} servers that received SIGTERM twice")


async def tell_twice(server: str) -> None:
    async with LocalGateway() as gateway, serving(gateway, server) as (child, http):
        gateway.fail(Fault(status=503))
        await check_out(http)
        child.send(signal.SIGTERM)
        begun = await posts(gateway, 1)
        child.send(signal.SIGTERM)
        await posts(gateway, begun + 2)  # the second one was made after the signal
        gateway.state.clear_faults()

        status = await child.ended()

        assert_nothing_lost(gateway, REQUESTS)
        assert_quiet(child)
        assert child.output.count("events cannot be delivered (status 503)") == 1
        assert status in ({1} if server == "aiohttp" else {0, -signal.SIGTERM}), server


@pytest.mark.fault("F60")
@pytest.mark.parametrize("server", ["uvicorn", "aiohttp"])
async def test_ctrl_c_drains_a_service(gateway: LocalGateway, server: str) -> None:
    async with serving(gateway, server) as (child, http):
        await check_out(http)
        assert gateway.events == []

        await child.end(signal.SIGINT)

    assert_nothing_lost(gateway, REQUESTS)
    assert_quiet(child)


@pytest.mark.fault("F60")
async def test_a_server_that_has_had_enough_requests_drains(gateway: LocalGateway, measured: Measured) -> None:
    async with serving(gateway, "uvicorn", f"--limit-max-requests={REQUESTS}") as (child, http):
        await check_out(http)

        status = await child.ended()

    assert status == 0
    assert_nothing_lost(gateway, REQUESTS)
    assert_quiet(child)
    measured(f"--limit-max-requests: lost 0 of {EVENTS}")


@pytest.mark.fault("F60")
@pytest.mark.parametrize("kept", ["in memory", "in a durable spool"])
async def test_a_close_that_is_forgotten_under_uvicorn_loses_what_is_not_spooled(
    gateway: LocalGateway, tmp_path: Path, kept: str, measured: Measured
) -> None:
    # uvicorn ends its process by the signal, before asyncio.run() can clean up: this is what the guide warns of.
    (tmp_path / "fastapi_service.py").write_text(FORGETFUL)
    spool = tmp_path / "spool"
    extra = {"SPOOL": str(spool)} if kept == "in a durable spool" else {}
    async with serving(gateway, "uvicorn", examples=tmp_path, **extra) as (child, http):
        await check_out(http)

        status = await child.end(signal.SIGTERM)

    assert status == -signal.SIGTERM
    assert gateway.events == []
    assert "the client is closed" not in child.output
    if extra:
        async with ApiClient(endpoint=gateway.url, api_key="client-key") as api_client:
            async with Processor(api_client, ProcessorConfig(spool=Spool(spool))) as processor:
                async with asyncio.timeout(30):
                    while processor.statistics().total.recovered < REQUESTS:  # noqa: ASYNC110 - it tells nobody
                        await asyncio.sleep(0.005)
    delivered = gateway.state.counts()["goal"]["unique"] if extra else 0
    assert delivered == (REQUESTS if extra else 0)
    measured(f"close forgotten under uvicorn, events {kept}: {delivered} of {REQUESTS} delivered")


@pytest.mark.fault("F60")
async def test_reload_loses_nothing(gateway: LocalGateway, tmp_path: Path, measured: Measured) -> None:
    service = Path(shutil.copy(EXAMPLES / "fastapi_service.py", tmp_path))
    options = ("--reload", f"--reload-dir={tmp_path}", f"--app-dir={tmp_path}")
    async with serving(gateway, "uvicorn", *options, examples=tmp_path) as (child, http):
        await child.has_written("startup complete")
        await check_out(http)
        await touch_until_seen(service, child)
        await child.has_written("startup complete", times=2)
        await check_out(http)

        await child.end(signal.SIGTERM)

    assert_nothing_lost(gateway, 2 * REQUESTS)
    assert_quiet(child)
    measured(f"--reload: lost 0 of {2 * EVENTS}")


def make_newer(path: Path) -> None:
    later = path.stat().st_mtime + 10
    os.utime(path, (later, later))


async def touch_until_seen(service: Path, child: Child) -> None:
    """Change a file's time; again if the reloader had not read the time before, and so sees no difference."""
    for _ in range(10):
        make_newer(service)
        try:
            await child.has_written("Reloading", within=3)
        except TimeoutError:
            continue
        return
    raise AssertionError(child.output)


@pytest.mark.fault("F60")
@pytest.mark.parametrize("closed", ["nothing", "client", "both"])
async def test_ctrl_c_in_asyncio_run_drains(gateway: LocalGateway, closed: str, measured: Measured) -> None:
    async with python(*strictness(closed), "-c", ENDING, closed, "Ctrl-C", environment=settings(gateway)) as child:
        await child.has_written("pushed")

        status = await child.end(signal.SIGINT)

    assert (status, child.output) == (0, "pushed\ninterrupted\n")
    assert gateway.state.counts()["goal"]["unique"] == 1000
    measured(f"Ctrl-C, {closed} closed: lost 0 of 1 000")


@pytest.mark.fault("F60")
@pytest.mark.parametrize("closed", ["nothing", "client"])
async def test_a_forgotten_close_is_drained_by_asyncio_run(gateway: LocalGateway, closed: str) -> None:
    async with python(*strictness(closed), "-c", ENDING, closed, "return", environment=settings(gateway)) as child:
        status = await child.ended()

    assert (status, child.output) == (0, "pushed\n")
    assert gateway.state.counts()["goal"]["unique"] == 1000


def strictness(closed: str) -> tuple[str, ...]:
    """Return the options for warnings; those about open connections are right if the application closes nothing."""
    return ("-W", "ignore") if closed == "nothing" else STRICT


@pytest.mark.fault("F56")
@pytest.mark.parametrize("way", ["os.fork", "multiprocessing", "C"])
async def test_a_forked_child_starts_empty_and_each_delivers_its_own(
    gateway: LocalGateway, way: str, measured: Measured
) -> None:
    async with python(*STRICT, "-c", FORK, way, environment=settings(gateway)) as child:
        status = await child.ended()

    assert status == 0, child.output
    assert child.output.splitlines() == [
        "parent at the fork: 1000 pushed, 1 delivered, 999 waiting",
        "a goal event was refused (not_running) not started in this process (it was forked)",
        "child before its start: 1 pushed, 0 delivered, 0 waiting",
        "child in the end: 501 pushed, 500 delivered, 0 waiting",
        "parent in the end: 1000 pushed, 1000 delivered, 0 waiting",
    ]
    assert Counter(each.event["user"]["id"] for each in gateway.events) == {"parent": 1000, "child": 500}
    assert gateway.state.counts()["goal"] == {"accepted": 1500, "unique": 1500}
    measured(f"{way}: lost 0, duplicated 0 of 1 500")


@pytest.mark.fault("F69")
@pytest.mark.parametrize("loop", LOOPS)
async def test_counts_are_exact_through_an_outage(gateway: LocalGateway, loop: str, measured: Measured) -> None:
    gateway.fail(Fault(status=503, requests=10))
    async with python(*STRICT, "-c", OUTAGE, loop, environment=settings(gateway)) as child:
        status = await child.ended()

    assert status == 0, child.output
    trouble, counts = child.output.splitlines()
    assert trouble.startswith("events cannot be delivered (status 503)")
    assert counts == "counts [5000, 5000, 5000, 0, 5000]"
    assert gateway.state.counts()["goal"] == {"accepted": 5000, "unique": 5000}
    measured(f"{loop}: lost 0 of 5 000")
