"""The simulation: users who evaluate a flag and reach goals, a real processor, and the linker of the local gateway.

It runs in virtual time and is deterministic: all chance comes from one seed.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import anyio

from bucketeer_async import ConnectionFailedError, Evaluation, Processor, ProcessorConfig, Reason, ReasonType, User
from bucketeer_async.gateway import Linking
from bucketeer_async.gateway._linker import Experiment, Linker, UserEvaluation, UserGoal
from tests.clock import VirtualLoop
from tests.fakes import FakeAnswer, FakeClient

BEGIN: Final = 1_800_000_000  # Unix time at which the simulation begins
ARRIVALS: Final = 3_600.0  # seconds within which the users arrive, so that their windows end at different times
RETRY_PERIOD: Final = 86_400.0  # seconds after which the server has decided about every goal
FLAG: Final = "new-checkout"
GOAL: Final = "purchase"
VARIATIONS: Final = ("on", "off")
SILENT: Final = logging.Logger("simulation", logging.CRITICAL)  # noqa: LOG001 - outages are meant to happen here


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What is simulated.

    Attributes:
        users: Number of users.
        pause: Seconds between two visits of a user: the least and the most.
        duration: Seconds of traffic.
        batches: ``flush_interval`` of the processor, in seconds; all other options have their defaults.
        window: Window of evaluation events, in seconds; 0 for none.
        outages: Number of outages of the gateway, one in each of so many parts of the duration.
        outage: Seconds of each outage.
        seed: Seed of everything that is random.
    """

    users: int = 8
    pause: tuple[float, float] = (1.0, 3.0)
    duration: float = 10_800.0
    batches: float = 30.0
    window: float = 0.0
    outages: int = 0
    outage: float = 60.0
    seed: int = 1


class Action(NamedTuple):
    """A user evaluates the flag, or reaches the goal; the time is in seconds since the begin."""

    time: float
    user: User
    is_goal: bool


class Post(NamedTuple):
    """The events of a post that the gateway has accepted; the time is Unix time."""

    time: float
    events: Sequence[UserEvaluation | UserGoal]


def traffic(scenario: Scenario) -> list[Action]:
    """Return what the users do: on each visit, they evaluate the flag, and reach the goal before their next visit."""
    rng = random.Random(scenario.seed)
    actions = []
    for number in range(scenario.users):
        user = User(f"user-{number}")
        time = rng.uniform(0.0, min(ARRIVALS, scenario.duration / 2))
        while time < scenario.duration:
            pause = rng.uniform(*scenario.pause)
            actions += [Action(time, user, False), Action(time + rng.uniform(0.0, pause), user, True)]
            time += pause
    return sorted(actions)


def outages(scenario: Scenario) -> list[tuple[float, float]]:
    """Return the begin and the end of each outage, in seconds since the begin."""
    rng = random.Random(scenario.seed)
    part = scenario.duration / max(scenario.outages, 1)
    begins = [number * part + rng.uniform(0.0, part - scenario.outage) for number in range(scenario.outages)]
    return [(begin, begin + scenario.outage) for begin in begins]


def served(user: User) -> Evaluation:
    """Return what a user is served: always the same variation, as in a rollout."""
    variation = VARIATIONS[random.Random(user.id).randrange(len(VARIATIONS))]
    return Evaluation(feature_id=FLAG, feature_version=1, variation_id=variation, reason=Reason(ReasonType.DEFAULT))


async def posts(scenario: Scenario) -> list[Post]:
    """Run the traffic through a processor, and return its posts."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    down = outages(scenario)
    found: list[Post] = []

    def elapsed() -> float:
        return loop.time() - begin

    async def answer(events: list[dict[str, Any]]) -> FakeAnswer:
        if any(start <= elapsed() < end for start, end in down):
            raise ConnectionFailedError("an outage")
        found.append(Post(BEGIN + elapsed(), [parsed(event["event"]) for event in events]))
        return FakeAnswer()

    variations = {action.user.id: served(action.user) for action in traffic(scenario)}
    async with Processor(
        FakeClient(answer),  # type: ignore[arg-type] # all that a processor uses of it
        ProcessorConfig(flush_interval=scenario.batches, evaluation_window=scenario.window or None, logger=SILENT),
        _now=lambda: BEGIN + elapsed(),
        _new_rng=lambda: random.Random(scenario.seed),
    ) as processor:
        for action in traffic(scenario):
            await asyncio.sleep(action.time - elapsed())
            if action.is_goal:
                await processor.push_goal_event(action.user, GOAL)
            else:
                await processor.push_evaluation_event(action.user, variations[action.user.id])
    total = processor.statistics().total
    assert total.delivered == total.accepted, "events were lost"
    return found


def parsed(event: Mapping[str, Any]) -> UserEvaluation | UserGoal:
    """Return an event of a post as the linker takes it."""
    time, user_id = int(event["timestamp"]), event["user"]["id"]
    if "goalId" in event:
        return UserGoal(time, user_id, event["goalId"])
    return UserEvaluation(time, user_id, event["featureId"], event["featureVersion"], event["variationId"])


def run(scenario: Scenario) -> list[Post]:
    """Return the posts of a scenario; call it outside of an event loop."""
    return anyio.run(posts, scenario, backend_options={"loop_factory": VirtualLoop})


def link(found: Sequence[Post], linking: Linking, *, start: float = 0.0) -> Counter[str]:
    """Return what becomes of the goals, once the server has decided about each: numbers by fate.

    Args:
        found: The posts.
        linking: How the server links goals.
        start: When the experiment starts, in seconds since the begin.
    """
    linker = Linker(linking)
    linker.define({"test": Experiment("test", FLAG, 1, (GOAL,), BEGIN + int(start), math.inf)})
    for post in found:
        linker.take(post.events, post.time)
    linker.advance(found[-1].time + linking.delay + RETRY_PERIOD)
    fates: Counter[str] = Counter()
    for goals in linker.counts()["test"].values():
        fates.update({"linked": goals.linked, "waiting": goals.waiting, **goals.discarded})
    return fates
