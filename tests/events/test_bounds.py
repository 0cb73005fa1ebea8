"""The bounds by themselves: what becomes of a push."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketeer_async import EventKind
from bucketeer_async._events._bounds import Admission, Bounds
from bucketeer_async._events._receipt import Origin, Receipt
from bucketeer_async._options import Overflow

CAPACITY, SIZE = 100, 10


def bounds(overflow: Overflow = "drop_newest", capacity: int = CAPACITY, held: int = 0, in_flight: int = 0) -> Bounds:
    """Return bounds that hold so many records, the oldest of them in flight and the others in the queue."""
    made = Bounds(capacity, capacity * SIZE, overflow)
    for _ in range(held):
        made.queue.records.append(Receipt(Origin(EventKind.GOAL, None, 0.0, 0), b"x" * SIZE))
        made.queue.appended += 1
        made.queue.appended_bytes += SIZE
    for _ in range(in_flight):
        made.queue.take_oldest()
    return made


def admission(bounds: Bounds, kind: EventKind, size: int = SIZE) -> Admission:
    return bounds.admission(kind, size, bounds.new_quarantine())


@pytest.mark.parametrize(
    ("overflow", "when_full"),
    [("drop_newest", Admission.REFUSE), ("drop_oldest", Admission.DISPLACE), ("wait", Admission.WAIT)],
)
def test_a_push_is_decided_by_what_is_held(overflow: Overflow, when_full: Admission) -> None:
    for held, goal, metrics in (
        (0, Admission.ACCEPT, Admission.ACCEPT),
        (89, Admission.ACCEPT, Admission.ACCEPT),
        (90, Admission.ACCEPT, Admission.YIELD),
        (99, Admission.ACCEPT, Admission.YIELD),
        (100, when_full, Admission.YIELD),
    ):
        here = bounds(overflow, held=held)
        assert admission(here, EventKind.GOAL) is goal
        assert admission(here, EventKind.EVALUATION) is goal
        assert admission(here, EventKind.METRICS) is metrics


def test_bytes_bound_as_well_as_numbers() -> None:
    here = bounds(held=1)

    assert admission(here, EventKind.GOAL, size=99 * SIZE) is Admission.ACCEPT
    assert admission(here, EventKind.GOAL, size=99 * SIZE + 1) is Admission.REFUSE
    assert admission(here, EventKind.METRICS, size=89 * SIZE) is Admission.ACCEPT
    assert admission(here, EventKind.METRICS, size=89 * SIZE + 1) is Admission.YIELD


def test_nothing_is_displaced_if_that_makes_no_room() -> None:
    all_in_flight = bounds("drop_oldest", held=CAPACITY, in_flight=CAPACITY)
    one_queued = bounds("drop_oldest", held=CAPACITY, in_flight=CAPACITY - 1)

    assert admission(all_in_flight, EventKind.GOAL) is Admission.REFUSE
    assert admission(one_queued, EventKind.GOAL) is Admission.DISPLACE
    assert admission(one_queued, EventKind.GOAL, size=SIZE + 1) is Admission.REFUSE


@given(
    overflow=st.sampled_from(get_args(Overflow)),
    kind=st.sampled_from(EventKind),
    capacity=st.integers(1, 20),
    size=st.integers(1, 10),
)
def test_every_class_has_room_for_one_event_however_small_the_bounds_are(
    overflow: Overflow, kind: EventKind, capacity: int, size: int
) -> None:
    assert admission(Bounds(capacity, size, overflow), kind, size) is Admission.ACCEPT


@given(st.sampled_from(get_args(Overflow)), st.sampled_from(EventKind), st.integers(1, 20), st.integers(0, 20))
def test_nothing_is_accepted_over_the_bounds(overflow: Overflow, kind: EventKind, capacity: int, held: int) -> None:
    here = bounds(overflow, capacity, min(held, capacity))

    if admission(here, kind) is Admission.ACCEPT:
        assert here.held < capacity
        assert here.room > 0


def test_half_of_the_room_is_left_to_pushes_while_events_are_recovered() -> None:
    assert bounds(held=49).has_room_for_recovered(SIZE)
    assert not bounds(held=50).has_room_for_recovered(SIZE)
    assert bounds(capacity=1).has_room_for_recovered(SIZE)
    assert not bounds(capacity=1).has_room_for_recovered(SIZE + 1)


def test_half_full_is_more_than_half_of_either_bound() -> None:
    assert not bounds(held=50).is_half_full()
    assert bounds(held=51).is_half_full()

    here = bounds(held=10)
    here.queue.appended_bytes = CAPACITY * SIZE // 2 + 1
    assert here.is_half_full()
