"""Measures how the client takes a large environment: until it is ready, and at each poll that brings everything anew.

python -m tests.benchmarks.environment http://127.0.0.1:8000
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from typing import Final

from tests.benchmarks import contestants
from tests.benchmarks.delivery import Heart, peak
from tests.benchmarks.flags import FLAGS

_POLLS: Final = 3  # that bring everything anew
_INTERVAL: Final = 1.0  # seconds between them


async def run(url: str) -> dict[str, float]:
    """Start, wait, poll a few times; return the figures."""
    from bucketeer_async import Client, LocalEvaluation, User

    heart = Heart()
    client = Client(
        endpoint=url,
        api_key="key",
        tag="",
        local_evaluation=LocalEvaluation(polling_interval=_INTERVAL, full_refresh_interval=3600.0),
    )
    await asyncio.sleep(0.01)
    memory = peak()
    begun = time.perf_counter()
    await client.start()
    started, starting_stall = time.perf_counter() - begun, heart.worst
    heart.reset()
    await client.wait_ready()
    ready, ready_stall = time.perf_counter() - begun, heart.worst
    held = peak() - memory
    user = User("user-0-000005")
    before = time.perf_counter()
    for number in range(FLAGS):  # each is compiled when it is asked for first
        await client.bool_variation(user, f"flag-{number}", False)
    first = (time.perf_counter() - before) / FLAGS
    before = time.perf_counter()
    for number in range(FLAGS):
        await client.bool_variation(user, f"flag-{number}", False)
    again = (time.perf_counter() - before) / FLAGS
    await client.flush()
    heart.reset()
    polled = client.statistics().local_evaluation
    assert polled is not None
    await asyncio.sleep(_POLLS * (_INTERVAL * 1.1 + ready - started))
    refresh_stall = heart.worst
    await client.aclose()
    await heart.stop()
    return {
        "ready_s": ready,
        "start_stall_ms": starting_stall * 1000,
        "ready_stall_ms": ready_stall * 1000,
        "refresh_stall_ms": refresh_stall * 1000,
        "memory_mb": held,
        "first_question_us": first * 1e6,
        "later_question_us": again * 1e6,
    }


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="of a sink that answers polls")
    options = parser.parse_args()
    contestants.be_quiet()
    print(json.dumps(asyncio.run(run(options.url))))


if __name__ == "__main__":
    main()
