"""Polls of flags and segments: responses that are not from the gateway, and caches of the gateway that lag."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import httpx
import pytest

from bucketeer_async import Client, FlagChanges, LocalEvaluation, LocalEvaluationStatistics, User
from bucketeer_async.gateway import GatewayState, create_app, flag
from tests.clock import VirtualLoop
from tests.faults.matrix import FULL
from tests.faults.world import Weather, fair

Measured = Callable[[str], None]
USER = User("user-of-the-test")
FLAGS: Final = "/get_feature_flags"
SEGMENTS: Final = "/get_segment_users"
LAG: Final = 60  # seconds by which the caches of the gateway may lag behind an edit


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualLoop}


class PollWorld(httpx.AsyncBaseTransport):
    """A gateway with one flag, which is on for the members of a segment, and the faults of each endpoint."""

    def __init__(self) -> None:
        began = int(time.time()) - asyncio.get_running_loop().time()
        self.state = GatewayState(now=lambda: began + asyncio.get_running_loop().time())
        self.weathers: dict[str, Weather] = {}
        self._gateway = httpx.ASGITransport(create_app(self.state))
        for segment_id in ("vips", "others"):
            self.put_members(segment_id, [], updated_at=self.now - 86_400)
        clause = {"operator": "SEGMENT", "values": ["vips", "others"]}
        rule = {"id": "r", "strategy": {"fixedStrategy": {"variation": "on"}}, "clauses": [clause]}
        self.state.set_flag(flag("flag", tags=["shop"], default="off", rules=[rule]))

    @property
    def now(self) -> int:
        return int(self.state.now())

    def put_members(self, segment_id: str, users: list[str], *, updated_at: int | None = None) -> None:
        self.state.set_segment({"segmentId": segment_id, "users": users, "updatedAt": updated_at or self.now})

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        weather = self.weathers.get(request.url.path, fair)
        return await weather(request, self._gateway.handle_async_request)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        async with httpx.AsyncClient(transport=self) as http:
            async with Client(
                endpoint="http://127.0.0.1",
                api_key="server-key",
                tag="shop",
                local_evaluation=LocalEvaluation(),
                http=http,
            ) as client:
                await client.wait_ready()
                yield client


def statistics(client: Client) -> LocalEvaluationStatistics:
    found = client.statistics().local_evaluation
    assert found is not None
    return found


async def is_on(client: Client) -> bool:
    return await client.bool_variation(USER, "flag", False)


# F82

Change = Callable[[dict[str, Any]], Any]
LISTS: Final = {FLAGS: ("features", "id"), SEGMENTS: ("segmentUsers", "segmentId")}
FIELDS: Final = {
    FLAGS: ["featureFlagsId", "features", "archivedFeatureFlagIds", "requestedAt", "forceUpdate"],
    SEGMENTS: ["segmentUsers", "deletedSegmentIds", "requestedAt", "forceUpdate"],
}


def changes(path: str) -> list[Change]:
    """Return the changes of a response that a proxy may make."""
    name, key = LISTS[path]
    lacking: list[Change] = [
        lambda response, lost=lost: {each: response[each] for each in response if each != lost} for lost in FIELDS[path]
    ]
    return [
        *lacking,
        lambda _: {},
        lambda response: response | {"requestedAt": 2**70},
        lambda response: response | {"requestedAt": str(-(2**63) - 1)},
        lambda response: response | {name: [*response[name], {key: "\ud800"}]},
    ]


def changed_by(change: Change) -> Weather:
    async def weather(
        request: httpx.Request, way: Callable[[httpx.Request], Awaitable[httpx.Response]]
    ) -> httpx.Response:
        response = await way(request)
        return httpx.Response(200, content=json.dumps(change(json.loads(await response.aread()))))

    return weather


@pytest.mark.fault("F82")
@pytest.mark.parametrize("path", [FLAGS, SEGMENTS])
async def test_what_is_no_response_to_a_poll_fails_the_poll_and_changes_nothing(path: str, measured: Measured) -> None:
    world = PollWorld()
    heard: list[FlagChanges] = []
    async with world.client() as client:
        client.on_change(heard.append)
        for number, change in enumerate(changes(path)):
            on = not await is_on(client)
            world.weathers[path] = changed_by(change)
            if path == FLAGS:
                world.state.update_flag("flag", targets=[{"variation": "on", "users": [USER.id]}] if on else [])
            else:
                world.put_members("vips", [USER.id] if on else [])
            before = statistics(client)
            await asyncio.sleep(300)

            after = statistics(client)
            assert after.failed_polls - before.failed_polls == after.polls - before.polls > 3
            assert (await is_on(client), after.flags, len(heard)) == (not on, 1, number if path == FLAGS else 0)

            del world.weathers[path]
            await asyncio.sleep(70)
            last = statistics(client)
            assert last.polls > after.polls
            assert (await is_on(client), last.failed_polls, last.last_error) == (on, after.failed_polls, "")
    measured(f"{path}: {len(changes(path))} kinds, each failed every poll and changed nothing")


# F83


@pytest.mark.fault("F83")
@pytest.mark.parametrize("moved", [False, True], ids=["alone", "another edit is known at once"])
async def test_an_edit_during_the_lag_of_the_gateways_caches_arrives(moved: bool, measured: Measured) -> None:
    world = PollWorld()
    most = count = 0
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(world.client()) for _ in range(5)]  # they poll during the lag
        for members in ([USER.id], []) if FULL else ([USER.id],):
            await asyncio.sleep(1_000)
            edited_at = world.now
            for number in range(1, LAG):
                await asyncio.sleep(1)
                if number % 5 == 0:
                    clients.append(await stack.enter_async_context(world.client()))
                if moved and number == LAG // 2:
                    world.put_members("others", [f"user-{edited_at}"])
            before = [statistics(client).polls for client in clients]
            assert not any([await is_on(client) is bool(members) for client in clients])
            world.put_members("vips", members, updated_at=edited_at)  # the caches have it now

            waiting = set(range(len(clients)))
            while waiting:
                await asyncio.sleep(1)
                for index in list(waiting):
                    polls = statistics(clients[index]).polls - before[index]
                    if await is_on(clients[index]) is bool(members):
                        waiting.remove(index)
                        most = max(most, polls)
                    else:
                        assert polls < 2
            count += len(clients)
    measured(f"{count} clients that started or polled during the lag: at most {most} poll after its end")
