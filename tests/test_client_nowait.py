"""Variations without awaiting: the same values, reasons and events as the awaited ones, from any thread."""

from __future__ import annotations

import asyncio
import inspect
import threading
from enum import Enum
from typing import Any

import httpx
import pytest

from bucketeer_async import (
    Client,
    ConfigurationError,
    LocalEvaluation,
    ProcessorConfig,
    ReasonType,
    User,
)
from tests.clock import VirtualLoop
from tests.fakes import as_forked
from tests.test_client_local import Server, flag

USER = User("user-1")


class Colour(Enum):
    """The colours of a button."""

    RED = "red"
    BLUE = "blue"


FLAGS = [
    flag("bool", "true", "BOOLEAN"),
    flag("int", "42", "NUMBER"),
    flag("float", "1.5", "NUMBER"),
    flag("string", "blue", "STRING"),
    flag("json", '{"a": [1]}', "JSON"),
]

#: The variation methods by their common beginning, with a default of each.
DEFAULTS: dict[str, Any] = {
    "bool": False,
    "int": 0,
    "float": 0.5,
    "string": "red",
    "json": {"a": 0},
    "enum": Colour.RED,
}


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualLoop}


def new_server() -> Server:
    server = Server()
    server.flags = FLAGS
    return server


def test_every_variation_has_a_variant_without_awaiting() -> None:
    awaited = {name for name in dir(Client) if "_variation" in name and not name.endswith("_nowait")}

    assert {name.partition("_")[0] for name in awaited} == {*DEFAULTS}
    for name in awaited:
        mine, theirs = getattr(Client, f"{name}_nowait"), getattr(Client, name)
        assert inspect.iscoroutinefunction(theirs)
        assert not inspect.iscoroutinefunction(mine)
        assert inspect.signature(mine) == inspect.signature(theirs)


@pytest.mark.parametrize("kind", DEFAULTS)
@pytest.mark.parametrize(
    ("user", "feature_id"), [(USER, each["id"]) for each in FLAGS] + [(USER, "unknown"), (USER, ""), (None, "bool")]
)
async def test_values_reasons_and_events_are_those_of_the_awaited_variation(
    kind: str, user: User, feature_id: str
) -> None:
    first, second = new_server(), new_server()
    async with first.client() as client:
        await client.wait_ready()
        awaited = await getattr(client, f"{kind}_variation_details")(user, feature_id, DEFAULTS[kind])
        assert await getattr(client, f"{kind}_variation")(user, feature_id, DEFAULTS[kind]) == awaited.value
    async with second.client() as client:
        await client.wait_ready()
        details = getattr(client, f"{kind}_variation_details_nowait")(user, feature_id, DEFAULTS[kind])
        assert getattr(client, f"{kind}_variation_nowait")(user, feature_id, DEFAULTS[kind]) == details.value

    assert details == awaited
    assert second.events == first.events


async def test_a_default_of_another_type_raises() -> None:
    async with new_server().client() as client:
        with pytest.raises(TypeError, match="default must be of type bool, not int"):
            client.bool_variation_nowait(USER, "bool", 0)
        with pytest.raises(TypeError, match="default must be of type int, not bool"):
            client.int_variation_details_nowait(USER, "int", True)


async def test_a_strict_client_raises_for_what_is_no_user() -> None:
    async with new_server().client(events=ProcessorConfig(strict=True)) as client:
        with pytest.raises(TypeError, match="user must be a User"):
            client.bool_variation_nowait("user-1", "bool", False)  # type: ignore[arg-type]


async def test_any_number_of_evaluations_needs_no_turn_of_the_loop() -> None:
    server = new_server()
    async with server.client() as client:
        await client.wait_ready()

        for _ in range(1000):
            assert client.bool_variation_nowait(USER, "bool", False) is True

    assert server.events["EvaluationEvent", 0] == 1000
    assert server.events["LatencyMetricsEvent", 100] == 1000


async def test_while_the_client_does_not_run_defaults_are_served_as_by_the_awaited_variation() -> None:
    server = new_server()
    server.down = True
    client = server.client()

    async def compare(reason: ReasonType, error: str) -> None:
        before = client.statistics().evaluation
        awaited = await client.bool_variation_details(USER, "bool", False)
        between = client.statistics().evaluation
        details = client.bool_variation_details_nowait(USER, "bool", False)
        after = client.statistics().evaluation

        assert details == awaited
        assert (details.value, details.reason.type, details.error) == (False, reason, error)
        assert (after.accepted - between.accepted, after.refused - between.refused) == (
            between.accepted - before.accepted,
            between.refused - before.refused,
        )

    await compare(ReasonType.ERROR_EXCEPTION, "the client is not started")
    async with client:
        await compare(ReasonType.ERROR_CACHE_NOT_FOUND, "flag 'bool': NOT_READY (no flags have arrived yet)")
        server.down = False
        await client.wait_ready()
        assert client.bool_variation_nowait(USER, "bool", False) is True
        with as_forked():
            await compare(ReasonType.ERROR_EXCEPTION, "the client is not started in this process (it was forked)")
        closing = asyncio.create_task(client.aclose())
        await asyncio.sleep(0)
        await compare(ReasonType.ERROR_EXCEPTION, "the client is closed")
        await closing
    await compare(ReasonType.ERROR_EXCEPTION, "the client is closed")


async def test_a_disabled_client_serves_defaults() -> None:
    async with Client.disabled() as client:
        details = client.string_variation_details_nowait(USER, "string", "red")

        assert (details.value, details.reason.type, details.error) == ("red", ReasonType.CLIENT, "")
        assert client.statistics().evaluation.refused == 1


@pytest.mark.parametrize("name", [name for name in dir(Client) if "_variation" in name and name.endswith("_nowait")])
async def test_with_remote_evaluation_nothing_is_evaluated_without_awaiting(name: str) -> None:
    client = new_server().client(local_evaluation=None)
    evaluate = getattr(client, name)
    words = r"local_evaluation is not set: the gateway evaluates .* Set local_evaluation=LocalEvaluation\(\)"

    with pytest.raises(ConfigurationError, match=words):
        evaluate(USER, "bool", DEFAULTS[name.partition("_")[0]])
    async with client:
        with pytest.raises(ConfigurationError, match=words):
            evaluate(USER, "bool", DEFAULTS[name.partition("_")[0]])
        assert not client.statistics().total.pushed


async def test_errors_are_reported_from_any_thread_and_at_most_a_tenth_of_the_queue_waits() -> None:
    async with new_server().client(events=ProcessorConfig(queue_capacity=1000, flush_size=500)) as client:
        await client.wait_ready()
        before = client.statistics().metrics.accepted
        threads = [
            threading.Thread(target=lambda: [client.bool_variation_nowait(USER, "unknown", False) for _ in range(100)])
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()  # the loop has no turn meanwhile, so nothing is delivered

        assert client.statistics().evaluation.pushed == 800
        assert 100 <= client.statistics().metrics.accepted - before <= 108


def test_a_client_may_be_used_while_its_loop_runs_elsewhere() -> None:
    server = new_server()
    transport = httpx.AsyncClient(transport=server)
    client = Client(endpoint="127.0.0.1", api_key="key", tag="shop", local_evaluation=LocalEvaluation(), http=transport)
    values: list[bool] = []

    async def main() -> None:
        async with client:
            await client.wait_ready()
            thread = threading.Thread(target=lambda: values.append(client.bool_variation_nowait(USER, "bool", False)))
            thread.start()
            thread.join()

    asyncio.run(main())

    assert values == [True]
    assert client.bool_variation_nowait(USER, "bool", default=False) is False
    assert server.events["EvaluationEvent", 0] == 1
