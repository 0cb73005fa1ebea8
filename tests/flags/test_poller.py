"""The poller, in virtual time: every rule of the gateway's responses, and every omission.

Each test runs with a fake gateway and with the local one; tests of impossible responses with the fake alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import random
import re
import sys
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bucketeer_async import (
    ApiError,
    ApiId,
    ClosedError,
    ConnectionFailedError,
    DecodeError,
    FlagChanges,
    LocalEvaluation,
    RetryPolicy,
    SnapshotSource,
    StatusError,
    User,
)
from bucketeer_async._background import in_turns
from bucketeer_async._evaluation import EvaluationCause, EvaluationError, _yaml, compile_flag
from bucketeer_async._flags import _definitions as held_module
from bucketeer_async._flags import _sync as replica
from bucketeer_async._flags._local import LocalEvaluator
from bucketeer_async._flags._published import Coverage
from bucketeer_async._flags._schedule import pause
from tests.clock import VirtualLoop
from tests.flag_server import (
    EPOCH,
    FakeMetrics,
    FlagServer,
    GatewayFlagServer,
    Middle,
    fnv,
    local,
    polls,
    rule_for_segment,
)

USER = User("user-1")
TOO_LARGE = StatusError(429, code=8, detail="grpc: received message larger than max (9 vs. 4)")
DOWN = ConnectionFailedError("the gateway cannot be reached")


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualLoop}


@pytest.fixture(params=[FlagServer, GatewayFlagServer], ids=["fake", "gateway"])
def server(request: pytest.FixtureRequest) -> FlagServer:
    server: FlagServer = request.param()
    return server


@pytest.fixture
def fake() -> FlagServer:
    """Return the fake gateway, which can respond as no gateway does."""
    return FlagServer()


@asynccontextmanager
async def polling(server: FlagServer, **options: Any) -> AsyncIterator[LocalEvaluator]:
    evaluator = local(server, **options)
    await evaluator.start()
    await polls(1)
    try:
        yield evaluator
    finally:
        await evaluator.aclose()


def flag_ids(evaluator: LocalEvaluator) -> list[str]:
    published = evaluator._published.current
    assert published is not None
    return sorted(published.flags)


def segments(evaluator: LocalEvaluator) -> dict[str, set[str]]:
    published = evaluator._published.current
    assert published is not None
    return {key: set(each.segment.members) for key, each in published.segments.items() if each.segment}


async def value(evaluator: LocalEvaluator, feature_id: str = "flag") -> str:
    return evaluator.evaluate_nowait(USER, feature_id).variation_value


# Flags


def test_the_hash_is_the_servers() -> None:
    def hash_of(*fields: dict[str, Any]) -> str:
        steps = replica.hash_flags(held_module.FlagDefinition(each["id"], "", each) for each in fields)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return str(end.value)

    assert hash_of({"id": "feature-a", "updatedAt": "1700000000"}) == "2837937118210819723"
    assert hash_of() == "14695981039346656037"
    assert hash_of({"id": "b", "updatedAt": 5}, {"id": "ä"}, {"id": "a", "updatedAt": "7"}) == fnv("a:7b:5ä:0")


async def test_the_first_poll_requests_everything_and_later_ones_request_changes(server: FlagServer) -> None:
    server.put_flag("flag")
    async with polling(server) as evaluator:
        await polls()

        current = fnv(f"flag:{EPOCH}")
        assert server.flag_requests == [("shop", "", 0), ("shop", current, EPOCH)]
        assert server.segment_requests == [([], 0), ([], EPOCH - 600)]
        assert await value(evaluator) == "on"


async def test_a_change_arrives_with_the_next_poll_and_nothing_else_is_compiled(server: FlagServer) -> None:
    for feature_id in ("flag", "other"):
        server.put_flag(feature_id)
    async with polling(server) as evaluator:
        before = evaluator._published.current
        assert before is not None
        server.put_flag("flag", enabled=False, version=2)
        server.put_flag("new")
        await polls()

        after = evaluator._published.current
        assert after is not None
        assert await value(evaluator) == "off"
        assert flag_ids(evaluator) == ["flag", "new", "other"]
        assert after.flags["other"] is before.flags["other"]
        assert len(server.flag_requests) == 2


async def test_a_snapshot_is_a_mapping_of_compiled_flags(server: FlagServer) -> None:
    for feature_id in ("flag", "other"):
        server.put_flag(feature_id)
    async with polling(server) as evaluator:
        published = evaluator._published.current
        assert published is not None
        assert {key: flag.id for key, flag in published.snapshot.flags.items()} == {"flag": "flag", "other": "other"}
        assert len(published.snapshot.flags) == 2


async def test_a_poll_without_changes_keeps_the_snapshot(server: FlagServer) -> None:
    server.put_flag("flag", rules=[rule_for_segment("vip")])
    server.put_segment("vip", ["user-2"], updated_at=EPOCH - 100)
    async with polling(server, full_refresh_interval=60.0) as evaluator:
        before = evaluator._published.current
        assert before is not None
        await polls(2)

        assert server.flag_requests == 3 * [("shop", "", 0)]
        assert evaluator._published.current is not None
        assert evaluator._published.current.snapshot is before.snapshot


async def test_an_archived_flag_is_forgotten(server: FlagServer) -> None:
    for feature_id in ("flag", "other"):
        server.put_flag(feature_id)
    async with polling(server) as evaluator:
        server.put_flag("flag", archived=True)
        await polls()

        assert flag_ids(evaluator) == ["other"]
        assert len(server.flag_requests) == 2


@pytest.mark.parametrize(
    "leave",
    [
        lambda server: server.put_flag("flag", tags=["else"]),
        lambda server: server.flags.pop("flag"),
        lambda server: server.put_flag("flag", enabled=False, offVariation=""),
    ],
    ids=["lost its tag", "was deleted", "is off without an off variation"],
)
async def test_a_flag_that_the_response_does_not_mention_is_noticed_at_once(
    server: FlagServer, leave: Callable[[FlagServer], None]
) -> None:
    for feature_id in ("flag", "other"):
        server.put_flag(feature_id)
    server.put_flag("archived", archived=True)  # for 30 days, every response has it
    async with polling(server) as evaluator:
        leave(server)
        await polls()

        assert flag_ids(evaluator) == ["other"]
        assert [request[1] for request in server.flag_requests] == ["", server.flag_requests[1][1], ""]
        await polls()
        assert len(server.flag_requests) == 4


async def test_a_doubt_lasts_until_everything_has_been_sent(server: FlagServer) -> None:
    for feature_id in ("flag", "other"):
        server.put_flag(feature_id)
    server.put_flag("archived", archived=True)

    async def refuse_everything(_path: str) -> None:
        if len(server.flag_requests) == 3:
            raise DOWN

    server.fault = refuse_everything  # type: ignore[method-assign]
    async with polling(server) as evaluator:
        del server.flags["flag"]
        await polls()

        assert flag_ids(evaluator) == ["other"]
        assert [request[1] == "" for request in server.flag_requests] == [True, False, True, True]


async def test_the_end_of_the_last_flag_empties_the_snapshot(server: FlagServer) -> None:
    server.put_flag("flag")
    async with polling(server) as evaluator:
        del server.flags["flag"]
        await polls()
        assert flag_ids(evaluator) == []
        assert len(server.flag_requests) == 2

        server.put_flag("flag")
        await polls()
        assert flag_ids(evaluator) == ["flag"]


async def test_a_gateway_with_another_hash_is_believed_until_the_full_refresh(fake: FlagServer) -> None:
    fake.hash = lambda text: f"v2-{fnv(text)}"
    for feature_id in ("flag", "other"):
        fake.put_flag(feature_id)
    fake.put_flag("archived", archived=True)
    async with polling(fake, full_refresh_interval=600.0) as evaluator:
        del fake.flags["flag"]
        await polls(3)
        assert flag_ids(evaluator) == ["flag", "other"]
        assert sum(request[1] == "" for request in fake.flag_requests) == 1

        await polls(8)
        assert flag_ids(evaluator) == ["other"]
        assert sum(request[1] == "" for request in fake.flag_requests) == 2


async def test_a_flag_that_cannot_be_compiled_fails_alone(fake: FlagServer) -> None:
    fake.put_flag("flag")
    fake.put_flag("broken", version="x")
    fake.put_flag("worse", tags=["shop", 5])
    fake.put_flag("", version=1)
    async with polling(fake) as evaluator:
        assert await value(evaluator) == "on"
        with pytest.raises(EvaluationError, match=r"'broken': MALFORMED \(version is not an integer\)"):
            evaluator.evaluate_nowait(USER, "broken")
        assert evaluator.statistics().unusable == 2
        assert flag_ids(evaluator) == ["broken", "flag", "worse"]


async def test_the_failure_of_a_malformed_flag_is_kept_until_the_flag_changes(
    fake: FlagServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[str] = []

    def counting(fields: dict[str, Any]) -> object:
        parsed.append(fields["id"])
        return compile_flag(fields)

    monkeypatch.setattr(held_module, "compile_flag", counting)
    fake.put_flag("broken", version="x")
    fake.put_flag("worse", tags=["shop", 5])
    fake.put_flag("dependent", prerequisites=prerequisite("broken"))
    async with polling(fake, full_refresh_interval=60.0) as evaluator:
        for _ in range(100):
            for feature_id in ("broken", "worse", "dependent"):
                with pytest.raises(EvaluationError, match=r"MALFORMED \((version|an entry of tags|tags)"):
                    evaluator.evaluate_nowait(USER, feature_id)
        await polls()
        with pytest.raises(EvaluationError, match="MALFORMED"):
            evaluator.evaluate_nowait(USER, "broken")
        assert sorted(parsed) == ["broken", "dependent"]

        fake.put_flag("broken", version=2)
        await polls()
        assert await value(evaluator, "broken") == "on"
        assert await value(evaluator, "dependent") == "on"


async def test_flags_are_compiled_by_their_first_evaluation_and_later_by_the_poll(fake: FlagServer) -> None:
    for feature_id in ("flag", "broken", "unasked"):
        fake.put_flag(feature_id)
    fake.put_flag("long", description=40_000 * "x")
    async with polling(fake) as evaluator:
        assert compiled(evaluator) == {"long"}  # an evaluation does not have to wait for it
        for feature_id in ("flag", "broken"):
            await value(evaluator, feature_id)
        assert compiled(evaluator) == {"broken", "flag", "long"}

        for feature_id in ("flag", "unasked"):
            fake.put_flag(feature_id, version=2)
        fake.put_flag("broken", version="x")
        await polls()
        assert compiled(evaluator) == {"flag", "long"}
        assert evaluator.statistics().unusable == 1


def compiled(evaluator: LocalEvaluator) -> set[str]:
    published = evaluator._published.current
    assert published is not None
    return {key for key, each in published.flags.items() if each._flag is not None}


async def test_white_space_is_no_change(server: FlagServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.put_flag("flag")
    seen: list[FlagChanges] = []
    async with polling(server, full_refresh_interval=60.0) as evaluator:
        evaluator.on_change(seen.append)
        monkeypatch.setattr(json, "dumps", functools.partial(json.dumps, indent=1))
        await polls(2)

        assert seen == []


@pytest.fixture
def _without_yaml(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "bucketeer_async._evaluation._yaml_loader", None)
    _yaml._loader.cache_clear()
    yield
    _yaml._loader.cache_clear()


@pytest.mark.usefixtures("_without_yaml")
async def test_yaml_flags_without_the_extra_are_unusable_and_reported_once(
    server: FlagServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.put_flag("flag")
    async with polling(server) as evaluator:
        assert caplog.text == ""
        server.put_flag("yaml", variationType="YAML")
        server.put_flag("dependent", prerequisites=prerequisite("yaml"))
        await polls(3)
        server.put_flag("other", variationType="YAML")
        await polls(3)

        for feature_id in ("yaml", "other"):
            with pytest.raises(EvaluationError, match=re.escape('pip install "bucketeer-async[yaml]"')) as caught:
                evaluator.evaluate_nowait(USER, feature_id)
            assert caught.value.cause is EvaluationCause.YAML_NOT_INSTALLED
        assert (await value(evaluator), await value(evaluator, "dependent")) == ("on", "on")
        assert evaluator.statistics().unusable == 2
        (warning,) = caplog.messages
        assert warning.startswith("YAML flags cannot be evaluated (1 flags, such as 'yaml'): pip install")


async def test_yaml_flags_with_the_extra_are_usable(server: FlagServer, caplog: pytest.LogCaptureFixture) -> None:
    variations = [{"id": "A", "value": "a: [1]"}, {"id": "B", "value": ""}]
    server.put_flag("yaml", variationType="YAML", variations=variations)
    async with polling(server) as evaluator:
        assert await value(evaluator, "yaml") == '{"a":[1]}'
        assert evaluator.statistics().unusable == 0
        assert caplog.text == ""


async def test_a_malformed_type_of_values_fails_alone(fake: FlagServer) -> None:
    fake.put_flag("flag")
    fake.put_flag("odd", variationType=["YAML"])
    async with polling(fake) as evaluator:
        assert await value(evaluator) == "on"
        assert evaluator.statistics().failed_polls == 0


# Flags that depend on others


def prerequisite(feature_id: str) -> list[dict[str, str]]:
    return [{"featureId": feature_id, "variationId": "A"}]


async def test_prerequisites_without_the_tag_are_fetched_with_the_whole_environment(server: FlagServer) -> None:
    server.put_flag("flag", prerequisites=prerequisite("middle"))
    server.put_flag("middle", tags=["else"], prerequisites=prerequisite("far"))
    server.put_flag("far", tags=[])
    changes: list[FlagChanges] = []
    evaluator = local(server)
    evaluator.on_change(changes.append)
    await evaluator.start()
    await polls()
    assert server.flag_requests == [("shop", "", 0), ("", "", 0)]
    assert await value(evaluator) == "on"
    assert changes == [FlagChanges(added=frozenset({"flag"}))]

    server.put_flag("far", enabled=False)
    await polls()
    assert evaluator.evaluate_nowait(USER, "flag").reason.type.name == "PREREQUISITE"
    assert [request[0] for request in server.flag_requests] == ["shop", "", ""]
    assert len(changes) == 1
    await evaluator.aclose()


async def test_the_tag_alone_is_polled_if_so_configured(server: FlagServer) -> None:
    server.put_flag("flag", prerequisites=prerequisite("other"))
    server.put_flag("other", tags=[])
    async with polling(server, scope="tag"):
        await polls()

        assert {request[0] for request in server.flag_requests} == {"shop"}


async def test_the_environment_is_polled_from_the_beginning_if_so_configured(server: FlagServer) -> None:
    server.put_flag("flag", tags=[])
    async with polling(server, scope="environment") as evaluator:
        assert server.flag_requests == [("", "", 0)]
        with pytest.raises(Exception, match="not tagged"):
            evaluator.evaluate_nowait(USER, "flag")


async def test_an_environment_that_is_too_large_is_not_requested_again(
    server: FlagServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.put_flag("flag", prerequisites=prerequisite("other"))
    server.put_flag("fine")

    async def refuse(path: str) -> None:
        if path == "flags" and server.flag_requests[-1][0] == "":
            raise TOO_LARGE

    server.fault = refuse  # type: ignore[method-assign]
    async with polling(server) as evaluator:
        server.put_flag("fine", enabled=False)
        await polls()

        assert [request[0] for request in server.flag_requests] == ["shop", "", "shop", "shop"]
        assert await value(evaluator, "fine") == "off"
        assert evaluator._published.current.coverage is Coverage.TOO_LARGE
        assert "give those the tag too" in caplog.text


async def test_the_flags_of_the_tag_stay_fresh_while_the_environment_cannot_be_had(server: FlagServer) -> None:
    server.put_flag("flag", prerequisites=prerequisite("other"))
    server.put_flag("other", tags=[])
    server.put_flag("fine")
    failing = True

    async def refuse(path: str) -> None:
        if failing and path == "flags" and server.flag_requests[-1][0] == "":
            raise DecodeError("the answer is longer than 5 bytes")

    server.fault = refuse  # type: ignore[method-assign]
    async with polling(server) as evaluator:
        server.put_flag("fine", enabled=False)
        await polls()
        assert await value(evaluator, "fine") == "off"

        failing = False
        await polls()
        assert await value(evaluator) == "on"


# Segments


async def test_members_are_served_another_variation_and_edits_arrive(server: FlagServer) -> None:
    server.put_flag("flag", rules=[rule_for_segment("vip")])
    server.put_segment("vip", ["user-1"])
    async with polling(server) as evaluator:
        assert await value(evaluator) == "off"

        server.put_segment("vip", ["user-2"])
        await polls()
        assert await value(evaluator) == "on"
        assert server.segment_requests == [([], 0), (["vip"], EPOCH - 600)]


async def test_a_segment_named_for_the_first_time_is_requested_in_the_same_poll(server: FlagServer) -> None:
    server.put_flag("flag", rules=[rule_for_segment("vip")])
    server.put_segment("vip", [])
    server.put_segment("old", ["user-1"], updated_at=EPOCH - 86_400)
    async with polling(server) as evaluator:
        server.put_flag("flag", rules=[rule_for_segment("vip", "old")])
        await polls()

        assert await value(evaluator) == "off"
        assert [at for _, at in server.segment_requests] == [0, 0]
        await polls()
        assert server.segment_requests[2][1] != 0


async def test_flags_and_the_segments_that_they_name_are_published_together(server: FlagServer) -> None:
    server.put_flag("flag")
    server.put_segment("old", ["user-1"])
    async with polling(server) as evaluator:
        seen = []
        evaluator.on_change(lambda _: seen.append(set(segments(evaluator))))
        server.put_flag("flag", rules=[rule_for_segment("old")])
        await polls()

        assert seen == [{"old"}]


@pytest.mark.parametrize("named", [["vip"], ["vip", "nowhere"]], ids=len)
async def test_a_flag_that_is_switched_off_does_not_wait_for_segments(server: FlagServer, named: list[str]) -> None:
    server.put_flag("flag", rules=[rule_for_segment(*named)])
    server.put_segment("vip", [])

    async def hang(path: str) -> None:
        if path == "segments" and len(server.segment_requests) > 1:
            await asyncio.Event().wait()

    server.fault = hang  # type: ignore[method-assign]
    async with polling(server) as evaluator:
        server.put_flag("flag", enabled=False)
        await polls()

        assert await value(evaluator) == "off"


async def test_a_segment_that_is_left_out_has_no_members_and_is_requested_now_and_then(fake: FlagServer) -> None:
    fake.sends_missing = False
    fake.put_flag("flag", rules=[rule_for_segment("nowhere")])
    async with polling(fake) as evaluator:
        await polls(9)
        assert await value(evaluator) == "on"
        assert sum(at == 0 for _, at in fake.segment_requests) == 1

        await polls(2)
        assert sum(at == 0 for _, at in fake.segment_requests) == 2
        fake.put_segment("nowhere", ["user-1"])
        await polls()
        assert await value(evaluator) == "off"


async def test_a_segment_that_is_deleted_while_a_flag_names_it_loses_its_members(server: FlagServer) -> None:
    server.put_flag("flag", rules=[rule_for_segment("vip")])
    server.put_segment("vip", ["user-1"])
    async with polling(server) as evaluator:
        assert await value(evaluator) == "off"

        del server.segments["vip"]
        await polls()
        assert await value(evaluator) == "on"
        assert segments(evaluator) == {"vip": set()}

        server.put_segment("vip", ["user-1"])
        await polls()
        assert await value(evaluator) == "off"


async def test_a_segment_that_is_not_named_any_more_is_forgotten_and_can_come_back(server: FlagServer) -> None:
    server.put_flag("flag", rules=[rule_for_segment("vip", "old")])
    server.put_segment("vip", ["user-2"])
    server.put_segment("old", ["user-3"])
    async with polling(server) as evaluator:
        server.put_flag("flag", rules=[rule_for_segment("vip")])
        await polls()
        assert segments(evaluator) == {"vip": {"user-2"}}

        server.put_flag("flag", rules=[rule_for_segment("vip", "old")])
        await polls()
        assert segments(evaluator) == {"vip": {"user-2"}, "old": {"user-3"}}

        server.put_flag("flag", rules=[])
        await polls()
        assert segments(evaluator) == {}


async def test_an_edit_of_a_segment_that_was_not_sent_arrives_with_the_full_refresh(server: FlagServer) -> None:
    server.put_flag("flag", rules=[rule_for_segment("vip")])
    server.put_segment("vip", ["user-2"])
    async with polling(server, full_refresh_interval=300.0) as evaluator:
        server.put_segment("vip", ["user-1", "user-2"], updated_at=EPOCH - 700)
        await polls(3)
        assert await value(evaluator) == "on"

        await polls(2)
        assert await value(evaluator) == "off"


async def test_an_edit_that_the_caches_of_the_gateway_did_not_have_yet_arrives_with_the_next_poll(
    server: FlagServer,
) -> None:
    server.put_flag("flag", rules=[rule_for_segment("vip", "other")])
    for segment_id in ("vip", "other"):
        server.put_segment(segment_id, [], updated_at=EPOCH - 86_400)
    async with polling(server) as evaluator:
        for number in (1, 2, 3):
            at = server.now()
            server.put_segment(
                "other", [f"user-{number + 10}"], updated_at=at
            )  # known at once: `requested_at` advances
            await polls()
            assert await value(evaluator) == "on"
            server.put_segment("vip", ["user-1"], updated_at=at)
            await polls()
            assert await value(evaluator) == "off"

            server.put_segment("vip", [], updated_at=at + 61)
            await polls()
            assert await value(evaluator) == "on"


async def test_polls_without_changes_request_segments_from_the_same_time(server: FlagServer) -> None:
    server.put_flag("flag", rules=[rule_for_segment("vip")])
    server.put_segment("vip", ["user-1"], updated_at=EPOCH - 1000)
    async with polling(server):
        await polls(20)

        assert [at for _, at in server.segment_requests] == [0, *(20 * [EPOCH - 600])]


async def test_an_edited_segment_is_sent_for_ten_minutes_and_is_no_change(server: FlagServer) -> None:
    server.put_flag("flag", rules=[rule_for_segment("vip")])
    server.put_segment("vip", ["user-1"])
    async with polling(server) as evaluator:
        before = evaluator._published.current
        assert before is not None
        await polls(15)

        requested = [at - EPOCH for _, at in server.segment_requests]
        assert requested[:3] == [-EPOCH, -600, -540]
        assert requested[-4:] == [60, 60, 60, 60]  # the response to the poll before had nothing new
        assert evaluator._published.current is not None
        assert evaluator._published.current.snapshot is before.snapshot


async def test_a_segment_with_the_same_content_is_no_change(server: FlagServer) -> None:
    server.put_flag("flag", rules=[rule_for_segment("vip")])
    server.put_segment("vip", ["user-2"])
    server.segments["vip"]["rules"] = [{"id": "r", "clauses": [{"attribute": "plan", "values": ["pro"]}]}]
    seen: list[FlagChanges] = []
    async with polling(server, full_refresh_interval=120.0) as evaluator:
        before = evaluator._published.current
        assert before is not None
        evaluator.on_change(seen.append)
        reordered = dict(reversed(server.segments["vip"].items()))
        server.segments["vip"] = reordered | {"updatedAt": str(server.now())}
        await polls(3)
        assert evaluator._published.current is not None
        assert evaluator._published.current.snapshot is before.snapshot
        assert seen == []

        server.segments["vip"] |= {"rules": [], "updatedAt": str(server.now())}
        await polls()
        assert evaluator._published.current.snapshot is not before.snapshot


async def test_a_segment_that_stays_malformed_is_no_change_until_it_is_repaired(fake: FlagServer) -> None:
    fake.put_flag("flag", rules=[rule_for_segment("vip")])
    fake.segments["vip"] = {"segmentId": "vip", "users": 5, "updatedAt": str(EPOCH)}
    async with polling(fake) as evaluator:
        before = evaluator._published.current
        assert before is not None
        fake.segments["vip"]["updatedAt"] = str(EPOCH + 1)
        await polls()
        assert evaluator._published.current is not None
        assert evaluator._published.current.snapshot is before.snapshot

        fake.put_segment("vip", ["user-1"])
        await polls()
        assert await value(evaluator) == "off"


async def test_a_full_refresh_sets_the_time_of_segments_anew(server: FlagServer) -> None:
    server.put_flag("flag", rules=[rule_for_segment("vip")])
    server.put_segment("vip", [], updated_at=EPOCH - 86_400)
    async with polling(server, full_refresh_interval=120.0):
        server.now = lambda: EPOCH - 3600
        await polls(3)

        # The second poll is in the future of the gateway's clock, which sends everything.
        assert [at for _, at in server.segment_requests] == [0, EPOCH - 600, EPOCH - 4200, 0]


@pytest.mark.parametrize("now", [0, 5, 600])
async def test_only_a_full_refresh_requests_segments_from_time_zero(now: int) -> None:
    server = FlagServer(now=lambda: now)
    server.put_flag("flag")
    async with polling(server):
        await polls(2)

        assert [at for _, at in server.segment_requests] == [0, 1, 1]


async def test_a_segment_is_compiled_once_and_again_only_if_it_has_changed(
    server: FlagServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[str] = []
    holding = replica.parse_segment

    def counting(text: str) -> held_module.Steps[tuple[str, held_module.SegmentDefinition]]:
        compiled.append(json.loads(text)["segmentId"])
        return holding(text)

    monkeypatch.setattr(replica, "parse_segment", counting)
    for feature_id in ("flag", "other"):
        server.put_flag(feature_id, rules=[rule_for_segment("same", "edited")])
    for segment_id in ("same", "edited"):
        server.put_segment(segment_id, ["user-1"])
    async with polling(server, full_refresh_interval=60.0) as evaluator:
        assert sorted(compiled) == ["edited", "same"]

        compiled.clear()
        server.put_segment("edited", ["user-2"], updated_at=EPOCH)
        await polls(2)
        assert compiled == ["edited"]
        assert segments(evaluator)["edited"] == {"user-2"}


async def test_a_segment_that_cannot_be_compiled_has_no_members(fake: FlagServer) -> None:
    fake.put_flag("flag", rules=[rule_for_segment("vip", "odd", "worse", "worst", "rule")])
    fake.put_segment("vip", ["user-2"])
    fake.segments["odd"] = {"segmentId": "odd", "users": [{"userId": 5}], "updatedAt": "1"}
    fake.segments["worse"] = {"segmentId": "worse", "users": 5, "updatedAt": "1"}
    fake.segments["worst"] = {"segmentId": "worst", "users": [5], "rules": [], "updatedAt": "1"}
    fake.segments["rule"] = {"segmentId": "rule", "rules": [5], "updatedAt": "1"}
    async with polling(fake) as evaluator:
        fake.segments["vip"]["segmentId"] = None
        await polls()

        assert await value(evaluator) == "on"
        assert evaluator.statistics().unusable == 4
        assert [at for _, at in fake.segment_requests][1] != 0


# Outages


async def test_errors_keep_the_last_good_snapshot_and_show_in_the_statistics(
    server: FlagServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.put_flag("flag")
    async with polling(server) as evaluator:
        server.error = DOWN
        await polls(10)

        statistics = evaluator.statistics()
        assert await value(evaluator) == "on"
        assert statistics.ready
        assert statistics.source is SnapshotSource.POLLED
        assert (statistics.flags, statistics.segments) == (1, 0)
        assert statistics.age == asyncio.get_running_loop().time()
        assert statistics.failed_polls == statistics.polls - 1 > 10
        assert statistics.last_error == "the gateway cannot be reached"
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "the flags of 60 s ago are used" in caplog.text

        server.error = None
        await polls(2)
        statistics = evaluator.statistics()
        assert statistics.last_error == ""
        assert statistics.age is not None
        assert statistics.age < 60


async def test_before_the_first_poll_there_is_nothing(server: FlagServer, caplog: pytest.LogCaptureFixture) -> None:
    server.error = StatusError(403, code=7, detail="gateway: no")
    async with polling(server) as evaluator:
        statistics = evaluator.statistics()

        assert not statistics.ready
        assert statistics.age is None
        assert statistics.last_error == "the gateway answered 403: gateway: no; polling needs a server key"
        assert "no flags have arrived yet" in caplog.text


async def test_flags_without_segments_are_not_enough_to_begin(server: FlagServer) -> None:
    server.put_flag("flag")

    async def refuse(path: str) -> None:
        if path == "segments" and asyncio.get_running_loop().time() < 100:
            raise DOWN

    server.fault = refuse  # type: ignore[method-assign]
    async with polling(server) as evaluator:
        assert not evaluator.statistics().ready
        async with asyncio.timeout(1000):
            await evaluator.wait_ready()
        assert await value(evaluator) == "on"


def tries(error: ApiError, failures: int, low: bool = True) -> float:
    class Edge(random.Random):
        def uniform(self, a: float, b: float) -> float:
            return a if low else b

    return pause([error], failures, LocalEvaluation(retry=RetryPolicy(initial=1.0, maximum=60.0)), Edge())


@pytest.mark.parametrize(
    ("error", "failures", "shortest", "longest"),
    [
        (DOWN, 1, 0.0, 1.0),
        (DOWN, 4, 0.0, 8.0),
        (DOWN, 1000, 0.0, 60.0),
        (StatusError(503, retry_after=100.0), 1, 100.0, 120.0),
        (StatusError(403), 1, 30.0, 33.0),
        (TOO_LARGE, 1, 54.0, 66.0),
        (StatusError(400, code=3), 1, 54.0, 66.0),
        (ClosedError("closed"), 1, 0.0, 1.0),
    ],
    ids=str,
)
def test_the_pause_after_a_failure(error: ApiError, failures: int, shortest: float, longest: float) -> None:
    assert tries(error, failures) == pytest.approx(shortest)
    assert tries(error, failures, low=False) == pytest.approx(longest)


def test_polls_are_spread() -> None:
    pauses = {pause([], 0, LocalEvaluation(), random.Random(number)) for number in range(100)}

    assert 54 <= min(pauses) < 56
    assert 64 < max(pauses) <= 66


async def test_every_request_has_metrics(fake: FlagServer) -> None:
    metrics = FakeMetrics()
    async with polling(fake, metrics=metrics):
        fake.error = DOWN
        await polls()

    assert metrics.events[:4] == [
        (ApiId.GET_FEATURE_FLAGS, 100),
        (ApiId.GET_SEGMENT_USERS, 50),
        (ApiId.GET_FEATURE_FLAGS, DOWN),
        (ApiId.GET_SEGMENT_USERS, DOWN),
    ]


async def test_a_bug_is_logged_and_does_not_end_the_polling(
    server: FlagServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_fields: object) -> object:
        raise KeyError("secret")

    server.put_flag("flag")
    metrics = FakeMetrics()
    with monkeypatch.context() as patched:
        patched.setattr(held_module, "dependencies", broken)
        evaluator = local(server, metrics=metrics)
        await evaluator.start()
        await asyncio.sleep(0.1)  # the pause after the first poll is longer
    assert evaluator.statistics().last_error == "KeyError"
    assert "a bug of this package" in caplog.text
    assert [type(each) for _, each in metrics.events] == [int, KeyError]

    await polls()
    assert await value(evaluator) == "on"
    await evaluator.aclose()


async def test_a_closed_api_client_is_an_expected_error(server: FlagServer, caplog: pytest.LogCaptureFixture) -> None:
    async def closed(_path: str) -> None:
        raise ClosedError("the API client is closed")

    server.fault = closed  # type: ignore[method-assign]
    async with polling(server) as evaluator:
        assert evaluator.statistics().last_error == "the API client is closed"
        assert "bug" not in caplog.text


# Changes


async def test_changes_are_those_of_the_flags_of_the_tag(server: FlagServer) -> None:
    for feature_id in ("edited", "leaving", "same"):
        server.put_flag(feature_id)
    seen: list[FlagChanges] = []
    evaluator = local(server)
    evaluator.on_change(seen.append)
    await evaluator.start()
    await polls()
    server.put_flag("edited", enabled=False)
    server.put_flag("leaving", tags=["else"])
    server.put_flag("coming")
    await polls(2)
    await evaluator.aclose()

    first, second = seen
    assert first == FlagChanges(added=frozenset({"edited", "leaving", "same"}))
    assert second == FlagChanges(
        added=frozenset({"coming"}), changed=frozenset({"edited"}), removed=frozenset({"leaving"})
    )


@pytest.mark.parametrize("error", [KeyError, asyncio.CancelledError, SystemExit, KeyboardInterrupt, GeneratorExit])
async def test_a_callback_that_raises_does_no_harm(
    server: FlagServer, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_changes: FlagChanges) -> None:
        raise error

    seen: list[str] = []
    server.put_flag("flag")
    evaluator = local(server)
    evaluator.on_change(fail)
    evaluator.on_change(lambda _: seen.append(evaluator.evaluate_nowait(USER, "flag").variation_value))
    await evaluator.start()
    await polls()
    server.put_flag("flag", enabled=False)
    await polls()
    await evaluator.aclose()

    assert seen == ["on", "off"]
    assert "a callback of on_change raised" in caplog.text
    assert evaluator.statistics().failed_polls == 0


async def test_a_cancellation_of_the_polling_task_within_a_callback_ends_the_polling(server: FlagServer) -> None:
    def cancel(_changes: FlagChanges) -> None:
        polling = asyncio.current_task()
        assert polling is not None
        polling.cancel()
        raise asyncio.CancelledError

    server.put_flag("flag")
    evaluator = local(server)
    evaluator.on_change(cancel)
    polling_task = asyncio.create_task(evaluator._new_source(evaluator._published, Middle()).run())
    await asyncio.wait([polling_task], timeout=3600)

    assert polling_task.cancelled()
    assert len(server.flag_requests) == 1


async def test_a_callback_may_begin_to_close_what_calls_it(server: FlagServer) -> None:
    closing: list[asyncio.Task[None]] = []
    server.put_flag("flag")
    evaluator = local(server)
    evaluator.on_change(lambda _: closing.append(asyncio.create_task(evaluator.aclose())))
    with contextlib.suppress(ClosedError):  # if the task is eager
        await evaluator.start()
    await polls()
    await asyncio.gather(*closing)

    assert len(server.flag_requests) == 1


def test_a_callback_is_a_plain_function(server: FlagServer) -> None:
    async def coroutine(_changes: FlagChanges) -> None:
        pass

    class Awaited:
        async def __call__(self, _changes: FlagChanges) -> None:
            pass

    for wrong in (coroutine, Awaited(), None):
        with pytest.raises(TypeError, match="on_change takes"):
            local(server).on_change(wrong)  # type: ignore[arg-type]


# Turns of the loop


async def test_other_tasks_get_their_turn_while_a_response_is_applied() -> None:
    now, turns = 0.0, 0

    def work() -> Generator[None, None, str]:
        nonlocal now
        for _ in range(100):
            now += 0.0005
            yield
        return "done"

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    result = await in_turns(work(), lambda: now)
    task.cancel()

    assert result == "done"
    assert turns >= 100 * 0.0005 / 0.0025


def test_a_long_segment_is_compiled_in_steps() -> None:
    users = [{"segmentId": "vip", "userId": f"user-{number}"} for number in range(10_000)]
    held: list[held_module.SegmentDefinition] = []

    def holding() -> held_module.Steps[None]:
        _, segment = yield from held_module.parse_segment(json.dumps({"segmentId": "vip", "users": users}))
        held.append(segment)

    assert len(list(holding())) == 50
    assert held[0].segment is not None
    assert len(held[0].segment.members) == 10_000


# Any schedule

NAMES = st.sampled_from(["a", "b", "c"])
SEGMENTS = st.sampled_from(["s", "t"])
EDITS = st.one_of(
    st.tuples(st.just("put"), NAMES, st.lists(SEGMENTS, max_size=2), st.lists(NAMES, max_size=1)),
    st.tuples(st.just("archive"), NAMES),
    st.tuples(st.just("delete"), NAMES),
    st.tuples(st.just("off"), NAMES),
    st.tuples(st.just("tag"), NAMES, st.sampled_from([["shop"], ["else"], []])),
    st.tuples(st.just("segment"), SEGMENTS, st.lists(st.sampled_from(["user-1", "user-2"]), unique=True)),
    st.tuples(st.just("unsegment"), SEGMENTS),
    st.tuples(st.just("fail"), st.booleans()),
    st.tuples(st.just("wait"), st.integers(1, 2000)),
)


def put(server: FlagServer, name: str, named: list[str], needed: list[str]) -> None:
    rules = [rule_for_segment(*named)] if named else []
    needs = [each for feature_id in needed for each in prerequisite(feature_id)]
    server.put_flag(name, rules=rules, prerequisites=needs, archived=False, enabled=True)


def fail(server: FlagServer, down: bool) -> None:
    server.error = DOWN if down else None


ACTIONS: dict[str, Callable[..., object]] = {
    "put": put,
    "archive": lambda server, name: server.put_flag(name, archived=True),
    "delete": lambda server, name: server.flags.pop(name, None),
    "off": lambda server, name: server.put_flag(name, enabled=False, offVariation=""),
    "tag": lambda server, name, tags: server.put_flag(name, tags=tags),
    "segment": lambda server, name, users: server.put_segment(name, users),
    "unsegment": lambda server, name: server.segments.pop(name, None),
    "fail": fail,
}


def assert_equal(evaluator: LocalEvaluator, server: FlagServer) -> None:
    published = evaluator._published.current
    assert published is not None
    tag = "" if published.coverage is Coverage.ENVIRONMENT else "shop"
    live = {key: server.printed(each) for key, each in server.live(tag).items()}
    assert {key: json.loads(each.text) for key, each in published.flags.items()} == live
    named = {each for flag in live.values() for rule in flag.get("rules", []) for each in rule["clauses"][0]["values"]}
    wanted = {key: {user["userId"] for user in server.segment(key, 0)["users"]} for key in named}
    assert {key: users for key, users in segments(evaluator).items() if key in named} == wanted


async def follow(server: FlagServer, edits: list[tuple[Any, ...]]) -> None:
    server.put_flag("a")
    server.put_segment("s", ["user-1"])
    async with polling(server, full_refresh_interval=1200.0) as evaluator:
        for what, name, *more in edits:
            if what == "wait":
                await asyncio.sleep(name)
            else:
                await asyncio.sleep(1)
                ACTIONS[what](server, name, *more)
        server.error = None
        await asyncio.sleep(150)  # past the backoff, and one poll more
        if not evaluator.statistics().last_error:
            assert_equal(evaluator, server)
        await asyncio.sleep(1300)
        assert_equal(evaluator, server)
        assert set(segments(evaluator)) == set(server.referenced())


@pytest.mark.parametrize(("kind", "examples"), [(FlagServer, 100), (GatewayFlagServer, 50)], ids=["fake", "gateway"])
def test_whatever_happens_the_snapshot_becomes_the_servers(kind: type[FlagServer], examples: int) -> None:
    @settings(max_examples=examples)
    @given(st.lists(EDITS, max_size=25))
    def follow_any(edits: list[tuple[Any, ...]]) -> None:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(follow(kind(), edits))

    follow_any()
