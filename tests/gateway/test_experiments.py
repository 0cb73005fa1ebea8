"""Goals of experiments: each of the server's rules, with a clock that the test sets; definitions and their errors."""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from bucketeer_async import ConfigurationError
from bucketeer_async.gateway import GatewayState, GoalCounts, Linking, LocalGateway, create_app, experiment, flag
from bucketeer_async.gateway.__main__ import main

BEGIN = 1_800_000_000
TYPE = "type.googleapis.com/bucketeer.event.client."
DEFINITION = experiment("test", feature_id="flag", goal_ids=["goal"])


class World:
    """A gateway whose clock the test sets, and posts of events; times are seconds after `BEGIN`."""

    def __init__(self, experiments: tuple[dict[str, Any], ...], linking: dict[str, Any]) -> None:
        self.now = 0.0
        self.state = GatewayState(
            now=lambda: BEGIN + self.now,
            flags=[flag("flag"), flag("other")],
            experiments=experiments or [DEFINITION],
            linking=Linking(**linking),
        )
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(create_app(self.state)),
            base_url="http://localhost",
            headers={"authorization": "client-key"},
        )

    async def post(self, *events: dict[str, Any], at: float | None = None) -> None:
        self.now = self.now if at is None else at
        response = await self.http.post("/register_events", json={"events": events})
        assert response.json() == {"errors": {}}

    def counts(self, experiment_id: str = "test") -> dict[str, GoalCounts]:
        return self.state.experiments()[experiment_id]


Worlds = Callable[..., World]


@pytest.fixture
async def worlds() -> AsyncIterator[Worlds]:
    async with contextlib.AsyncExitStack() as stack:

        def make(*experiments: dict[str, Any], **linking: Any) -> World:
            world = World(experiments, linking)
            stack.push_async_callback(world.http.aclose)
            return world

        yield make


def evaluation(at: int, variation: str = "on", who: str = "user", **fields: Any) -> dict[str, Any]:
    event = {"featureId": "flag", "featureVersion": 1, "variationId": variation, "userId": who, "reason": {}}
    return _event("EvaluationEvent", event | fields, at)


def goal(at: int, who: str = "user", goal_id: str = "goal", **fields: Any) -> dict[str, Any]:
    return _event("GoalEvent", {"goalId": goal_id, "userId": who} | fields, at)


def _event(kind: str, fields: dict[str, Any], at: int) -> dict[str, Any]:
    return {"id": str(uuid.uuid4()), "event": {"@type": TYPE + kind, "timestamp": BEGIN + at} | fields}


def linked(count: int = 1) -> GoalCounts:
    return GoalCounts(linked=count)


def waiting(count: int = 1) -> GoalCounts:
    return GoalCounts(waiting=count)


def discarded(reason: str, count: int = 1) -> GoalCounts:
    return GoalCounts(discarded={reason: count})


# The rules


async def test_a_goal_is_linked_to_the_latest_evaluation(worlds: Worlds) -> None:
    world = worlds()
    await world.post(evaluation(0, "on"), evaluation(5, "off"), evaluation(3, "on"), at=9)
    await world.post(goal(8), goal(9))

    assert world.counts() == {"off": linked(2)}


async def test_a_goal_that_is_older_than_the_latest_evaluation_is_discarded_for_good(worlds: Worlds) -> None:
    world = worlds()
    await world.post(evaluation(0, "on"), goal(4), evaluation(5, "off"), at=9)
    assert world.counts() == {"off": discarded("later_evaluation")}

    world.now = 100_000
    assert world.counts() == {"off": discarded("later_evaluation")}


async def test_a_goal_of_the_second_of_the_evaluation_is_linked(worlds: Worlds) -> None:
    world = worlds()
    await world.post(goal(5), evaluation(5), at=5.5)

    assert world.counts() == {"on": linked()}


async def test_of_two_evaluations_of_a_second_the_last_one_counts(worlds: Worlds) -> None:
    world = worlds()
    await world.post(evaluation(0, "on"), evaluation(0, "off"), goal(0))

    assert world.counts() == {"off": linked()}


async def test_users_do_not_share_evaluations(worlds: Worlds) -> None:
    world = worlds()
    await world.post(evaluation(5, "on", "a"), evaluation(0, "off", "b"), goal(3, "a"), goal(3, "b"), at=9)

    assert world.counts() == {"off": linked(), "on": discarded("later_evaluation")}


async def test_the_user_may_be_named_by_the_user_alone(worlds: Worlds) -> None:
    world = worlds()
    await world.post(evaluation(0, userId="", user={"id": "a"}), goal(1, userId="", user={"id": "a"}), at=1)

    assert world.counts() == {"on": linked()}


@pytest.mark.parametrize("other", [{"featureId": "other"}, {"featureVersion": 2}, {"userId": "someone else"}])
async def test_evaluations_of_other_flags_versions_and_users_do_not_matter(
    worlds: Worlds, other: dict[str, Any]
) -> None:
    world = worlds()
    await world.post(evaluation(0, "off"), evaluation(5, "on", **other), goal(3), at=9)
    await world.post(evaluation(0, "on", "b", **other), goal(3, "b"))

    assert world.counts() == {"off": linked(), "": waiting()}


async def test_only_evaluations_of_the_experiments_time_count(worlds: Worlds) -> None:
    world = worlds(experiment("test", feature_id="flag", goal_ids=["goal"], start=BEGIN + 10, stop=BEGIN + 20))
    await world.post(evaluation(9), goal(10), evaluation(10, who="b"), goal(20, "b"), at=30)
    await world.post(evaluation(20, who="c"), evaluation(21, "off", "c"), goal(20, "c"))

    assert world.counts() == {"on": linked(2), "": waiting()}


async def test_goals_outside_of_the_experiments_time_are_discarded(worlds: Worlds) -> None:
    world = worlds(experiment("test", feature_id="flag", goal_ids=["goal"], start=BEGIN + 10, stop=BEGIN + 20))
    await world.post(evaluation(10), goal(9), goal(21), goal(22), at=30)

    assert world.counts() == {"": GoalCounts(discarded={"after_stop": 2, "before_start": 1})}


async def test_goals_of_no_experiment_are_not_counted(worlds: Worlds) -> None:
    world = worlds()
    await world.post(evaluation(0), goal(1, goal_id="another"), at=1)

    assert world.counts() == {}


async def test_an_event_that_is_sent_again_counts_once(worlds: Worlds) -> None:
    world = worlds()
    events = [evaluation(0), goal(1)]
    await world.post(*events, at=1)
    await world.post(*events)
    await world.post(goal(1), goal(1))

    assert world.counts() == {"on": linked(3)}


async def test_a_callers_default_has_a_variation_of_its_own(worlds: Worlds) -> None:
    world = worlds()
    await world.post(evaluation(0, "", reason={"type": "CLIENT"}), goal(1), at=1)

    assert world.counts() == {"default": linked()}


# What waits


async def test_a_goal_without_an_evaluation_waits_and_is_tried_again(worlds: Worlds) -> None:
    world = worlds()
    await world.post(goal(0))
    await world.post(evaluation(0), at=299)
    assert world.counts() == {"": waiting()}

    world.now = 300
    assert world.counts() == {"on": linked()}


async def test_a_goal_that_waited_is_discarded_if_the_evaluation_is_later(worlds: Worlds) -> None:
    world = worlds()
    await world.post(goal(0))
    await world.post(evaluation(1), at=1)

    world.now = 300
    assert world.counts() == {"on": discarded("later_evaluation")}


@pytest.mark.parametrize(("stored", "tried"), [(301, 900), (901, 2_100), (50_000, 76_500)])
async def test_the_pauses_double(worlds: Worlds, stored: float, tried: float) -> None:
    world = worlds()
    await world.post(goal(0))
    await world.post(evaluation(0), at=stored)
    world.now = tried - 1
    assert world.counts() == {"": waiting()}

    world.now = tried
    assert world.counts() == {"on": linked()}


async def test_a_goal_is_given_up_after_a_day(worlds: Worlds) -> None:
    world = worlds()
    await world.post(goal(0))
    await world.post(evaluation(0), at=76_501)
    world.now = 86_399
    assert world.counts() == {"": waiting()}

    world.now = 86_400
    assert world.counts() == {"": discarded("gave_up")}


async def test_a_goal_of_two_experiments_waits_as_a_whole(worlds: Worlds) -> None:
    world = worlds(DEFINITION, experiment("second", feature_id="other", goal_ids=["goal"]))
    await world.post(evaluation(0), goal(1), at=1)
    assert world.state.experiments() == {"test": {"": waiting()}, "second": {"": waiting()}}

    await world.post(evaluation(1, "off", featureId="other"), evaluation(2), at=2)
    world.now = 301
    assert world.state.experiments() == {"test": {"on": discarded("later_evaluation")}, "second": {"off": linked()}}


async def test_a_goal_outside_one_experiment_is_counted_there_once(worlds: Worlds) -> None:
    world = worlds(DEFINITION, experiment("over", feature_id="flag", goal_ids=["goal"], stop=BEGIN))
    await world.post(goal(1), at=1)
    assert world.state.experiments() == {"test": {"": waiting()}, "over": {"": discarded("after_stop")}}
    world.now = 86_401

    assert world.state.experiments() == {"test": {"": discarded("gave_up")}, "over": {"": discarded("after_stop")}}


# What comes first, and how late


async def test_evaluations_of_a_post_are_first_unless_goals_are(worlds: Worlds) -> None:
    events = [evaluation(0, "off"), goal(1), evaluation(2, "on")]
    one, other = worlds(), worlds(first="goals")
    for world in (one, other):
        await world.post(events[0], at=0)
        await world.post(*events[1:], at=2)

    assert one.counts() == {"on": discarded("later_evaluation")}
    assert other.counts() == {"off": linked()}


async def test_goals_that_are_late_meet_later_evaluations(worlds: Worlds) -> None:
    world = worlds(delay=10)
    await world.post(evaluation(0), goal(1), at=1)
    assert world.counts() == {"": waiting()}
    await world.post(evaluation(2), at=5)

    world.now = 11
    assert world.counts() == {"on": discarded("later_evaluation")}


async def test_goals_that_are_early_wait_for_evaluations_that_are_late(worlds: Worlds) -> None:
    world = worlds(first="goals", delay=10, retry_interval=20)
    await world.post(evaluation(0), goal(1), at=1)
    await world.post(evaluation(3, "off"), goal(3), at=15)
    assert world.counts() == {"on": linked(), "": waiting()}

    world.now = 21
    assert world.counts() == {"on": linked(2)}


# Changes


async def test_an_experiment_that_changes_begins_anew(worlds: Worlds) -> None:
    world = worlds()
    await world.post(evaluation(0), goal(1), at=1)
    world.state.set_experiment(DEFINITION)
    world.state.set_flag(flag("third"))
    world.state.remove_flag("other")
    world.state.set_segment({"segmentId": "s"})
    world.state.remove_segment("s")
    assert world.counts() == {"on": linked()}

    world.state.set_experiment(DEFINITION | {"goalIds": ["goal", "second"]})
    assert world.counts() == {}
    world.state.remove_experiment("test")
    assert world.state.experiments() == {}
    with pytest.raises(KeyError):
        world.state.remove_experiment("test")


async def test_a_goal_that_waits_for_a_removed_experiment_is_gone(worlds: Worlds) -> None:
    world = worlds()
    await world.post(goal(0))
    world.state.remove_experiment("test")
    world.now = 300
    assert world.state.experiments() == {}

    world.state.set_experiment(DEFINITION)
    assert world.counts() == {}


async def test_forgotten_events_are_forgotten_here_too(worlds: Worlds) -> None:
    world = worlds()
    await world.post(evaluation(0), goal(1), goal(1, "b"), at=1)
    world.state.forget_events()
    await world.post(goal(1))

    assert world.counts() == {"": waiting()}


# Definitions


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": ""}, "experiments[0]: experiment: id is missing"),
        ({"id": 5}, "experiments[0]: experiment 5: id must be a str, not int; quote it"),
        ({"featureID": "flag"}, "experiment 'test': featureID is not a field; did you mean featureId?"),
        ({"featureId": None}, "experiment 'test': featureId is missing"),
        ({"featureId": "flog"}, "featureId must be the id of a flag of this gateway, not 'flog'; did you mean flag?"),
        ({"featureId": "zzz"}, "experiment 'test': featureId must be the id of a flag of this gateway, not 'zzz'"),
        ({"featureVersion": 0}, "featureVersion is missing"),
        ({"featureVersion": "1"}, "featureVersion must be an int, not str"),
        ({"goalIds": []}, "goalIds is missing"),
        ({"goalIds": "goal"}, "goalIds must be a list, not str"),
        ({"goalIds": ["a", ""]}, "goalIds[1] is missing"),
        ({"goalIds": ["a", "b", "a"]}, "goalIds[2] 'a' is a duplicate"),
        ({"startAt": "soon"}, "startAt must be Unix seconds, a whole number, not 'soon'"),
        ({"startAt": 7, "stopAt": 7}, "stopAt must be later than startAt, 7, not 7"),
    ],
)
def test_a_wrong_experiment_is_an_error(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        LocalGateway(flags=[flag("flag")], experiments=[DEFINITION | changes])
    state = GatewayState(flags=[flag("flag")])
    with pytest.raises(ConfigurationError, match=re.escape(message.removeprefix("experiments[0]: "))):
        state.set_experiment(DEFINITION | changes)


def test_two_experiments_with_one_id_are_an_error() -> None:
    with pytest.raises(ConfigurationError, match=re.escape("experiments[1]: id 'test' is a duplicate")):
        GatewayState(flags=[flag("flag")], experiments=[DEFINITION] * 2)


def test_times_may_be_datetimes_with_a_time_zone() -> None:
    fields = experiment(
        "test", feature_id="flag", goal_ids=("a",), start=datetime(2027, 1, 15, 8, tzinfo=UTC), stop=BEGIN + 1
    )

    assert (fields["startAt"], fields["stopAt"]) == (BEGIN, BEGIN + 1)
    with pytest.raises(ConfigurationError, match="stop must have a time zone: 2027-01-15T08:00:00 has none"):
        experiment("test", feature_id="flag", goal_ids=("a",), stop=datetime(2027, 1, 15, 8))  # noqa: DTZ001


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"first": "events"}, "first must be 'evaluations' or 'goals', not 'events'"),
        ({"delay": -1}, "delay must be at least 0 seconds, not -1"),
        ({"delay": "1"}, "delay must be a finite number of seconds, not '1'"),
        ({"retry_interval": 0}, "retry_interval must be more than 0 seconds, not 0"),
        ({"retry_period": float("inf")}, "retry_period must be a finite number of seconds, not inf"),
    ],
)
def test_a_wrong_setting_is_an_error(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        Linking(**arguments)


def test_linking_is_no_dict() -> None:
    with pytest.raises(ConfigurationError, match="linking must be a Linking, not "):
        GatewayState(linking={"first": "goals"})  # type: ignore[arg-type]


def test_the_command_line_has_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--link-first", "goals", "--link-delay", "-1"])

    assert "delay must be at least 0 seconds, not -1.0" in capsys.readouterr().err


# The pages


async def test_json_and_the_page_show_the_counts(worlds: Worlds) -> None:
    world = worlds(DEFINITION, experiment("<b>", feature_id="other", goal_ids=["x"], start=5, stop=7))
    await world.post(evaluation(0), goal(1), goal(1, "b"), goal(1, goal_id="x"), at=1)
    await world.post(evaluation(3), goal(2), at=3)

    shown = (await world.http.get("/_dev/experiments")).json()
    page = (await world.http.get("/_dev/")).text

    assert shown == {
        "experiments": [
            {
                "id": "test",
                "featureId": "flag",
                "featureVersion": 1,
                "goalIds": ["goal"],
                "startAt": 0,
                "stopAt": None,
                "variations": {
                    "": {"linked": 0, "waiting": 1, "discarded": {}},
                    "on": {"linked": 1, "waiting": 0, "discarded": {"later_evaluation": 1}},
                },
            },
            {
                "id": "<b>",
                "featureId": "other",
                "featureVersion": 1,
                "goalIds": ["x"],
                "startAt": 5,
                "stopAt": 7,
                "variations": {"": {"linked": 0, "waiting": 0, "discarded": {"after_stop": 1}}},
            },
        ],
        "linking": {"first": "evaluations", "delay": 0.0, "retry_interval": 300.0, "retry_period": 86_400.0},
    }
    assert "<tr><td>test<td>on<td>1<td>0<td>later_evaluation 1" in page
    assert "<tr><td>test<td>no evaluation<td>0<td>1<td>0" in page
    assert "<tr><td>&lt;b&gt;<td>no evaluation<td>0<td>0<td>after_stop 1" in page


async def test_an_experiment_without_goals_has_a_row(worlds: Worlds) -> None:
    world = worlds()

    assert "<tr><td>test<td>no evaluation<td>0<td>0<td>0" in (await world.http.get("/_dev/")).text
