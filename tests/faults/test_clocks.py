"""The clock of this host and the clock of the gateway disagree."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import httpx
import pytest

from bucketeer_async import EventKind, Fate, Processor, ProcessorConfig
from tests.clock import VirtualLoop
from tests.fakes import FakeAnswer, FakeClient
from tests.faults.world import USER, Way, Weather, World, world

Measured = Callable[[str], None]
HOUR = 3600.0


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualLoop}


def dated(here: World, timestamps: list[int]) -> Weather:
    """No faults; responses have the gateway's time, as a real server's do. The times of the events are recorded."""

    async def weather(request: httpx.Request, way: Way) -> httpx.Response:
        timestamps.extend(int(event["event"]["timestamp"]) for event in json.loads(request.content)["events"])
        answer = await way(request)
        answer.headers["date"] = formatdate(here.state.now(), usegmt=True)
        return answer

    return weather


def clock_warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.WARNING and "clock" in record.getMessage()
    ]


@pytest.mark.fault("F49")
async def test_a_clock_two_hours_ahead_is_told_once_and_events_are_sent_as_they_are(
    measured: Measured, caplog: pytest.LogCaptureFixture
) -> None:
    timestamps: list[int] = []
    async with world() as here:
        here.sky.weather = dated(here, timestamps)
        here.state.now = lambda: time.time() - 2 * HOUR
        began = int(time.time())
        receipts = await here.push(1_000)
        await here.processor.flush()
        ended = int(time.time())

        (warning,) = clock_warnings(caplog)
        seconds = int(warning.partition(" is ")[2].partition(" seconds ahead of")[0])
        assert 0 <= seconds - 2 * HOUR <= 5
        assert "refuses goal and evaluation events" in warning
        assert len(timestamps) == 1_000
        assert began <= min(timestamps) <= max(timestamps) <= ended
        for receipt in receipts:
            assert receipt.outcome
            assert receipt.outcome.fate is (Fate.DELIVERED if receipt.kind is EventKind.METRICS else Fate.REJECTED)
        measured(f"1 warning in {len(here.sky.posts)} posts, every event sent unchanged")


async def test_a_clock_that_was_set_right_and_goes_wrong_again_is_told_again(caplog: pytest.LogCaptureFixture) -> None:
    async with world() as here:
        here.sky.weather = dated(here, [])
        for ahead in (2 * HOUR, 0.0, 2 * HOUR, 3 * HOUR):
            here.state.now = lambda ahead=ahead: time.time() - ahead  # type: ignore[misc]
            await here.push(300)
            await here.processor.flush()

    assert len(clock_warnings(caplog)) == 2


async def test_a_clock_behind_the_gateway_costs_no_event_and_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async with world() as here:
        here.sky.weather = dated(here, [])
        here.state.now = lambda: time.time() + 2 * HOUR
        await here.push(300)
        await here.processor.flush()

        assert here.lost == 0
    (warning,) = clock_warnings(caplog)
    assert "seconds behind the gateway's" in warning


@pytest.mark.parametrize(
    ("ahead", "told"), [(0.0, 0), (0.99 * HOUR, 0), (-0.99 * HOUR, 0), (1.01 * HOUR, 1), (-1.01 * HOUR, 1), (None, 0)]
)
async def test_only_more_than_an_hour_is_worth_a_warning(
    ahead: float | None, told: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def answer(_events: list[dict[str, Any]]) -> FakeAnswer:
        return FakeAnswer(server_time=None if ahead is None else time.time() - ahead)

    async with Processor(FakeClient(answer), ProcessorConfig(flush_size=1)) as processor:
        receipt = await processor.push_goal_event(USER, "goal")
        outcome = await receipt.settled()

    assert outcome.fate is Fate.DELIVERED
    assert len(clock_warnings(caplog)) == told
