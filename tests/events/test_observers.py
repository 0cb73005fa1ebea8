"""Reports of problems: the rate-limited log, and the listener that calls ``on_drop``."""

from __future__ import annotations

import asyncio
import logging
import math
import threading

import pytest

from bucketeer_async import Drop, EventKind, Processor, ProcessorConfig, User
from bucketeer_async._events import _drop_listener as listener_module
from bucketeer_async._events._drop_listener import DropListener
from bucketeer_async._log import GuardedLogger, RateLimitedLog
from tests.fakes import FakeClient, failing_logger

LOGGER = logging.getLogger("bucketeer_async")
DROP = Drop(EventKind.GOAL, "expired", "id-1")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_lost_data_is_told_at_once_and_then_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    log = RateLimitedLog(LOGGER, clock)
    for _ in range(5):
        log.report_warning("queue_full", "%s is full", "it")
    log.report_warning("other", "another topic")
    clock.now = 60.0
    log.report_warning("queue_full", "%s is full", "it")

    assert [record.getMessage() for record in caplog.records] == [
        "it is full",
        "another topic",
        "it is full (and 4 more times since the last line)",
    ]


def test_details_of_a_topic_are_told_apart_up_to_a_bound(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    log = RateLimitedLog(LOGGER, clock)
    for _ in range(2):
        for number in range(103):
            log.report_warning("invalid", "refused: %d", number, detail=f"message {number}")
    log.report_warning("other", "another topic")
    lines = [record.getMessage() for record in caplog.records]

    assert lines == [*(f"refused: {number}" for number in range(101)), "another topic"]
    assert len(log.problems) == 102

    clock.now = 60.0
    log.report_warning("invalid", "refused: %d", 102, detail="message 102")
    log.report_warning("invalid", "refused: %d", 500, detail="message 500")

    assert [record.getMessage() for record in caplog.records[102:]] == ["refused: 102", "refused: 500"]
    assert len(log.problems) == 4


@pytest.mark.parametrize("error", [RuntimeError, SystemExit, asyncio.CancelledError])
def test_a_guarded_logger_never_raises(error: type[BaseException]) -> None:
    logger = GuardedLogger(failing_logger(error))

    logger.warning("not written")
    RateLimitedLog(logger).report_warning("topic", "not written")


def test_a_guarded_logger_passes_an_interruption_on() -> None:
    with pytest.raises(KeyboardInterrupt):
        GuardedLogger(failing_logger(KeyboardInterrupt)).warning("not written")


def test_a_guarded_line_has_the_place_of_the_call(caplog: pytest.LogCaptureFixture) -> None:
    logger = GuardedLogger(None)
    logger.warning("%d events", 3)
    try:
        int("a number")
    except ValueError:
        logger.exception("a bug")

    assert [(record.getMessage(), record.funcName) for record in caplog.records] == [
        ("3 events", "test_a_guarded_line_has_the_place_of_the_call"),
        ("a bug", "test_a_guarded_line_has_the_place_of_the_call"),
    ]
    assert caplog.records[1].exc_info is not None


def test_a_spell_is_told_again_when_it_gets_worse_or_after_its_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="bucketeer_async")
    clock = Clock()
    log = RateLimitedLog(LOGGER, clock)
    log.report_recovery("delivery", "never began %f")
    log.report("delivery", logging.WARNING, 600.0, "down")
    log.report("delivery", logging.WARNING, 600.0, "down")
    log.report("delivery", logging.ERROR, 600.0, "wrong key")
    clock.now += 5.0
    log.report_recovery("delivery", "up after %.0f s, %d wait", 3)
    log.report("delivery", logging.WARNING, 600.0, "down again")

    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR", "INFO", "WARNING"]
    assert caplog.messages[2] == "up after 5 s, 3 wait"


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
async def test_on_drop_is_called_on_a_thread_of_its_own_and_may_raise(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[tuple[Drop, str]] = []

    def callback(drop: Drop) -> None:
        heard.append((drop, threading.current_thread().name))
        raise error

    listener = DropListener(callback, LOGGER)
    listener.put(DROP)
    listener.put(DROP)
    await listener.aclose(5)

    assert heard == [(DROP, "bucketeer-on-drop")] * 2
    assert caplog.text.count("on_drop raised an exception") == 2


@pytest.mark.parametrize("error", [RuntimeError, SystemExit])
async def test_a_log_filter_that_raises_ends_neither_the_drain_nor_calls_of_on_drop(
    error: type[BaseException],
) -> None:
    heard: list[str] = []
    enough = threading.Event()

    def on_drop(drop: Drop) -> None:
        heard.append(drop.reason)
        if len(heard) == 2:
            enough.set()
        raise error

    config = ProcessorConfig(flush_size=1, drain_timeout=0, on_drop=on_drop, logger=failing_logger(error))
    processor = Processor(FakeClient(lambda _: asyncio.Event().wait()), config)  # type: ignore[arg-type, return-value]
    await processor.start()
    refused = processor.push_goal_event_nowait(User("user"), "")
    left = processor.push_goal_event_nowait(User("user"), "goal")
    report = await processor.aclose()

    assert not refused.accepted
    assert left.accepted
    assert report.total.undelivered == 1
    assert await asyncio.to_thread(enough.wait, 10)
    assert heard == ["invalid", "undelivered"]


async def test_each_mistake_is_told_however_many_there_are(caplog: pytest.LogCaptureFixture) -> None:
    async with Processor(FakeClient()) as processor:
        for _ in range(2):
            for value in ("1", None, [1], 1j, math.nan, math.inf, 10**400):
                await processor.push_goal_event(User("user"), "goal", value)  # type: ignore[arg-type]
            for goal_id in ("", None, 5, "\ud800"):
                await processor.push_goal_event(User("user"), goal_id)  # type: ignore[arg-type]

    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == len(set(lines)) == 11


async def test_a_listener_without_drops_has_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    start = threading.Thread.start

    def note(thread: threading.Thread) -> None:
        started.append(thread.name)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", note)
    config = ProcessorConfig(on_drop=lambda _: None)
    async with Processor(FakeClient(), config) as processor:
        await processor.push_goal_event(User("user"), "goal")
    assert started == []

    async with Processor(FakeClient(), config) as processor:
        await processor.push_goal_event(User("user"), "")
    assert len(started) == 1


async def test_a_thread_that_cannot_be_started_is_tried_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    heard: list[Drop] = []
    async with Processor(FakeClient(), ProcessorConfig(on_drop=heard.append)) as processor:
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", fail)
            assert not processor.push_goal_event_nowait(User("user"), "").accepted
        assert not processor.push_goal_event_nowait(User("user"), "").accepted

    assert [drop.reason for drop in heard] == ["invalid", "invalid"]
    assert "on_drop cannot be called now: can't start new thread" in caplog.text


async def test_a_callback_that_blocks_delays_nothing(caplog: pytest.LogCaptureFixture) -> None:
    release = threading.Event()
    listener = DropListener(lambda _: release.wait(), LOGGER)  # type: ignore[arg-type, return-value]
    listener.put(DROP)

    await listener.aclose(0.01)

    assert "on_drop is still busy" in caplog.text
    release.set()


async def test_drops_beyond_the_bound_are_counted(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener_module, "_MOST_WAITING", 1)
    release, began = threading.Event(), threading.Event()

    def callback(_: Drop) -> None:
        began.set()
        release.wait()

    listener = DropListener(callback, LOGGER)
    listener.put(DROP)
    await asyncio.to_thread(began.wait)
    for _ in range(4):
        listener.put(DROP)
    release.set()
    await listener.aclose(5)

    assert "not called for 3 events" in caplog.text


async def test_a_processor_tells_what_is_lost_and_a_callback_may_push() -> None:
    heard: list[Drop] = []
    enough = threading.Event()

    def callback(drop: Drop) -> None:
        heard.append(drop)
        processor.push_goal_event_nowait(User("user"), "")  # refused as well; counted, without another call
        if len(heard) == 3:
            enough.set()

    processor = Processor(FakeClient(), ProcessorConfig(on_drop=callback))
    async with processor:
        receipts = [processor.push_goal_event_nowait(User("user"), "") for _ in range(3)]
        assert await asyncio.to_thread(enough.wait, 5)

    assert not any(receipt.accepted for receipt in receipts)
    assert [(drop.kind, drop.reason, drop.event_id) for drop in heard] == [(EventKind.GOAL, "invalid", "")] * 3
    assert processor.statistics().goal.refused == 6
