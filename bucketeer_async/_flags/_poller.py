"""FlagPoller: keeps a snapshot of the gateway's flags and segments fresh.

What to ask for, and what an answer makes of what is held, is decided in `_flags/_sync.py`; this file asks, waits and tells.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from enum import Enum
from typing import Final, NamedTuple, TypeVar

from bucketeer_async._background import Progress, in_turns
from bucketeer_async._errors import ApiError, ClosedError, StatusError
from bucketeer_async._evaluation import Snapshot
from bucketeer_async._flags import _sync
from bucketeer_async._flags._definitions import FlagDefinition, SegmentDefinition, Steps
from bucketeer_async._flags._own_metrics import OwnMetrics
from bucketeer_async._flags._schedule import pause
from bucketeer_async._flags._sync import CachedFlags, CachedSegments
from bucketeer_async._log import RateLimitedLog
from bucketeer_async._models import ApiId
from bucketeer_async._options import LocalEvaluation
from bucketeer_async._results import FlagChanges, LocalEvaluationStatistics, SnapshotSource
from bucketeer_async._retry import Action, decide
from bucketeer_async._transport._api import ApiClient
from bucketeer_async._transport._responses import GetFeatureFlagsResponse, GetSegmentUsersResponse

_T = TypeVar("_T")
_A = TypeVar("_A", GetFeatureFlagsResponse, GetSegmentUsersResponse)

_REQUESTS: Final = 4  # for flags, in one poll: changes, all of the tag after doubts, the environment, the tag after all
_AGAIN: Final = 600.0  # seconds between two lines about one spell of trouble
_LONGEST_ERROR: Final = 300  # characters
_TOPIC: Final = "polling"
_EXPECTED: Final = (ApiError, ClosedError)  # ClosedError: somebody has closed the API client too early


class Range(Enum):
    """Which flags are asked for."""

    TAG = "those of the tag"
    ENVIRONMENT = "all, for some of the tag depend on others"
    TOO_LARGE = "those of the tag, for all are more than the gateway can send"


class Published(NamedTuple):
    """What questions are put to, and what it was made of."""

    snapshot: Snapshot
    flags: Mapping[str, FlagDefinition]
    segments: Mapping[str, SegmentDefinition]
    source: SnapshotSource


class FlagPoller:
    """Polls, and holds the last good snapshot.

    Args:
        api: Sends the requests.
        options: When to poll, and what.
        tag: The tag of the flags; "" for all of the environment.
        metrics: Hears of every request.
        logger: Where to log.
        clock: Monotonic seconds.
        rng: Source of the jitter.
        work_clock: Seconds, by which the work of one turn of the loop is bounded.
    """

    def __init__(
        self,
        api: ApiClient,
        options: LocalEvaluation,
        *,
        tag: str,
        metrics: OwnMetrics,
        logger: logging.Logger,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random,
        work_clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._api = api
        self._options = options
        self._tag = tag
        self._metrics = metrics
        self._logger = logger
        self._log = RateLimitedLog(logger, clock)
        self._clock = clock
        self._rng = rng
        self._work_clock = work_clock
        self.progress = Progress()
        self.published: Published | None = None
        self._flags = CachedFlags()
        self._segments = CachedSegments()
        self._range = Range.ENVIRONMENT if options.scope == "environment" else Range.TAG
        self._fresh_at = {ApiId.GET_FEATURE_FLAGS: -math.inf, ApiId.GET_SEGMENT_USERS: -math.inf}
        self._bootstrapped_at = -math.inf
        self._callbacks: list[Callable[[FlagChanges], object]] = []
        self._polls = self._failed_polls = self._failures = 0
        self._errors: list[Exception] = []

    # What there is

    @property
    def environment(self) -> bool:
        """Whether flags without the tag are held too."""
        return self._range is Range.ENVIRONMENT

    @property
    def age(self) -> float | None:
        """Seconds since the gateway has last said that all is up to date; None if nothing is held."""
        if self.published is None:
            return None
        return max(0.0, self._clock() - max(self._bootstrapped_at, min(self._fresh_at.values())))

    def statistics(self) -> LocalEvaluationStatistics:
        """Return how fresh the flags are."""
        flags, segments = self._flags.flags, self._segments.segments
        return LocalEvaluationStatistics(
            source=self.published.source if self.published else None,
            flags=len(flags),
            segments=len(segments),
            unusable=sum(bool(each.problem) for each in flags.values())
            + sum(bool(each.problem) for each in segments.values()),
            age=self.age,
            polls=self._polls,
            failed_polls=self._failed_polls,
            last_error=_describe(self._errors[0]) if self._errors else "",
        )

    def on_change(self, callback: Callable[[FlagChanges], object]) -> None:
        """Have a function called after every poll that has changed flags."""
        if not callable(callback) or inspect.iscoroutinefunction(callback):
            raise TypeError(f"on_change takes a function that is not a coroutine, not {callback!r}")
        self._callbacks.append(callback)

    def begin_with(self, flags: CachedFlags, segments: CachedSegments, *, environment: bool, age: float) -> None:
        """Hold what an earlier process has saved, ``age`` seconds ago."""
        self._flags, self._segments = flags, segments
        if environment and self._options.scope == "auto":
            self._range = Range.ENVIRONMENT
        self._bootstrapped_at = self._clock() - age
        self._set_published(SnapshotSource.BOOTSTRAP)

    # The loop

    async def run(self) -> None:
        """Poll until cancelled."""
        while True:
            seconds = await self._round()
            await asyncio.sleep(seconds)

    async def _round(self) -> float:
        """Poll once; return the seconds until the next time."""
        try:
            self._errors = await self._poll()
        except Exception as error:
            self._logger.exception("polling failed for a bug of this package")
            self._errors = [error]
        self._polls += 1
        self._failed_polls += bool(self._errors)
        self._failures = self._failures + 1 if self._errors else 0
        self._tell_trouble()
        return pause(self._errors, self._failures, self._options, self._rng)

    async def _poll(self) -> list[Exception]:
        errors = await self._poll_flags()
        named = _sync.named_segments(self._flags.flags)
        if not _sync.missing_segments(self._segments, named):
            self._publish()  # a flag that is switched off does not wait for segments
        errors += await self._poll_segments(named)
        self._publish()
        return errors

    async def _poll_flags(self) -> list[Exception]:
        for _ in range(_REQUESTS):
            try:
                await self._ask_for_flags()
            except _EXPECTED as error:
                if not self._give_up_environment(error):
                    return [error]
            else:
                if not self._flags.out_of_sync and not self._widen():
                    break
        return []

    async def _ask_for_flags(self) -> None:
        flags_id, requested_at = _sync.flags_request(self._flags, self._clock(), self._options.full_refresh_interval)
        answer = await self._request(
            ApiId.GET_FEATURE_FLAGS,
            self._api.get_feature_flags(
                tag="" if self.environment else self._tag,
                feature_flags_id=flags_id,
                requested_at=requested_at,
                timeout=self._options.request_timeout,
            ),
        )
        steps = _sync.apply_flags(self._flags, answer, self._clock(), requested_all=not flags_id)
        self._flags = await self._in_turns(ApiId.GET_FEATURE_FLAGS, steps)

    def _widen(self) -> bool:
        """Ask for the whole environment from now on if a flag depends on one that was not sent."""
        wanted = self._options.scope == "auto" and self._tag and self._range is Range.TAG
        if not wanted or not _sync.has_unknown_dependency(self._flags.flags):
            return False
        self._logger.debug("a flag depends on one that lacks the tag: polling all flags of the environment")
        self._range = Range.ENVIRONMENT
        self._flags = CachedFlags(flags=self._flags.flags)
        return True

    def _give_up_environment(self, error: Exception) -> bool:
        """Go back to the flags of the tag if all flags cannot be had; return whether to ask for them at once."""
        if not (self.environment and self._options.scope == "auto" and self._tag):
            return False
        too_large = isinstance(error, ApiError) and decide(error).action is Action.SPLIT_BYTES
        if too_large:
            self._logger.warning(
                "all flags of the environment are more than the gateway can send: flags that depend on some without "
                "the tag cannot be evaluated; give those the tag too"
            )
        if too_large or not self._flags.id:
            self._range = Range.TOO_LARGE if too_large else Range.TAG
            self._flags = CachedFlags(flags=self._flags.flags)
        return too_large

    async def _poll_segments(self, named: set[str]) -> list[Exception]:
        try:
            await self._ask_for_segments(named)
        except _EXPECTED as error:
            return [error]
        return []

    async def _ask_for_segments(self, named: set[str]) -> None:
        requested_at = _sync.segments_request(self._segments, named, self._clock(), self._options.full_refresh_interval)
        answer = await self._request(
            ApiId.GET_SEGMENT_USERS,
            self._api.get_segment_users(
                segment_ids=sorted(self._segments.segments),
                requested_at=requested_at,
                timeout=self._options.request_timeout,
            ),
        )
        steps = _sync.apply_segments(self._segments, answer, named, self._clock(), requested_all=not requested_at)
        self._segments = await self._in_turns(ApiId.GET_SEGMENT_USERS, steps)

    async def _request(self, api_id: ApiId, answer: Awaitable[_A]) -> _A:
        began = self._clock()
        try:
            answered = await answer
        except Exception as error:
            self._metrics.failed(api_id, error)
            raise
        self._metrics.completed(api_id, self._clock() - began, answered.size_byte)
        return answered

    async def _in_turns(self, api_id: ApiId, steps: Steps[_T]) -> _T:
        """Take steps, with turns for others in between; then the answer is taken in."""
        try:
            result = await in_turns(steps, self._work_clock)
        except Exception as error:
            self._metrics.failed(api_id, error)
            raise
        self._fresh_at[api_id] = self._clock()
        return result

    # Telling

    def _publish(self) -> None:
        """Let questions be put to what is held now, once there are both flags and segments."""
        polled = min(self._fresh_at.values()) > -math.inf
        if polled or self.published is not None:
            self._set_published(SnapshotSource.POLLED if polled else SnapshotSource.BOOTSTRAP)

    def _set_published(self, source: SnapshotSource) -> None:
        before, flags, segments = self.published, self._flags.flags, self._segments.segments
        if before is not None and before.flags is flags and before.segments is segments:
            self.published = before._replace(source=source)
            return
        self.published = Published(_sync.snapshot_of(flags, segments), flags, segments, source)
        self.progress.notify()
        if source is SnapshotSource.POLLED or before is not None:  # what was saved is no change
            self._tell_changes(_sync.changes(before.flags if before else {}, flags, self._tag))

    def _tell_changes(self, changes: FlagChanges) -> None:
        for callback in self._callbacks if changes else ():
            try:
                callback(changes)
            except Exception:
                self._logger.exception("a callback of on_change raised an exception")

    def _tell_trouble(self) -> None:
        if not self._errors:
            self._log.report_recovery(_TOPIC, "flags can be polled again")
            return
        self._log.report(
            _TOPIC,
            logging.WARNING,
            _AGAIN,
            "flags cannot be polled (%s); %s",
            _describe(self._errors[0]),
            self._fallback(),
        )

    def _fallback(self) -> str:
        if self.published is None or self.age is None:
            return "there are none yet"
        saved = "saved " if self.published.source is SnapshotSource.BOOTSTRAP else ""
        return f"the {saved}ones of {self.age:.0f} s ago are used"


def _describe(error: Exception) -> str:
    """Return what may be shown of an error: nothing of what a bug had at hand."""
    if not isinstance(error, _EXPECTED):
        return type(error).__name__
    advice = (
        "; polling needs a server key" if isinstance(error, StatusError) and error.status_code in {401, 403} else ""
    )
    return f"{error}"[:_LONGEST_ERROR] + advice
