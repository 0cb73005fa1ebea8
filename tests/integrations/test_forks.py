"""Forked workers of one client: real processes, some of whose event loops run in virtual time."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import httpx
import pytest

from bucketeer_async.gateway import Fault, LocalGateway
from tests.integrations.children import python

WORKERS = """
import asyncio, json, os, sys
import anyio._backends._asyncio  # in virtual time nothing can be loaded in a thread
import httpx
from bucketeer_async import Client, LocalEvaluation
from tests.clock import VirtualLoop
from tests.flag_server import flags_response, segments_response

polled_at = []

def respond(request):
    if request.url.path == "/get_feature_flags":
        polled_at.append(asyncio.get_running_loop().time())
        return httpx.Response(200, json=flags_response([]))
    return httpx.Response(200, json=segments_response())

client = Client(
    endpoint="127.0.0.1",
    api_key="server-key",
    tag="shop",
    local_evaluation=LocalEvaluation(),
    http=httpx.AsyncClient(transport=httpx.MockTransport(respond)),
)

async def work():
    async with client:
        await asyncio.sleep(600)

for _ in range(3):
    reader, writer = os.pipe()
    if not os.fork():
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(work())
        os.write(writer, json.dumps(polled_at).encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as pipe:
        print(pipe.read())
    os.wait()
"""


def test_forked_workers_of_one_client_do_not_poll_in_lockstep() -> None:
    root = Path(__file__).parents[2]

    ran = subprocess.run(
        [sys.executable, "-c", WORKERS], cwd=root, capture_output=True, text=True, check=True, timeout=60
    )

    first, second, third = ([round(time, 6) for time in json.loads(line)] for line in ran.stdout.splitlines())
    assert min(map(len, (first, second, third))) >= 8
    assert first[0] == second[0] == third[0] == 0.0  # the start of the worker, by a clock of its own
    assert not set(first[1:]) & set(second[1:])
    assert not set(second[1:]) & set(third[1:])
    assert not set(third[1:]) & set(first[1:])
    assert not ran.stderr


SPOOL = """
import asyncio, ctypes, os, signal, sys
from pathlib import Path
from bucketeer_async import ApiClient, Processor, ProcessorConfig, Spool, User
from bucketeer_async._events import _spool_writer
from bucketeer_async._events._spool_access import SpoolError
from bucketeer_async._events._spool_file import SpoolFile

assert _spool_writer._RETRY <= 30
_spool_writer._RETRY = 0.1
directory, way, end = sys.argv[1:]
ready, told = os.pipe()

def new(endpoint):
    api_client = ApiClient(endpoint=endpoint, api_key="client-key")
    config = ProcessorConfig(spool=Spool(directory, durable=True), flush_interval=0.1, drain_timeout=0.5)
    return api_client, Processor(api_client, config)

unreachable, processor = new("http://127.0.0.1:9")

async def parent():
    await processor.start()
    for _ in range(90):
        await processor.push_goal_event(User("parent"), "goal")
    while processor.statistics().spool.events < 90:
        await asyncio.sleep(0.01)

async def child():
    api_client, processor = new(os.environ["BUCKETEER_API_ENDPOINT"])
    async with api_client, processor:
        print("child at first:", processor.statistics().spool.ready, flush=True)
        os.write(told, b"x")
        while not processor.statistics().spool.ready:
            await asyncio.sleep(0.01)
        other, second = new(os.environ["BUCKETEER_API_ENDPOINT"])
        async with other, second:  # must not take the file away, nor let go of its locks
            print("second in the child:", second.statistics().spool.ready, flush=True)
        await asyncio.to_thread(os.system, f"{sys.executable} -m bucketeer_async.spool {directory}")
        for _ in range(10):
            await processor.push_goal_event(User("child"), "goal")
        while processor.statistics().total.delivered < 100 or processor.statistics().spool.events:
            await asyncio.sleep(0.01)
        total = processor.statistics().total
        print("child:", total.recovered, "recovered,", total.delivered, "delivered", flush=True)

loop = asyncio.new_event_loop()
loop.run_until_complete(parent())
pid = os.fork() if way == "os.fork" else ctypes.PyDLL(None).fork()
if not pid:
    asyncio.run(child())
    os._exit(0)
os.read(ready, 1)
if end == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
report = loop.run_until_complete(processor.aclose())
print("parent:", report.total.spooled, "spooled", flush=True)
os.waitpid(pid, 0)
os._exit(0)
"""


@pytest.mark.parametrize(("way", "end"), [("os.fork", "closed"), ("C", "closed"), ("os.fork", "killed")])
async def test_a_forked_child_takes_the_spool_over_once_its_parent_has_left_it(
    tmp_path: Path, way: str, end: str
) -> None:
    async with LocalGateway() as gateway:
        environment = {"BUCKETEER_API_ENDPOINT": gateway.url}
        async with python("-c", SPOOL, str(tmp_path), way, end, environment=environment) as child:
            await child.has_written(r"child: .* delivered")
            await child.ended()

        lines = [line for line in child.output.splitlines() if line.startswith(("child", "parent", "second"))]
        in_use = f"the spool {tmp_path} cannot be used: another process uses it"
        assert child.output.splitlines().count(in_use) == 1
        assert sorted(lines) == sorted(
            [
                "child at first: False",
                *(["parent: 90 spooled"] if end == "closed" else []),
                "second in the child: False",
                "child: 90 recovered, 100 delivered",
            ]
        )
        assert gateway.state.counts()["goal"] == {"accepted": 100, "unique": 100}

    async with python("-m", "bucketeer_async.spool", str(tmp_path)) as command:
        assert await command.ended() == 0
    assert "goal       0 events" in command.output


PRELOADED = """
import json, os
from bucketeer_async import ApiClient, Processor, ProcessorConfig, RetryPolicy, Spool, User
from bucketeer_async._events import _spool_writer

_spool_writer._RETRY = 0.2
api_client = ApiClient(endpoint=os.environ["BUCKETEER_API_ENDPOINT"], api_key="client-key")
config = ProcessorConfig(
    spool=Spool(os.environ["SPOOL"], durable=True), flush_interval=0.1, retry=RetryPolicy(initial=0.1, maximum=0.5)
)
processor = Processor(api_client, config)  # of the process that forks the workers

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await processor.start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await processor.aclose()
        await api_client.aclose()
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] == "/push":
        for _ in range(5):
            await processor.push_goal_event(User(str(os.getpid())), "goal")
    spool = processor.statistics().spool
    body = json.dumps([os.getpid(), spool.ready, spool.events]).encode()
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""


async def test_workers_that_were_preloaded_share_a_spool_and_one_takes_it_over_from_the_other(tmp_path: Path) -> None:
    """Under gunicorn, which imports the application, and so makes the processor, before it forks its workers."""
    (tmp_path / "preloaded.py").write_text(PRELOADED)
    worker = "--worker-class uvicorn_worker.UvicornWorker preloaded:app"
    async with LocalGateway() as gateway:
        gateway.fail(Fault(status=503))
        with tempfile.TemporaryDirectory() as folder:  # not pytest's folder: the path of a socket must be short
            options = f"-m gunicorn --preload --workers 2 --bind unix:{folder}/socket --chdir {tmp_path} {worker}"
            environment = {
                "BUCKETEER_API_ENDPOINT": gateway.url,
                "SPOOL": str(tmp_path / "spool"),
                "XDG_RUNTIME_DIR": folder,
            }
            async with python(*options.split(), environment=environment) as child:
                await child.has_written("Booting worker", times=2)
                transport = httpx.AsyncHTTPTransport(uds=f"{folder}/socket", retries=5)
                async with httpx.AsyncClient(base_url="http://service", transport=transport, timeout=20) as http:
                    owner, pushed = await push_in_both(http)
                os.kill(owner, signal.SIGKILL)
                gateway.state.clear_faults()
                async with asyncio.timeout(30):
                    while gateway.state.counts()["goal"]["unique"] < pushed:  # noqa: ASYNC110 - it tells nobody
                        await asyncio.sleep(0.05)
                assert await child.end(signal.SIGTERM) == 0

        assert gateway.state.counts()["goal"]["unique"] == pushed
        assert len({each.event["user"]["id"] for each in gateway.events}) == 2

    async with python("-m", "bucketeer_async.spool", str(tmp_path / "spool")) as command:
        assert await command.ended() == 0
    assert "goal       0 events" in command.output


async def push_in_both(http: httpx.AsyncClient) -> tuple[int, int]:
    """Push events in both workers; return the owner of the spool, once it has written its own, and their number."""
    pushed: Counter[int] = Counter()
    async with asyncio.timeout(30):
        while len(pushed) < 2:
            process, _, _ = (await http.get("/push")).json()
            pushed[process] += 5
        while True:
            process, ready, events = (await http.get("/")).json()
            if ready and events == pushed[process]:
                return process, pushed.total()
            await asyncio.sleep(0.01)
