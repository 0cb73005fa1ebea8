"""The endpoints of server SDKs: each rule and each omission of the server, with a clock that the test sets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from bucketeer_async.gateway import GatewayState, create_app, flag

BEGIN = 1_800_000_000
MINUTE = 60
DAY = 86_400


class World:
    """A gateway whose clock the test sets, and the polls of a server SDK."""

    def __init__(self, **definitions: Any) -> None:
        self.now = BEGIN
        self.state = GatewayState(now=lambda: self.now + 0.7, **definitions)
        self._http = httpx.AsyncClient(
            transport=httpx.ASGITransport(create_app(self.state)),
            base_url="http://localhost",
            headers={"authorization": "server-key"},
        )

    async def aclose(self) -> None:
        await self._http.aclose()

    async def flags(self, last: dict[str, Any] | None = None, tag: str = "shop", **fields: Any) -> dict[str, Any]:
        """Poll flags, with the id and the time of the last response."""
        known = {name: last[name] for name in ("featureFlagsId", "requestedAt")} if last else {}
        return await self._ask("/get_feature_flags", {"tag": tag} | known | fields)

    async def segments(
        self, last: dict[str, Any] | None = None, held: tuple[str, ...] = (), **fields: Any
    ) -> dict[str, Any]:
        """Poll segments, with the time of the last response."""
        known = {"requestedAt": last["requestedAt"]} if last else {}
        return await self._ask("/get_segment_users", {"segmentIds": list(held)} | known | fields)

    async def _ask(self, path: str, fields: dict[str, Any]) -> dict[str, Any]:
        response = await self._http.post(path, json={"sourceId": 5, "sdkVersion": "1"} | fields)
        answer: dict[str, Any] = response.raise_for_status().json()
        return answer


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.aclose()


def told(answer: dict[str, Any]) -> tuple[list[str], list[str], bool, int]:
    """Return the flags of a response, its archived flags, its ``forceUpdate``, and its time."""
    ids = [each["id"] for each in answer["features"]]
    return ids, answer["archivedFeatureFlagIds"], answer["forceUpdate"], int(answer["requestedAt"]) - BEGIN


def told_segments(answer: dict[str, Any]) -> tuple[list[str], list[str], bool, int]:
    ids = [each["segmentId"] for each in answer["segmentUsers"]]
    return ids, answer["deletedSegmentIds"], answer["forceUpdate"], int(answer["requestedAt"]) - BEGIN


def naming(*segments: str) -> dict[str, Any]:
    """Return rules that name segments."""
    strategy = {"fixedStrategy": {"variation": "on"}}
    return {"rules": [{"id": "r", "strategy": strategy, "clauses": [{"operator": "SEGMENT", "values": segments}]}]}


# Flags


async def test_without_flags_of_the_tag_nothing_is_forced(world: World) -> None:
    world.state.set_flag(flag("a", tags=["other"]))

    answer = await world.flags(featureFlagsId="1", requestedAt=BEGIN)

    assert answer["featureFlagsId"] == ""
    assert told(answer) == ([], [], False, 0)


async def test_the_first_poll_is_told_everything_of_the_tag(world: World) -> None:
    for definition in (flag("a", tags=["shop"]), flag("b", tags=["shop", "x"]), flag("c", tags=["x"])):
        world.state.set_flag(definition)

    assert told(await world.flags()) == (["a", "b"], [], True, 0)
    assert told(await world.flags(tag="")) == (["a", "b", "c"], [], True, 0)


@pytest.mark.parametrize(("sent", "kept"), [(BEGIN - 5, -5), (BEGIN + 5, 0), (0, -BEGIN)])
async def test_nothing_new_keeps_the_time_of_the_request_but_not_a_later_one(
    world: World, sent: int, kept: int
) -> None:
    world.state.set_flag(flag("a", tags=["shop"]))
    first = await world.flags()

    answer = await world.flags(first, requestedAt=sent)

    assert answer["featureFlagsId"] == first["featureFlagsId"]
    assert told(answer) == ([], [], False, kept)


@pytest.mark.parametrize(
    ("requested_at", "forced"),
    [(BEGIN - 30 * DAY - 1, True), (BEGIN - 30 * DAY, False), (BEGIN, False), (BEGIN + 1, True)],
)
async def test_a_time_too_long_ago_or_in_the_future_is_told_everything(
    world: World, requested_at: int, forced: bool
) -> None:
    world.state.set_flag(flag("old", tags=["shop"]) | {"updatedAt": BEGIN - 40 * DAY})
    world.state.set_flag(flag("new", tags=["shop"]))

    answer = await world.flags(featureFlagsId="1", requestedAt=requested_at)

    assert told(answer) == (["old", "new"] if forced else ["new"], [], forced, 0)


async def test_a_diff_has_what_changed_since_ten_minutes_before_the_last_poll(world: World) -> None:
    world.state.set_flag(flag("early", tags=["shop"]))
    world.now += 1
    world.state.set_flag(flag("late", tags=["shop"]))
    world.now += 10 * MINUTE
    first = await world.flags()  # at 601 seconds, the change of "early" is too old and the change of "late" is not
    world.state.set_flag(flag("other", tags=["shop"]))

    assert told(await world.flags(first)) == (["late", "other"], [], False, 601)


async def test_a_change_is_sent_again_while_something_else_changes(world: World) -> None:
    world.state.set_flag(flag("a", tags=["shop"]))
    world.state.set_flag(flag("b", tags=["shop"]))
    world.now += DAY
    first = await world.flags()
    world.state.update_flag("a", enabled=False)
    second = await world.flags(first)
    world.now += MINUTE
    world.state.update_flag("b", enabled=False)
    third = await world.flags(second)

    assert [told(each)[0] for each in (second, third)] == [["a"], ["a", "b"]]


async def test_archived_flags_are_repeated_for_thirty_days(world: World) -> None:
    for feature_id in ("a", "b"):
        world.state.set_flag(flag(feature_id, tags=["shop"]))
    last = await world.flags()
    world.now += DAY
    world.state.archive_flag("a")
    told_each_day = []
    for _ in range(32):
        world.state.update_flag("b", description=str(world.now))
        last = await world.flags(last)
        told_each_day.append(told(last)[1])
        world.now += DAY

    assert told_each_day == [["a"]] * 31 + [[]]


async def test_when_all_flags_are_archived_the_tag_still_counts_as_having_flags(world: World) -> None:
    world.state.set_flag(flag("a", tags=["shop"]))
    first = await world.flags()
    world.state.archive_flag("a")

    second = await world.flags(first)

    assert told(second) == ([], ["a"], False, 0)
    assert told(await world.flags()) == ([], [], True, 0)
    world.now += 31 * DAY
    assert (await world.flags(second))["featureFlagsId"] == ""


@pytest.mark.parametrize("hole", ["untagged", "deleted", "removed", "off without an off variation"])
async def test_a_diff_leaves_out_what_the_server_does_not_see(world: World, hole: str) -> None:
    for feature_id in ("a", "b"):
        world.state.set_flag(flag(feature_id, tags=["shop"]))
    world.now += DAY
    first = await world.flags()
    match hole:
        case "untagged":
            world.state.update_flag("a", tags=[])
        case "deleted":
            world.state.update_flag("a", deleted=True)
        case "removed":
            world.state.remove_flag("a")
        case _:
            world.state.update_flag("a", enabled=False, offVariation="")
    world.state.update_flag("b", enabled=False)

    second = await world.flags(first)

    assert told(second) == (["b"], [], False, DAY)
    assert told(await world.flags(featureFlagsId="")) == (["b"], [], True, DAY)


async def test_an_empty_diff_becomes_everything_but_not_beside_an_archived_flag(world: World) -> None:
    for feature_id in ("a", "b", "c"):
        world.state.set_flag(flag(feature_id, tags=["shop"]))
    world.now += DAY
    first = await world.flags()
    world.state.remove_flag("a")
    second = await world.flags(first)
    world.state.archive_flag("b")
    third = await world.flags(second)
    world.now += DAY
    world.state.update_flag("c", tags=[])
    fourth = await world.flags(third)

    assert told(second) == (["b", "c"], [], True, DAY)
    assert told(third) == ([], ["b"], False, DAY)
    assert told(fourth) == ([], ["b"], False, 2 * DAY)  # "c" stays in the cache of the client


async def test_when_the_last_flag_of_a_tag_goes_nobody_is_forced_to_forget_it(world: World) -> None:
    world.state.set_flag(flag("a", tags=["shop"]))
    first = await world.flags()
    world.state.remove_flag("a")

    second = await world.flags(first)

    assert second["featureFlagsId"] == ""
    assert told(second) == ([], [], False, 0)


async def test_a_prerequisite_without_the_tag_is_not_sent(world: World) -> None:
    needs = [{"featureId": "base", "variationId": "on"}]
    world.state.set_flag(flag("base"))
    world.state.set_flag(flag("a", tags=["shop"], prerequisites=needs))

    assert told(await world.flags())[0] == ["a"]


async def test_two_changes_in_one_second_are_two_changes(world: World) -> None:
    world.state.set_flag(flag("a", tags=["shop"]))
    first = await world.flags()
    world.state.update_flag("a", enabled=False)
    second = await world.flags(first)
    world.state.update_flag("a", enabled=True)
    third = await world.flags(second)

    assert [each["features"][0]["version"] for each in (first, second, third)] == [1, 2, 3]


# Segments


async def test_without_segments_that_a_flag_names_everything_is_forced_to_go(world: World) -> None:
    world.state.set_segment({"segmentId": "vips", "users": ["u"]})

    assert told_segments(await world.segments(held=("vips",), requestedAt=BEGIN)) == ([], [], True, 0)
    world.state.set_flag(flag("a"))
    assert told_segments(await world.segments(held=("vips",), requestedAt=BEGIN)) == ([], [], True, 0)


@pytest.mark.parametrize("requested_at", [0, BEGIN - 30 * DAY - 1, BEGIN + 1])
async def test_all_named_segments_whatever_the_tag_and_once_for_each_flag(world: World, requested_at: int) -> None:
    for segment in ("vips", "staff", "unnamed", "of an archived flag"):
        world.state.set_segment({"segmentId": segment, "updatedAt": BEGIN - DAY})
    world.state.set_flag(flag("a", tags=["shop"], **naming("vips", "vips", "nowhere")))
    world.state.set_flag(flag("b", tags=["x"], **naming("staff", "vips")))
    world.state.set_flag(flag("c", archived=True, **naming("of an archived flag")))

    answer = await world.segments(requestedAt=requested_at)

    assert told_segments(answer) == (["vips", "nowhere", "staff", "vips"], [], True, 0)


async def test_segments_that_changed_since_the_last_poll_whole(world: World) -> None:
    world.state.set_flag(flag("a", **naming("vips", "staff")))
    world.state.set_segment({"segmentId": "staff", "users": ["s"]})
    world.state.set_segment({"segmentId": "vips", "users": ["u"]})
    world.now += MINUTE
    first = await world.segments()
    world.now += MINUTE
    world.state.set_segment({"segmentId": "vips", "users": ["u", "v"]})
    second = await world.segments(first, held=("vips", "staff"))

    assert told_segments(second) == (["vips"], [], False, 2 * MINUTE)
    assert [each["userId"] for each in second["segmentUsers"][0]["users"]] == ["u", "v"]
    world.now += MINUTE
    assert told_segments(await world.segments(second, held=("vips",))) == (["vips"], [], False, 3 * MINUTE)


async def test_nothing_new_about_segments_keeps_the_time_of_the_request(world: World) -> None:
    world.state.set_flag(flag("a", **naming("vips")))
    world.state.set_segment({"segmentId": "vips", "users": ["u"]})
    world.now += MINUTE
    first = await world.segments()
    world.now += MINUTE

    assert told_segments(await world.segments(first, held=("vips",))) == ([], [], False, MINUTE)


async def test_a_segment_that_no_flag_names_any_more_is_told_as_deleted(world: World) -> None:
    world.state.set_flag(flag("a", **naming("vips")))
    world.state.set_flag(flag("b", **naming("staff")))
    for segment in ("vips", "staff"):
        world.state.set_segment({"segmentId": segment})
    world.now += MINUTE
    first = await world.segments()
    world.state.archive_flag("a")
    second = await world.segments(first, held=("vips", "staff"))
    world.state.remove_segment("staff")
    third = await world.segments(second, held=("staff",))

    assert told_segments(second) == ([], ["vips"], False, MINUTE)
    assert told_segments(third) == (["staff"], [], False, MINUTE)  # a flag names the segment: only its content is gone


async def test_a_segment_that_was_deleted_while_a_flag_names_it_is_sent_empty(world: World) -> None:
    world.state.set_flag(flag("a", **naming("vips", "staff")))
    for segment in ("vips", "staff"):
        world.state.set_segment({"segmentId": segment, "users": ["u"]})
    world.now += MINUTE
    first = await world.segments()
    world.now += MINUTE
    world.state.remove_segment("vips")
    second = await world.segments(first, held=("vips", "staff"))
    world.now += MINUTE
    world.state.set_segment({"segmentId": "vips", "users": ["v"]})
    third = await world.segments(second, held=("vips", "staff"))

    gone = {"segmentId": "vips", "users": [], "updatedAt": str(BEGIN + 2 * MINUTE), "rules": []}
    assert told_segments(second) == (["vips"], [], False, 2 * MINUTE)
    assert second["segmentUsers"] == [gone]
    assert told_segments(third) == (["vips"], [], False, 3 * MINUTE)
    assert [each["userId"] for each in third["segmentUsers"][0]["users"]] == ["v"]


async def test_a_segment_that_is_named_later_is_in_no_diff(world: World) -> None:
    world.state.set_flag(flag("a", **naming("vips")))
    for segment in ("vips", "staff"):
        world.state.set_segment({"segmentId": segment})
    world.now += MINUTE
    first = await world.segments()
    world.now += MINUTE
    world.state.update_flag("a", **naming("vips", "staff"))
    second = await world.segments(first, held=("vips",))

    assert told_segments(second) == ([], [], False, MINUTE)
    assert told_segments(await world.segments()) == (["vips", "staff"], [], True, 2 * MINUTE)
