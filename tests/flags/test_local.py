"""The local evaluator, in virtual time: lifecycle, evaluations, and snapshots for other processes."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from bucketeer_async import (
    ApiId,
    ClosedError,
    ConfigurationError,
    ConnectionFailedError,
    FlagChanges,
    LocalEvaluation,
    LocalEvaluationStatistics,
    NotReadyError,
    ReasonType,
    RetryPolicy,
    SnapshotSource,
    User,
    WrongLoopError,
)
from bucketeer_async._evaluation import EvaluationCause, EvaluationError
from bucketeer_async._flags import _definitions
from bucketeer_async._flags._definitions import parse_flag
from bucketeer_async._flags._local import LocalEvaluator
from bucketeer_async._flags._published import Coverage, PublishedFlags
from bucketeer_async._flags._sync import CachedFlags, CachedSegments
from bucketeer_async._lifecycle import State
from tests.clock import VirtualLoop
from tests.fakes import as_forked
from tests.flag_server import EPOCH, FlagServer, Middle, local, polls, rule_for_segment

USER = User("user-1")
DOWN = ConnectionFailedError("the gateway cannot be reached")


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualLoop}


@pytest.fixture
def server() -> FlagServer:
    return FlagServer()


# Options


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"polling_interval": 0}, "polling_interval must be more than 0 seconds"),
        ({"full_refresh_interval": 59.0}, r"full_refresh_interval must be at least polling_interval \(60.0\)"),
        ({"request_timeout": "1"}, "request_timeout must be a finite number of seconds"),
        ({"scope": "all"}, "scope must be one of"),
        ({"bootstrap": 5}, "bootstrap must be bytes or the path of a file, not int"),
        ({"bootstrap": ""}, "bootstrap must be bytes or the path"),
        ({"bootstrap": b""}, "bootstrap must be bytes or the path"),
        ({"bootstrap": "flags\0"}, "bootstrap must be bytes or the path"),
        ({"bootstrap": Path("flags-\ud800")}, "bootstrap must be bytes or the path"),
        ({"retry": 5}, "retry must be a RetryPolicy"),
    ],
    ids=str,
)
def test_a_wrong_option_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"LocalEvaluation.{message}"):
        LocalEvaluation(**fields)


def test_options_are_accepted(tmp_path: Path) -> None:
    LocalEvaluation(
        polling_interval=1, full_refresh_interval=1, bootstrap=tmp_path / "flags", scope="tag", retry=RetryPolicy()
    )


# Evaluations


async def test_before_the_first_poll_there_is_no_evaluation(server: FlagServer) -> None:
    server.error = DOWN
    evaluator = local(server)
    await evaluator.start()

    with pytest.raises(EvaluationError) as caught:
        evaluator.evaluate_nowait(USER, "flag")
    with pytest.raises(NotReadyError):
        evaluator.export_snapshot()

    assert caught.value.cause is EvaluationCause.NOT_READY
    await evaluator.aclose()


async def test_an_evaluation_is_of_the_user_and_the_version_of_the_flag(server: FlagServer) -> None:
    server.put_flag("flag", version=7)
    evaluator = local(server)
    await evaluator.start()
    await evaluator.wait_ready()
    evaluation = evaluator.evaluate_nowait(USER, "flag")
    again = evaluator.evaluate_nowait(User("user-2"), "flag")
    await evaluator.aclose()

    assert (evaluation.feature_id, evaluation.feature_version) == ("flag", 7)
    assert (evaluation.variation_id, evaluation.variation_name, evaluation.variation_value) == ("A", "a", "on")
    assert evaluation.reason.type is ReasonType.DEFAULT
    assert again is evaluation  # of all users, so that none is made for each


async def test_a_variation_that_no_event_could_carry_is_an_error(server: FlagServer) -> None:
    server.put_flag("flag", variations=[{"id": "A", "value": "\ud800"}])
    evaluator = local(server)
    await evaluator.start()
    await evaluator.wait_ready()

    with pytest.raises(EvaluationError, match=r"MALFORMED .*lone surrogate"):
        evaluator.evaluate_nowait(USER, "flag")
    await evaluator.aclose()


class FakeMetrics:
    """Records the metrics of every evaluation, and ignores those of polls."""

    def __init__(self) -> None:
        self.pushed: list[tuple[str, object]] = []

    def completed(self, api_id: ApiId, duration: float, size_byte: int | None = None) -> None:
        if api_id is ApiId.SDK_GET_VARIATION:
            assert size_byte is None
            self.pushed.append(("completed", duration))

    def failed(self, api_id: ApiId, error: BaseException) -> None:
        if api_id is ApiId.SDK_GET_VARIATION:
            self.pushed.append(("failed", type(error)))


async def test_an_evaluation_has_a_latency_and_no_size(server: FlagServer) -> None:
    server.put_flag("flag")
    metrics = FakeMetrics()
    evaluator = local(server, metrics=metrics, latency_clock=itertools.count(step=500_000_000).__next__)
    await evaluator.start()
    await evaluator.wait_ready()

    assert await evaluator.evaluate(USER, "flag") == evaluator.evaluate_nowait(USER, "flag")
    assert metrics.pushed == [("completed", 0.5)]
    await evaluator.aclose()


@pytest.mark.parametrize(("feature_id", "error"), [("unknown", EvaluationError), ("broken", KeyError)])
async def test_a_failed_evaluation_has_an_error(
    server: FlagServer, feature_id: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_text: str) -> None:
        raise KeyError("a bug")

    server.put_flag("broken")
    metrics = FakeMetrics()
    evaluator = local(server, metrics=metrics)
    await evaluator.start()
    await evaluator.wait_ready()
    monkeypatch.setattr(_definitions, "compile_flag", broken)

    with pytest.raises(error):
        await evaluator.evaluate(USER, feature_id)
    assert metrics.pushed == [("failed", error)]
    await evaluator.aclose()


async def test_an_evaluation_before_the_first_flags_has_no_metrics(server: FlagServer) -> None:
    metrics = FakeMetrics()
    evaluator = local(server, metrics=metrics)

    with pytest.raises(EvaluationError, match="NOT_READY"):
        await evaluator.evaluate(USER, "flag")
    assert not metrics.pushed


async def test_evaluations_that_never_wait_give_the_loop_a_turn(server: FlagServer) -> None:
    server.put_flag("flag")
    evaluator = local(server)
    await evaluator.start()
    await evaluator.wait_ready()
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(count)
        for _ in range(1000):
            await evaluator.evaluate(USER, "flag")
        tasks.cancel_scope.cancel()

    assert turns >= 9
    await evaluator.aclose()


# Lifecycle


async def test_start_and_close_may_come_from_any_task_and_again(server: FlagServer) -> None:
    evaluator = local(server)
    await asyncio.create_task(evaluator.start())
    await evaluator.start()
    await polls()
    await asyncio.gather(evaluator.aclose(), evaluator.aclose())
    requests = len(server.flag_requests)
    await asyncio.sleep(1000)

    assert len(server.flag_requests) == requests == 1
    with pytest.raises(ClosedError):
        await evaluator.start()


async def test_flags_that_were_polled_are_evaluated_after_the_close(server: FlagServer) -> None:
    server.put_flag("flag")
    evaluator = local(server)
    await evaluator.start()
    await evaluator.wait_ready()
    await evaluator.aclose()

    await evaluator.wait_ready()
    assert evaluator.evaluate_nowait(USER, "flag").variation_value == "on"


async def test_closing_cancels_the_request_under_way(server: FlagServer) -> None:
    cancelled = False

    async def hang(_path: str) -> None:
        nonlocal cancelled
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled = True
            raise

    server.fault = hang  # type: ignore[method-assign]
    evaluator = local(server)
    await evaluator.start()
    await anyio.wait_all_tasks_blocked()
    await evaluator.aclose()

    assert cancelled
    assert evaluator.statistics().polls == 0


async def test_closing_before_the_start_is_enough(server: FlagServer) -> None:
    evaluator = local(server)
    await evaluator.aclose()

    with pytest.raises(ClosedError):
        await evaluator.start()
    with pytest.raises(ClosedError):
        await evaluator.wait_ready()
    assert server.flag_requests == []


async def test_closing_while_it_starts_ends_the_start(server: FlagServer) -> None:
    evaluator = local(server)
    starting = asyncio.create_task(evaluator.start())
    starting_too = asyncio.create_task(evaluator.start())
    await asyncio.sleep(0)
    await evaluator.aclose()

    results = await asyncio.gather(starting, starting_too, return_exceptions=True)
    assert all(each is None or isinstance(each, ClosedError) for each in results)


async def test_a_start_goes_on_when_one_of_its_callers_is_cancelled(server: FlagServer) -> None:
    for number in range(100):
        server.put_flag(f"flag-{number}")
    data = await saved_by(server)
    evaluator = local(server, bootstrap=data, work_clock=itertools.count().__next__)  # a turn of the loop per flag
    first, second = (asyncio.create_task(evaluator.start()) for _ in range(2))
    ready = asyncio.create_task(evaluator.wait_ready())
    for _ in range(10):
        await asyncio.sleep(0)
    assert not ready.done()
    first.cancel()
    await second
    await ready

    assert first.cancelled()
    assert evaluator.statistics().flags == 100
    await evaluator.aclose()


async def test_a_start_that_is_cancelled_by_all_of_its_callers_is_undone(server: FlagServer) -> None:
    for number in range(100):
        server.put_flag(f"flag-{number}")
    data = await saved_by(server)
    server.flag_requests.clear()
    evaluator = local(server, bootstrap=data, work_clock=itertools.count().__next__)
    starting = asyncio.create_task(evaluator.start())
    for _ in range(10):
        await asyncio.sleep(0)
    starting.cancel()
    await asyncio.wait([starting])
    await asyncio.sleep(1000)

    assert not server.flag_requests
    with pytest.raises(ClosedError):
        await evaluator.start()


async def test_the_close_wakes_the_waiting_callers_of_wait_ready(server: FlagServer) -> None:
    server.error = DOWN
    evaluator = local(server)
    await evaluator.start()
    waiting = [asyncio.create_task(evaluator.wait_ready()) for _ in range(2)]
    await anyio.wait_all_tasks_blocked()
    await evaluator.aclose()

    for each in waiting:
        with pytest.raises(ClosedError):
            await each


async def test_the_caller_bounds_the_wait(server: FlagServer) -> None:
    server.error = DOWN
    evaluator = local(server)
    await evaluator.start()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(300):
            await evaluator.wait_ready()
    await evaluator.aclose()


def test_another_loop_is_refused(server: FlagServer) -> None:
    evaluator = local(server)
    with asyncio.Runner(loop_factory=VirtualLoop) as first, asyncio.Runner(loop_factory=VirtualLoop) as second:
        first.run(evaluator.start())
        for method in (evaluator.start, evaluator.wait_ready, evaluator.aclose):
            with pytest.raises(WrongLoopError):
                second.run(method())
        first.run(evaluator.aclose())


def test_the_end_of_the_loop_ends_the_polling(server: FlagServer) -> None:
    evaluator = local(server)
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(evaluator.start())

    assert evaluator._life.get().lifecycle.state is State.CLOSED
    assert len(server.flag_requests) == 1


def test_a_forked_child_keeps_the_flags_and_can_be_started(server: FlagServer) -> None:
    server.put_flag("flag", updated_at=EPOCH)
    evaluator = local(server)

    async def life() -> str:
        await evaluator.start()
        await evaluator.wait_ready()
        return evaluator.evaluate_nowait(USER, "flag").variation_value

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(life())
        with as_forked(), asyncio.Runner(loop_factory=VirtualLoop) as child:
            assert evaluator.evaluate_nowait(USER, "flag").variation_value == "on"
            child.run(life())
            child.run(polls())
            child.run(evaluator.aclose())

    assert len(server.flag_requests) == 2


def test_counts_and_jitter_are_those_of_each_process(server: FlagServer) -> None:
    made: list[Middle] = []

    def new_rng() -> Middle:
        made.append(Middle())
        return made[-1]

    evaluator = local(server, new_rng=new_rng)

    async def life() -> int:
        await evaluator.start()
        await polls(2)
        await evaluator.aclose()
        return evaluator.statistics().polls

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        assert runner.run(life()) == 2
    assert len(made) == 1

    with as_forked(), asyncio.Runner(loop_factory=VirtualLoop) as runner:
        assert runner.run(life()) == 2
    assert len(made) == 2


def test_a_forked_child_does_not_wake_the_waiting_callers_of_its_parent(server: FlagServer) -> None:
    server.error = DOWN
    evaluator = local(server)

    async def wait() -> asyncio.Task[None]:
        await evaluator.start()
        waiting = asyncio.create_task(evaluator.wait_ready())
        await anyio.wait_all_tasks_blocked()
        return waiting

    async def child() -> None:
        await evaluator.start()
        await evaluator.wait_ready()
        await evaluator.aclose()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        waiting = runner.run(wait())
        server.error = None
        with as_forked():
            asyncio.run(child())
        runner.run(asyncio.sleep(0))

        assert not waiting.done()
        waiting.cancel()
        runner.run(evaluator.aclose())


# Another source of flags


class Pushed:
    """A source that publishes one flag, and never polls."""

    statistics = LocalEvaluationStatistics(last_error="none yet")

    def __init__(self, published: PublishedFlags, rng: random.Random) -> None:
        self._published = published
        self.rng = rng

    async def run(self) -> None:
        flag = json.dumps(
            {"id": "flag", "tags": ["shop"], "offVariation": "A", "variations": [{"id": "A", "value": "x"}]}
        )
        parsed = parse_flag(flag, {})
        assert parsed is not None
        self._published.publish(
            CachedFlags(flags={"flag": parsed}),
            CachedSegments(),
            coverage=Coverage.TAG,
            source=SnapshotSource.POLLED,
            fresh_at=0.0,
        )
        await asyncio.Event().wait()


async def test_any_source_may_publish() -> None:
    seen: list[FlagChanges] = []
    evaluator = LocalEvaluator(
        Pushed,
        tag="shop",
        metrics=FakeMetrics(),
        logger=logging.getLogger(),
        clock=asyncio.get_running_loop().time,
    )
    evaluator.on_change(seen.append)
    await evaluator.start()
    await evaluator.wait_ready()
    await asyncio.sleep(5)

    assert (await evaluator.evaluate(USER, "flag")).variation_value == "x"
    assert seen == [FlagChanges(added=frozenset({"flag"}))]
    assert evaluator.statistics() == LocalEvaluationStatistics(
        source=SnapshotSource.POLLED, flags=1, age=5.0, last_error="none yet"
    )
    await evaluator.aclose()


class Polling(Pushed):
    """A source whose counters change each time that they are read."""

    number = 0

    @property
    def statistics(self) -> LocalEvaluationStatistics:  # type: ignore[override]
        self.number += 1
        return LocalEvaluationStatistics(polls=self.number, failed_polls=self.number, last_error=str(self.number))


def test_counters_of_polls_are_of_one_moment() -> None:
    evaluator = LocalEvaluator(Polling, tag="shop", metrics=FakeMetrics(), logger=logging.getLogger())

    assert evaluator.statistics() == LocalEvaluationStatistics(polls=1, failed_polls=1, last_error="1")


# The bootstrap


async def saved_by(server: FlagServer, tag: str = "shop") -> bytes:
    evaluator = local(server, tag)
    await evaluator.start()
    await polls()
    await evaluator.aclose()
    return evaluator.export_snapshot()


async def test_a_service_starts_with_the_network_down_and_logs_so(
    server: FlagServer, caplog: pytest.LogCaptureFixture
) -> None:
    rule = rule_for_segment("vip", "rule")
    server.put_flag("flag", rules=[rule])
    server.put_flag("other")
    server.put_segment("vip", ["user-1", "user-2"])
    server.put_segment("rule", [])
    server.segments["rule"]["rules"] = [{"clauses": [{"attribute": "plan", "operator": "EQUALS", "values": ["pro"]}]}]
    server.segments["rule"]["users"] = [{"segmentId": "vip", "userId": "stray"}]
    data = await saved_by(server)
    server.error = DOWN
    evaluator = local(server, bootstrap=data)
    await asyncio.sleep(1000)
    await evaluator.start()
    await evaluator.wait_ready()

    for user, expected in [
        (USER, "off"),
        (User("x", {"plan": "pro"}), "off"),
        (User("stray"), "off"),
        (User("x"), "on"),
    ]:
        assert evaluator.evaluate_nowait(user, "flag").variation_value == expected
    statistics = evaluator.statistics()
    assert statistics.source is SnapshotSource.BOOTSTRAP
    assert statistics.age == pytest.approx(1030)
    await anyio.wait_all_tasks_blocked()
    assert (
        "flags cannot be polled (the gateway cannot be reached); the saved flags of 1030 s ago are used" in caplog.text
    )
    assert content(evaluator.export_snapshot()) == content(data)
    await evaluator.aclose()


def content(data: bytes) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(data.split(b"\n")[1])
    for each in body["segments"]:
        each["users"].sort()
    return body


async def test_the_first_poll_replaces_the_saved_flags_and_reports_the_difference(server: FlagServer) -> None:
    server.put_flag("same", rules=[rule_for_segment("vip")])
    server.put_flag("gone")
    server.put_segment("vip", ["user-1"])
    data = await saved_by(server)
    del server.flags["gone"]
    server.put_flag("new")
    seen: list[FlagChanges] = []

    async def take_a_second(_path: str) -> None:
        await asyncio.sleep(1)

    server.fault = take_a_second  # type: ignore[method-assign]
    evaluator = local(server, bootstrap=data)
    evaluator.on_change(seen.append)
    await evaluator.start()
    await evaluator.wait_ready()
    assert seen == []
    await asyncio.sleep(10)

    assert seen == [FlagChanges(added=frozenset({"new"}), removed=frozenset({"gone"}))]
    assert evaluator.statistics().source is SnapshotSource.POLLED
    assert server.flag_requests[-1] == ("shop", "", 0)
    assert server.segment_requests[-1] == (["vip"], 0)
    await evaluator.aclose()


async def test_flags_may_be_fresh_while_segments_are_still_the_saved_ones(server: FlagServer) -> None:
    server.put_flag("flag", rules=[rule_for_segment("vip")])
    server.put_segment("vip", ["user-1"])
    data = await saved_by(server)
    server.put_flag("flag", enabled=False, rules=[])

    async def refuse(path: str) -> None:
        if path == "segments":
            raise DOWN

    server.fault = refuse  # type: ignore[method-assign]
    evaluator = local(server, bootstrap=data)
    await evaluator.start()
    await polls()

    assert evaluator.evaluate_nowait(USER, "flag").reason.type is ReasonType.OFF_VARIATION
    assert evaluator.statistics().source is SnapshotSource.BOOTSTRAP
    await evaluator.aclose()


async def test_a_bootstrap_of_the_whole_environment_keeps_it_polled(server: FlagServer) -> None:
    needs = [{"featureId": "other", "variationId": "A"}]
    server.put_flag("flag", prerequisites=needs)
    server.put_flag("other", tags=[])
    data = await saved_by(server)
    server.flag_requests.clear()
    evaluator = local(server, bootstrap=data)
    await evaluator.start()
    assert evaluator.evaluate_nowait(USER, "flag").variation_value == "on"
    await asyncio.sleep(10)

    assert [request[0] for request in server.flag_requests] == [""]
    await evaluator.aclose()


def resealed(data: bytes, change: Callable[[dict[str, Any]], object], version: int = 1) -> bytes:
    body = json.loads(data.split(b"\n")[1])
    change(body)
    encoded = json.dumps(body).encode()
    header = {
        "format": "bucketeer-async-snapshot",
        "version": version,
        "sha256": hashlib.sha256(encoded).hexdigest(),
    }
    return json.dumps(header).encode() + b"\n" + encoded + b"\n"


def nothing(_body: dict[str, Any]) -> None: ...


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda _: b"hello", "does not begin with a header"),
        (lambda _: b"{}\n{}", "does not begin with a header"),
        (lambda _: b"[]\n{}", "does not begin with a header"),
        (lambda data: data[:-20], "damaged"),
        (lambda data: data.replace(b"user-1", b"user-7"), "damaged"),
        (lambda data: resealed(data, nothing, version=2), "the version is 2, not 1"),
        (lambda data: resealed(data, lambda body: body.pop("features")), r"cannot be read \(KeyError\)"),
        (lambda data: resealed(data, lambda body: body.update(savedAt=None)), r"cannot be read \(TypeError\)"),
        (lambda data: resealed(data, lambda body: body.update(tag="else")), "of the tag 'else', not 'shop'"),
        (lambda data: resealed(data, lambda body: body.update(segments=[{}])), "a segment cannot be read"),
        (lambda data: resealed(data, lambda body: body.update(features=[5])), "a flag cannot be read"),
    ],
    ids=["text", "no-format", "list", "short", "edited", "version", "no-features", "no-time", "tag", "segment", "flag"],
)
async def test_a_bootstrap_that_cannot_be_used_is_refused_at_the_start(
    server: FlagServer, damage: Callable[[bytes], bytes], message: str
) -> None:
    server.put_flag("flag", rules=[rule_for_segment("vip")])
    server.put_segment("vip", ["user-1"])
    data = await saved_by(server)
    evaluator = local(server, bootstrap=damage(data))

    with pytest.raises(ConfigurationError, match=f"LocalEvaluation.bootstrap must be .*{message}"):
        await evaluator.start()
    with pytest.raises(ClosedError):
        await evaluator.start()
    with pytest.raises(ClosedError):
        await evaluator.wait_ready()
    await evaluator.aclose()


# Files, in real time


@pytest.mark.parametrize("members", [1, 30_000], ids=["small", "large"])
def test_a_file_is_read_off_the_loop(server: FlagServer, tmp_path: Path, members: int) -> None:
    path = tmp_path / "flags"

    async def save() -> None:
        server.put_flag("flag", rules=[rule_for_segment("vip")])
        server.put_segment("vip", [f"user-{number}" for number in range(1, members + 1)])
        path.write_bytes(await saved_by(server))

    async def begin() -> None:
        server.error = DOWN
        evaluator = local(server, bootstrap=path)
        await evaluator.start()
        assert evaluator.evaluate_nowait(USER, "flag").variation_value == "off"
        assert evaluator.statistics().segments == 1
        await evaluator.aclose()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(save())
    asyncio.run(begin())


def test_a_file_that_does_not_exist_is_only_logged(
    server: FlagServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def begin() -> None:
        evaluator = local(server, bootstrap=tmp_path / "flags")
        await evaluator.start()
        await evaluator.wait_ready()
        await evaluator.aclose()

    with caplog.at_level(logging.WARNING):
        asyncio.run(begin())

    assert "there is no bootstrap at" in caplog.text


def test_a_file_that_cannot_be_read_is_an_error(server: FlagServer, tmp_path: Path) -> None:
    async def begin() -> None:
        with pytest.raises(ConfigurationError, match=r"LocalEvaluation\.bootstrap cannot be read"):
            await local(server, bootstrap=tmp_path).start()

    asyncio.run(begin())
