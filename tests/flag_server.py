"""The gateway's two polling endpoints, faked and real, with flags that can be edited, and an evaluator that polls them.

The fake follows the rules for changes, and their omissions, in a few lines; it can also respond as no gateway does.
The real one is the local gateway: it decodes the requests of the poller, and the API client decodes its responses.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx

from bucketeer_async import (
    ApiClient,
    ApiError,
    ApiId,
    GetFeatureFlagsResponse,
    GetSegmentUsersResponse,
    LocalEvaluation,
)
from bucketeer_async._evaluation import compile_flag, compile_segment
from bucketeer_async._flags._local import LocalEvaluator
from bucketeer_async._flags._poller import FlagPoller
from bucketeer_async._transport._responses import Definitions
from bucketeer_async.gateway import GatewayState, create_app
from bucketeer_async.gateway._definitions import complete_flag, complete_segment
from bucketeer_async.gateway._environment import Environment, Stored

EPOCH = 1_700_000_000
GRACE, MONTH = 600, 30 * 86_400


def fnv(text: str) -> str:
    value = 14695981039346656037
    for byte in text.encode():
        value = ((value ^ byte) * 1099511628211) % 2**64
    return str(value)


def flags_response(features: Sequence[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    """The JSON of a response to a poll of flags, with all flags."""
    response = {"featureFlagsId": "1", "archivedFeatureFlagIds": [], "requestedAt": str(EPOCH), "forceUpdate": True}
    return response | {"features": list(features)} | fields


def segments_response(segments: Sequence[dict[str, Any]] = (), **fields: Any) -> dict[str, Any]:
    """The JSON of a response to a poll of segments, with all segments."""
    response = {"deletedSegmentIds": [], "requestedAt": str(EPOCH), "forceUpdate": True}
    return response | {"segmentUsers": list(segments)} | fields


def server_time() -> int:
    return EPOCH + int(asyncio.get_running_loop().time())


class FlagServer:
    """Flags and segments that can be edited, and the responses to polls of them.

    `fault` is awaited in each request. A test may replace it by a function that raises or waits.
    """

    def __init__(self, now: Callable[[], int] = server_time) -> None:
        self.now = now
        self.flags: dict[str, dict[str, Any]] = {}
        self.segments: dict[str, dict[str, Any]] = {}
        self.flag_requests: list[tuple[str, str, int]] = []
        self.segment_requests: list[tuple[list[str], int]] = []
        self.error: ApiError | None = None
        self.hash = fnv
        self.sends_missing = True  # whether a segment that does not exist is sent empty, or omitted

    # Edits

    def put_flag(self, feature_id: str, *, updated_at: int | None = None, **fields: Any) -> None:
        default = {
            "enabled": True,
            "archived": False,
            "tags": ["shop"],
            "version": 1,
            "offVariation": "B",
            "variations": [{"id": "A", "value": "on", "name": "a"}, {"id": "B", "value": "off", "name": "b"}],
            "defaultStrategy": {"type": "FIXED", "fixedStrategy": {"variation": "A"}},
        }
        edited = {"updatedAt": str(self.now() if updated_at is None else updated_at)}
        self.flags[feature_id] = default | self.flags.get(feature_id, {}) | fields | {"id": feature_id} | edited

    def put_segment(self, segment_id: str, users: Sequence[str], *, updated_at: int | None = None) -> None:
        entries = [{"segmentId": segment_id, "userId": user, "state": "INCLUDED"} for user in users]
        at = str(self.now() if updated_at is None else updated_at)
        self.segments[segment_id] = {"segmentId": segment_id, "users": entries, "updatedAt": at}

    def loaded(self, tag: str) -> list[dict[str, Any]]:
        usable = [flag for flag in self.flags.values() if flag["enabled"] or flag["offVariation"]]
        return [flag for flag in usable if not tag or tag in flag["tags"]]

    def live(self, tag: str) -> dict[str, dict[str, Any]]:
        return {flag["id"]: flag for flag in self.loaded(tag) if not flag["archived"]}

    def referenced(self) -> list[str]:
        clauses = [
            clause for flag in self.live("").values() for rule in flag.get("rules", []) for clause in rule["clauses"]
        ]
        return [each for clause in clauses if clause["operator"] == "SEGMENT" for each in clause["values"]]

    def printed(self, flag: dict[str, Any]) -> dict[str, Any]:
        """A flag as it is sent."""
        return flag

    def segment(self, segment_id: str, now: int) -> dict[str, Any]:
        """A segment as it is sent: without users if it was deleted."""
        return self.segments.get(segment_id) or {"segmentId": segment_id, "users": [], "updatedAt": str(now)}

    # Responses

    async def get_feature_flags(
        self,
        *,
        tag: str,
        feature_flags_id: str,
        requested_at: int,
        timeout: float | None,
    ) -> GetFeatureFlagsResponse:
        self.flag_requests.append((tag, feature_flags_id, requested_at))
        await self.fault("flags")
        now, loaded, live = self.now(), self.loaded(tag), self.live(tag)
        current = self.hash("".join(f"{key}:{live[key]['updatedAt']}" for key in sorted(live)))
        if not loaded:
            return self.flags_response("", [], [], now, force=False)
        if feature_flags_id == current:
            return self.flags_response(current, [], [], min(requested_at, now), force=False)
        if not feature_flags_id or not now - MONTH <= requested_at <= now:
            return self.flags_response(current, list(live.values()), [], now, force=True)
        changed = [flag for flag in live.values() if int(flag["updatedAt"]) >= requested_at - GRACE]
        gone = [flag["id"] for flag in loaded if flag["archived"] and int(flag["updatedAt"]) >= now - MONTH]
        if not changed and not gone:
            return self.flags_response(current, list(live.values()), [], now, force=True)
        return self.flags_response(current, changed, gone, now, force=False)

    async def get_segment_users(
        self,
        *,
        segment_ids: Sequence[str],
        requested_at: int,
        timeout: float | None,
    ) -> GetSegmentUsersResponse:
        self.segment_requests.append((list(segment_ids), requested_at))
        await self.fault("segments")
        now, referenced = self.now(), self.referenced()
        known = [self.segment(each, now) for each in referenced if each in self.segments or self.sends_missing]
        if not referenced:
            return self.segments_response([], [], now, force=True)
        if not now - MONTH <= requested_at <= now:
            return self.segments_response(known, [], now, force=True)
        changed = [each for each in known if int(each["updatedAt"]) >= requested_at]
        gone = [each for each in segment_ids if each not in referenced]
        at = now if changed or gone else requested_at
        return self.segments_response(changed, gone, at, force=False)

    async def fault(self, path: str) -> None:
        if self.error is not None:
            raise self.error

    @staticmethod
    def flags_response(
        flags_id: str, features: list[dict[str, Any]], gone: list[str], at: int, *, force: bool
    ) -> GetFeatureFlagsResponse:
        return GetFeatureFlagsResponse(
            features=Definitions(json.dumps(each) for each in features),
            archived_feature_flag_ids=gone,
            feature_flags_id=flags_id,
            requested_at=at,
            force_update=force,
            size_byte=100,
        )

    @staticmethod
    def segments_response(
        segments: list[dict[str, Any]], gone: list[str], at: int, *, force: bool
    ) -> GetSegmentUsersResponse:
        return GetSegmentUsersResponse(
            segment_users=Definitions(json.dumps(each) for each in segments),
            deleted_segment_ids=gone,
            requested_at=at,
            force_update=force,
            size_byte=50,
        )


class GatewayFlagServer(FlagServer):
    """The same flags and edits, served by the local gateway."""

    def __init__(self, now: Callable[[], int] = server_time) -> None:
        super().__init__(now)
        self.state = GatewayState(now=lambda: 0)
        self._app = create_app(self.state)

    def printed(self, flag: dict[str, Any]) -> dict[str, Any]:
        return complete_flag(flag)

    @asynccontextmanager
    async def _gateway(self, path: str) -> AsyncIterator[ApiClient]:
        """Return the gateway, with the current flags and segments."""
        await self.fault(path)
        self.state.now = self.now
        flags = [complete_flag(each) for each in self.flags.values()]
        segments = [complete_segment(each) for each in self.segments.values()]
        self.state.environment = Environment(
            {each["id"]: Stored(each, compile_flag(each), int(each["updatedAt"])) for each in flags},
            {each["segmentId"]: Stored(each, compile_segment(each), int(each["updatedAt"])) for each in segments},
        )
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self._app)) as http:
            async with ApiClient(endpoint="http://127.0.0.1", api_key="server-key", http=http) as api_client:
                yield api_client

    async def get_feature_flags(self, **request: Any) -> GetFeatureFlagsResponse:
        self.flag_requests.append((request["tag"], request["feature_flags_id"], request["requested_at"]))
        async with self._gateway("flags") as api_client:
            return await api_client.get_feature_flags(**request)

    async def get_segment_users(self, **request: Any) -> GetSegmentUsersResponse:
        self.segment_requests.append((list(request["segment_ids"]), request["requested_at"]))
        async with self._gateway("segments") as api_client:
            return await api_client.get_segment_users(**request)


def rule_for_segment(*segment_ids: str, variation: str = "B") -> dict[str, Any]:
    return {
        "id": "rule",
        "strategy": {"type": "FIXED", "fixedStrategy": {"variation": variation}},
        "clauses": [{"operator": "SEGMENT", "values": list(segment_ids)}],
    }


class Middle(random.Random):
    """No jitter: the middle of every range."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


class FakeMetrics:
    """Records each size and each error."""

    def __init__(self) -> None:
        self.events: list[tuple[ApiId, object]] = []

    def completed(self, api_id: ApiId, duration: float, size_byte: int | None = None) -> None:
        self.events.append((api_id, size_byte))

    def failed(self, api_id: ApiId, error: BaseException) -> None:
        self.events.append((api_id, error))


def local(
    server: FlagServer,
    tag: str = "shop",
    metrics: FakeMetrics | None = None,
    new_rng: Callable[[], random.Random] = Middle,
    work_clock: Callable[[], float] = time.perf_counter,
    latency_clock: Callable[[], int] = time.perf_counter_ns,
    **options: Any,
) -> LocalEvaluator:
    """Return a local evaluator that polls the server, without jitter."""
    metrics = metrics or FakeMetrics()
    logger = logging.getLogger("bucketeer_async")
    configured = LocalEvaluation(**options)
    return LocalEvaluator(
        functools.partial(FlagPoller, server, configured, tag=tag, metrics=metrics, logger=logger),
        configured.bootstrap,
        tag=tag,
        metrics=metrics,
        logger=logger,
        new_rng=new_rng,
        clock=lambda: asyncio.get_running_loop().time(),
        work_clock=work_clock,
        latency_clock=latency_clock,
        wall=lambda: EPOCH + asyncio.get_running_loop().time(),
    )


async def polls(number: int = 1) -> None:
    """Let this number of polls pass; afterwards, the clock is halfway between two polls."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(number * 60 - (30 if loop.time() % 60 == 0 else 0))
