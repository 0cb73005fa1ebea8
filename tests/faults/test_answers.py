"""Unusual responses, from the gateway or a server before it: to a whole request, or about single events."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import tracemalloc
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from bucketeer_async import DroppedReason, Fate, RefusedReason, User
from bucketeer_async.gateway import Fault, GatewayKey
from tests.clock import VirtualLoop
from tests.faults.matrix import spaced
from tests.faults.world import EVENTS, KEY, REFERENCE, USER, Way, Weather, World, answer, world

Measured = Callable[[str], None]

MIB = 2**20
MISSING_KEY = {"code": 16, "message": "gateway: missing APIKey", "details": []}


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualLoop}


def now() -> float:
    return asyncio.get_running_loop().time()


def log_in_virtual_time(here: World) -> None:
    """Use virtual time for the intervals between log lines too."""
    here.processor._pipeline._log._clock = asyncio.get_running_loop().time


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the log lines at WARNING and above."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def taken_but(change: Callable[[bytes], bytes]) -> Weather:
    """The gateway accepts the events, and its response is changed on the way back."""

    async def weather(request: httpx.Request, way: Way) -> httpx.Response:
        response = await way(request)
        return httpx.Response(response.status_code, content=change(await response.aread()))

    return weather


# 400


def spoilt(*goals: str) -> Weather:
    """The events with these goals arrive in a form that the gateway cannot decode."""

    async def weather(request: httpx.Request, way: Way) -> httpx.Response:
        body = request.content
        for goal in goals:
            body = body.replace(f'"{goal}"'.encode(), b"7")
        return await way(httpx.Request(request.method, request.url, content=body, headers=_without_length(request)))

    return weather


def _without_length(request: httpx.Request) -> dict[str, str]:
    return {name: value for name, value in request.headers.items() if name != "content-length"}


@pytest.mark.fault("F9")
@pytest.mark.parametrize("guilty", [2, 37, 99])
async def test_one_event_that_cannot_be_decoded_costs_one_event(guilty: int, measured: Measured) -> None:
    async with world() as here:
        here.sky.weather = spoilt(f"goal-{guilty}")
        receipts = await here.push(100)
        await here.processor.flush()

        outcome = receipts[guilty].outcome
        assert outcome is not None
        assert outcome.fate is Fate.REJECTED
        assert outcome.message.startswith("proto: ")
        assert here.stored == {receipt.event_id for receipt in receipts} - {receipts[guilty].event_id}
        assert len(here.sky.posts) <= 16
        assert now() < 0.1
        measured(f"{len(here.stored)} delivered, 1 rejected, {len(here.sky.posts)} posts")


@pytest.mark.fault("F10")
@pytest.mark.parametrize(
    "body",
    [
        {"code": 3, "message": "Bad Request", "details": []},
        {"code": 9, "message": "gateway: internal", "details": []},
        b"<html>Bad Request</html>",
    ],
    ids=["the gateway's words", "another code", "a web page"],
)
async def test_a_gateway_that_refuses_everything_is_in_trouble_and_costs_nothing(body: Any, measured: Measured) -> None:
    before_the_pause: list[float] = []

    async def broken(request: httpx.Request, way: Way) -> httpx.Response:
        if here.processor.statistics().circuit == "closed":
            before_the_pause.append(now())
        await asyncio.sleep(0.01)
        return await answer(400, body)(request, way)

    async with world() as here:
        await here.endure(broken, seconds=60.0)

        assert here.sky.most_under_way == 4
        assert len(before_the_pause) <= 64
        assert before_the_pause[-1] < 0.2
        assert here.lost == 0
        assert here.processor.statistics().total.rejected == 0
        measured(f"{len(before_the_pause)} posts before the pause, lost {here.lost} of {spaced(EVENTS)}")


# Responses to a wrong key or a wrong URL


@pytest.mark.parametrize(
    ("status", "body"),
    [
        pytest.param(401, MISSING_KEY, marks=pytest.mark.fault("F11")),
        pytest.param(403, {"code": 7, "message": "gateway: bad role", "details": []}, marks=pytest.mark.fault("F13")),
        *[
            pytest.param(status, {"code": 5, "message": "Not Found", "details": []}, marks=pytest.mark.fault("F14"))
            for status in (404, 405, 501)
        ],
    ],
)
async def test_a_wrong_key_or_url_is_probed_every_30_seconds_and_costs_nothing(
    status: int, body: Any, measured: Measured, caplog: pytest.LogCaptureFixture
) -> None:
    async with world() as here:
        log_in_virtual_time(here)
        here.sky.weather = answer(status, body)
        await here.push(EVENTS)
        await asyncio.sleep(599.0)
        in_10_minutes, posts, pauses = told(caplog), len(here.sky.posts), here.sky.pauses
        await here.endure(answer(status, body), count=0, seconds=1200.0)

        assert len(in_10_minutes) == 1
        assert len(told(caplog)) <= 3
        assert all(f"status {status}" in line and "check the API key and the endpoint" in line for line in told(caplog))
        assert posts <= 4 + 1 + 2 + 19  # at once, its check, after 1 s and 5 s, and one every 30 s
        assert pauses[0] >= 1.0
        assert pauses[1] >= 5.0
        assert min(pauses[2:]) >= 30.0
        assert here.lost == 0
        measured(
            f"lost {here.lost} of {spaced(EVENTS)}, pauses of at least {min(pauses[2:]):.0f} s after the first probes, 1 line in 10 minutes"
        )


@pytest.mark.fault("F13")
async def test_a_disabled_key_costs_nothing_once_it_is_enabled_again(caplog: pytest.LogCaptureFixture) -> None:
    async with world() as here:
        here.state.keys[KEY] = GatewayKey(role="SDK_CLIENT", disabled=True)
        await here.push(EVENTS)
        await asyncio.sleep(60.0)
        assert len(here.sky.posts) <= 4 + 2
        here.state.keys[KEY] = GatewayKey(role="SDK_CLIENT")

        await here.processor.flush(34.0)

        assert here.lost == 0
        assert ["status 403" in line for line in told(caplog)] == [True]


@pytest.mark.fault("F12")
async def test_a_key_that_was_just_made_works_within_35_seconds(measured: Measured) -> None:
    async with world() as here:
        await here.endure(answer(401, MISSING_KEY), seconds=5.0)

        assert now() <= 35.0
        assert here.lost == 0
        measured(f"lost {here.lost} of {spaced(EVENTS)}, resumed after {now():.0f} s")


@pytest.mark.fault("F14")
async def test_events_for_a_wrong_url_are_kept_until_their_lifetime_ends() -> None:
    async with world(replace(REFERENCE, event_lifetime=600.0)) as here:
        here.sky.weather = answer(404)
        receipts = await here.push(1_000)
        await asyncio.sleep(599.0)
        assert here.processor.statistics().total.queued == 1_000

        await asyncio.sleep(2.0)

        assert {receipt.outcome and receipt.outcome.reason for receipt in receipts} == {DroppedReason.EXPIRED}


@pytest.mark.fault("F23")
@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize("target", ["http://elsewhere.example/register_events", "//elsewhere.example/", "/moved"])
async def test_a_redirect_is_not_followed(
    status: int, target: str, measured: Measured, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[str] = []

    async def moved(request: httpx.Request, _way: Way) -> httpx.Response:
        asked.append(f"{request.method} {request.url}")
        return httpx.Response(status, headers={"location": target})

    async with world() as here:
        (pool,) = here.processor._api_client._connections.get().event_pools._pools
        pool.http.follow_redirects = True  # as an application may set it
        await here.endure(moved, count=1_000, seconds=100.0)

        assert set(asked) == {"POST http://127.0.0.1/register_events"}
        assert len(asked) <= 4 + 3
        assert [f"status {status}" in line for line in told(caplog)] == [True]
        assert here.lost == 0
        measured("0 requests to the target")


# Too large


def at_most(size: int, status: int, body: Any) -> tuple[Weather, list[int]]:
    """Refuse requests above ``size`` bytes; return a list for the sizes of refused requests."""
    over: list[int] = []

    async def weather(request: httpx.Request, way: Way) -> httpx.Response:
        if len(request.content) > size:
            over.append(len(request.content))
            return await answer(status, body)(request, way)
        return await way(request)

    return weather, over


@pytest.mark.parametrize(
    ("status", "body"),
    [
        pytest.param(413, b"<html>413 Request Entity Too Large</html>", marks=pytest.mark.fault("F16")),
        pytest.param(
            429,
            {"code": 8, "message": "grpc: received message larger than max (20000 vs. 10000)", "details": []},
            marks=pytest.mark.fault("F17"),
        ),
    ],
)
async def test_batches_that_are_too_large_are_halved_and_the_limit_is_learnt(
    status: int, body: Any, measured: Measured
) -> None:
    async with world() as here:
        here.sky.weather, over = at_most(10_000, status, body)
        await here.push(EVENTS)
        await here.processor.flush()
        refused, before = len(over), len(here.sky.posts)
        await here.push(EVENTS)
        await here.processor.flush()

        later = [size for _, _, size in here.sky.posts[before:]]
        assert 0 < refused <= 16
        tries = len(over) - refused  # whether the limit may grow back; fewer and fewer of them
        assert tries <= 12
        assert sum(size > 10_000 for size in later) == tries
        assert max(later) <= 21_000
        assert sorted(later)[len(later) // 2] >= 2_500  # no smaller than need be
        assert here.lost == 0
        assert now() < 0.1
        measured(f"{refused} posts refused, {tries} later ones that tried a larger limit, lost {here.lost}")


@pytest.mark.fault("F16")
async def test_an_event_that_is_too_large_for_the_gateway_costs_one_event() -> None:
    async with world() as here:
        here.sky.weather, _ = at_most(10_000, 413, None)
        giant = await here.processor.push_goal_event(User("giant", {"text": "x" * 20_000}), "goal")
        here.receipts.append(giant)
        await here.push(999)
        assert not await here.processor.flush()
        assert now() < 0.1
        assert here.processor.statistics().total.quarantined == 1

        await asyncio.sleep(10.0)
        await here.push(100)  # something accepted in between shows that the gateway is well
        assert (await giant.settled()).fate is Fate.REJECTED
        assert here.lost == 1


@pytest.mark.fault("F18")
async def test_an_event_above_the_size_of_a_batch_is_refused_and_no_other(measured: Measured) -> None:
    async with world() as here:
        await here.push(EVENTS // 2)
        giant = await here.processor.push_goal_event(User("giant", {"text": "x" * MIB}), "goal")
        here.receipts.append(giant)
        await here.push(EVENTS // 2)
        await here.processor.flush()

        total = here.processor.statistics().total
        assert not giant.accepted
        assert total.refused_by == {RefusedReason.TOO_LARGE: 1}
        assert total.delivered == len(here.stored) == EVENTS
        measured(f"1 refused, {spaced(EVENTS)} delivered")


# 200 with an empty or a nonsensical body


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda _: b'{"errors": {', marks=pytest.mark.fault("F24"), id="broken JSON"),
        pytest.param(lambda body: body[:-1], marks=pytest.mark.fault("F24"), id="cut off"),
        pytest.param(lambda _: b"[]", marks=pytest.mark.fault("F24"), id="no object"),
        pytest.param(lambda _: b"\xff\xfe", marks=pytest.mark.fault("F24"), id="no text"),
        pytest.param(lambda _: b"[" * 100_000, marks=pytest.mark.fault("F24"), id="nested too deep"),
        *[
            pytest.param(
                lambda _, errors=errors: json.dumps({"errors": errors}).encode(),
                marks=pytest.mark.fault("F32"),
                id=f"errors: {json.dumps(errors)}",
            )
            for errors in (
                [],
                "none",
                7,
                True,
                {"id": None},
                {"id": ["no"]},
                {"id": {"retriable": "yes"}},
                {"id": {"message": 5}},
            )
        ],
    ],
)
async def test_an_answer_that_cannot_be_read_is_an_outage(
    change: Callable[[bytes], bytes], measured: Measured, caplog: pytest.LogCaptureFixture
) -> None:
    async with world() as here:
        await here.endure(taken_but(change))

        assert here.sky.pauses
        assert here.repeated > 0
        assert here.lost == 0
        assert here.processor.statistics().total.delivered == EVENTS
        assert len(told(caplog)) == 1
        measured(f"lost {here.lost} of {spaced(EVENTS)}")


@pytest.mark.fault("F32")
@pytest.mark.parametrize("errors", [None, {}, {"id": {}}, {"id": {"retriable": None, "message": None, "new": 1}}])
async def test_errors_that_can_be_read_with_good_will_are_no_outage(
    errors: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with world() as here:
        here.sky.weather = taken_but(lambda _: json.dumps({"errors": errors}).encode())
        await here.push(1_000)
        await here.processor.flush()

        assert here.processor.statistics().total.delivered == 1_000
        assert here.repeated == 0
        assert not told(caplog)


@pytest.mark.fault("F25")
@pytest.mark.parametrize("body", [b"", b" \r\n", b"{}"])
async def test_an_answer_that_says_nothing_means_delivered(body: bytes, measured: Measured) -> None:
    async with world() as here:
        here.sky.weather = taken_but(lambda _: body)
        await here.push(EVENTS)
        await here.processor.flush()

        assert here.processor.statistics().total.delivered == EVENTS
        assert here.repeated == here.lost == 0
        measured(f"{spaced(EVENTS)} delivered, none sent twice")


@pytest.mark.fault("F26")
@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"<html>Please log in</html>", "text/html"),
        (b"<html>Please log in</html>", "application/json"),
        (b"<html>Please log in</html>", ""),
        (b"", "text/html; charset=utf-8"),
        (b"{}", "Text/HTML"),
        (b"", "text/plain"),
    ],
)
async def test_a_captive_portal_is_not_taken_for_success(
    body: bytes, content_type: str, measured: Measured, caplog: pytest.LogCaptureFixture
) -> None:
    async with world() as here:
        await here.endure(answer(200, body, content_type=content_type))

        assert here.lost == 0
        assert here.processor.statistics().total.delivered == EVENTS
        assert len(told(caplog)) == 1
        measured(f"lost {here.lost} of {spaced(EVENTS)}")


# Endless bodies


class Endless(httpx.AsyncByteStream):
    """An endless body that counts the bytes that were read."""

    def __init__(self, chunk: bytes = b" " * 65_536, *, every: float = 0.0) -> None:
        self.chunk = chunk
        self.every = every
        self.taken = 0
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self.taken < 64 * MIB:
            await asyncio.sleep(self.every)
            self.taken += len(self.chunk)
            yield self.chunk

    async def aclose(self) -> None:
        self.closed = True


def endless(status: int, *, every: float = 0.0) -> tuple[Weather, list[Endless]]:
    """Respond with endless bodies; return a list for the bodies."""
    bodies: list[Endless] = []

    async def weather(_request: httpx.Request, _way: Way) -> httpx.Response:
        bodies.append(Endless(every=every))
        return httpx.Response(status, stream=bodies[-1])

    return weather, bodies


@pytest.mark.fault("F27")
@pytest.mark.parametrize(("status", "most"), [(200, MIB), (400, 65_536), (503, 65_536)])
async def test_an_answer_without_end_is_read_up_to_a_limit(status: int, most: int, measured: Measured) -> None:
    weather, bodies = endless(status)
    async with world() as here:
        await here.endure(weather)

        assert bodies
        assert all(0 < body.taken <= most + len(body.chunk) for body in bodies)
        assert all(body.closed for body in bodies)
        assert here.lost == 0
        measured(f"status {status}: {max(body.taken for body in bodies) // 1024} KiB read, lost {here.lost}")


@pytest.mark.fault("F27")
async def test_an_answer_that_drips_for_ever_ends_with_the_time_of_the_request() -> None:
    weather, bodies = endless(200, every=3.0)
    async with world() as here:
        here.sky.weather = weather
        await here.push(100)
        await asyncio.sleep(19.9)
        assert not bodies[0].closed

        await asyncio.sleep(0.2)

        assert bodies[0].closed
        assert bodies[0].taken <= 7 * len(bodies[0].chunk)
        await here.endure(weather, count=0, seconds=0.0)
        assert here.lost == 0


@pytest.mark.fault("F28")
@pytest.mark.parametrize("status", [200, 503])
@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "identity, gzip", "br"])
async def test_a_compressed_answer_is_never_expanded(status: int, encoding: str, measured: Measured) -> None:
    bomb = gzip.compress(bytes(16 * MIB), 1)
    bodies: list[Endless] = []

    async def explosive(_request: httpx.Request, _way: Way) -> httpx.Response:
        bodies.append(Endless(bomb))
        return httpx.Response(status, stream=bodies[-1], headers={"content-encoding": encoding})

    async with world() as here:
        await here.push(100)
        await here.processor.flush()  # so that all modules are loaded
        tracemalloc.start()
        await here.endure(explosive, count=100)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()

        assert bodies
        assert all(body.closed for body in bodies)
        assert all(body.taken == 0 for body in bodies) or status != 200
        assert peak <= 2 * MIB
        assert here.lost == 0
        measured("never decompressed")


# Errors of single events


def overheard() -> tuple[Weather, list[set[str]]]:
    """No faults; record the ids of the errors in every response."""
    named: list[set[str]] = []

    def listen(body: bytes) -> bytes:
        named.append(set(json.loads(body)["errors"]))
        return body

    return taken_but(listen), named


@pytest.mark.fault("F29")
async def test_exactly_the_events_that_are_asked_for_again_are_sent_again(measured: Measured) -> None:
    async with world() as here:
        here.state.fail(Fault(partial=0.3, requests=1))
        here.sky.weather, asked = overheard()
        await here.push(100)
        await here.processor.flush()

        assert 0 < len(asked[0]) < 100
        assert [set(ids) for _, ids, _ in here.sky.posts[1:]] == [asked[0]]
        assert len(here.sky.posts[1][1]) == len(asked[0])
        assert here.lost == 0
        measured(f"{len(asked[0])} of 100 requested again, and sent in the next post")


@pytest.mark.fault("F29")
async def test_nothing_that_was_taken_is_sent_again_and_nothing_is_lost(measured: Measured) -> None:
    async with world() as here:
        here.state.fail(Fault(partial=0.2))
        here.sky.weather, asked = overheard()
        await here.push(EVENTS)
        await here.processor.flush()

        again = sum(map(len, asked))
        counts = here.state.counts().values()
        assert here.repeated == again > EVENTS / 10
        assert all(count["accepted"] == count["unique"] for count in counts)
        assert here.lost == 0
        measured(f"of {spaced(EVENTS)}: {again} requested and sent again, lost {here.lost}")


@pytest.mark.fault("F30")
async def test_exactly_the_events_that_are_refused_for_good_are_rejected(measured: Measured) -> None:
    async with world() as here:
        here.state.fail(Fault(partial=0.1, retriable=False, message="gateway: not wanted"))
        here.sky.weather, named = overheard()
        receipts = await here.push(EVENTS)
        await here.processor.flush()

        rejected = {r.event_id: r.outcome.message for r in receipts if r.outcome and r.outcome.fate is Fate.REJECTED}
        assert rejected.keys() == set().union(*named)
        assert set(rejected.values()) == {"gateway: not wanted"}
        assert here.processor.statistics().total.delivered == EVENTS - len(rejected) < EVENTS
        assert here.repeated == 0
        measured(f"{len(rejected)} of {spaced(EVENTS)} rejected, the others delivered")


@pytest.mark.fault("F31")
@pytest.mark.parametrize("retriable", [True, False])
async def test_ids_that_were_never_sent_are_counted_and_change_nothing(retriable: bool, measured: Measured) -> None:
    def slander(body: bytes) -> bytes:
        strangers = {str(uuid.uuid4()): {"retriable": retriable, "message": "no"} for _ in range(3)}
        return json.dumps({"errors": json.loads(body)["errors"] | strangers}).encode()

    async with world() as here:
        here.sky.weather = taken_but(slander)
        await here.push(EVENTS)
        await here.processor.flush()

        statistics = here.processor.statistics()
        assert statistics.total.delivered == EVENTS
        assert statistics.protocol_anomalies == 3 * statistics.posts
        assert here.repeated == 0
        measured(f"{spaced(EVENTS)} delivered, {statistics.protocol_anomalies} ids counted")


@pytest.mark.fault("F33")
async def test_an_event_that_is_asked_for_again_for_ever_expires_and_holds_up_nobody(measured: Measured) -> None:
    async def never_that_one(request: httpx.Request, way: Way) -> httpx.Response:
        sent = json.loads(request.content)
        stubborn = [event["id"] for event in sent["events"] if event["event"].get("goalId") == "goal-of-nobody"]
        sent["events"] = [event for event in sent["events"] if event["id"] not in stubborn]
        if sent["events"]:
            content = json.dumps(sent).encode()
            await way(httpx.Request("POST", request.url, content=content, headers=_without_length(request)))
        return httpx.Response(200, json={"errors": {each: {"retriable": True, "message": "no"} for each in stubborn}})

    async with world() as here:
        here.sky.weather = never_that_one
        stubborn = await here.processor.push_goal_event(USER, "goal-of-nobody")
        here.receipts.append(stubborn)
        others = await here.push(EVENTS)
        await asyncio.sleep(1.5)
        delivered = [receipt.outcome and receipt.outcome.fate for receipt in others]
        await asyncio.sleep(3598.0)
        before_the_end = stubborn.outcome
        await asyncio.sleep(1.0)

        assert set(delivered) == {Fate.DELIVERED}
        assert before_the_end is None
        assert stubborn.outcome is not None
        assert stubborn.outcome.reason == DroppedReason.EXPIRED
        posts = sum(stubborn.event_id in ids for _, ids, _ in here.sky.posts)
        assert 100 <= posts <= 400
        measured(f"expired after {posts} posts in 1 hour; {spaced(EVENTS)} others delivered at once")
