"""A demo of the SDK, end to end: a web service under load and a local gateway, whose counts are compared.

The demo starts the gateway and a service as two processes and sends real HTTP requests to the service. Each request
evaluates a flag and tracks a goal. Halfway through, the demo switches the flag on. At the end, it stops the service
with SIGTERM and compares all counts. The exit status is 1 unless both sides agree exactly, and no request got the old
variation after the new variation had arrived.
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
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import httpx
from tqdm import tqdm

from bucketeer_async.gateway import flag

HERE = Path(__file__).parent
CONNECTIONS = 32
AFTERWARDS = 100  # minimum number of requests that are sent after the switch has taken effect
ARRIVE_WITHIN = 30.0  # seconds after which the switch must have taken effect; otherwise the traffic would never end
STOP_WITHIN = 60.0  # seconds for the drain and for the exit of the process
OUTAGE = 3.0  # seconds
KINDS = ("evaluation", "goal", "metrics")

FLAG = "new-checkout"
VARIATIONS = {"old": "off", "new": "on"}  # variations by the answer that they make the service give
#: Settings of the service: evaluate flags locally, polling twice a second, or have the gateway evaluate each flag.
SETTINGS = {
    "local": {
        "BUCKETEER_API_KEY": "server-key",
        "BUCKETEER_LOCAL_EVALUATION": "yes",
        "BUCKETEER_POLLING_INTERVAL": "0.5",
    },
    "gateway": {"BUCKETEER_API_KEY": "client-key"},
}


@contextlib.asynccontextmanager
async def process(*arguments: str, **environment: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """Run a Python program that prints its URL first; yield the process and the URL."""
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


@dataclass
class Traffic:
    """The answers that the visitors got.

    Attributes:
        answers: Counts by phase and answer. The phase is that in which the request was sent: ``before`` the switch,
            ``until`` the switch took effect, or ``after`` that.
        switched_at: Time when the flag was switched on.
        arrived_at: Time when the first visitor saw the new checkout.
        seconds: Duration of the whole traffic.
    """

    answers: Counter[tuple[str, str]] = field(default_factory=Counter)
    switched_at: float | None = None
    arrived_at: float | None = None
    seconds: float = 0.0

    @property
    def requests(self) -> int:
        """Number of requests that were answered."""
        return self.answers.total()

    @property
    def requests_after(self) -> int:
        """Number of requests that were sent after the switch had taken effect."""
        return self.answers["after", "old"] + self.answers["after", "new"]

    def phase(self) -> str:
        """Return the phase of a request that is sent now."""
        if self.switched_at is None:
            return "before"
        return "until" if self.arrived_at is None else "after"

    def note(self, phase: str, answer: str) -> None:
        """Count an answer."""
        self.answers[phase, answer] += 1
        if answer == "new" and self.arrived_at is None:
            self.arrived_at = time.perf_counter()

    def goes_on(self, sent: int, wanted: int) -> bool:
        """Return whether to send another request: at least ``wanted``, and more until enough followed the switch."""
        waited = 0.0 if self.switched_at is None else time.perf_counter() - self.switched_at
        overdue = self.arrived_at is None and waited > ARRIVE_WITHIN
        return sent < wanted or (self.requests_after < AFTERWARDS and not overdue)


async def drive(service: str, gateway: str, count: int) -> Traffic:
    """Send ``count`` requests over several connections; after half of the requests, switch the flag on."""
    traffic = Traffic()
    sent, half_way = 0, asyncio.Event()
    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    async with aiohttp.ClientSession(service, connector=connector, raise_for_status=True) as client:
        with tqdm(total=count, unit="req", desc="requests", mininterval=0.1 if sys.stderr.isatty() else 5) as bar:

            async def visit() -> None:
                nonlocal sent
                while traffic.goes_on(sent, count):
                    sent += 1
                    if sent >= count / 2:
                        half_way.set()
                    phase = traffic.phase()
                    async with client.post(f"/checkout/user-{sent}") as response:
                        traffic.note(phase, (await response.json())["checkout"])
                    bar.update()

            async def switch() -> None:
                await half_way.wait()
                traffic.switched_at = time.perf_counter()
                await tell(gateway, "PATCH", f"/_dev/flags/{FLAG}", {"enabled": True})

            started = time.perf_counter()
            async with asyncio.TaskGroup() as visitors:
                visitors.create_task(switch())
                for _ in range(CONNECTIONS):
                    visitors.create_task(visit())
            traffic.seconds = time.perf_counter() - started
    return traffic


async def tell(gateway: str, method: str, path: str, content: dict[str, Any]) -> None:
    """Change the gateway by a request to its development API."""
    async with httpx.AsyncClient(base_url=gateway) as client:
        (await client.request(method, path, json=content)).raise_for_status()


async def break_for_a_while(gateway: str) -> None:
    """Soon after the start, make the gateway respond to events with 503 for some seconds."""
    await asyncio.sleep(0.5)
    await tell(gateway, "POST", "/_dev/faults", {"status": 503, "seconds": OUTAGE})
    print(f"the gateway answers 503 for {OUTAGE:g} s")


async def run(options: argparse.Namespace) -> int:
    """Run the demo and return the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        figures, flags = Path(folder) / "figures.json", Path(folder) / "flags.json"
        flags.write_text(json.dumps({"flags": [flag(FLAG, tags=["shop"], enabled=False)]}))
        async with process("-m", "bucketeer_async.gateway", "--port", "0", "--flags", str(flags)) as (_, gateway):
            settings = {"BUCKETEER_API_ENDPOINT": gateway, "BUCKETEER_TAG": "shop", **SETTINGS[options.evaluation]}
            async with process("demo_service.py", options.framework, str(figures), **settings) as (service, url):
                breaking = asyncio.create_task(break_for_a_while(gateway)) if options.outage else None
                traffic = await drive(url, gateway, options.requests)
                if breaking is not None:
                    await breaking
                service.send_signal(signal.SIGTERM)
                async with asyncio.timeout(STOP_WITHIN):
                    await service.wait()
            async with httpx.AsyncClient(base_url=gateway) as client:
                state = (await client.get("/_dev/state")).json()
        if not figures.exists():
            print("the service ended without its figures")
            return 1
        return report(json.loads(figures.read_text()), state, traffic)


def report(figures: dict[str, Any], state: dict[str, Any], traffic: Traffic) -> int:
    """Print the counts of the visitors, the service and the gateway; return 0 if they agree."""
    agree = report_flag(state["served"].get(FLAG, {}), traffic) & report_events(figures["statistics"], state, traffic)
    statistics, requests, seconds = figures["statistics"], traffic.requests, traffic.seconds
    posts = statistics["posts"]
    print(f"\n{requests} requests in {seconds:.1f} s: {requests / seconds:.0f} requests/s")
    print(f"{posts} posts, {statistics['posted_events'] / max(posts, 1):.1f} events in the mean batch")
    print(f"worst stall of the service's loop: {figures['worst_stall'] * 1000:.1f} ms; drain: {figures['drain']:.3f} s")
    print("all agree to the event" if agree else "THE COUNTS DIFFER")
    return 0 if agree else 1


def report_flag(served: dict[str, int], traffic: Traffic) -> bool:
    """Print which variations were served; return whether the gateway counted the same, and the switch took effect."""
    phases = {"before": "before it was on", "until": "until that arrived", "after": "from then on"}
    print(f"\n{FLAG:20}{'old':>10}{'new':>10}")
    for phase, title in phases.items():
        print(f"{title:20}{traffic.answers[phase, 'old']:>10}{traffic.answers[phase, 'new']:>10}")
    seen = {answer: sum(traffic.answers[phase, answer] for phase in phases) for answer in VARIATIONS}
    told = {answer: served.get(variation, 0) for answer, variation in VARIATIONS.items()}
    print(f"{'gateway, unique':20}{told['old']:>10}{told['new']:>10}")
    if traffic.arrived_at is None or traffic.switched_at is None:
        print("the new checkout never showed")
        return False
    print(f"the switch arrived after {traffic.arrived_at - traffic.switched_at:.2f} s")
    return seen == told and not traffic.answers["after", "old"]


def report_events(statistics: dict[str, Any], state: dict[str, Any], traffic: Traffic) -> bool:
    """Print the fates of the events; return whether each event was pushed, delivered and counted by the gateway."""
    print(
        f"\n{'':12}{'pushed':>10}{'delivered':>11}{'rejected':>10}{'dropped':>9} | {'gateway, unique':>16}{'repeated':>10}"
    )
    agree = True
    for kind in KINDS:
        ours, theirs = statistics[kind], state["counts"][kind]
        dropped = sum(ours["dropped_by"].values()) + sum(ours["refused_by"].values())
        repeated = theirs["accepted"] - theirs["unique"]
        row = f"{kind:12}{ours['pushed']:>10}{ours['delivered']:>11}{ours['rejected']:>10}{dropped:>9}"
        print(f"{row} | {theirs['unique']:>16}{repeated:>10}")
        agree = agree and ours["pushed"] == ours["delivered"] == theirs["unique"]
    return agree and all(statistics[kind]["pushed"] == traffic.requests for kind in ("evaluation", "goal"))


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000, help="requests to send (default: %(default)s)")
    parser.add_argument("--framework", choices=("fastapi", "aiohttp"), default="fastapi")
    parser.add_argument(
        "--evaluation", choices=("local", "gateway"), default="local", help="who evaluates flags (default: %(default)s)"
    )
    parser.add_argument("--outage", action="store_true", help="make the gateway fail for some seconds in between")
    sys.exit(asyncio.run(run(parser.parse_args())))


if __name__ == "__main__":
    main()
