"""Measures what an event costs when there is much of something: waiting events, workers, attributes, users.

    python -m tests.benchmarks.growth http://127.0.0.1:8000 --depth 100000

All events are pushed before the first one leaves, so that the queue is as deep as is said. Prints JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import time
from pathlib import Path
from typing import Any, Final

from tests.benchmarks.contestants import ATTRIBUTES, USERS, Ours, be_quiet
from tests.benchmarks.delivery import cpu

#: What grows, and the options of each row.
GROWTH: Final = {
    "events that wait": {
        f"{depth:,}".replace(",", " "): ("--depth", str(depth)) for depth in (1_000, 10_000, 100_000, 1_000_000)
    },
    "flush workers": {str(workers): ("--workers", str(workers)) for workers in (1, 8, 50)},
    "attributes of each user": {str(count): ("--attributes", str(count)) for count in (1, 10, 50)},
    "different users": {"1 000": ("--users", "1000"), "10 000": ("--users", "10000")},
}
_LEAST: Final = 20_000  # events that are timed, however few wait at once


def resident() -> int:
    """Bytes of memory that this process has now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


async def run(url: str, depth: int, workers: int, attributes: int, users: int) -> dict[str, float]:
    """Fill the queue and drain it until enough is timed; return the figures."""
    about = ATTRIBUTES if attributes == len(ATTRIBUTES) else {f"attribute-{n}": f"value-{n}" for n in range(attributes)}
    ours: Any = Ours(awaited=False, attributes=about, users=users, num_flush_workers=workers)
    ours.load()
    await ours.start(url, depth)
    before = resident()
    pushing = draining = 0.0
    events, held = 0, 0
    while events < max(_LEAST, depth):
        begun = cpu()
        for number in range(events, events + depth):
            ours.push(number)
        pushed = cpu()
        if not held:
            held = resident() - before
        emptying = cpu()
        await ours.flush()
        pushing, draining = pushing + pushed - begun, draining + cpu() - emptying
        events += depth
    await ours.finish()
    return {
        "events": events,
        "push_us": pushing / events * 1e6,
        "drain_us": draining / events * 1e6,
        "memory_bytes": held / depth,
    }


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--depth", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--attributes", type=int, default=len(ATTRIBUTES))
    parser.add_argument("--users", type=int, default=USERS)
    options = parser.parse_args()
    be_quiet()
    begun = time.perf_counter()
    figures = asyncio.run(run(options.url, options.depth, options.workers, options.attributes, options.users))
    print(json.dumps(figures | {"seconds": time.perf_counter() - begun}))


if __name__ == "__main__":
    main()
