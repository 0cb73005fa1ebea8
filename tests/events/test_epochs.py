"""Epochs by themselves: which records a flush waits for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bucketeer_async import EventKind
from bucketeer_async._events._epochs import Epochs
from bucketeer_async._events._receipt import Origin, Receipt


def push(epochs: Epochs) -> Receipt:
    return Receipt(Origin(EventKind.GOAL, None, 0.0, epochs.current), b"")


def test_an_epoch_without_earlier_records_is_over_at_once() -> None:
    epochs = Epochs()

    assert epochs.has_settled_before(epochs.begin(held=0))


def test_a_flush_does_not_wait_for_later_records() -> None:
    epochs = Epochs()
    early = push(epochs)
    epoch = epochs.begin(held=1)
    late = push(epochs)

    assert not epochs.has_settled_before(epoch)
    epochs.settle([late])
    assert not epochs.has_settled_before(epoch)
    epochs.settle([early])
    assert epochs.has_settled_before(epoch)
    assert not epochs.past


def test_a_thousand_flushes_at_once_are_one_epoch() -> None:
    epochs = Epochs()
    record = push(epochs)

    assert len({epochs.begin(held=1) for _ in range(1000)}) == 1
    assert len(epochs.past) == 1
    epochs.settle([record])
    assert not epochs.past


STEPS = st.lists(st.tuples(st.sampled_from(["push", "begin", "settle"]), st.integers(0, 100)), max_size=60)


@given(STEPS)
def test_an_epoch_is_over_when_all_earlier_records_are_settled(steps: list[tuple[str, int]]) -> None:
    epochs = Epochs()
    held: list[Receipt] = []
    begun: list[tuple[int, list[Receipt]]] = []
    for step, number in steps:
        match step:
            case "push":
                held.append(push(epochs))
            case "begin":
                begun.append((epochs.begin(len(held)), list(held)))
            case "settle" if held:
                epochs.settle([held.pop(number % len(held))])

        for epoch, earlier in begun:
            assert epochs.has_settled_before(epoch) is not any(each in held for each in earlier)
        assert sum(epochs.past.values()) <= len(held)
