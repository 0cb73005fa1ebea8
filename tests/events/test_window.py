"""Evaluation events once per window: what is refused as a duplicate, what is not, and that every push is counted."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import Any

import anyio
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from bucketeer_async import (
    Drop,
    Evaluation,
    Fate,
    Processor,
    ProcessorConfig,
    Reason,
    ReasonType,
    Receipt,
    RefusedReason,
    StatusError,
    User,
    WrongLoopError,
)
from bucketeer_async._events import _window
from tests.clock import VirtualLoop
from tests.fakes import FakeAnswer, FakeClient, FakeEventError, as_forked

USER, OTHER = User("user-1", {"plan": "pro"}), User("user-2")


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualLoop}


def evaluation(variation: str = "A", *, flag: str = "flag", version: int = 1, reason: int = 3) -> Evaluation:
    return Evaluation(
        feature_id=flag, feature_version=version, variation_id=variation, reason=Reason(ReasonType(reason))
    )


def is_duplicate(receipt: Receipt) -> bool:
    assert receipt.outcome is None or receipt.outcome.reason == RefusedReason.DUPLICATE
    return not receipt.accepted


def processor(client: FakeClient | None = None, **options: Any) -> Processor:
    given: dict[str, Any] = {"evaluation_window": 60.0, "flush_interval": 1.0}
    return Processor(client or FakeClient(), ProcessorConfig(**given | options))


async def test_what_differs_from_the_last_one_is_sent_and_what_repeats_it_is_not() -> None:
    client = FakeClient()
    async with processor(client) as events:
        push = events.push_evaluation_event_nowait
        assert not is_duplicate(push(USER, evaluation("A")))
        assert is_duplicate(push(USER, evaluation("A")))
        assert not is_duplicate(push(USER, evaluation("B")))
        assert not is_duplicate(push(USER, evaluation("A")))
        assert not is_duplicate(push(USER, evaluation("A", version=2)))
        assert not is_duplicate(push(USER, evaluation("A", version=2, reason=1)))
        assert is_duplicate(
            push(
                USER,
                Evaluation(
                    feature_id="flag",
                    feature_version=2,
                    variation_id="A",
                    reason=Reason(ReasonType.RULE, "another rule"),
                ),
            )
        )
        assert not is_duplicate(push(USER, evaluation("A", flag="other")))
        assert not is_duplicate(push(OTHER, evaluation("A", version=2, reason=1)))
        assert is_duplicate(await events.push_evaluation_event(User("user-1"), evaluation("A", version=2, reason=1)))
        counts = events.statistics().evaluation

    assert (counts.pushed, counts.accepted, counts.refused_by) == (10, 7, {RefusedReason.DUPLICATE: 3})
    assert sum(client.sizes) == 7


async def test_a_window_begins_with_the_event_and_is_not_prolonged() -> None:
    async with processor(evaluation_window=10.0) as events:
        sent = []
        for _ in range(21):
            sent.append((await events.push_evaluation_event(USER, evaluation())).accepted)
            await anyio.sleep(1.0)

    assert [second for second, accepted in enumerate(sent) if accepted] == [0, 10, 20]


async def test_defaults_and_goals_are_never_duplicates_and_not_remembered() -> None:
    failed = Evaluation(feature_id="flag", variation_id="", reason=Reason(ReasonType.CLIENT))
    async with processor() as events:
        events.push_evaluation_event_nowait(USER, evaluation())
        for _ in range(2):
            assert (await events.push_default_evaluation_event(USER, "flag")).accepted
            assert events.push_evaluation_event_nowait(USER, failed).accepted
            assert events.push_goal_event_nowait(USER, "goal").accepted
        assert is_duplicate(events.push_evaluation_event_nowait(USER, evaluation()))


async def test_without_a_window_everything_is_sent() -> None:
    async with processor(evaluation_window=None) as events:
        for _ in range(5):
            assert events.push_evaluation_event_nowait(USER, evaluation()).accepted


async def rejected(events: list[dict[str, Any]]) -> FakeAnswer:
    return FakeAnswer({event["id"]: FakeEventError(retriable=False) for event in events})


async def unavailable(_events: list[dict[str, Any]]) -> FakeAnswer:
    raise StatusError(503)


@pytest.mark.parametrize(
    ("script", "options", "seconds", "fate"),
    [
        (rejected, {}, 2.0, Fate.REJECTED),
        (unavailable, {"event_lifetime": 5.0}, 40.0, Fate.DROPPED),
    ],
)
async def test_what_was_lost_is_forgotten(script: Any, options: dict[str, Any], seconds: float, fate: Fate) -> None:
    client = FakeClient(script)
    async with processor(client, drain_timeout=1.0, **options) as events:
        first = events.push_evaluation_event_nowait(USER, evaluation())
        assert is_duplicate(events.push_evaluation_event_nowait(USER, evaluation()))
        await anyio.sleep(seconds)
        assert first.outcome is not None
        assert first.outcome.fate is fate
        assert events.push_evaluation_event_nowait(USER, evaluation()).accepted


async def test_what_was_displaced_is_forgotten() -> None:
    async with processor(
        FakeClient(unavailable), overflow="drop_oldest", queue_capacity=2, flush_size=2, drain_timeout=0
    ) as events:
        events.push_evaluation_event_nowait(USER, evaluation())
        for _ in range(2):
            events.push_goal_event_nowait(USER, "goal")

        assert events.push_evaluation_event_nowait(USER, evaluation()).accepted


async def test_what_was_refused_is_not_remembered() -> None:
    async with processor(FakeClient(unavailable), queue_capacity=1, flush_size=1, drain_timeout=0) as events:
        events.push_goal_event_nowait(USER, "goal")
        for _ in range(2):
            receipt = events.push_evaluation_event_nowait(USER, evaluation())
            assert receipt.outcome is not None
            assert receipt.outcome.reason == RefusedReason.QUEUE_FULL


async def test_before_the_start_and_after_closing_nothing_is_a_duplicate() -> None:
    events = processor()
    refused = [events.push_evaluation_event_nowait(USER, evaluation())]
    async with events:
        for _ in range(2):
            events.push_evaluation_event_nowait(USER, evaluation())
    refused += [await events.push_evaluation_event(USER, evaluation())]
    refused += [events.push_evaluation_event_nowait(USER, evaluation())]

    assert [receipt.outcome and receipt.outcome.reason for receipt in refused] == [RefusedReason.NOT_RUNNING] * 3
    assert events.statistics().evaluation.refused_by == {RefusedReason.NOT_RUNNING: 3, RefusedReason.DUPLICATE: 1}


async def test_a_duplicate_is_told_to_nobody_but_the_caller(caplog: pytest.LogCaptureFixture) -> None:
    drops: list[Drop] = []
    async with processor(strict=True, on_drop=drops.append) as events:
        events.push_evaluation_event_nowait(USER, evaluation())
        receipt = events.push_evaluation_event_nowait(USER, evaluation())
        assert receipt.event_id == ""
        assert (await receipt.settled()).fate is Fate.REFUSED

    assert not drops
    assert not [record for record in caplog.records if record.levelname != "INFO"]


async def test_wrong_arguments_are_refused_or_raise_as_without_a_window() -> None:
    async with processor() as events, processor(strict=True) as strict:
        for wrong in ((None, evaluation()), (USER, None)):
            receipt = events.push_evaluation_event_nowait(*wrong)  # type: ignore[arg-type]
            assert receipt.outcome is not None
            assert receipt.outcome.reason == RefusedReason.INVALID
            with pytest.raises(TypeError):
                await strict.push_evaluation_event(*wrong)  # type: ignore[arg-type]


class Visitor(User):
    """A user of the application's own class."""


class Flags(StrEnum):
    """Texts of the application's own class."""

    FLAG = "flag"
    A = "A"
    USER = "user-1"


async def test_classes_of_the_application_are_the_same_users_and_flags() -> None:
    own = Evaluation(feature_id=Flags.FLAG, feature_version=1, variation_id=Flags.A, reason=Reason(ReasonType.DEFAULT))
    for first, second in (
        ((USER, evaluation()), (User(Flags.USER), own)),
        ((User(Flags.USER), own), (USER, evaluation())),
    ):
        async with processor() as events:
            assert events.push_evaluation_event_nowait(*first).accepted
            assert is_duplicate(events.push_evaluation_event_nowait(*second))
            assert is_duplicate(events.push_evaluation_event_nowait(Visitor("user-1"), evaluation()))


async def test_awaited_duplicates_give_the_loop_its_turn() -> None:
    async with processor() as events:
        await events.push_evaluation_event(USER, evaluation())
        turns: list[int] = []
        asyncio.get_running_loop().call_soon(turns.append, 1)
        for _ in range(100):
            await events.push_evaluation_event(USER, evaluation())
        assert turns


def test_awaited_duplicates_keep_to_their_loop() -> None:
    async def push() -> None:
        async with processor() as events:
            await events.push_evaluation_event(USER, evaluation())
            with pytest.raises(WrongLoopError):
                await asyncio.to_thread(asyncio.run, events.push_evaluation_event(USER, evaluation()))

    asyncio.run(push())


async def test_pushes_that_wait_for_room_are_sent_once() -> None:
    async with processor(overflow="wait", queue_capacity=1, flush_size=1) as events:
        await events.push_goal_event(USER, "goal")
        receipts = await asyncio.gather(*(events.push_evaluation_event(USER, evaluation()) for _ in range(20)))

    assert sum(receipt.accepted for receipt in receipts) == 1
    assert events.statistics().evaluation.refused_by == {RefusedReason.DUPLICATE: 19}


async def test_a_local_evaluation_that_repeats_has_its_latency_only_if_metrics_are_on() -> None:
    for metrics, expected in ((True, 3), (False, 0)):
        async with processor(metrics=metrics) as events:
            for _ in range(3):
                events._record_local_evaluation(USER, evaluation(), 0.1)
            statistics = events.statistics()
        assert statistics.metrics.accepted == statistics.metrics.pushed == expected
        assert (statistics.evaluation.accepted, statistics.evaluation.refused) == (1, 2)


async def test_a_forked_child_remembers_nothing() -> None:
    async with processor() as events:
        events.push_evaluation_event_nowait(USER, evaluation())
        with as_forked():
            await events.start()
            assert events.push_evaluation_event_nowait(USER, evaluation()).accepted
            await events.aclose()


async def test_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_window, "_MOST", 3)
    async with processor() as events:
        window = events._life.get().window
        assert window is not None

        def push(number: int) -> bool:
            return events.push_evaluation_event_nowait(User(str(number)), evaluation()).accepted

        assert [push(number) for number in (1, 2, 3, 4, 1)] == [True] * 5
        assert [push(number) for number in (3, 4, 1)] == [False] * 3
        assert len(window._last) == 3
        assert events.push_evaluation_event_nowait(User("3"), evaluation("B")).accepted  # and not the oldest any more
        assert push(5)
        assert is_duplicate(events.push_evaluation_event_nowait(User("3"), evaluation("B")))
        await anyio.sleep(61.0)
        assert push(5)
        assert push(6)
        assert {user for user, _ in window._last} == {"5", "6"}


def test_threads_that_push_the_same_have_one_of_it_sent() -> None:
    threads, users = 8, [User(f"user-{number}") for number in range(200)]
    barrier = threading.Barrier(threads)

    async def push_from_threads() -> None:
        async with processor(evaluation_window=3600.0) as events:

            def push() -> int:
                barrier.wait()
                return sum(events.push_evaluation_event_nowait(user, evaluation()).accepted for user in users)

            with ThreadPoolExecutor(threads) as pool:
                loop = asyncio.get_running_loop()
                accepted = await asyncio.gather(*(loop.run_in_executor(pool, push) for _ in range(threads)))
            counts = events.statistics().evaluation

        assert sum(accepted) == counts.accepted == len(users)
        assert counts.refused_by == {RefusedReason.DUPLICATE: (threads - 1) * len(users)}

    asyncio.run(push_from_threads())


class WindowMachine(RuleBasedStateMachine):
    """Compares a processor with a plain account of what was accepted last, and of what became of it."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.mood = "well"
        self.client = FakeClient(self.answer)
        config = ProcessorConfig(
            evaluation_window=20.0,
            queue_capacity=6,
            flush_size=3,
            flush_interval=2.0,
            event_lifetime=30.0,
            overflow="drop_oldest",
            drain_timeout=1.0,
        )
        self.processor = Processor(self.client, config)
        self.loop.run_until_complete(self.processor.start())
        self.last: dict[tuple[str, str], tuple[Evaluation, float, Receipt]] = {}
        self.receipts: list[Receipt] = []

    async def answer(self, events: list[dict[str, Any]]) -> FakeAnswer:
        if self.mood == "down":
            raise StatusError(503)
        return await rejected(events) if self.mood == "rejecting" else FakeAnswer()

    @rule(
        user=st.sampled_from([USER, OTHER]),
        said=st.builds(evaluation, st.sampled_from("AB"), flag=st.sampled_from(["f", "g"]), version=st.integers(1, 2)),
        is_awaited=st.booleans(),
    )
    def push(self, user: User, said: Evaluation, *, is_awaited: bool) -> None:
        key = (user.id, said.feature_id)
        due = {self.repeats(key, said)}
        if is_awaited:
            receipt = self.loop.run_until_complete(self.processor.push_evaluation_event(user, said))
            due.add(self.repeats(key, said))  # what is on its way may have been settled meanwhile
        else:
            receipt = self.processor.push_evaluation_event_nowait(user, said)
        is_refused = receipt.outcome is not None and receipt.outcome.reason == RefusedReason.DUPLICATE
        assert is_refused in due
        self.receipts.append(receipt)
        if receipt.accepted:
            self.last[key] = (said, self.loop.time(), receipt)

    def repeats(self, key: tuple[str, str], said: Evaluation) -> bool:
        if key not in self.last:
            return False
        last, began, receipt = self.last[key]
        is_kept = receipt.outcome is None or receipt.outcome.fate is Fate.DELIVERED
        return last == said and self.loop.time() - began < 20.0 and is_kept

    @rule(count=st.integers(1, 8))
    def displace(self, count: int) -> None:
        self.receipts += [self.processor.push_goal_event_nowait(USER, "goal") for _ in range(count)]

    @rule(mood=st.sampled_from(["well", "well", "down", "rejecting"]))
    def turn(self, mood: str) -> None:
        self.mood = mood

    @rule(seconds=st.sampled_from([0.5, 3.0, 9.5, 20.0]))
    def wait(self, seconds: float) -> None:
        self.loop.run_until_complete(anyio.sleep(seconds))

    @invariant()
    def conserved(self) -> None:
        total = self.processor.statistics().total
        reasons = Counter(
            receipt.outcome.reason for receipt in self.receipts if not receipt.accepted and receipt.outcome
        )
        assert reasons == total.refused_by
        assert total.pushed == total.accepted + total.refused == len(self.receipts)
        assert total.accepted == sum(receipt.accepted for receipt in self.receipts)
        ends = total.delivered + total.rejected + total.dropped
        assert total.accepted == ends + total.queued + total.in_flight

    def teardown(self) -> None:
        self.loop.run_until_complete(self.processor.aclose())
        self.conserved()
        self.loop.close()


TestWindowMachine = WindowMachine.TestCase
TestWindowMachine.settings = settings(max_examples=60, stateful_step_count=30)
