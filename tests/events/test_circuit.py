"""The circuit, step by step; without an event loop."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketeer_async import RetryPolicy
from bucketeer_async._events._circuit import Circuit, CircuitState
from bucketeer_async._retry import Action, Decision, PauseKind

OUTAGE = Decision(action=Action.PAUSE)

MISCONFIGURED = Decision(action=Action.PAUSE, pause_kind=PauseKind.CONFIGURATION)


class Latest(random.Random):
    """Always the end of the interval, so that every pause is the longest possible."""

    def uniform(self, a: float, b: float) -> float:
        return b


def circuit(*, slots: int = 3, initial: float = 0.5, maximum: float = 30.0) -> Circuit:
    return Circuit(RetryPolicy(initial=initial, maximum=maximum), slots=slots, rng=Latest())


def test_slots_bound_the_posts() -> None:
    gate = circuit(slots=2)
    first = gate.enter()
    gate.enter()
    assert gate.wait(0.0) is None

    gate.leave(first, 0.0)

    assert gate.wait(0.0) == 0.0


def test_an_outage_is_noticed_once() -> None:
    gate = circuit()
    passes = [gate.enter() for _ in range(3)]

    assert [gate.failed(each, OUTAGE, 0.0) for each in passes] == [True, False, False]
    assert gate.wait(0.0) is None  # the largest number of batches is in flight

    gate.leave(passes[0], 0.0)
    assert gate.wait(0.0) == 0.5


def test_one_probe_at_a_time_with_a_doubling_step() -> None:
    gate = circuit()
    first = gate.enter()
    gate.failed(first, OUTAGE, 0.0)
    gate.leave(first, 0.0)
    now, waits = 0.0, []
    for _ in range(12):
        wait = gate.wait(now)
        assert wait is not None
        waits.append(wait)
        now += wait
        probe = gate.enter()
        assert gate.state is CircuitState.PROBING
        assert gate.wait(now) is None
        gate.failed(probe, OUTAGE, now)
        gate.leave(probe, now)

    # At most 2 s in the first 10 s, then doubling up to the maximum.
    assert waits == [0.5, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 30.0, 30.0, 30.0, 30.0, 30.0]


def test_slots_reopen_one_per_answered_post() -> None:
    gate = circuit(slots=4)
    first = gate.enter()
    gate.failed(first, OUTAGE, 0.0)
    gate.leave(first, 0.0)
    probe = gate.enter()
    gate.succeeded(probe, 1)
    gate.leave(probe, 1.0)

    passes = []
    while gate.wait(1.0) == 0.0:
        passes.append(gate.enter())
    assert len(passes) == 2

    gate.succeeded(passes[0], 1)
    gate.leave(passes[0], 1.0)
    while gate.wait(1.0) == 0.0:
        passes.append(gate.enter())
    assert gate.posting == 3


def test_what_began_before_the_outage_does_not_count() -> None:
    gate = circuit()
    old, first = gate.enter(), gate.enter()
    gate.failed(first, OUTAGE, 0.0)
    probe = gate.enter()
    gate.succeeded(probe, 1)

    assert not gate.failed(old, OUTAGE, 1.0)

    assert gate.state is CircuitState.CLOSED


def test_a_probe_that_ends_without_an_answer_failed() -> None:
    gate = circuit()
    first = gate.enter()
    gate.failed(first, OUTAGE, 0.0)
    gate.leave(first, 0.0)
    probe = gate.enter()

    gate.leave(probe, 5.0)

    assert gate.state is CircuitState.OPEN
    assert gate.wait(5.0) == 1.0


def test_configuration_trouble_is_probed_every_30_seconds() -> None:
    gate = circuit()
    pauses = []
    now = 0.0
    for _ in range(4):
        permit = gate.enter()
        gate.failed(permit, MISCONFIGURED, now)
        gate.leave(permit, now)
        pause = gate.wait(now)
        assert pause is not None
        pauses.append(pause)
        now += pause

    assert pauses == pytest.approx([1.1, 5.5, 33.0, 33.0])  # up to 10 % of jitter


def test_retry_after_holds_everybody_back() -> None:
    gate = circuit()
    old, first = gate.enter(), gate.enter()
    gate.failed(first, Decision(action=Action.PAUSE, retry_after=5.0), 0.0)
    gate.failed(old, Decision(action=Action.PAUSE, retry_after=10.0), 0.0)

    assert gate.wait(0.0) == 12.0


def test_closing_wakes_the_pause_and_shortens_the_next() -> None:
    gate = circuit(initial=30.0)
    gate.failed(gate.enter(), MISCONFIGURED, 0.0)

    gate.hurry(1.0)

    assert gate.wait(1.0) == 0.0
    gate.failed(gate.enter(), MISCONFIGURED, 1.0)
    assert gate.wait(1.0) == 1.0


def test_closing_still_honours_retry_after() -> None:
    gate = circuit()
    gate.failed(gate.enter(), Decision(action=Action.PAUSE, retry_after=5.0), 0.0)

    gate.hurry(1.0)

    assert gate.wait(1.0) == 5.0


@given(st.lists(st.sampled_from(["enter", "ok", "fail", "leave", "tick"]), max_size=60), st.integers(1, 5))
def test_circuit_invariants(steps: list[str], slots: int) -> None:
    gate = circuit(slots=slots)
    inside, now = [], 0.0
    for step in steps:
        match step:
            case "enter" if gate.wait(now) == 0.0:
                inside.append(gate.enter())
            case "ok" if inside:
                gate.succeeded(inside[0], 1)
            case "fail" if inside:
                gate.failed(inside[-1], OUTAGE, now)
            case "leave" if inside:
                gate.leave(inside.pop(0), now)
            case "tick":
                now += 1.0
        assert gate.posting == len(inside)
        assert gate.posting <= slots
        wait = gate.wait(now)
        assert wait is None or wait >= 0
        assert wait is not None or inside  # None only while a batch is in flight
