"""Minutes of steady traffic under changing faults: memory stays flat, no task leaks, every event is accounted for.

`nox -s soak` runs it. The gateway is a process of its own, so that the memory that is measured is the pipeline's.
Exits with 1 unless everything holds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Final

import httpx
import psutil

from bucketeer_async import ApiClient, ApiId, EventKind, Processor, ProcessorConfig, RetryPolicy, Statistics
from tests.faults.world import EVALUATION, KEY, USER, check_counts
from tests.integrations.children import python

RATE: Final = 2_000  # events per second
TICK: Final = 0.01  # seconds between two groups of pushes
PARTS: Final = 10  # of the whole time; the last one is compared with the third
GROWTH: Final = 0.05  # by which the last part may use more memory than the third

WEATHERS: Final[list[dict[str, Any]]] = [
    *[{}] * 4,
    {"status": 500},
    {"status": 503},
    {"status": 429, "retry_after": 1},
    {"status": 200, "body": "<html>sign in</html>"},
    {"status": 200, "body": '{"errors": {"'},
    {"delay": 0.3},
    {"delay": 1.5},  # longer than a post may take; the events are stored nevertheless
    {"partial": 0.2},
]
CONFIG: Final = ProcessorConfig(
    flush_interval=1.0, request_timeout=1.0, retry=RetryPolicy(initial=0.1, maximum=1.0), drain_timeout=60.0
)


@dataclass
class Part:
    """The measurements of one part of the run."""

    memory: list[int] = field(default_factory=list)
    tasks: int = 0
    stall: float = 0.0

    def __str__(self) -> str:
        memory = fmean(self.memory) / 2**20
        return f"{memory:6.1f} MiB, at most {self.tasks} tasks, worst stall {self.stall * 1000:5.1f} ms"


class Soak:
    """One run.

    Args:
        processor: The processor, started.
        gateway: A client of the gateway that it posts to.
        seconds: Duration of the traffic.
        seed: Seed of the faults.
    """

    def __init__(self, processor: Processor, gateway: httpx.AsyncClient, seconds: float, seed: int) -> None:
        self.parts = [Part() for _ in range(PARTS)]
        self._processor = processor
        self._gateway = gateway
        self._dice = random.Random(seed)
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._seconds = seconds

    @property
    def _part(self) -> Part:
        elapsed = self._loop.time() - self._began
        return self.parts[min(int(elapsed / self._seconds * PARTS), PARTS - 1)]

    async def live(self) -> None:
        others = [asyncio.create_task(each) for each in (self._turn_the_weather(), self._beat(), self._watch())]
        await self._push()
        for task in others:
            task.cancel()
        for task in others:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self._gateway.delete("/_dev/faults")

    async def _push(self) -> None:
        """Push at the given rate, half of the pushes awaited; late pushes are made up for."""
        pushed = 0
        while (elapsed := self._loop.time() - self._began) < self._seconds:
            for number in range(pushed, int(elapsed * RATE)):
                await self._push_one(number)
            pushed = int(elapsed * RATE)
            await asyncio.sleep(TICK)

    async def _push_one(self, number: int) -> None:
        match number % 4:
            case 0:
                self._processor.push_evaluation_event_nowait(USER, EVALUATION)
            case 1:
                await self._processor.push_evaluation_event(USER, EVALUATION)
            case 2:
                self._processor.push_goal_event_nowait(USER, f"goal-{number}", float(number))
            case _:
                await self._processor.push_latency_metrics_event(0.1, ApiId.GET_EVALUATION)

    async def _turn_the_weather(self) -> None:
        while True:
            fault = self._dice.choice(WEATHERS)
            if fault:
                await self._gateway.post("/_dev/faults", json=fault)
            await asyncio.sleep(self._dice.uniform(0.2, 2.0))
            await self._gateway.delete("/_dev/faults")

    async def _beat(self) -> None:
        """Measure the lag of the event loop."""
        while True:
            due = self._loop.time() + TICK
            await asyncio.sleep(TICK)
            self._part.stall = max(self._part.stall, self._loop.time() - due)

    async def _watch(self) -> None:
        process = psutil.Process()
        while True:
            part = self._part
            part.memory.append(process.memory_info().rss)
            part.tasks = max(part.tasks, len(asyncio.all_tasks()))
            check_counts(self._processor)
            await asyncio.sleep(min(1.0, self._seconds / PARTS / 4))


@contextlib.asynccontextmanager
async def gateway() -> AsyncIterator[httpx.AsyncClient]:
    async with python("-m", "bucketeer_async.gateway", "--port=0") as child:
        url = await child.has_written(r"(http://[\d.:]+)")
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as client:
            yield client


async def soak(seconds: float, seed: int) -> list[str]:
    """Run; return the checks that failed."""
    async with gateway() as client:
        before = len(asyncio.all_tasks())
        async with ApiClient(endpoint=str(client.base_url), api_key=KEY) as api_client:
            async with Processor(api_client, CONFIG) as processor:
                run = Soak(processor, client, seconds, seed)
                await run.live()
        await asyncio.sleep(0)
        left = len(asyncio.all_tasks()) - before
        counts = (await client.get("/_dev/state")).json()["counts"]
    report(run.parts, processor.statistics())
    tasks = [f"{left} tasks were left"] if left else []
    return [*differences(processor.statistics(), counts), *tasks, *growth(run.parts)]


def report(parts: list[Part], statistics: Statistics) -> None:
    for number, part in enumerate(parts, 1):
        print(f"part {number:2}: {part}")
    total = statistics.total
    print(
        f"{total.pushed} pushed, {total.accepted} accepted, {total.delivered} delivered; "
        f"{statistics.posts} posts, {statistics.posted_events - total.accepted} sent again"
    )


def differences(statistics: Statistics, counts: dict[str, dict[str, int]]) -> Iterator[str]:
    """Return the differences between the processor's counts and the gateway's."""
    for kind in EventKind:
        ours, theirs = getattr(statistics, kind.value), counts[kind.value]
        if ours.accepted != ours.delivered:
            yield f"{kind.value}: {ours.accepted} accepted, but {ours.delivered} delivered"
        if theirs["unique"] != ours.delivered:
            yield f"{kind.value}: {ours.delivered} delivered, but the gateway has {theirs['unique']}"


def growth(parts: list[Part]) -> Iterator[str]:
    third, last = fmean(parts[2].memory), fmean(parts[-1].memory)
    print(f"memory of the last part: {last / third:.3f} of the third's")
    if last > third * (1 + GROWTH):
        yield f"memory grew from {third / 2**20:.1f} to {last / 2**20:.1f} MiB"


def main() -> None:
    parser = argparse.ArgumentParser(prog="nox -s soak --", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="how long (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the weather (default: %(default)s)")
    options = parser.parse_args()
    wrong = asyncio.run(soak(options.seconds, options.seed))
    print("\n".join(wrong) or "exact, flat, and nothing left behind")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
