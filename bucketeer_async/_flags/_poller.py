"""FlagPoller: polls the gateway's flags and segments, and publishes them.

What to request, and what a response changes, is decided in `_sync.py`; when the next poll is due, in `_schedule.py`.
Which flags are evaluated, and who is called when they change, is left to `_published.py`.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from bucketeer_async._background import in_turns
from bucketeer_async._errors import ApiError, ClosedError
from bucketeer_async._evaluation._yaml import INSTALL
from bucketeer_async._flags import _sync
from bucketeer_async._flags._definitions import Steps
from bucketeer_async._flags._own_metrics import OwnMetrics
from bucketeer_async._flags._published import Coverage, PublishedFlags
from bucketeer_async._flags._schedule import pause
from bucketeer_async._flags._sync import CachedFlags, CachedSegments
from bucketeer_async._log import GuardedLogger, RateLimitedLog
from bucketeer_async._models import ApiId
from bucketeer_async._options import LocalEvaluation
from bucketeer_async._results import LocalEvaluationStatistics, SnapshotSource
from bucketeer_async._retry import Action, decide, refuses_key
from bucketeer_async._transport._api import ApiClient
from bucketeer_async._transport._responses import GetFeatureFlagsResponse, GetSegmentUsersResponse

_T = TypeVar("_T")
_R = TypeVar("_R", GetFeatureFlagsResponse, GetSegmentUsersResponse)

_REQUESTS: Final = 4  # for flags, in one poll: changes, all of the tag after doubts, the environment, the tag after all
_LOG_INTERVAL: Final = 600.0  # seconds between two lines about one outage
_STALE_INTERVALS: Final = 3  # polling intervals without a successful poll, after which flags are stale
_LONGEST_ERROR: Final = 300  # characters
_TOPIC: Final = "polling"
_EXPECTED: Final = (ApiError, ClosedError)  # ClosedError: the application has closed the API client too early


class FlagPoller:
    """The source of flags that polls; made anew in each process.

    Args:
        api: Sends the requests.
        options: When to poll, and which flags.
        published: Where the flags are published.
        rng: Source of the jitter; of this process alone.
        tag: The tag of the flags; "" for all of the environment.
        metrics: Called with the outcome of every request. A request that the API client repeats counts once.
        logger: Where to log.
        on_outcome: Called after each poll with its error, in words; "" if it succeeded.
        on_stale: Called with the reason when no poll has succeeded for three intervals although there are flags, and
            with "" after each poll that succeeded.
        work_clock: Monotonic seconds, by which the work of one turn of the loop is bounded.

    Attributes:
        statistics: ``polls``, ``failed_polls`` and ``last_error``; replaced after each poll of flags and segments.
    """

    def __init__(
        self,
        api: ApiClient,
        options: LocalEvaluation,
        published: PublishedFlags,
        rng: random.Random,
        *,
        tag: str,
        metrics: OwnMetrics,
        logger: GuardedLogger,
        on_outcome: Callable[[str], None] = lambda _: None,
        on_stale: Callable[[str], None] = lambda _: None,
        work_clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.statistics = LocalEvaluationStatistics()
        self._api = api
        self._options = options
        self._published = published
        self._clock = published.clock
        self._rng = rng
        self._tag = tag
        self._metrics = metrics
        self._logger = logger
        self._log = RateLimitedLog(logger, self._clock)
        self._on_outcome = on_outcome
        self._on_stale = on_stale
        self._stale_timer: asyncio.TimerHandle | None = None
        self._work_clock = work_clock
        self._flags = CachedFlags()
        self._segments = CachedSegments()
        self._coverage = Coverage.ENVIRONMENT if options.scope == "environment" else Coverage.TAG
        self._polled_at: dict[ApiId, float] = {}  # when a request last succeeded
        self._failures = 0  # polls in a row
        self._yaml_reported = False

    # The loop

    async def run(self) -> None:
        """Go on from what is published already, and poll until cancelled."""
        self._resume()
        try:
            self._set_stale_timer()
            while True:
                seconds = await self._round()
                await asyncio.sleep(seconds)
        finally:
            self._clear_stale_timer()

    def _resume(self) -> None:
        current = self._published.current
        if current is None:
            return
        self._flags, self._segments = current.cached_flags, current.cached_segments
        if self._options.scope == "auto":
            self._coverage = current.coverage

    async def _round(self) -> float:
        """Poll once; return the seconds until the next poll."""
        try:
            errors = await self._poll()
        except Exception as error:
            self._logger.exception("polling failed for a bug of this package")
            errors = [error]
        before = self.statistics
        self.statistics = LocalEvaluationStatistics(  # in one step, as other threads read it
            polls=before.polls + 1,
            failed_polls=before.failed_polls + bool(errors),
            last_error=_description(errors[0]) if errors else "",
        )
        self._failures = self._failures + 1 if errors else 0
        self._log_outcome()
        self._log_missing_yaml()
        self._on_outcome(self.statistics.last_error)
        if not errors:
            self._set_stale_timer()
            self._on_stale("")
        return pause(errors, self._failures, self._options, self._rng)

    def _set_stale_timer(self) -> None:
        """Count the flags as stale if no poll succeeds for three intervals from now on."""
        self._clear_stale_timer()
        seconds = _STALE_INTERVALS * self._options.polling_interval
        self._stale_timer = asyncio.get_running_loop().call_later(seconds, self._note_stale, seconds)

    def _clear_stale_timer(self) -> None:
        if self._stale_timer is not None:
            self._stale_timer.cancel()

    def _note_stale(self, seconds: float) -> None:
        if self._published.current is None:
            self._set_stale_timer()  # no flags are not stale flags
            return
        error = self.statistics.last_error
        self._on_stale(f"no poll has succeeded for {seconds:g} s" + (f": {error}" if error else ""))

    async def _poll(self) -> list[Exception]:
        errors = await self._poll_flags()
        named = _sync.named_segments(self._flags.flags)
        if not _sync.missing_segments(self._segments, named):
            self._publish()  # a flag that is switched off does not wait for segments
        errors += await self._poll_segments(named)
        self._publish()
        return errors

    def _publish(self) -> None:
        """Publish what is cached, once there are both flags and segments."""
        before = self._published.current
        if len(self._polled_at) == 2:
            source, fresh_at = SnapshotSource.POLLED, min(self._polled_at.values())
        elif before is not None:
            source, fresh_at = before.source, before.fresh_at
        else:
            return
        self._published.publish(self._flags, self._segments, coverage=self._coverage, source=source, fresh_at=fresh_at)

    # Flags

    async def _poll_flags(self) -> list[Exception]:
        for _ in range(_REQUESTS):
            try:
                await self._request_flags()
            except _EXPECTED as error:
                if not self._give_up_environment(error):
                    return [error]
            else:
                if not self._flags.out_of_sync and not self._widen_coverage():
                    break
        return []

    async def _request_flags(self) -> None:
        flags_id, requested_at = _sync.flags_request(self._flags, self._clock(), self._options.full_refresh_interval)
        response = await self._measured(
            ApiId.GET_FEATURE_FLAGS,
            self._api.get_feature_flags(
                tag="" if self._coverage is Coverage.ENVIRONMENT else self._tag,
                feature_flags_id=flags_id,
                requested_at=requested_at,
                timeout=self._options.request_timeout,
            ),
        )
        steps = _sync.apply_flags(self._flags, response, self._clock(), requested_all=not flags_id)
        self._flags = await self._applied(ApiId.GET_FEATURE_FLAGS, steps)

    def _widen_coverage(self) -> bool:
        """Poll the whole environment from now on if a flag depends on one that was not sent; return whether it does."""
        allowed = self._options.scope == "auto" and self._tag and self._coverage is Coverage.TAG
        if not allowed or not _sync.has_unknown_dependency(self._flags.flags):
            return False
        self._logger.debug("a flag depends on one that lacks the tag: polling all flags of the environment")
        self._coverage = Coverage.ENVIRONMENT
        self._flags = CachedFlags(flags=self._flags.flags)
        return True

    def _give_up_environment(self, error: Exception) -> bool:
        """Go back to the flags of the tag if all flags cannot be had; return whether to poll them at once."""
        if not (self._coverage is Coverage.ENVIRONMENT and self._options.scope == "auto" and self._tag):
            return False
        too_large = isinstance(error, ApiError) and decide(error).action is Action.SPLIT_BYTES
        if too_large:
            self._logger.warning(
                "all flags of the environment are more than the gateway can send: flags that depend on some without "
                "the tag cannot be evaluated; give those the tag too"
            )
        if too_large or not self._flags.id:
            self._coverage = Coverage.TOO_LARGE if too_large else Coverage.TAG
            self._flags = CachedFlags(flags=self._flags.flags)
        return too_large

    # Segments

    async def _poll_segments(self, named: set[str]) -> list[Exception]:
        try:
            await self._request_segments(named)
        except _EXPECTED as error:
            return [error]
        return []

    async def _request_segments(self, named: set[str]) -> None:
        interval = self._options.full_refresh_interval
        requested_at = _sync.segments_request(self._segments, named, self._clock(), interval)
        response = await self._measured(
            ApiId.GET_SEGMENT_USERS,
            self._api.get_segment_users(
                segment_ids=sorted(self._segments.segments),
                requested_at=requested_at,
                timeout=self._options.request_timeout,
            ),
        )
        steps = _sync.apply_segments(self._segments, response, named, self._clock(), requested_all=not requested_at)
        self._segments = await self._applied(ApiId.GET_SEGMENT_USERS, steps)

    # Requests

    async def _measured(self, api_id: ApiId, request: Awaitable[_R]) -> _R:
        """Return the response to a request; push the metrics events that are due."""
        began = self._clock()
        try:
            response = await request
        except Exception as error:
            self._metrics.failed(api_id, error)
            raise
        self._metrics.completed(api_id, self._clock() - began, response.size_byte)
        return response

    async def _applied(self, api_id: ApiId, steps: Steps[_T]) -> _T:
        """Apply a response, with turns of the loop in between."""
        try:
            result = await in_turns(steps, self._work_clock)
        except Exception as error:
            self._metrics.failed(api_id, error)
            raise
        self._polled_at[api_id] = self._clock()
        return result

    # Logging

    def _log_outcome(self) -> None:
        error = self.statistics.last_error
        if not error:
            self._log.report_recovery(_TOPIC, "flags can be polled again after %.1f s")
            return
        text = "flags cannot be polled (%s); %s"
        self._log.report(_TOPIC, logging.WARNING, _LOG_INTERVAL, text, error, self._fallback())

    def _log_missing_yaml(self) -> None:
        """Warn once if flags cannot be evaluated because their values are YAML."""
        if self._yaml_reported:
            return
        affected = [each.id for each in self._flags.flags.values() if each.lacks_yaml]
        if affected:
            self._yaml_reported = True
            text = "YAML flags cannot be evaluated (%d flags, such as %r): %s"
            self._logger.warning(text, len(affected), affected[0], INSTALL)

    def _fallback(self) -> str:
        current, age = self._published.current, self._published.age
        if current is None or age is None:
            return "no flags have arrived yet"
        saved = "saved " if current.source is SnapshotSource.BOOTSTRAP else ""
        return f"the {saved}flags of {age:.0f} s ago are used"


def _description(error: Exception) -> str:
    """Return the text of an expected error; of a bug only the name, because its text may hold payloads."""
    if not isinstance(error, _EXPECTED):
        return type(error).__name__
    return f"{error}"[:_LONGEST_ERROR] + ("; polling needs a server key" if refuses_key(error) else "")
