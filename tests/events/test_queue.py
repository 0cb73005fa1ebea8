"""The queue of records by itself: against a list, under random steps."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bucketeer_async import EventKind
from bucketeer_async._events._quarantine import ANY_OPENING
from bucketeer_async._events._queue import RecordQueue
from bucketeer_async._events._receipt import Origin, Receipt

LONG_AGO = -math.inf


def record(size: int = 10, pushed_at: float = 0.0) -> Receipt:
    return Receipt(Origin(EventKind.GOAL, None, pushed_at, 0), b"x" * size)


def append(queue: RecordQueue, *records: Receipt) -> None:
    """Put records at the end, as the ledger does."""
    for each in records:
        queue.records.append(each)
        queue.appended += 1
        queue.appended_bytes += len(each._body)


class QueueMachine(RuleBasedStateMachine):
    """A queue beside a list, and records that were taken out."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = RecordQueue()
        self.model: list[Receipt] = []
        self.out: list[Receipt] = []
        self.shelf: list[tuple[float, list[Receipt]]] = []
        self.now = 0.0

    @rule(sizes=st.lists(st.integers(1, 20), min_size=1, max_size=5))
    def push(self, sizes: list[int]) -> None:
        new = [record(size) for size in sizes]
        append(self.queue, *new)
        self.model += new

    @precondition(lambda self: self.model)
    @rule()
    def take_oldest(self) -> None:
        self.out.append(self.queue.take_oldest())
        assert self.out[-1] is self.model.pop(0)

    @precondition(lambda self: self.model)
    @rule()
    def remove_newest(self) -> None:
        self.queue.remove_newest()
        self.out.append(self.model.pop())

    @rule(number=st.integers(1, 5))
    def take_batch(self, number: int) -> None:
        batch = self.queue.take_batch(number, 30, LONG_AGO)
        assert batch == self.model[: len(batch)]
        assert bool(batch) is bool(self.model)
        assert len(batch) <= number
        assert sum(len(each._body) for each in batch) <= 30
        del self.model[: len(batch)]
        self.out += batch

    @precondition(lambda self: self.model)
    @rule(seed=st.integers(0, 100))
    def take_random_and_put_back(self, seed: int) -> None:
        taken = self.queue.take_random(random.Random(seed), ANY_OPENING, LONG_AGO)
        assert taken is not None
        assert taken[0] in self.model
        assert taken[0] not in self.queue.records
        self.queue.put_at(*taken)

    @rule()
    def put_first(self) -> None:
        self.queue.put_first(self.out)
        self.model[:0] = self.out
        self.out = []

    @precondition(lambda self: self.out)
    @rule(seconds=st.integers(0, 3))
    def shelve(self, seconds: int) -> None:
        self.queue.shelve(self.out, self.now + seconds)
        self.shelf.append((self.now + seconds, self.out))
        self.out = []

    @rule(seconds=st.integers(0, 3))
    def unshelve(self, seconds: int) -> None:
        self.now += seconds
        self.queue.unshelve(self.now)
        for each in sorted((each for each in self.shelf if each[0] <= self.now), key=lambda each: each[0]):
            self.model[:0] = each[1]
        self.shelf = [each for each in self.shelf if each[0] > self.now]

    @invariant()
    def is_the_list(self) -> None:
        assert list(self.queue.records) == self.model
        assert self.queue.body_bytes == sum(len(each._body) for each in self.model)
        assert self.queue.next_due == min((due for due, _ in self.shelf), default=math.inf)


TestQueueMachine = QueueMachine.TestCase


@given(waiting=st.integers(1, 20), gone=st.integers(0, 20), more=st.integers(0, 5), seed=st.integers(0, 100))
def test_a_record_goes_back_to_its_place_whatever_comes_and_goes_meanwhile(
    waiting: int, gone: int, more: int, seed: int
) -> None:
    queue, records = RecordQueue(), [record() for _ in range(waiting)]
    append(queue, *records)
    taken = queue.take_random(random.Random(seed), ANY_OPENING, LONG_AGO)
    assert taken is not None
    index = records.index(taken[0])
    left = [each for each in records if each is not taken[0]][gone:]
    for _ in range(min(gone, waiting - 1)):
        queue.take_oldest()
    append(queue, *(record() for _ in range(more)))
    queue.put_at(*taken)

    before = [each for each in list(queue.records)[: list(queue.records).index(taken[0])] if each in left]
    assert before == [each for each in records[:index] if each in left]


def test_a_large_record_leaves_alone() -> None:
    queue = RecordQueue()
    append(queue, record(100), record(1))

    assert [len(each._body) for each in queue.take_batch(10, 50, LONG_AGO)] == [100]


def test_a_batch_ends_before_a_record_that_is_past_its_lifetime() -> None:
    queue = RecordQueue()
    append(
        queue, record(1, pushed_at=5.0), record(2, pushed_at=6.0), record(3, pushed_at=1.0), record(4, pushed_at=7.0)
    )

    assert [len(each._body) for each in queue.take_batch(10, 1000, pushed_after=4.0)] == [1, 2]


def test_no_record_that_is_past_its_lifetime_is_taken_at_random() -> None:
    queue = RecordQueue()
    append(queue, *(record(pushed_at=float(number)) for number in range(50)))

    taken = queue.take_random(random.Random(0), ANY_OPENING, pushed_after=48.0)

    assert taken is not None
    assert taken[0]._pushed_at == 49.0
    assert queue.take_random(random.Random(0), ANY_OPENING, pushed_after=48.0) is None


def test_an_empty_queue_has_nothing_to_take() -> None:
    queue = RecordQueue()

    assert queue.take_batch(10, 1000, LONG_AGO) == []
    assert queue.take_random(random.Random(0), ANY_OPENING, LONG_AGO) is None
    with pytest.raises(IndexError):
        queue.take_oldest()
