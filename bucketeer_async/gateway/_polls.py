"""What the polls of server SDKs are answered: everything, or what changed since the last one, with the server's holes.

The first rule that applies decides; the rules, and what they leave out, are told in the guide.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from bucketeer_async._evaluation import Flag
from bucketeer_async.gateway._environment import MEMORY, Environment, Stored
from bucketeer_async.gateway._ids import feature_flags_id

GRACE: Final = 600  # seconds before the last poll from which changes are told again

Answer = dict[str, Any]


def is_too_old(since: int, now: int) -> bool:
    """Whether a time is so long ago, or so wrong, that a caller must be told everything."""
    return not now - MEMORY <= since <= now


def feature_flags(environment: Environment, request: Any, now: int) -> Answer:
    """Answer a decoded ``GetFeatureFlagsRequest`` at ``now``, Unix seconds."""
    tagged = [flag for flag in environment.loaded(now) if not request.tag or request.tag in flag.compiled.tags]
    if not tagged:
        return _flags_answer("", now)
    active = [flag for flag in tagged if not flag.compiled.archived]
    current_id = feature_flags_id({flag.compiled.id: flag.updated_at for flag in active})
    if request.feature_flags_id == current_id:
        return _flags_answer(current_id, min(request.requested_at, now))
    everything = _flags_answer(current_id, now, active, force_update=True)
    if not request.feature_flags_id or is_too_old(request.requested_at, now):
        return everything
    changed = [flag for flag in active if flag.updated_at >= request.requested_at - GRACE]
    archived = [flag.compiled.id for flag in tagged if flag.compiled.archived]
    return _flags_answer(current_id, now, changed, archived) if changed or archived else everything


def _flags_answer(
    current_id: str,
    requested_at: int,
    flags: Sequence[Stored[Flag]] = (),
    archived: Sequence[str] = (),
    *,
    force_update: bool = False,
) -> Answer:
    return {
        "featureFlagsId": current_id,
        "features": [flag.fields for flag in flags],
        "archivedFeatureFlagIds": list(archived),
        "requestedAt": str(requested_at),
        "forceUpdate": force_update,
    }


def segment_users(environment: Environment, request: Any, now: int) -> Answer:
    """Answer a decoded ``GetSegmentUsersRequest`` at ``now``, Unix seconds."""
    named = _named_segments(environment, now)
    if not named:
        return _segments_answer([], [], now, force_update=True)
    still_named = frozenset(named)
    known = [environment.segments[each] for each in named if each in environment.segments]
    if is_too_old(request.requested_at, now):
        return _segments_answer([segment.fields for segment in known], [], now, force_update=True)
    changed = [segment.fields for segment in known if segment.updated_at >= request.requested_at]
    gone = [each for each in request.segment_ids if each not in still_named]
    return _segments_answer(changed, gone, now if changed or gone else request.requested_at)


def _named_segments(environment: Environment, now: int) -> list[str]:
    """The segments of each flag that is not archived; one that two flags name is there twice."""
    return [
        segment
        for flag in environment.loaded(now)
        if not flag.compiled.archived
        for segment in dict.fromkeys(flag.compiled.segments)
    ]


def _segments_answer(
    users: list[Answer], deleted: list[str], requested_at: int, *, force_update: bool = False
) -> Answer:
    return {
        "segmentUsers": users,
        "deletedSegmentIds": deleted,
        "requestedAt": str(requested_at),
        "forceUpdate": force_update,
    }
