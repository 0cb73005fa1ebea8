"""What a measuring process needs: rounds on request, users, clocks, stalls and memory."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import logging
import resource
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

USERS: Final = 1_000
ATTRIBUTES: Final = {"plan": "pro", "country": "JP", "appVersion": "4.12.0"}
SLICE: Final = 100  # events between two turns of the loop, as in a busy service
HOUR: Final = 3600.0
_BEAT: Final = 0.001  # seconds
_TICK: Final = 0.02  # seconds between two groups of events of steady traffic

#: One figure for each name, of one round.
Rounds = AsyncGenerator[dict[str, float], None]


def main(roles: Mapping[str, Callable[..., Rounds]]) -> None:
    """Measure a round for each line of standard input, as the role that the command line names."""
    logging.disable(logging.CRITICAL)  # what the SDKs log about full queues and outages is counted, not read
    asyncio.run(_rounds(roles[sys.argv[1]](*sys.argv[2:])))


async def _rounds(rounds: Rounds) -> None:
    for _ in sys.stdin:  # the loop does nothing until the other contestants have measured
        print(json.dumps(await anext(rounds)), flush=True)
    await rounds.aclose()


def user_id(number: int) -> str:
    """Return the id of a user."""
    return f"user-{number % USERS:06d}"


def repeated(users: list[Any], count: int) -> list[Any]:
    """Return so many users; the same ones come again and again."""
    return list(itertools.islice(itertools.cycle(users), count))


async def cpu_us(count: int, work: Callable[[], Awaitable[object]]) -> float:
    """Return the microseconds of CPU of this process for one of the ``count`` things that ``work`` does."""
    gc.collect()
    began = time.process_time()
    await work()
    return (time.process_time() - began) / count * 1e6


def prepared_event() -> bytes:
    """Return bytes of the length of an evaluation event."""
    return b'{"id":"%s"}' % (b"0" * 450)


def resident() -> int:
    """Return the bytes of memory that this process has."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def arrived(url: str) -> tuple[int, int]:
    """Return how many events and posts the sink has counted so far; blocks the loop."""
    import urllib.request  # no import of it is part of anything that is measured

    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{url}/figures", timeout=10) as response:
        figures = json.load(response)
    return figures["unique"], figures["posts"]


async def paced(count: int, rate: float, push: Callable[[int], Awaitable[object]]) -> None:
    """Push so many events, ``rate`` events a second."""
    began, pushed = time.perf_counter(), 0
    while pushed < count:
        due = min(int((time.perf_counter() - began) * rate), count)
        for number in range(pushed, due):
            await push(number)
        pushed = max(pushed, due)
        await asyncio.sleep(_TICK)


class Heart:
    """A task that repeatedly sleeps for a millisecond, and records how late it ever woke up.

    Two figures: the delay by the clock, and the part of the delay in which this process used the CPU. Only the first
    one has what other processes take from this one, and calls that block without using the CPU.
    """

    def __init__(self) -> None:
        self._worst = self._worst_working = 0.0
        self._task = asyncio.create_task(self._beat())

    async def _beat(self) -> None:
        while True:
            began, used = time.perf_counter(), time.process_time()
            await asyncio.sleep(_BEAT)
            late = time.perf_counter() - began - _BEAT
            self._worst = max(self._worst, late)
            if late > self._worst_working:
                self._worst_working = max(self._worst_working, min(late, time.process_time() - used))

    async def take(self) -> tuple[float, float]:
        """Return both figures since the last call, in milliseconds."""
        await asyncio.sleep(2 * _BEAT)
        worst = self._worst * 1e3, self._worst_working * 1e3
        self._worst = self._worst_working = 0.0
        return worst

    def stop(self) -> None:
        """Stop beating."""
        self._task.cancel()


async def stalls(**phases: Callable[[], Awaitable[object]]) -> dict[str, float]:
    """Run the phases; return the worst stall of the event loop in each one, and in all, in milliseconds."""
    gc.collect()
    heart = Heart()
    await heart.take()
    figures: dict[str, float] = {}
    for name, phase in phases.items():
        await phase()
        figures[f"{name}, by the clock"], figures[name] = await heart.take()
    heart.stop()
    figures["worst"] = max(figures[name] for name in phases)
    figures["worst, by the clock"] = max(figures[f"{name}, by the clock"] for name in phases)
    return figures
