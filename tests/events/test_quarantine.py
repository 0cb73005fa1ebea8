"""The quarantine by itself: which record is next, which exceed the bounds, which expire."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from bucketeer_async import EventKind
from bucketeer_async._events._limits import ByteLimit
from bucketeer_async._events._quarantine import Part, Quarantine, suspicion_of
from bucketeer_async._events._receipt import Origin, Receipt

SECONDS = st.floats(0.0, 1e6)


def record(pushed_at: float = 0.0, *, failures: int = 0) -> Receipt:
    receipt = Receipt(Origin(EventKind.GOAL, None, pushed_at, 0), b'{"id":"x"}')
    suspicion_of(receipt, 1).failures = failures
    return receipt


@given(st.lists(SECONDS, min_size=1, max_size=20), SECONDS, SECONDS)
def test_what_is_due_to_expire_is_taken_out(pushed: list[float], lifetime: float, now: float) -> None:
    quarantine = Quarantine(100, 10_000)
    quarantine.add(Part([record(at) for at in pushed[::2]]))
    for at in pushed[1::2]:
        quarantine.add_lone(record(at))
    quarantine.take(0.0)  # the oldest may be gone already

    quarantine.take_expired(now, lifetime)

    assert quarantine.oldest + lifetime > now
    assert all(each._pushed_at + lifetime > now for each in quarantine)
    assert quarantine.held == quarantine.counts.total() == len(list(quarantine))


def test_over_the_bounds_the_one_that_failed_most_often_goes_and_the_oldest_among_equals() -> None:
    quarantine = Quarantine(3, 10_000)
    records = [record(0.0, failures=1), record(2.0, failures=5), record(1.0, failures=5), record(3.0, failures=2)]
    for each in records:
        quarantine.add_lone(each)

    assert quarantine.excess() is records[2]
    assert quarantine.excess() is None


def test_lone_suspects_are_posted_at_most_once_a_second_and_parts_at_once() -> None:
    quarantine = Quarantine(10, 10_000)
    for _ in range(2):
        suspect = record()
        quarantine.failed_alone(suspicion_of(suspect, 1), 1, 0.0)
        quarantine.add_lone(suspect)
    quarantine.add(Part([record(), record()]))

    assert quarantine.next_due() == -math.inf
    assert quarantine.take(0.0) is not None
    assert quarantine.take(0.0) is None
    assert quarantine.next_due() == 1.0
    assert quarantine.take(1.0) is not None
    assert quarantine.next_due() == 2.0
    quarantine.try_at_once()
    assert quarantine.take(1.0) is not None


def test_an_event_is_guilty_after_three_refusals_in_a_minute_with_something_accepted_in_between() -> None:
    quarantine = Quarantine(10, 10_000)
    suspicion = suspicion_of(record(), 1)
    quarantine.refused_alone(suspicion, 10, 0.0)
    assert suspicion.retry_at == 30.0
    quarantine.refused_alone(suspicion, 20, 30.0)
    assert suspicion.retry_at == 90.0
    assert not quarantine.is_guilty(suspicion, 15, 30.0)
    quarantine.refused_alone(suspicion, 30, 90.0)

    assert quarantine.is_guilty(suspicion, 15, 90.0)
    assert not quarantine.is_guilty(suspicion, 10, 90.0)


def test_a_limit_grows_back_by_one_try_at_a_time() -> None:
    limit = ByteLimit(1_000_000)
    limit.refused(100_000, 1, 1)
    assert limit.value == 50_000
    limit.refused(40_000, 1, 2)  # it began before the limit changed
    assert limit.value == 50_000

    for post in range(2, 7):
        assert limit.allowance(post) == 50_000
        limit.accepted(30_000, post)
    assert limit.allowance(6) == 100_000
    limit.taken(20_000, 6)  # too few events waited to fill it
    assert limit.allowance(6) == 100_000
    limit.taken(90_000, 6)
    for post in range(7, 20):  # others do not end the try
        limit.accepted(30_000, post)
        assert limit.allowance(post) == 50_000
    limit.accepted(90_000, 20)

    assert limit.value == 100_000


def test_a_try_that_is_refused_makes_the_next_one_rarer() -> None:
    limit = ByteLimit(1_000_000)
    limit.refused(100_000, 1, 1)
    for post in range(2, 7):
        limit.accepted(30_000, post)
    assert limit.allowance(6) == 100_000
    limit.taken(90_000, 6)
    limit.refused(90_000, 7, 7)

    assert limit.value == 50_000
    for post in range(8, 17):
        limit.accepted(30_000, post)
    assert limit.allowance(16) == 50_000
    limit.accepted(30_000, 17)
    assert limit.allowance(17) == 100_000
