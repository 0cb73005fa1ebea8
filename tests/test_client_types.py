"""Values of an application's own types: enums, and what `parse` makes of JSON; with awaiting and without."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from enum import Enum
from types import MappingProxyType
from typing import Any

import pytest
from pydantic import BaseModel

from bucketeer_async import Client, ReasonType, User
from tests.clock import VirtualLoop
from tests.test_client_local import POLLED, Server, flag

USER = User("user-1", {"email": "user@example.com"})


class Layout(BaseModel):
    """A model of pydantic, whose errors show the value that is wrong."""

    columns: int
    colour: str = "red"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualLoop}


def new_server() -> Server:
    server = Server()
    server.flags = [
        flag("layout", '{"columns": 4}', "JSON"),
        flag("secret", '{"columns": "of-the-flag"}', "JSON"),
        flag("list", "[1, 2]", "JSON"),
        flag("text", "of-the-flag", "STRING"),
        flag("colour", "blue", "STRING"),
    ]
    return server


async def details_of(client: Client, kind: str, suffix: str, *arguments: Any, **named: Any) -> Any:
    """Call a variation method with details, and the one without; return the details."""
    details, value = [
        await found if inspect.isawaitable(found := getattr(client, name)(*arguments, **named)) else found
        for name in (f"{kind}_variation_details{suffix}", f"{kind}_variation{suffix}")
    ]
    assert value == details.value
    return details


each_way = pytest.mark.parametrize("suffix", ["", "_nowait"])


@each_way
async def test_a_value_is_what_parse_returns(suffix: str) -> None:
    server = new_server()
    async with server.client() as client:
        await client.wait_ready()

        default = Layout(columns=3)
        details = await details_of(client, "json", suffix, USER, "layout", default, parse=Layout.model_validate)
        total = await details_of(client, "json", suffix, USER, "list", default=None, parse=sum)

    assert details.value == Layout(columns=4)
    assert (details.is_default, details.error, total.value) == (False, "", 3)
    assert server.events == {**POLLED, ("EvaluationEvent", 0): 4, ("LatencyMetricsEvent", 100): 4}


@each_way
async def test_what_parse_raises_is_a_wrong_type_and_its_text_is_in_the_details_alone(
    suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = new_server()
    async with server.client() as client:
        await client.wait_ready()

        default = Layout(columns=3)
        details = await details_of(client, "json", suffix, USER, "secret", default, parse=Layout.model_validate)

    assert details.value is default
    assert details.reason.type is ReasonType.ERROR_WRONG_TYPE
    assert details.error.startswith("parse raised ValidationError: 1 validation error for Layout")
    assert "of-the-flag" in details.error
    assert "the evaluation of flag 'secret' returned the default: parse raised ValidationError" in caplog.messages
    assert "of-the-flag" not in caplog.text
    assert "user" not in caplog.text
    assert server.events == {**POLLED, ("EvaluationEvent", 0): 2, ("LatencyMetricsEvent", 100): 2}


class Colour(Enum):
    """The colours of a button."""

    RED = "red"
    BLUE = "blue"


@each_way
async def test_a_member_of_an_enum_has_the_value_of_the_flag(suffix: str) -> None:
    server = new_server()
    async with server.client() as client:
        await client.wait_ready()

        found = await details_of(client, "enum", suffix, USER, "colour", Colour.RED)
        other = await details_of(client, "enum", suffix, USER, "text", Colour.RED)

    assert (found.value, found.is_default) == (Colour.BLUE, False)
    assert (other.value, other.is_default, other.reason.type) == (Colour.RED, True, ReasonType.ERROR_WRONG_TYPE)
    assert other.error == "the value is not the value of a member of Colour"
    assert server.events == {**POLLED, ("EvaluationEvent", 0): 4, ("LatencyMetricsEvent", 100): 4}


@each_way
async def test_the_default_of_an_enum_is_a_member(suffix: str) -> None:
    async with new_server().client() as client:
        with pytest.raises(TypeError, match="default must be a member of an Enum, not of type str"):
            await details_of(client, "enum", suffix, USER, "colour", "red")


class HostileError(Exception):
    """An error of an application whose text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def fail(_value: object) -> None:
    raise HostileError


def recurse(value: object) -> object:
    return recurse(value)


@pytest.mark.parametrize(
    ("parse", "error"),
    [(fail, "parse raised HostileError"), (recurse, "parse raised RecursionError: maximum recursion depth exceeded")],
)
async def test_an_error_of_parse_may_be_any(parse: Callable[[Any], Any], error: str) -> None:
    async with new_server().client() as client:
        await client.wait_ready()

        details = await client.json_variation_details(USER, "layout", default="default", parse=parse)

    assert (details.value, details.reason.type) == ("default", ReasonType.ERROR_WRONG_TYPE)
    assert details.error.startswith(error)


async def test_text_that_is_no_json_is_not_parsed() -> None:
    async with new_server().client() as client:
        await client.wait_ready()

        details = await client.json_variation_details(USER, "text", default=None, parse=pytest.fail)

    assert details.error == "the value is not valid JSON"


@pytest.mark.parametrize("parse", ["Layout", 5, Client.aclose])
async def test_parse_must_be_a_function(parse: Any) -> None:
    client = new_server().client()

    with pytest.raises(TypeError, match="parse must be a function of the JSON value, and no coroutine function, not "):
        await client.json_variation(USER, "layout", default=None, parse=parse)
    with pytest.raises(TypeError, match="parse must be a function"):
        client.json_variation_nowait(USER, "layout", default=None, parse=parse)


@each_way
async def test_a_default_may_be_any_mapping_or_sequence_and_is_returned_as_it_is(suffix: str) -> None:
    mapping, sequence = MappingProxyType({"columns": 3}), (1, 2, 3)
    async with new_server().client() as client:
        await client.wait_ready()

        assert (await details_of(client, "json", suffix, USER, "unknown", mapping)).value is mapping
        assert (await details_of(client, "json", suffix, USER, "list", mapping)).value is mapping
        assert (await details_of(client, "json", suffix, USER, "layout", sequence)).value is sequence
        layout = (await details_of(client, "json", suffix, USER, "layout", mapping)).value
        numbers = (await details_of(client, "json", suffix, USER, "list", sequence)).value

    assert (layout, type(layout)) == ({"columns": 4}, dict)
    assert (numbers, type(numbers)) == ([1, 2], list)
