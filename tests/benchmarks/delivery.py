"""Runs one contestant through one scenario and prints what it cost, as JSON; a process of its own each time.

python -m tests.benchmarks.delivery "ours, awaited" http://127.0.0.1:8000 --events 40000
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import statistics
import time
from pathlib import Path
from typing import Any, Final

from tests.benchmarks.contestants import CONTESTANTS, be_quiet

_SLICE: Final = 100  # events pushed between two turns of the loop, as by a busy service
_SAMPLED: Final = 5  # each fifth push is timed
_TICK: Final = 0.02  # seconds between two groups of events of a paced scenario
_BEAT: Final = 0.001  # seconds between two beats


class Heart:
    """Beats on the loop, and remembers by how much it was ever late.

    Attributes:
        worst: Seconds, since the last `reset`.
    """

    def __init__(self) -> None:
        self.worst = 0.0
        self._task = asyncio.create_task(self._beat())

    async def _beat(self) -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(_BEAT)
            self.worst = max(self.worst, time.perf_counter() - before - _BEAT)

    def reset(self) -> None:
        """Forget what was."""
        self.worst = 0.0

    async def stop(self) -> None:
        """Take the last beat."""
        await asyncio.sleep(2 * _BEAT)
        self._task.cancel()


class Pushes:
    """Pushes events, and times some of them."""

    def __init__(self, contestant: Any) -> None:
        self._contestant = contestant
        self.times: list[int] = []
        self.count = 0

    async def push(self, count: int) -> None:
        """Push so many."""
        push, awaited, clock = self._contestant.push, self._contestant.awaited, time.perf_counter_ns
        for number in range(self.count, self.count + count):
            before = clock() if number % _SAMPLED == 0 else 0
            if awaited:
                await push(number)
            else:
                push(number)
            if before:
                self.times.append(clock() - before)
        self.count += count
        if self.count % _SLICE == 0:
            await self._contestant.hundred()

    async def burst(self, count: int) -> None:
        """Push as fast as can be, with a turn of the loop now and then."""
        while self.count < count:
            await self.push(min(_SLICE, count - self.count))
            await asyncio.sleep(0)

    async def paced(self, count: int, rate: float) -> None:
        """Push so many each second."""
        begun = time.perf_counter()
        while self.count < count:
            due = int((time.perf_counter() - begun) * rate)
            while self.count < min(due, count):
                to_hundred = _SLICE - self.count % _SLICE
                await self.push(min(due - self.count, count - self.count, to_hundred))
            await asyncio.sleep(_TICK)


def cpu() -> float:
    """Seconds of CPU that this process has taken, all threads together."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def peak() -> float:
    """The most memory that this process has ever held, in MB."""
    status = Path("/proc/self/status")
    if status.exists():  # rusage begins with what the parent held before this program was loaded
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


async def run(name: str, url: str, events: int, rate: float, room: int | None) -> dict[str, float]:
    """Run the scenario and return its figures."""
    contestant = CONTESTANTS[name]()
    contestant.load()
    heart = Heart()
    await asyncio.sleep(0.01)
    begun = time.perf_counter()
    await contestant.start(url, room)
    start_seconds = time.perf_counter() - begun
    start_stall = heart.worst
    memory = peak()
    await asyncio.sleep(0.01)
    heart.reset()

    pushes = Pushes(contestant)
    cpu_before, begun = cpu(), time.perf_counter()
    await (pushes.paced(events, rate) if rate else pushes.burst(events))
    await contestant.finish()
    seconds, used = time.perf_counter() - begun, cpu() - cpu_before
    await heart.stop()
    times = sorted(pushes.times)
    return {
        "cpu_us": used / events * 1e6,
        "push_us": statistics.median(times) / 1000,
        "push_p99_us": times[len(times) * 99 // 100] / 1000,
        "events_per_s": events / seconds,
        "stall_ms": heart.worst * 1000,
        "whole_stall_ms": max(heart.worst, start_stall) * 1000,
        "start_ms": start_seconds * 1000,
        "memory_mb": peak() - memory,
    }


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("contestant", choices=CONTESTANTS)
    parser.add_argument("url")
    parser.add_argument("--events", type=int, default=40_000)
    parser.add_argument("--rate", type=float, default=0.0, help="events per second; 0: as fast as can be")
    parser.add_argument("--defaults", action="store_true", help="as configured by default, not with room for all")
    options = parser.parse_args()
    be_quiet()
    room = None if options.defaults else options.events
    print(json.dumps(asyncio.run(run(options.contestant, options.url, options.events, options.rate, room))))


if __name__ == "__main__":
    main()
