"""Hooks: callbacks are called in order, isolated from each other and from the caller, and can be cancelled."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from bucketeer_async._hooks import Hook, Subscription
from bucketeer_async._log import GuardedLogger
from tests.fakes import failing_logger


def hook(logger: logging.Logger | None = None, clock: Callable[[], float] = lambda: 0.0) -> Hook[str]:
    return Hook("on_thing", GuardedLogger(logger), clock)


def raising(error: BaseException) -> Callable[[str], None]:
    def callback(_value: str) -> None:
        raise error

    return callback


def test_callbacks_are_called_in_the_order_of_their_registration() -> None:
    things, seen = hook(), list[str]()
    things.register(lambda value: seen.append(f"first {value}"))
    things.register(lambda value: seen.append(f"second {value}"))
    things.call("a")

    assert seen == ["first a", "second a"]


def test_a_cancelled_callback_is_not_called() -> None:
    things, seen = hook(), list[str]()
    subscription = things.register(seen.append)
    things.call("a")
    subscription.cancel()
    subscription.cancel()
    things.call("b")

    assert seen == ["a"]
    assert not things.is_used


def test_one_of_two_equal_callbacks_can_be_cancelled() -> None:
    things, seen = hook(), list[str]()
    things.register(seen.append)
    things.register(seen.append).cancel()
    things.call("a")

    assert seen == ["a"]


def test_a_callback_may_cancel_itself_and_those_after_it() -> None:
    things, seen = hook(), list[str]()
    subscriptions: list[Subscription] = []

    def last_time(value: str) -> None:
        seen.append(value)
        for each in subscriptions:
            each.cancel()

    subscriptions += [things.register(last_time), things.register(seen.append)]
    things.call("a")
    things.call("b")

    assert seen == ["a"]


@pytest.mark.parametrize("error", [RuntimeError, SystemExit, asyncio.CancelledError, KeyboardInterrupt])
def test_what_a_callback_raises_is_counted_and_logged_and_ends_nothing(
    caplog: pytest.LogCaptureFixture, error: type[BaseException]
) -> None:
    things, seen = hook(), list[str]()
    things.register(raising(error("a bug of the application's")))
    things.register(seen.append)
    things.call("a")
    things.call("b")

    assert seen == ["a", "b"]
    assert things.errors == 2
    assert [record.getMessage() for record in caplog.records] == ["a callback of on_thing raised an exception"]
    assert caplog.records[0].exc_info is not None
    assert caplog.records[0].exc_info[0] is error


def test_a_logger_that_raises_ends_nothing() -> None:
    things = hook(failing_logger(SystemExit))
    things.register(raising(RuntimeError()))
    things.call("a")

    assert things.errors == 1


@pytest.mark.parametrize(("seconds", "lines"), [(0.05, 0), (0.051, 1)])
def test_a_slow_callback_is_logged_once(caplog: pytest.LogCaptureFixture, seconds: float, lines: int) -> None:
    now = 0.0

    def work(secret: str, _value: str) -> None:
        nonlocal now
        now += seconds
        assert secret

    things = hook(clock=lambda: now)
    things.register(functools.partial(work, "user-1"))
    things.call("a")
    things.call("b")

    assert caplog.text.count("a callback of on_thing took 51 ms, and the caller waits for it") == lines
    assert "user-1" not in caplog.text


def test_a_slow_callback_that_raises_is_logged_as_both(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0

    def work(_value: str) -> None:
        nonlocal now
        now += 1.0
        raise RuntimeError

    things = hook(clock=lambda: now)
    things.register(work)
    things.call("a")

    assert ["raised" in caplog.text, "took 1000 ms" in caplog.text] == [True, True]


def test_a_callback_that_causes_a_call_is_not_called_for_it() -> None:
    things, seen = hook(), list[str]()

    def again(value: str) -> None:
        seen.append(value)
        things.call(value * 2)

    things.register(again)
    things.call("a")
    things.call("b")

    assert seen == ["a", "b"]


@pytest.mark.parametrize("wrong", [None, "on_thing", 5])
def test_a_callback_is_a_function(wrong: Any) -> None:
    with pytest.raises(TypeError, match="on_thing takes a function that is not a coroutine"):
        hook().register(wrong)


def test_callbacks_come_and_go_while_threads_call_them() -> None:
    things, seen = hook(), list[str]()
    stop = threading.Event()

    def call() -> None:
        while not stop.is_set():
            things.call("a")

    def come_and_go() -> None:
        for _ in range(2_000):
            things.register(lambda _: None).cancel()
        things.register(raising(RuntimeError()))

    callers = [threading.Thread(target=call) for _ in range(2)]
    others = [threading.Thread(target=come_and_go) for _ in range(2)]
    for thread in [*callers, *others]:
        thread.start()
    for thread in others:
        thread.join()
    stop.set()
    for thread in callers:
        thread.join()
    before = things.errors
    things.register(seen.append)
    things.call("a")

    assert things.errors == before + 2
    assert seen == ["a"]
