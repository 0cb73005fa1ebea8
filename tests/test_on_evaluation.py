"""on_evaluation: every evaluation that returns a value is reported once, by both kinds of evaluation, in virtual time."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import httpx
import pytest

from bucketeer_async import Client, FlagEvaluation, LocalEvaluation, ProcessorConfig, ReasonType, User, WrongLoopError
from bucketeer_async.gateway import GatewayState, create_app, flag
from tests.clock import VirtualLoop

USER = User("user-1", {"plan": "pro"})


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualLoop}


def client_of(state: GatewayState, *, local: bool, strict: bool = False) -> Client:
    return Client(
        endpoint="127.0.0.1",
        api_key="server-key" if local else "client-key",
        tag="shop",
        events=ProcessorConfig(strict=strict),
        local_evaluation=LocalEvaluation() if local else None,
        http=httpx.AsyncClient(transport=httpx.ASGITransport(create_app(state))),
    )


def shop() -> GatewayState:
    return GatewayState(
        flags=[
            flag("new-checkout", tags=["shop"]),
            flag("colour", variations={"a": "blue", "b": "red"}, default="b", tags=["shop"]),
        ]
    )


@pytest.mark.parametrize("local", [True, False])
async def test_every_answer_is_reported_with_its_details(*, local: bool) -> None:
    state, seen = shop(), list[FlagEvaluation]()
    async with client_of(state, local=local) as client:
        await client.wait_ready()
        client.on_evaluation(seen.append)
        details = await client.bool_variation_details(USER, "new-checkout", default=False)
        assert await client.string_variation(USER, "colour", default="green") == "red"
        assert await client.int_variation(USER, "colour", default=3) == 3
        assert await client.json_variation(USER, "no-such-flag", default={"a": 1}) == {"a": 1}

    assert [(each.feature_id, each.details.value, each.default) for each in seen] == [
        ("new-checkout", True, False),
        ("colour", "red", "green"),
        ("colour", 3, 3),
        ("no-such-flag", {"a": 1}, {"a": 1}),
    ]
    assert seen[0].details == details
    assert [each.details.reason.type.is_error for each in seen] == [False, False, True, True]
    assert seen[3].details.error
    assert {each.user for each in seen} == {USER}
    assert all(each.duration >= 0 for each in seen)
    assert state.counts()["evaluation"]["accepted"] == 4


async def test_an_evaluation_without_awaiting_is_reported_once_in_the_thread_of_the_call() -> None:
    seen: list[tuple[int, str, object]] = []
    async with client_of(shop(), local=True) as client:
        await client.wait_ready()
        client.on_evaluation(lambda each: seen.append((threading.get_ident(), each.feature_id, each.details.value)))
        client.bool_variation_nowait(USER, "new-checkout", default=False)
        caller = threading.Thread(target=client.string_variation_nowait, args=(USER, "colour", "green"))
        caller.start()
        caller.join()

    assert seen == [(threading.get_ident(), "new-checkout", True), (caller.ident, "colour", "red")]


async def test_arguments_that_are_no_user_or_flag_are_reported_as_none() -> None:
    seen: list[FlagEvaluation] = []
    async with client_of(shop(), local=True) as client:
        client.on_evaluation(seen.append)
        await client.bool_variation("user-1", "new-checkout", default=False)  # type: ignore[arg-type]
        await client.bool_variation(USER, 5, default=False)  # type: ignore[arg-type]

    assert [(each.user, each.feature_id) for each in seen] == [(None, "new-checkout"), (USER, "")]
    assert seen[0].details.reason.type is ReasonType.ERROR_USER_ID_NOT_SPECIFIED


async def test_before_the_start_and_after_the_end_defaults_are_reported() -> None:
    seen: list[FlagEvaluation] = []
    client = client_of(shop(), local=False)
    client.on_evaluation(seen.append)
    await client.bool_variation(USER, "new-checkout", default=False)
    async with client:
        pass
    await client.bool_variation(USER, "new-checkout", default=False)

    assert ["not started" in seen[0].details.error, "closed" in seen[1].details.error] == [True, True]


async def test_a_disabled_client_reports_its_defaults() -> None:
    seen: list[FlagEvaluation] = []
    async with Client.disabled() as client:
        client.on_evaluation(seen.append)
        await client.bool_variation(USER, "new-checkout", default=True)

    assert [(each.details.value, each.details.reason.type) for each in seen] == [(True, ReasonType.CLIENT)]


async def test_what_raises_or_is_cancelled_is_no_answer() -> None:
    seen: list[FlagEvaluation] = []
    async with client_of(shop(), local=False, strict=True) as client:
        client.on_evaluation(seen.append)
        with pytest.raises(TypeError):
            await client.bool_variation(USER, "new-checkout", default=5)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            await client.bool_variation("user-1", "new-checkout", default=False)  # type: ignore[arg-type]
        task = asyncio.create_task(client.bool_variation(USER, "new-checkout", default=False))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert isinstance(raised_on_another_loop(client), WrongLoopError)

    assert seen == []


def raised_on_another_loop(client: Client) -> BaseException | None:
    raised: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(client.bool_variation(USER, "new-checkout", default=False))
        except WrongLoopError as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return raised[0] if raised else None


async def test_every_hundredth_evaluation_which_waits_is_reported_once_too() -> None:
    seen: list[FlagEvaluation] = []
    async with client_of(shop(), local=True) as client:
        await client.wait_ready()
        client.on_evaluation(seen.append)
        for _ in range(250):
            await client.bool_variation(USER, "new-checkout", default=False)

    assert len(seen) == 250


async def test_a_callback_that_raises_changes_no_answer() -> None:
    seen: list[FlagEvaluation] = []
    async with client_of(shop(), local=True) as client:
        await client.wait_ready()
        client.on_evaluation(lambda _: {}["a bug of the application's"])
        subscription = client.on_evaluation(seen.append)
        client.on_evaluation(seen.append)
        assert await client.bool_variation(USER, "new-checkout", default=False)
        subscription.cancel()
        assert await client.bool_variation(USER, "new-checkout", default=False)

    assert len(seen) == 3
    assert client.statistics().callback_errors == 2


async def test_callbacks_of_two_clients_are_apart() -> None:
    seen: list[FlagEvaluation] = []
    async with client_of(shop(), local=False) as one, client_of(shop(), local=False) as other:
        one.on_evaluation(seen.append)
        await other.bool_variation(USER, "new-checkout", default=False)

    assert seen == []


def test_a_report_shows_no_user_and_no_value() -> None:
    seen: list[FlagEvaluation] = []

    async def evaluate() -> None:
        client = Client.disabled()
        client.on_evaluation(seen.append)
        await client.string_variation(USER, "colour", default="a secret")

    asyncio.run(evaluate())

    assert "user-1" not in repr(seen)
    assert "secret" not in repr(seen)


def test_a_callback_of_evaluations_is_a_plain_function() -> None:
    with pytest.raises(TypeError, match="on_evaluation takes a function that is not a coroutine"):
        Client.disabled().on_evaluation(asyncio.sleep)
