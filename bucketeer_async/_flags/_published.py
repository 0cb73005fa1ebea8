"""PublishedFlags: the flags that are evaluated now, how old they are, and who is called when they change.

A source of flags (`_poller.py`) decides what to publish and when. The value of a flag is left to `_evaluation`.

A forked child keeps the flags and the callbacks of its parent; callers that wait for flags belong to one process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import NamedTuple

from bucketeer_async._background import PerProcess, Progress
from bucketeer_async._evaluation import Snapshot
from bucketeer_async._flags._definitions import FlagDefinition, SegmentDefinition
from bucketeer_async._flags._sync import CachedFlags, CachedSegments, changes, snapshot_of
from bucketeer_async._hooks import Hook
from bucketeer_async._log import GuardedLogger
from bucketeer_async._results import FlagChanges, LocalEvaluationStatistics, SnapshotSource


class Coverage(Enum):
    """Which flags a source fetches: decided by ``LocalEvaluation.scope`` and by what it has met."""

    TAG = "the flags of the tag"
    ENVIRONMENT = "all flags, because some flags of the tag depend on others"
    TOO_LARGE = "the flags of the tag, because the gateway cannot send all"


class Published(NamedTuple):
    """The flags and segments that are evaluated at one moment.

    Attributes:
        snapshot: The flags and segments in the form that `evaluate` takes.
        cached_flags: The flags, and how far they are in sync with the gateway.
        cached_segments: The segments, and how far they are in sync with the gateway.
        coverage: Which flags they are.
        source: Where they come from.
        fresh_at: When all of them were last known to be up to date, by `PublishedFlags.clock`.
    """

    snapshot: Snapshot
    cached_flags: CachedFlags
    cached_segments: CachedSegments
    coverage: Coverage
    source: SnapshotSource
    fresh_at: float

    @property
    def flags(self) -> Mapping[str, FlagDefinition]:
        """The definitions of the flags, by id."""
        return self.cached_flags.flags

    @property
    def segments(self) -> Mapping[str, SegmentDefinition]:
        """The definitions of the segments, by id."""
        return self.cached_segments.segments


class PublishedFlags:
    """The flags that are evaluated, as their source publishes them.

    Args:
        tag: The tag of the flags; "" for all of the environment.
        logger: Where the first flags, and exceptions of callbacks, are logged.
        clock: Monotonic seconds.

    Attributes:
        current: The flags and segments of this moment, to be read from any thread; None before the first are published.
        clock: As in the arguments.
        on_change: Called each time that published flags differ from those before.
    """

    def __init__(self, *, tag: str, logger: GuardedLogger, clock: Callable[[], float]) -> None:
        self.current: Published | None = None
        self.clock = clock
        self._tag = tag
        self._logger = logger
        self.on_change: Hook[FlagChanges] = Hook("on_change", logger)
        self._waiters = PerProcess(Progress)

    def publish(
        self,
        flags: CachedFlags,
        segments: CachedSegments,
        *,
        coverage: Coverage,
        source: SnapshotSource,
        fresh_at: float,
    ) -> None:
        """Evaluate these flags and segments from now on; call the callbacks if flags have changed."""
        before = self.current
        if before is not None and before.flags is flags.flags and before.segments is segments.segments:
            self.current = Published(before.snapshot, flags, segments, coverage, source, fresh_at)
            return
        snapshot = snapshot_of(flags.flags, segments.segments)
        self.current = Published(snapshot, flags, segments, coverage, source, fresh_at)
        self.wake_waiters()
        if before is None:
            text = "flags can be evaluated: %d flags and %d segments, %s"
            self._logger.info(text, len(flags.flags), len(segments.segments), source)
        if before is not None or source is not SnapshotSource.BOOTSTRAP:  # to begin with saved flags is no change
            changed = changes(before.flags if before else {}, flags.flags, self._tag)
            if changed:
                self.on_change.call(changed)

    # Waiting

    async def wait(self) -> None:
        """Wait until other flags are published, or `wake_waiters` is called."""
        await self._waiters.get().wait()

    def wake_waiters(self) -> None:
        """Wake all callers of `wait`."""
        self._waiters.get().notify()

    # Statistics

    @property
    def age(self) -> float | None:
        """Seconds since all flags and segments were known to be up to date; None before the first are published."""
        current = self.current
        return None if current is None else self._age_of(current)

    def _age_of(self, published: Published) -> float:
        return max(0.0, self.clock() - published.fresh_at)

    def statistics(self) -> LocalEvaluationStatistics:
        """Return what is known of the flags themselves; the polls are left to their source."""
        current = self.current
        if current is None:
            return LocalEvaluationStatistics()
        unusable = sum(each.unusable for each in current.flags.values())
        unusable += sum(bool(each.problem) for each in current.segments.values())
        return LocalEvaluationStatistics(
            source=current.source,
            flags=len(current.flags),
            segments=len(current.segments),
            unusable=unusable,
            age=self._age_of(current),
        )
