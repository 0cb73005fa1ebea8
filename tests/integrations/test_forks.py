"""Forked workers of one client: real processes, whose event loops run in virtual time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

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
