"""Measures what a question costs, by kind of flag: this SDK beside ``launchdarkly-server-sdk`` over its test data source.

    python -m tests.benchmarks.questions http://127.0.0.1:8000

Two figures each: the evaluation by itself, one evaluator beside the other; and the question as an application asks
it, a bool variation with its event. Prints microseconds as JSON, one list of repeats for each.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Callable
from typing import Any, Final

from tests.benchmarks import contestants
from tests.benchmarks.flags import ASKING, ATTRIBUTES, QUESTIONS, launchdarkly, ours

_ROUND: Final = 500  # questions between two looks at the clock


class Definition:
    """A flag as LaunchDarkly's test data source takes it: its own builder knows no rollouts."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self._key = fields["key"]
        self._fields = fields

    def _build(self, version: int) -> dict[str, Any]:
        return self._fields | {"version": version}

    def _copy(self) -> Definition:
        return self


class Rival:
    """``LDClient``: asks, and evaluates."""

    def __init__(self, url: str) -> None:
        from ldclient import Context
        from ldclient.client import LDClient
        from ldclient.config import Config
        from ldclient.impl.events.types import EventFactory
        from ldclient.integrations.test_data import TestData
        from ldclient.versioned_data_kind import FEATURES

        source = TestData.data_source()
        for fields in launchdarkly():
            source.update(Definition(fields))
        config = Config(
            "key", events_uri=url, update_processor_class=source, diagnostic_opt_out=True, events_max_pending=1_000_000
        )
        self.client = LDClient(config)
        builder = Context.builder(ASKING)
        for name, value in ATTRIBUTES.items():
            builder.set(name, value)
        self.context = builder.build()
        self._flags = {key: self.client._data_system.store.get(FEATURES, key, lambda flag: flag) for key in QUESTIONS}
        self._events = EventFactory(False)

    def evaluate(self, key: str) -> Any:
        """Evaluate alone."""
        return self.client._evaluator.evaluate(self._flags[key], self.context, self._events).detail.value


async def evaluations(rounds: int, rival: Rival, repeats: int) -> dict[str, dict[str, list[float]]]:
    """Time both evaluators, in turns."""
    from bucketeer_async import User
    from bucketeer_async._evaluation import Snapshot, compile_flag, evaluate
    from bucketeer_async.gateway import GatewayState

    stored = GatewayState(flags=ours()).environment.flags
    snapshot = Snapshot({key: compile_flag(flag.fields) for key, flag in stored.items()}, {})
    user = User(ASKING, ATTRIBUTES)
    times: dict[str, dict[str, list[float]]] = {key: {"ours": [], "LaunchDarkly": []} for key in QUESTIONS}
    for key in QUESTIONS:
        if key != "rollout":  # hashed differently
            served = evaluate(snapshot, user, key).variation.value
            assert served == str(rival.evaluate(key)).lower() == "true", key
    for _ in range(repeats):
        for key, found in times.items():
            found["ours"].append(timed(rounds, lambda key=key: evaluate(snapshot, user, key)))
            found["LaunchDarkly"].append(timed(rounds, lambda key=key: rival.evaluate(key)))
            await asyncio.sleep(0)
    return times


def timed(rounds: int, ask: Callable[[], object]) -> float:
    """Return the microseconds of one question."""
    before = time.perf_counter()
    for _ in range(rounds * _ROUND):
        ask()
    return (time.perf_counter() - before) / (rounds * _ROUND) * 1e6


async def variations(url: str, rounds: int, rival: Rival, repeats: int) -> dict[str, dict[str, list[float]]]:
    """Time both clients, in turns, each question with its event; what waits is delivered before the other's turn."""
    from bucketeer_async import Client, LocalEvaluation, ProcessorConfig, User

    times: dict[str, dict[str, list[float]]] = {key: {"ours": [], "LaunchDarkly": []} for key in QUESTIONS}
    user = User(ASKING, ATTRIBUTES)
    client = Client(
        endpoint=url,
        api_key="key",
        tag="",
        local_evaluation=LocalEvaluation(polling_interval=3600.0, full_refresh_interval=3600.0),
        events=ProcessorConfig(queue_capacity=1_000_000),
    )
    async with client:
        await client.wait_ready()
        for _ in range(repeats):
            for key, found in times.items():
                found["ours"].append(await timed_with_events(rounds, client, user, key))
                await client.flush()
                found["LaunchDarkly"].append(
                    timed(rounds, lambda key=key: rival.client.variation(key, rival.context, False))
                )
                await asyncio.to_thread(delivered, rival)
    return times


async def timed_with_events(rounds: int, client: Any, user: Any, key: str) -> float:
    """As `timed`, for our client."""
    before = time.perf_counter()
    for _ in range(rounds * _ROUND):
        await client.bool_variation(user, key, False)
    return (time.perf_counter() - before) / (rounds * _ROUND) * 1e6


def delivered(rival: Rival) -> None:
    """Have what waits delivered, so that it does not disturb the other's turn."""
    rival.client.flush()
    rival.client._event_processor._wait_until_inactive()


async def run(url: str, repeats: int, rounds: int) -> dict[str, Any]:
    """Measure everything."""
    rival = await asyncio.to_thread(Rival, url)
    found = {
        "evaluation": await evaluations(rounds, rival, repeats),
        "bool_variation": await variations(url, rounds, rival, repeats),
    }
    await asyncio.to_thread(rival.client.close)
    return found


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="of a sink that answers polls")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=4, help=f"of {_ROUND} questions")
    options = parser.parse_args()
    contestants.be_quiet()
    print(json.dumps(asyncio.run(run(options.url, options.repeats, options.rounds))))


if __name__ == "__main__":
    main()
