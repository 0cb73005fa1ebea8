"""The endpoints of server SDKs: polls of all definitions, or of the changes since the last poll.

Like the server's, the responses omit some changes. The guide to the gateway lists the rules and the omissions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from bucketeer_async._evaluation import Flag
from bucketeer_async.gateway._environment import MEMORY, Environment, Stored
from bucketeer_async.gateway._ids import feature_flags_id

GRACE: Final = 600  # seconds before the last poll; changes after this time are sent again

JsonObject = dict[str, Any]


def is_too_old(since: int, now: int) -> bool:
    """Return whether a time is too old, or in the future, so that the response must contain everything."""
    return not now - MEMORY <= since <= now


def feature_flags(environment: Environment, request: Any, now: int) -> JsonObject:
    """Return the response to a decoded ``GetFeatureFlagsRequest`` at ``now``, in Unix seconds."""
    tagged = [flag for flag in environment.loaded(now) if not request.tag or request.tag in flag.compiled.tags]
    if not tagged:
        return _flags_response("", now)
    active = [flag for flag in tagged if not flag.compiled.archived]
    current_id = feature_flags_id({flag.compiled.id: flag.updated_at for flag in active})
    if request.feature_flags_id == current_id:
        return _flags_response(current_id, min(request.requested_at, now))
    everything = _flags_response(current_id, now, active, force_update=True)
    if not request.feature_flags_id or is_too_old(request.requested_at, now):
        return everything
    changed = [flag for flag in active if flag.updated_at >= request.requested_at - GRACE]
    archived = [flag.compiled.id for flag in tagged if flag.compiled.archived]
    return _flags_response(current_id, now, changed, archived) if changed or archived else everything


def _flags_response(
    current_id: str,
    requested_at: int,
    flags: Sequence[Stored[Flag]] = (),
    archived: Sequence[str] = (),
    *,
    force_update: bool = False,
) -> JsonObject:
    return {
        "featureFlagsId": current_id,
        "features": [flag.fields for flag in flags],
        "archivedFeatureFlagIds": list(archived),
        "requestedAt": str(requested_at),
        "forceUpdate": force_update,
    }


def segment_users(environment: Environment, request: Any, now: int) -> JsonObject:
    """Return the response to a decoded ``GetSegmentUsersRequest`` at ``now``, in Unix seconds."""
    named = _named_segments(environment, now)
    if not named:
        return _segments_response([], [], now, force_update=True)
    still_named = frozenset(named)
    known = [_segment_fields(environment, each, now) for each in named]
    if is_too_old(request.requested_at, now):
        return _segments_response(known, [], now, force_update=True)
    changed = [fields for fields in known if int(fields["updatedAt"]) >= request.requested_at]
    gone = [each for each in request.segment_ids if each not in still_named]
    return _segments_response(changed, gone, now if changed or gone else request.requested_at)


def _named_segments(environment: Environment, now: int) -> list[str]:
    """Return the ids of the segments that unarchived flags name, with duplicates if several flags name a segment."""
    return [
        segment
        for flag in environment.loaded(now)
        if not flag.compiled.archived
        for segment in dict.fromkeys(flag.compiled.segments)
    ]


def _segment_fields(environment: Environment, segment_id: str, now: int) -> JsonObject:
    """Return a segment in the server's form; a segment that does not exist has no users, and was just updated.

    So clients forget the members of a segment that was deleted while a flag names it.
    """
    segment = environment.segments.get(segment_id)
    if segment is not None:
        return segment.fields
    return {"segmentId": segment_id, "users": [], "updatedAt": str(now), "rules": []}


def _segments_response(
    users: list[JsonObject], deleted: list[str], requested_at: int, *, force_update: bool = False
) -> JsonObject:
    return {
        "segmentUsers": users,
        "deletedSegmentIds": deleted,
        "requestedAt": str(requested_at),
        "forceUpdate": force_update,
    }
