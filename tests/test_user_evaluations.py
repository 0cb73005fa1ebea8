"""All flags of a user, and a client for one user, against the gateway in the same process, in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import inspect
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from enum import Enum
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketeer_async import (
    BoundClient,
    Client,
    EvaluationDetails,
    LocalEvaluation,
    ProcessorConfig,
    ReasonType,
    RefusedReason,
    User,
    UserEvaluations,
    WrongLoopError,
)
from bucketeer_async.gateway import GatewayState, create_app, flag
from tests.clock import VirtualLoop

USER = User("user-1", {"plan": "pro"})
STARTED = int(time.time())
NOBODY: Any = "user-1"  # is no User

FLAGS = [
    flag("bool", tags=["shop"]),
    flag("int", variations={"a": 42}, tags=["shop"]),
    flag("float", variations={"a": 1.5}, tags=["shop"]),
    flag("string", variations={"a": "blue"}, tags=["shop"]),
    flag("object", variations={"a": {"columns": [1]}}, tags=["shop"]),
    flag("list", variations={"a": [1, 2]}, tags=["shop"]),
    flag("elsewhere", tags=["other"]),
]
IDS = ["bool", "int", "float", "string", "object", "list"]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualLoop}


class World(httpx.AsyncBaseTransport):
    """A gateway, a client, and the paths of the requests between them; events are counted by name and operation."""

    client: Client

    def __init__(self) -> None:
        self.state = GatewayState(flags=FLAGS, now=lambda: STARTED + int(asyncio.get_running_loop().time()))
        self._gateway = httpx.ASGITransport(create_app(self.state))
        self.down = False
        self.paths: list[str] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path != "/register_events":
            self.paths.append(request.url.path)
            if self.down:
                return httpx.Response(501)
        return await self._gateway.handle_async_request(request)

    async def evaluated(self) -> list[tuple[str, str, str]]:
        """Return flag, variation and reason of the evaluation events since the last call."""
        return [
            (each["featureId"], each.get("variationId", ""), each["reason"]["type"])
            for each in await self.events()
            if "featureId" in each
        ]

    async def events(self) -> list[dict[str, Any]]:
        await self.client.flush()
        found = [each.event for each in self.state.events]
        self.state.forget_events()
        return found


@contextlib.asynccontextmanager
async def world(*, local: bool, ready: bool = True, **options: Any) -> AsyncIterator[World]:
    here = World()
    async with httpx.AsyncClient(transport=here) as http:
        evaluation = LocalEvaluation(polling_interval=60.0) if local else None
        given: dict[str, Any] = {"endpoint": "http://127.0.0.1", "tag": "shop", "local_evaluation": evaluation}
        given["api_key"] = "server-key" if local else "client-key"
        here.client = Client(**given | options, http=http)
        async with here.client:
            if ready:
                await here.client.wait_ready()
                await here.events()
                here.paths.clear()
            yield here


both = pytest.mark.parametrize("local", [True, False], ids=["local", "remote"])


# Values


@both
async def test_every_type_of_flag_has_its_value(local: bool) -> None:
    async with world(local=local) as here:
        flags = await here.client.evaluate_all(USER)

        assert flags.bool("bool", default=False) is True
        assert flags.int("int", default=0) == 42
        assert flags.float("float", default=0) == 1.5
        assert flags.string("string", default="") == "blue"
        assert flags.json("object", default={}) == {"columns": [1]}
        assert flags.json("list", default=None) == [1, 2]
        assert here.paths == ([] if local else ["/get_evaluations"])


@both
async def test_details_are_those_of_the_variations(local: bool) -> None:
    async with world(local=local) as here:
        client, flags = here.client, await here.client.evaluate_all(USER)

        assert flags.details("bool", default=False) == await client.bool_variation_details(USER, "bool", False)
        assert flags.details("int", default=0) == await client.int_variation_details(USER, "int", 0)
        assert flags.details("float", default=0.0) == await client.float_variation_details(USER, "float", 0.0)
        assert flags.details("string", default="") == await client.string_variation_details(USER, "string", "")
        assert flags.details("object", default={}) == await client.json_variation_details(USER, "object", {})
        assert flags.details("list", default=None) == await client.json_variation_details(USER, "list", None)


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


def columns(value: Any) -> list[int]:
    found: list[int] = value["columns"]
    return found


@both
async def test_a_value_may_be_a_member_of_an_enum_or_what_a_function_makes_of_it(local: bool) -> None:
    async with world(local=local) as here:
        client, bound = here.client, here.client.for_user(USER)
        flags = await client.evaluate_all(USER)

        assert flags.enum("string", default=Colour.RED) is Colour.BLUE
        assert flags.details("string", default=Colour.RED) == await bound.enum_details("string", default=Colour.RED)
        assert flags.enum("bool", default=Colour.RED) is await bound.enum("bool", default=Colour.RED) is Colour.RED
        assert flags.json("object", default=None, parse=columns) == [1]
        assert await bound.json("object", default=None, parse=columns) == [1]
        details = await bound.json_details("list", default=None, parse=columns)
        assert details == await client.json_variation_details(USER, "list", default=None, parse=columns)
        assert (details.value, details.reason.type) == (None, ReasonType.ERROR_WRONG_TYPE)


def test_accessors_take_what_the_variations_take() -> None:
    for name in ("bool", "int", "float", "string", "json", "enum"):
        variation = inspect.signature(getattr(Client, f"{name}_variation"))
        expected = [each for each in variation.parameters if each != "user"]
        accessors = [
            getattr(UserEvaluations, name),
            getattr(BoundClient, name),
            getattr(BoundClient, f"{name}_details"),
        ]
        assert all(list(inspect.signature(each).parameters) == expected for each in accessors)


@both
@pytest.mark.parametrize("feature_id", ["unknown", "elsewhere", "string", "", None])
async def test_a_default_has_the_reason_of_the_variation(local: bool, feature_id: Any) -> None:
    async with world(local=local) as here:
        flags = await here.client.evaluate_all(USER)

        found = flags.details(feature_id, default=False)
        expected = await here.client.bool_variation_details(USER, feature_id, False)

    assert (found.value, found.reason, found.feature_id) == (False, expected.reason, expected.feature_id)
    assert found.error
    if local:
        assert found == expected  # the gateway has words of its own for a flag that it does not know


@both
async def test_a_default_of_the_wrong_type_raises(local: bool) -> None:
    wrong: Any = "yes"
    async with world(local=local) as here:
        flags = await here.client.evaluate_all(USER)

        with pytest.raises(TypeError, match="default must be of type bool, not str"):
            flags.bool("bool", default=wrong)
        with pytest.raises(TypeError, match="default must be of a JSON type"):
            flags.details("bool", default=object())  # type: ignore[type-var]
        assert not await here.evaluated()


@both
async def test_all_flags_are_of_one_moment(local: bool) -> None:
    async with world(local=local) as here:
        flags = await here.client.evaluate_all(USER)
        here.state.set_flag(flag("bool", default="off", tags=["shop"]))
        here.state.remove_flag("int")
        await asyncio.sleep(100)

        assert flags.bool("bool", default=False) is True
        assert flags.int("int", default=0) == 42


# Events


@both
async def test_the_first_access_of_a_flag_is_its_only_event(local: bool) -> None:
    async with world(local=local) as here:
        flags = await here.client.evaluate_all(USER)
        for _ in range(3):
            flags.bool("bool", default=False)
            flags.details("unknown", default="")
            flags.int("string", default=1)
            flags.string("string", default="")
        flags.to_dict()

        assert sorted(await here.evaluated()) == [
            ("bool", "on", "DEFAULT"),
            ("string", "", "ERROR_WRONG_TYPE"),
            ("unknown", "", "ERROR_FLAG_NOT_FOUND"),
        ]


@both
async def test_an_event_says_what_that_of_a_variation_says(local: bool) -> None:
    async with world(local=local) as here:
        (await here.client.evaluate_all(USER)).bool("bool", default=False)
        [mine] = [each for each in await here.events() if "featureId" in each]
        await here.client.bool_variation(USER, "bool", default=False)
        [other] = [each for each in await here.events() if "featureId" in each]

    assert mine | {"timestamp": other["timestamp"]} == other


@both
async def test_the_request_has_a_latency_and_a_size_and_an_access_none(local: bool) -> None:
    async with world(local=local) as here:
        flags = await here.client.evaluate_all(USER)
        flags.bool("bool", default=False)
        flags.int("bool", default=0)
        flags.int("unknown", default=0)

        metrics = Counter(
            (each["event"]["@type"].rpartition(".")[2], each["event"].get("apiId"))
            for each in await here.events()
            if "featureId" not in each
        )

    assert metrics == (
        {} if local else {("LatencyMetricsEvent", "GET_EVALUATIONS"): 1, ("SizeMetricsEvent", "GET_EVALUATIONS"): 1}
    )


accesses = st.lists(st.tuples(st.sampled_from([*IDS, "unknown", "elsewhere", ""]), st.sampled_from("bifsj")))


@both
@given(accesses=accesses, only=st.none() | st.sets(st.sampled_from([*IDS, "unknown"])))
def test_any_accesses_push_one_event_for_each_flag(
    local: bool, accesses: list[tuple[str, str]], only: set[str] | None
) -> None:
    async def use() -> None:
        async with world(local=local) as here:
            flags = await here.client.evaluate_all(USER, only)
            accessors: dict[str, Any] = {
                "b": lambda each: flags.bool(each, default=False),
                "i": lambda each: flags.int(each, default=0),
                "f": lambda each: flags.float(each, default=0.0),
                "s": lambda each: flags.string(each, default=""),
                "j": lambda each: flags.json(each, default=None),
            }
            for feature_id, accessor in accesses:
                accessors[accessor](feature_id)
                flags.to_dict()

            found = Counter(feature_id for feature_id, *_ in await here.evaluated())

        assert found == Counter({feature_id for feature_id, _ in accesses if feature_id})

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(use())


# Some flags


@both
async def test_only_some_flags(local: bool) -> None:
    async with world(local=local) as here:
        flags = await here.client.evaluate_all(USER, only=iter(["bool", "unknown", "elsewhere"]))

        assert flags.to_dict().keys() == {"bool"}
        assert flags.bool("bool", default=False) is True
        assert flags.details("unknown", default=0).reason.type is ReasonType.ERROR_FLAG_NOT_FOUND
        left_out = flags.details("int", default=0)
        assert left_out.reason.type is ReasonType.ERROR_FLAG_NOT_FOUND
        assert left_out.error == "flag 'int': EVALUATION_NOT_FOUND (not in only=... of evaluate_all)"


@both
@pytest.mark.parametrize(
    ("only", "error", "words"),
    [
        ("bool", TypeError, "only must be a collection of flag ids, such as a list, not a single str"),
        ([5], TypeError, "an entry of only must be a str, not int"),
        ([""], ValueError, "an entry of only must not be empty"),
    ],
)
async def test_what_is_no_collection_of_ids_raises(local: bool, only: Any, error: type[Exception], words: str) -> None:
    async with world(local=local) as here:
        with pytest.raises(error, match=words):
            await here.client.evaluate_all(USER, only=only)
        assert not here.paths


@both
async def test_a_front_end_gets_the_flags_that_have_a_value(local: bool) -> None:
    async with world(local=local) as here:
        found = (await here.client.evaluate_all(USER)).to_dict()

        assert found.keys() == set(IDS)
        assert found["bool"] == {"variation_id": "on", "value": "true", "reason": "DEFAULT"}
        assert found["object"]["value"] == '{"columns": [1]}'
        assert not await here.evaluated()


# Without an answer


async def test_without_an_answer_all_flags_have_defaults() -> None:
    async with world(local=False) as here:
        here.down = True
        flags = await here.client.evaluate_all(USER)

        found = [flags.details(each, default=False) for each in ("bool", "int")]
        errors = [each["event"] for each in await here.events() if "featureId" not in each]

    assert {(each.value, each.reason.type) for each in found} == {(False, ReasonType.ERROR_EXCEPTION)}
    assert all("501" in each.error for each in found)
    assert [each["apiId"] for each in errors] == ["GET_EVALUATIONS"]
    assert flags.to_dict() == {}


async def test_before_flags_have_arrived_all_flags_have_defaults() -> None:
    async with world(local=True, ready=False) as here:
        flags = await here.client.evaluate_all(USER)
        found = flags.details("bool", default=False)
        expected = await here.client.bool_variation_details(USER, "bool", False)
        await here.client.wait_ready()

        assert found == expected
        assert found.reason.type is ReasonType.ERROR_CACHE_NOT_FOUND
        assert flags.bool("bool", default=False) is False  # still of that moment
        assert await flags.refresh()
        assert flags.bool("bool", default=False) is True


@both
async def test_a_client_that_does_not_run_has_defaults(local: bool) -> None:
    async with world(local=local) as here:
        kept = await here.client.evaluate_all(USER)
    late = await here.client.evaluate_all(USER)

    details = late.details("bool", default=False)
    assert (details.value, details.reason.type) == (False, ReasonType.ERROR_EXCEPTION)
    assert details.error == (await here.client.bool_variation_details(USER, "bool", False)).error
    assert kept.bool("bool", default=False) is True
    assert not await kept.refresh()
    assert kept.bool("bool", default=False) is True
    assert here.client.statistics().evaluation.refused == 3


async def test_a_disabled_client_has_defaults() -> None:
    async with Client.disabled() as client:
        flags = await client.evaluate_all(USER)

        assert flags.details("bool", default=True) == await client.bool_variation_details(USER, "bool", True)
        assert flags.to_dict() == {}


@both
async def test_another_loop_raises(local: bool) -> None:
    async with world(local=local) as here:
        flags = await here.client.evaluate_all(USER)

        outcomes: list[bool] = []

        def elsewhere() -> None:
            with pytest.raises(WrongLoopError):
                asyncio.run(here.client.evaluate_all(USER))  # type: ignore[arg-type]
            with pytest.raises(WrongLoopError):
                asyncio.run(flags.refresh())  # type: ignore[arg-type]
            outcomes.append(flags.bool("bool", default=False))

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()  # a loop in virtual time does not wait for threads

    assert outcomes == [True]


@both
async def test_what_is_no_user_has_defaults_without_a_request_or_an_event(local: bool) -> None:
    async with world(local=local) as here:
        flags = await here.client.evaluate_all(NOBODY)

        found = flags.details("bool", default=False)

        assert found.reason.type is ReasonType.ERROR_USER_ID_NOT_SPECIFIED
        assert flags.to_dict() == {}
        assert not here.paths
        assert not await here.evaluated()


@both
async def test_a_strict_client_refuses_what_is_no_user(local: bool) -> None:
    async with world(local=local, events=ProcessorConfig(strict=True)) as here:
        with pytest.raises(TypeError, match="user must be a User, not str"):
            await here.client.evaluate_all(NOBODY)


# Again


@both
async def test_a_refresh_brings_new_values_and_their_events(local: bool) -> None:
    async with world(local=local) as here:
        await asyncio.sleep(2000)  # a diff would have only what has changed since
        flags = await here.client.evaluate_all(USER)
        flags.bool("bool", default=False)
        flags.int("int", default=0)
        await here.evaluated()
        here.state.set_flag(flag("bool", default="off", tags=["shop"]))
        here.state.set_flag(flag("int", variations={"a": 42}, tags=["other"]))
        here.state.remove_flag("float")
        await asyncio.sleep(100)

        assert await flags.refresh()

        assert flags.bool("bool", default=True) is False
        assert flags.to_dict().keys() == set(IDS) - {"int", "float"}
        assert await here.evaluated() == [("bool", "off", "DEFAULT")]


@both
async def test_a_refresh_of_the_same_flags_changes_nothing(local: bool) -> None:
    async with world(local=local) as here:
        flags = await here.client.evaluate_all(USER)
        before = flags.to_dict()
        flags.bool("bool", default=False)
        await asyncio.sleep(1000)

        assert await flags.refresh()

        flags.bool("bool", default=False)
        assert flags.to_dict() == before
        assert [feature_id for feature_id, *_ in await here.evaluated()] == ["bool"]


async def test_an_unchanged_response_has_no_evaluations() -> None:
    async with world(local=False) as here:
        flags = await here.client.evaluate_all(USER)
        await flags.refresh()

        first, second = [each["event"]["sizeByte"] for each in await here.events() if "sizeByte" in each["event"]]

    assert second < 250 < first


async def test_a_refresh_without_an_answer_keeps_the_values() -> None:
    async with world(local=False) as here:
        flags = await here.client.evaluate_all(USER)
        here.down = True

        assert not await flags.refresh()
        assert flags.bool("bool", default=False) is True


async def test_the_last_flag_of_an_environment_goes() -> None:
    async with world(local=False) as here:
        flags = await here.client.evaluate_all(USER)
        for each in FLAGS:
            here.state.remove_flag(each["id"])

        assert await flags.refresh()
        assert flags.to_dict() == {}
        assert await flags.refresh()


def test_the_repr_has_no_user() -> None:
    async def use() -> str:
        async with world(local=True) as here:
            return f"{await here.client.evaluate_all(USER)} {here.client.for_user(USER)}"

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        assert runner.run(use()) == "<UserEvaluations of 6 flags> <BoundClient of a User>"


# A client for one user


@both
async def test_a_bound_client_does_what_the_client_does(local: bool) -> None:
    async with world(local=local) as here:
        client, bound = here.client, here.client.for_user(USER)

        assert bound.user is USER
        assert await bound.bool("bool", default=False) is True
        assert await bound.int("int", default=0) == 42
        assert await bound.float("float", default=0.0) == 1.5
        assert await bound.string("string", default="") == "blue"
        assert await bound.json("list", default=None) == [1, 2]
        pairs: list[tuple[EvaluationDetails[Any], EvaluationDetails[Any]]] = [
            (await bound.bool_details("bool", False), await client.bool_variation_details(USER, "bool", False)),
            (await bound.int_details("int", 0), await client.int_variation_details(USER, "int", 0)),
            (await bound.float_details("int", 0), await client.float_variation_details(USER, "int", 0)),
            (await bound.string_details("no", "x"), await client.string_variation_details(USER, "no", "x")),
            (await bound.json_details("object", {}), await client.json_variation_details(USER, "object", {})),
        ]
        assert all(mine == other for mine, other in pairs)
        flags = await bound.evaluate_all(only=["bool"])
        assert isinstance(flags, UserEvaluations)
        assert flags.to_dict().keys() == {"bool"}
        assert (await bound.track("purchase", value=49.9)).accepted
        goals = [each for each in await here.events() if "goalId" in each]

    assert [(each["userId"], each["goalId"], each["value"]) for each in goals] == [("user-1", "purchase", 49.9)]


@both
async def test_a_bound_client_of_what_is_no_user_has_defaults(local: bool) -> None:
    async with world(local=local) as here:
        bound = here.client.for_user(NOBODY)

        details = await bound.bool_details("bool", default=False)
        assert details.reason.type is ReasonType.ERROR_USER_ID_NOT_SPECIFIED
        assert (await bound.evaluate_all()).bool("bool", default=False) is False
        receipt = await bound.track("purchase")

    assert receipt.outcome is not None
    assert receipt.outcome.reason == RefusedReason.INVALID


def test_a_client_is_bound_before_it_runs() -> None:
    assert copy.copy(Client.disabled().for_user(USER)).user is USER


@both
async def test_accesses_and_calls_of_a_bound_client_are_reported_to_callbacks(local: bool) -> None:
    async with world(local=local) as here:
        bound = here.client.for_user(USER)
        found: list[tuple[str, object]] = []
        here.client.on_evaluation(lambda each: found.append((each.feature_id, each.details.value)))

        flags = await here.client.evaluate_all(USER)
        flags.bool("bool", default=False)
        flags.bool("bool", default=False)
        await bound.int("int", default=0)

    assert found == [("bool", True), ("bool", True), ("int", 42)]
