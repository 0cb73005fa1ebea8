"""The status of a client: the table of its states, by facts in any order, and clients whose gateway fails and recovers."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from bucketeer_async import (
    Client,
    ClientState,
    ClientStatus,
    ConfigurationError,
    LocalEvaluation,
    ProcessorConfig,
    User,
)
from bucketeer_async._lifecycle import State
from bucketeer_async._log import GuardedLogger
from bucketeer_async._status import Part, Status
from bucketeer_async.gateway import GatewayState, create_app, flag
from tests.clock import VirtualLoop
from tests.fakes import as_forked

USER = User("user-1")
STARTING, READY, STALE = ClientState.STARTING, ClientState.READY, ClientState.STALE
FAILING, RECOVERED, CLOSED = ClientState.FAILING, ClientState.RECOVERED, ClientState.CLOSED


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualLoop}


# The table


class Facts:
    """A status, and what its callback was called with."""

    def __init__(self) -> None:
        self.status = Status(GuardedLogger(None))
        self.has_flags = True
        self.status.is_ready = lambda: self.has_flags
        self.told: list[ClientStatus] = []
        self.status.on_status(self.told.append)
        self.events, self.polls, self.evaluations = map(self.status.outcomes_of, Part)

    @property
    def states(self) -> list[ClientState]:
        return [each.state for each in self.told]

    def start(self) -> None:
        self.status.note_life(State.STARTING)
        self.status.note_life(State.RUNNING)

    def close(self) -> None:
        self.status.note_life(State.CLOSING)
        self.status.note_life(State.CLOSED)


async def test_a_client_starts_is_ready_and_closes() -> None:
    facts = Facts()
    assert facts.states == []
    facts.start()
    facts.close()

    assert facts.states == [STARTING, READY, CLOSED]
    assert [each.ok for each in facts.told] == [False, True, False]
    assert {each.reason for each in facts.told} == {""}


async def test_a_start_that_fails_ends_closed() -> None:
    facts = Facts()
    facts.status.note_life(State.STARTING)
    facts.close()

    assert facts.states == [STARTING, CLOSED]


async def test_events_fail_at_once_and_polls_and_evaluations_at_the_third_time_in_a_row() -> None:
    for number, failures in ((0, 1), (1, 3), (2, 3)):
        facts = Facts()
        facts.start()
        note = (facts.events, facts.polls, facts.evaluations)[number]
        for _ in range(failures - 1):
            note("status 503")
        note("")
        for _ in range(failures - 1):
            note("status 503")
        assert facts.states == [STARTING, READY]
        note("status 500")
        note("status 502")
        note("")

        assert facts.states == [STARTING, READY, FAILING, RECOVERED]
        assert facts.told[2].reason.endswith(": status 500")


async def test_a_client_recovers_when_nothing_fails_any_more() -> None:
    facts = Facts()
    facts.start()
    facts.events("status 503")
    for _ in range(3):
        facts.polls("status 503")
    facts.events("")
    assert facts.states == [STARTING, READY, FAILING]
    facts.polls("")

    assert facts.states == [STARTING, READY, FAILING, RECOVERED]


async def test_stale_flags_come_before_what_fails() -> None:
    facts = Facts()
    facts.start()
    facts.events("status 503")
    facts.status.note_stale("no poll")
    facts.events("")
    facts.events("status 500")
    facts.status.note_stale("")
    facts.events("")

    assert facts.states == [STARTING, READY, FAILING, STALE, FAILING, RECOVERED]
    assert [each.reason for each in facts.told if each.reason] == [
        "events cannot be delivered: status 503",
        "no poll",
        "events cannot be delivered: status 500",
    ]


async def test_a_client_that_fails_before_its_first_flags_is_ready_with_them() -> None:
    facts = Facts()
    facts.has_flags = False
    facts.start()
    for _ in range(3):
        facts.polls("status 503")
    facts.has_flags = True
    facts.polls("")

    assert facts.states == [STARTING, FAILING, READY]


async def test_a_closing_client_tells_its_end_alone() -> None:
    facts = Facts()
    facts.start()
    facts.status.note_life(State.CLOSING)
    facts.events("status 503")
    facts.status.note_stale("no poll")
    facts.status.note_life(State.CLOSED)
    facts.events("")

    assert facts.states == [STARTING, READY, CLOSED]


async def test_any_facts_keep_to_the_diagram() -> None:
    allowed = {
        STARTING: {READY, FAILING, CLOSED},
        READY: {STALE, FAILING, CLOSED},
        STALE: {FAILING, RECOVERED, READY, CLOSED},
        FAILING: {STALE, RECOVERED, READY, STARTING, CLOSED},
        RECOVERED: {STALE, FAILING, CLOSED},
    }
    for seed in range(300):
        rng, facts = random.Random(seed), Facts()
        facts.has_flags = rng.random() < 0.5
        facts.start()
        for _ in range(40):
            error = rng.choice(["", "", "status 503"])
            note: Callable[[str], None] = rng.choice([facts.events, facts.polls, facts.evaluations])
            if facts.has_flags and rng.random() < 0.2:
                note = facts.status.note_stale
            facts.has_flags = facts.has_flags or rng.random() < 0.1
            note(error)
        facts.close()

        for before, after in itertools.pairwise(facts.states):
            assert after in allowed[before], (seed, facts.states)
        assert facts.states.count(READY) <= 1
        assert RECOVERED not in facts.states or facts.states.index(READY) < facts.states.index(RECOVERED)
        assert facts.states[-1] is CLOSED
        assert all(bool(each.reason) == (each.state in {STALE, FAILING}) for each in facts.told)


# Subscribers


async def test_a_late_subscriber_is_told_the_present_status_at_once() -> None:
    facts, late = Facts(), list[ClientStatus]()
    facts.start()
    facts.events("status 503")
    subscription = facts.status.on_status(late.append)
    assert late == [facts.told[-1]]
    facts.events("")
    subscription.cancel()
    facts.close()

    assert [each.state for each in late] == [FAILING, RECOVERED]


async def test_a_subscriber_on_another_thread_is_called_on_the_loop() -> None:
    facts, threads = Facts(), list[int]()
    facts.start()
    callback = lambda _: threads.append(threading.get_ident())  # noqa: E731
    other = threading.Thread(target=facts.status.on_status, args=[callback])
    other.start()
    other.join()
    assert threads == []
    await asyncio.sleep(0)

    assert threads == [threading.get_ident()]


async def test_a_subscriber_on_another_thread_is_told_each_status_once() -> None:
    facts, late = Facts(), list[ClientStatus]()
    facts.start()
    other = threading.Thread(target=facts.status.on_status, args=[late.append])
    other.start()
    other.join()
    facts.events("status 503")
    await asyncio.sleep(0)

    assert [each.state for each in late] == [FAILING]


async def test_a_callback_that_causes_another_status_is_told_it_next_and_in_order() -> None:
    facts, after = Facts(), list[ClientState]()

    def end_failure(status: ClientStatus) -> None:
        if status.state is FAILING:
            facts.events("")

    facts.status.on_status(end_failure)
    facts.status.on_status(lambda status: after.append(status.state))
    facts.start()
    facts.events("status 503")

    assert after == [STARTING, READY, FAILING, RECOVERED]
    assert facts.states == after


async def test_a_forked_child_has_no_status_and_the_callbacks_of_its_parent() -> None:
    facts, late = Facts(), list[ClientStatus]()
    facts.start()
    with as_forked():
        facts.status.on_status(late.append)
        assert late == []
        facts.start()

    assert facts.states == [STARTING, READY, STARTING, READY]
    assert [each.state for each in late] == [STARTING, READY]


# Clients


class Gateway(httpx.AsyncBaseTransport):
    """A local gateway, whose endpoints respond with an error, or never, while they are named."""

    def __init__(self) -> None:
        self.state = GatewayState(flags=[flag("new-checkout", tags=["shop"])])
        self.broken: dict[str, int] = {}
        self.hanging: set[str] = set()
        self._app = httpx.ASGITransport(create_app(self.state))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if path in self.hanging:
            await asyncio.sleep(1e6)
        if path in self.broken:
            return httpx.Response(self.broken[path], json={"code": 14, "message": "user-1 was here"})
        return await self._app.handle_async_request(request)

    @asynccontextmanager
    async def client(self, *, local: bool = True, told: list[ClientStatus], **options: Any) -> AsyncIterator[Client]:
        key, given = ("server-key", LocalEvaluation(**options)) if local else ("client-key", None)
        async with httpx.AsyncClient(transport=self) as http:
            client = Client(
                endpoint="127.0.0.1",
                api_key=key,
                tag="shop",
                http=http,
                events=ProcessorConfig(flush_size=1),
                local_evaluation=given,
            )
            client.on_status(told.append)
            async with client:
                yield client


POLLS = ("/get_feature_flags", "/get_segment_users")


async def test_polls_that_fail_are_told_and_flags_become_stale_and_recover() -> None:
    gateway, told = Gateway(), list[ClientStatus]()
    began = asyncio.get_running_loop().time()
    times: list[float] = []
    async with gateway.client(told=told) as client:
        client.on_status(lambda _: times.append(asyncio.get_running_loop().time() - began))
        await client.wait_ready()
        gateway.broken = dict.fromkeys(POLLS, 503)
        await asyncio.sleep(500)
        gateway.broken = {}
        await asyncio.sleep(100)

    assert [each.state for each in told] == [STARTING, READY, FAILING, STALE, RECOVERED, CLOSED]
    assert told[2].reason == "flags cannot be polled: the gateway answered 503"
    assert told[3].reason == "no poll has succeeded for 180 s: the gateway answered 503"
    assert times[3] == pytest.approx(180.0, abs=0.5)


async def test_a_poll_that_hangs_makes_flags_stale() -> None:
    gateway, told = Gateway(), list[ClientStatus]()
    async with gateway.client(told=told, polling_interval=10.0, request_timeout=60.0) as client:
        await client.wait_ready()
        gateway.hanging = set(POLLS)
        await asyncio.sleep(45)

    assert [each.state for each in told] == [STARTING, READY, STALE, CLOSED]
    assert told[2].reason == "no poll has succeeded for 30 s"


async def test_good_polls_keep_flags_fresh() -> None:
    gateway, told = Gateway(), list[ClientStatus]()
    async with gateway.client(told=told):
        await asyncio.sleep(3_600)
        assert [each.state for each in told] == [STARTING, READY]


async def test_saved_flags_become_stale_too() -> None:
    gateway, told = Gateway(), list[ClientStatus]()
    async with gateway.client(told=[]) as client:
        await client.wait_ready()
        saved = client.export_snapshot()
    gateway.hanging = set(POLLS)
    async with gateway.client(told=told, bootstrap=saved):
        assert [each.state for each in told] == [STARTING, READY]
        await asyncio.sleep(185)

    assert [each.state for each in told] == [STARTING, READY, STALE, CLOSED]


async def test_a_gateway_that_is_down_at_the_start_has_no_stale_flags() -> None:
    gateway, told = Gateway(), list[ClientStatus]()
    gateway.broken = dict.fromkeys(POLLS, 403)
    async with gateway.client(told=told):
        await asyncio.sleep(1_000)
        gateway.broken = {}
        await asyncio.sleep(100)

    assert [each.state for each in told] == [STARTING, FAILING, READY, CLOSED]
    assert told[1].reason == "flags cannot be polled: the gateway answered 403; polling needs a server key"


@pytest.mark.parametrize("local", [True, False])
async def test_events_that_cannot_be_delivered_are_told_with_the_status(*, local: bool) -> None:
    gateway, told = Gateway(), list[ClientStatus]()
    async with gateway.client(local=local, told=told) as client:
        await client.wait_ready()
        gateway.broken = {"/register_events": 502}
        await client.track(USER, "purchase")
        await asyncio.sleep(30)
        gateway.broken = {}
        await client.flush(100)

    assert [each.state for each in told] == [STARTING, READY, FAILING, RECOVERED, CLOSED]
    assert told[2].reason == "events cannot be delivered: status 502"


async def test_one_bad_event_is_no_failing_client() -> None:
    gateway, told = Gateway(), list[ClientStatus]()

    async def poisoned(request: httpx.Request) -> httpx.Response:
        body = json.loads(await request.aread())
        if any(b"poison" in json.dumps(each).encode() for each in body.get("events", [])):
            return httpx.Response(400, json={"code": 3, "message": "proto: a bad event"})
        return await Gateway.handle_async_request(gateway, request)

    gateway.handle_async_request = poisoned  # type: ignore[method-assign]
    async with gateway.client(local=False, told=told) as client:
        for goal in ("purchase", "poison", "purchase", "purchase"):
            client.track_nowait(USER, goal)
        await client.flush(30)

        assert client.statistics().goal.rejected == 1
        assert [each.state for each in told] == [STARTING, READY]


async def test_the_third_evaluation_in_a_row_that_the_gateway_fails_is_told() -> None:
    gateway, told = Gateway(), list[ClientStatus]()
    async with gateway.client(local=False, told=told) as client:
        gateway.broken = {"/get_evaluation": 403}
        await client.bool_variation(USER, "new-checkout", default=False)
        await client.bool_variation(USER, "new-checkout", default=False)
        gateway.broken = {}
        await client.bool_variation(USER, "no-such-flag", default=False)
        gateway.broken = {"/get_evaluation": 403}
        for _ in range(2):
            await client.bool_variation(USER, "new-checkout", default=False)
        assert [each.state for each in told] == [STARTING, READY]
        await client.bool_variation(USER, "new-checkout", default=False)
        gateway.broken = {}
        await client.bool_variation(USER, "no-such-flag", default=False)

    assert [each.state for each in told] == [STARTING, READY, FAILING, RECOVERED, CLOSED]
    expected = "the gateway answered 403; evaluation by the gateway needs a client key"
    assert told[2].reason == f"flags cannot be evaluated by the gateway: {expected}"


async def test_identical_evaluations_that_share_a_request_count_once() -> None:
    gateway, told = Gateway(), list[ClientStatus]()
    async with gateway.client(local=False, told=told) as client:
        gateway.broken = {"/get_evaluation": 403}
        await asyncio.gather(*(client.bool_variation(USER, "new-checkout", default=False) for _ in range(10)))

        assert [each.state for each in told] == [STARTING, READY]


async def test_a_client_whose_start_fails_is_closed() -> None:
    told: list[ClientStatus] = []
    async with httpx.AsyncClient(transport=Gateway()) as http:
        local = LocalEvaluation(bootstrap=b"no snapshot")
        client = Client(endpoint="127.0.0.1", api_key="key", tag="shop", http=http, local_evaluation=local)
        client.on_status(told.append)
        with pytest.raises(ConfigurationError):
            await client.start()
        await client.aclose()

    assert [each.state for each in told] == [STARTING, CLOSED]


async def test_a_client_that_is_closed_before_its_start_is_closed() -> None:
    told: list[ClientStatus] = []
    client = Client.disabled()
    client.on_status(told.append)
    await client.aclose()
    await client.aclose()

    assert [each.state for each in told] == [CLOSED]


async def test_a_disabled_client_is_ready() -> None:
    told: list[ClientStatus] = []
    client = Client.disabled()
    client.on_status(told.append)
    async with client:
        pass

    assert [each.state for each in told] == [STARTING, READY, CLOSED]


async def test_a_callback_that_raises_ends_nothing_and_is_counted() -> None:
    gateway, told = Gateway(), list[ClientStatus]()
    async with gateway.client(local=False, told=told) as client:
        client.on_status(lambda _: {}["a bug of the application's"])
        assert client.statistics().callback_errors == 1

    assert client.statistics().callback_errors == 2
    assert [each.state for each in told] == [STARTING, READY, CLOSED]


def test_a_callback_of_status_is_a_plain_function() -> None:
    with pytest.raises(TypeError, match="on_status takes a function that is not a coroutine"):
        Client.disabled().on_status(None)  # type: ignore[arg-type]
