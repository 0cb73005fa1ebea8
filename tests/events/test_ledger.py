"""The ledger by itself: epochs, by which a flush knows that all earlier events are settled; and `Ledger.watch`."""

from __future__ import annotations

import asyncio
import gc
import math
import sys
from collections.abc import Callable, Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bucketeer_async import EventKind, RefusedReason
from bucketeer_async._events._bounds import Bounds
from bucketeer_async._events._ledger import Ledger
from bucketeer_async._events._receipt import Receipt

EVENT = EventKind.GOAL, b"{}"


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def ignore(*_arguments: object) -> None: ...


def open_ledger(
    loop: asyncio.AbstractEventLoop, *, overflow: str = "drop_newest", on_due: Callable[[], None] = ignore
) -> Ledger:
    ledger = Ledger(
        Bounds(10, 1_000, overflow),
        lifetime=math.inf,
        on_lost=ignore,
        on_due=on_due,
        on_settled=ignore,
    )
    ledger.intake.open(loop)
    return ledger


def push(ledger: Ledger) -> Receipt:
    receipt = ledger.intake.try_admit(*EVENT)
    assert receipt is not None
    return receipt


STEPS = st.tuples(st.sampled_from(["push", "take", "deliver", "put back", "epoch"]), st.integers(1, 9))


@given(steps=st.lists(STEPS, min_size=20, max_size=40))
def test_an_epoch_is_over_when_all_that_was_accepted_before_it_is_settled(
    loop: asyncio.AbstractEventLoop, steps: list[tuple[str, int]]
) -> None:
    ledger = open_ledger(loop, overflow="drop_oldest")  # so that pushes settle records, too
    flights: list[list[Receipt]] = []
    accepted: list[Receipt] = []
    begun: list[tuple[int, list[Receipt]]] = []
    for step, number in steps:
        if step == "push":
            accepted += filter(None, [ledger.intake.try_admit(*EVENT)])  # none, if all events are in flight
        elif step == "take":
            if batch := ledger.take(number, 1_000, 0.0):
                flights.append(batch)
        elif step == "epoch":
            begun.append((ledger.begin_epoch(), list(accepted)))
        elif flights:
            batch = flights.pop(number % len(flights))
            (ledger.settle if step == "deliver" else ledger.put_back)(batch)

        for epoch, before in begun:
            assert ledger.has_settled_before(epoch) == all(record.outcome is not None for record in before)


def test_flushes_with_nothing_pushed_in_between_share_an_epoch(loop: asyncio.AbstractEventLoop) -> None:
    ledger = open_ledger(loop)
    push(ledger)

    epochs = {ledger.begin_epoch() for _ in range(1_000)}

    assert len(epochs) == 1
    assert not ledger.has_settled_before(epochs.pop())


def test_epochs_leave_nothing_behind(loop: asyncio.AbstractEventLoop) -> None:
    ledger = open_ledger(loop)
    for _ in range(100):
        push(ledger)
        ledger.begin_epoch()
        ledger.settle(ledger.take(10, 1_000, 0.0))

    assert not ledger._epochs.past
    assert ledger._epochs._past_records == 0


class Twin:
    """A ledger, and what can be seen of it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, overflow: str) -> None:
        self.due: list[int] = []
        self.ledger = open_ledger(
            loop, overflow=overflow, on_due=lambda: self.due.append(len(self.ledger.queue.records))
        )
        self.flying: list[Receipt] = []

    def step(self, step: str, number: int) -> None:
        some = self.flying[:number]
        match step:
            case "take":
                self.flying += self.ledger.take(number, 200 * number, 0.0)
            case "deliver" | "put back" | "shelve" if some:
                del self.flying[:number]
                {"deliver": self.ledger.settle, "put back": self.ledger.put_back, "shelve": self._shelve}[step](some)
            case "watch":
                self.ledger.intake.watch(number, 150 * number)
            case "unshelve" | "write off" | "epoch" | "close":
                {
                    "unshelve": lambda: self.ledger.unshelve(0.0),
                    "write off": lambda: self.ledger.write_off(number),
                    "epoch": self.ledger.begin_epoch,
                    "close": self.ledger.intake.close,
                }[step]()

    def _shelve(self, records: list[Receipt]) -> None:
        self.ledger.shelve(records, 0.0)

    def seen(self) -> object:
        bounds = self.ledger.bounds
        waiting = [(record.kind, record._body, record._epoch) for record in self.ledger.queue.records]
        return self.ledger.counts(), waiting, bounds.held, bounds.held_bytes, self.due


PUSHES = ["push", "both"]
OTHERS = ["take", "deliver", "put back", "shelve", "unshelve", "write off", "watch", "epoch", "close"]


PUSH_AND_TAKE = [("push", 1), ("watch", 5), ("push", 1), ("take", 1), ("push", 1)]


@settings(max_examples=1_000)
@example("drop_newest", [*PUSH_AND_TAKE, ("put back", 1), ("push", 1), ("push", 1)])
@example("drop_newest", [*PUSH_AND_TAKE, ("shelve", 1), ("push", 1), ("unshelve", 1), ("push", 1)])
@given(
    overflow=st.sampled_from(["drop_newest", "drop_oldest", "wait"]),
    steps=st.lists(st.tuples(st.sampled_from([*PUSHES * 4, *OTHERS]), st.integers(1, 6)), max_size=60),
)
def test_a_usual_push_does_what_a_close_look_does(
    loop: asyncio.AbstractEventLoop, overflow: str, steps: list[tuple[str, int]]
) -> None:
    usual, close = Twin(loop, overflow), Twin(loop, overflow)
    bodies = [(EventKind.METRICS, b"m" * 40), (EventKind.EVALUATION, b"e" * 90)]
    for step, number in steps:
        if step == "push":
            usual.ledger.intake.try_admit(*bodies[number % 2])
        elif step == "both":
            usual.ledger.intake.admit_both(*bodies[0], *bodies[1])
        for kind, body in {"push": [bodies[number % 2]], "both": bodies}.get(step, []):
            close.ledger.intake.look_closely()
            if close.ledger.intake.try_admit(kind, body) is None and step == "both":
                close.ledger.intake.refuse(kind, RefusedReason.QUEUE_FULL)
        usual.step(step, number)
        close.step(step, number)

        assert usual.seen() == close.seen()


def test_a_push_beside_a_recovered_suspect_is_told_of(loop: asyncio.AbstractEventLoop) -> None:
    told: list[int] = []
    ledger = open_ledger(loop, on_due=lambda: told.append(len(ledger.queue.records)))
    assert ledger.intake.recover(
        EventKind.GOAL, b"{}", loop.time(), 1, is_suspect=True
    )  # in quarantine, not in the queue
    told.clear()
    push(ledger)

    assert told == [1]


@pytest.mark.parametrize(("waiting", "waiting_bytes"), [(4, math.inf), (math.inf, 4 * len(EVENT[1]))])
def test_what_is_watched_is_told_once(loop: asyncio.AbstractEventLoop, waiting: float, waiting_bytes: float) -> None:
    told: list[int] = []
    ledger = open_ledger(loop, on_due=lambda: told.append(len(ledger.queue.records)))
    ledger.intake.watch(waiting, waiting_bytes)

    for _ in range(8):
        push(ledger)

    assert told == [1, 4]  # the first waiting record always wakes the collector


def test_a_waiting_event_weighs_little_more_than_its_body(loop: asyncio.AbstractEventLoop) -> None:
    body = b'{"id":"' + 445 * b"x"  # as long as a typical one
    loop.time = lambda: 123.5  # type: ignore[method-assign]
    ledger = open_ledger(loop)
    first, second = [ledger.intake.try_admit(EventKind.EVALUATION, bytes([*body])) for _ in range(2)]
    shared = {id(each) for each in gc.get_referents(first)}
    own = [each for each in gc.get_referents(second) if id(each) not in shared]

    assert not hasattr(second, "__dict__")
    assert sum(map(sys.getsizeof, [second, *own])) < 600


def test_a_push_amid_a_push_is_told_of() -> None:
    told: list[int] = []
    loop = asyncio.new_event_loop()
    pushes = iter([lambda: push(ledger)])

    def interrupted() -> float:  # as a signal handler does
        for another in pushes:
            another()
        return 0.0

    loop.time = interrupted  # type: ignore[method-assign]
    ledger = open_ledger(loop, on_due=lambda: told.append(len(ledger.queue.records)))
    push(ledger)
    loop.close()

    assert len(ledger.queue.records) == 2
    assert told


def test_the_events_of_a_burst_share_their_time() -> None:
    now = 100.0
    loop = asyncio.new_event_loop()
    loop.time = lambda: now  # type: ignore[method-assign]
    ledger = open_ledger(loop)
    burst = [push(ledger) for _ in range(2)]
    now = 100.0009
    burst.append(push(ledger))
    now = 100.0011
    later = push(ledger)
    loop.close()

    assert len({id(record._pushed_at) for record in burst}) == 1
    assert later._pushed_at == now
