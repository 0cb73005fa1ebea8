"""The end of a process: what is started or closed by the functions of ``atexit``; and what needs no thread at all."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAD = """
import asyncio, atexit, sys, threading
from bucketeer_async import ApiClient, Client, ClosedError, LocalEvaluation, Processor, ProcessorConfig, Spool, User
"""


def output(script: str) -> list[str]:
    """Run a script, and return the lines that it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", HEAD + script], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines() + done.stderr.splitlines()


@pytest.mark.parametrize("how", ["Client.disabled()", "Client.from_env({'BUCKETEER_DISABLED': '1'})"])
def test_a_disabled_client_starts_no_thread_and_loads_no_backend(how: str) -> None:
    script = f"""
async def main():
    async with {how} as client:
        assert not await client.bool_variation(User("u"), "flag", False)
        assert not (await client.track(User("u"), "goal")).accepted
        assert await client.flush()
        print(threading.active_count(), "anyio._backends._asyncio" in sys.modules)

asyncio.run(main())
"""

    assert output(script) == ["1 False"]


MADE = {
    "client": 'Client(endpoint="gateway.test", api_key="key", tag="shop")',
    "local": 'Client(endpoint="gateway.test", api_key="key", tag="shop", local_evaluation=LocalEvaluation())',
    "spool": 'Processor(ApiClient(endpoint="gateway.test", api_key="key"), ProcessorConfig(spool=Spool(sys.argv[-1])))',
    "API client": 'ApiClient(endpoint="gateway.test", api_key="key")',
}


@pytest.mark.parametrize("is_loaded", [False, True], ids=["fresh", "loaded"])
@pytest.mark.parametrize("made", MADE)
def test_what_is_started_at_the_end_of_the_process_raises_our_error(made: str, is_loaded: bool) -> None:
    script = f"""
import tempfile
sys.argv.append(tempfile.mkdtemp())

async def main():
    try:
        async with {MADE[made]}:
            pass
    except ClosedError as error:
        print(error)

async def load():
    async with ApiClient(endpoint="gateway.test", api_key="key"):
        pass

if {is_loaded}:
    asyncio.run(load())
atexit.register(lambda: asyncio.run(main()))
"""
    line, *_ = output(script)  # asyncio.run() of 3.12 then fails itself: it starts a thread, to end its other threads

    assert line.startswith("a thread is needed and cannot be started (")
    assert line.endswith("): the process may be ending")


def test_a_close_at_the_end_of_the_process_is_a_drain() -> None:
    script = """
loop = asyncio.new_event_loop()
events = ProcessorConfig(drain_timeout=0.5)
client = Client(endpoint="http://localhost:1", api_key="key", tag="shop", events=events, allow_http=True)
loop.run_until_complete(client.start())
client.track_nowait(User("u"), "goal")

@atexit.register
def end():
    report = loop.run_until_complete(client.aclose())
    print(report.goal.undelivered, report.goal.unconfirmed)
    loop.close()
"""
    printed, warning, report = output(script)

    assert printed == "1 0"  # the name could not be resolved, for which a thread is needed
    assert warning.startswith("events cannot be delivered (the gateway cannot be reached (RuntimeError: ")
    assert report.startswith("the client is closed; ")


def test_a_finalizer_at_the_end_of_the_process_can_push_and_read_the_statistics() -> None:
    script = """
class Service:
    def __init__(self):
        self.client = Client(endpoint="gateway.test", api_key="key", tag="shop")
        self.itself = self  # collected after the modules

    def __del__(self):
        print(self.client.track_nowait(User("u"), "goal").accepted, self.client.statistics().goal.pushed, flush=True)

service = Service()
"""

    assert [line for line in output(script) if "refused" not in line] == ["False 1"]
