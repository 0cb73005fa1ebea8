"""The main job, end to end: a web service under load, a local gateway, and what both of them counted.

Starts the gateway and a service as two processes, drives real HTTP requests at the service (each records one
evaluation and one goal), ends it with SIGTERM, and compares. Exits with 1 unless both agree to the event.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import httpx
from tqdm import tqdm

HERE = Path(__file__).parent
CONNECTIONS = 32
STOP_WITHIN = 60.0  # seconds for the drain, and the end of the process
OUTAGE = 3.0  # seconds
KINDS = ("evaluation", "goal", "metrics")


@contextlib.asynccontextmanager
async def process(*arguments: str, **environment: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """Run a Python program that prints its URL first; give the process and the URL."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdout=asyncio.subprocess.PIPE, env=os.environ | environment, cwd=HERE
    )
    try:
        assert child.stdout is not None  # noqa: S101 - it is a pipe
        async with asyncio.timeout(30):
            line = (await child.stdout.readline()).decode().split()
        if not line:
            raise SystemExit(f"{arguments} did not start")
        yield child, line[-1]
    finally:
        if child.returncode is None:
            child.terminate()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_WITHIN):
                    await child.wait()
        if child.returncode is None:
            child.kill()
            await child.wait()


async def drive(url: str, count: int) -> float:
    """Send ``count`` requests over some connections, and return how many seconds that took."""
    numbers = iter(range(count))
    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    async with aiohttp.ClientSession(url, connector=connector, raise_for_status=True) as client:
        with tqdm(total=count, unit="req", desc="requests", mininterval=0.1 if sys.stderr.isatty() else 5) as bar:

            async def visit() -> None:
                for number in numbers:
                    async with client.post(f"/checkout/user-{number}") as response:
                        await response.read()
                    bar.update()

            started = time.perf_counter()
            async with asyncio.TaskGroup() as visitors:
                for _ in range(CONNECTIONS):
                    visitors.create_task(visit())
            return time.perf_counter() - started


async def break_for_a_while(gateway: str) -> None:
    """Make the gateway answer 503 for some seconds, soon after the start."""
    await asyncio.sleep(0.5)
    async with httpx.AsyncClient(base_url=gateway) as client:
        (await client.post("/_dev/faults", json={"status": 503, "seconds": OUTAGE})).raise_for_status()
    print(f"the gateway answers 503 for {OUTAGE:g} s")


async def run(options: argparse.Namespace) -> int:
    """Run the demo and return the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures.json"
        async with process("-m", "bucketeer_async.gateway", "--port", "0") as (_, gateway):
            settings = {"BUCKETEER_API_ENDPOINT": gateway, "BUCKETEER_API_KEY": "client-key"}
            async with process("demo_service.py", options.framework, str(figures), **settings) as (service, url):
                breaking = asyncio.create_task(break_for_a_while(gateway)) if options.outage else None
                seconds = await drive(url, options.requests)
                if breaking is not None:
                    await breaking
                service.send_signal(signal.SIGTERM)
                async with asyncio.timeout(STOP_WITHIN):
                    await service.wait()
            async with httpx.AsyncClient(base_url=gateway) as client:
                counted = (await client.get("/_dev/state")).json()["counts"]
        if not figures.exists():
            print("the service ended without its figures")
            return 1
        return report(json.loads(figures.read_text()), counted, options.requests, seconds)


def report(figures: dict[str, Any], counted: dict[str, Any], requests: int, seconds: float) -> int:
    """Print what was counted on both sides; return 0 if it is the same."""
    statistics = figures["statistics"]
    print(
        f"\n{'':12}{'pushed':>10}{'delivered':>11}{'rejected':>10}{'dropped':>9} | {'gateway, unique':>16}{'repeated':>10}"
    )
    agree = True
    for kind in KINDS:
        ours, theirs = statistics[kind], counted[kind]
        dropped = sum(ours["dropped_by"].values()) + sum(ours["refused_by"].values())
        repeated = theirs["accepted"] - theirs["unique"]
        row = f"{kind:12}{ours['pushed']:>10}{ours['delivered']:>11}{ours['rejected']:>10}{dropped:>9}"
        print(f"{row} | {theirs['unique']:>16}{repeated:>10}")
        agree = agree and ours["pushed"] == ours["delivered"] == theirs["unique"]
    agree = agree and sum(statistics[kind]["pushed"] for kind in KINDS) == 2 * requests
    posts = statistics["posts"]
    print(
        f"\n{requests} requests in {seconds:.1f} s: {requests / seconds:.0f} requests/s, {2 * requests / seconds:.0f} events/s"
    )
    print(f"{posts} posts, {statistics['posted_events'] / max(posts, 1):.1f} events in the mean batch")
    print(f"worst stall of the service's loop: {figures['worst_stall'] * 1000:.1f} ms; drain: {figures['drain']:.3f} s")
    print("both agree to the event" if agree else "THE COUNTS DIFFER")
    return 0 if agree else 1


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000, help="requests to send (default: %(default)s)")
    parser.add_argument("--framework", choices=("fastapi", "aiohttp"), default="fastapi")
    parser.add_argument("--outage", action="store_true", help="make the gateway fail for some seconds in between")
    sys.exit(asyncio.run(run(parser.parse_args())))


if __name__ == "__main__":
    main()
