"""All flags and segments at one moment, and how one moment follows another: versions and times move on as the server's.

An `Environment` is not changed once it is made; each change makes another one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from bucketeer_async._evaluation import Flag, Segment, Snapshot, compile_flag, compile_segment
from bucketeer_async.gateway._definitions import Definition, complete_all, complete_flag, complete_segment

MEMORY: Final = 30 * 86_400  # seconds that diffs reach back, and that an archived flag is remembered

_NEW: Final[Definition] = {"version": 0, "createdAt": "0", "updatedAt": "0"}  # before it is there
_T = TypeVar("_T", Flag, Segment)


@dataclass(frozen=True, slots=True)
class Stored(Generic[_T]):
    """A definition.

    Attributes:
        fields: As the server prints it.
        compiled: As it is evaluated.
        updated_at: Unix time of its last change, in whole seconds.
    """

    fields: Definition
    compiled: _T
    updated_at: int


def store(
    fields: Definition, previous: Stored[_T] | None, now: int, compile_: Callable[[Mapping[str, Any]], _T]
) -> Stored[_T]:
    """Return what follows ``previous``: itself if nothing changes, else with its version and time moved on.

    A version and a time that the definition names count if they are later than the ones before. The time moves on
    also within a second, so that no change hides behind another: the server's ids know only seconds.
    """
    if previous is not None and _says_nothing_new(fields, previous.fields):
        return previous
    before = _NEW if previous is None else previous.fields
    stated, last = int(fields["updatedAt"]), int(before["updatedAt"])
    updated_at = stated if stated > last else max(now, last + 1)
    moved = fields | {"updatedAt": str(updated_at)}
    if "version" in fields:
        moved["version"] = max(fields["version"], before["version"] + 1)
        moved["createdAt"] = next(each for each in (fields["createdAt"], before["createdAt"], str(now)) if each != "0")
    return Stored(moved, compile_(moved), updated_at)


def _says_nothing_new(fields: Definition, before: Definition) -> bool:
    later = any(_is_later(fields, before, name) for name in ("version", "updatedAt"))
    return not later and _content(fields) == _content(before)


def _is_later(fields: Definition, before: Definition, name: str) -> bool:
    return int(fields.get(name, 0)) > int(before.get(name, 0))


def _content(fields: Definition) -> Definition:
    return {name: value for name, value in fields.items() if name not in _NEW}


class Environment:
    """Flags and segments that belong together.

    Args:
        flags: The flags by id; also those that the server would not load.
        segments: The segments by id.
    """

    def __init__(
        self, flags: Mapping[str, Stored[Flag]] | None = None, segments: Mapping[str, Stored[Segment]] | None = None
    ) -> None:
        self.flags: Mapping[str, Stored[Flag]] = flags or {}
        self.segments: Mapping[str, Stored[Segment]] = segments or {}
        self._snapshot: Snapshot | None = None
        self._complete_until: float = -math.inf  # when the oldest archived flag in it is forgotten

    def with_flag(self, fields: Mapping[str, Any], now: int) -> Environment:
        """Return an environment in which a flag is made or changed.

        Raises:
            ConfigurationError: If it cannot be a flag; the text names the flag and the field.
        """
        flag = complete_flag(fields)
        stored = store(flag, self.flags.get(flag["id"]), now, compile_flag)
        return Environment({**self.flags, flag["id"]: stored}, self.segments)

    def without_flag(self, feature_id: str) -> Environment:
        """Return an environment from which a flag was deleted; no diff tells that.

        Raises:
            KeyError: If there is no such flag.
        """
        flags = dict(self.flags)
        del flags[feature_id]
        return Environment(flags, self.segments)

    def with_segment(self, fields: Mapping[str, Any], now: int) -> Environment:
        """Return an environment in which a segment is made or changed.

        Raises:
            ConfigurationError: If it cannot be a segment; the text names the segment and the field.
        """
        segment = complete_segment(fields)
        stored = store(segment, self.segments.get(segment["segmentId"]), now, compile_segment)
        return Environment(self.flags, {**self.segments, segment["segmentId"]: stored})

    def without_segment(self, segment_id: str) -> Environment:
        """Return an environment from which a segment was deleted.

        Raises:
            KeyError: If there is no such segment.
        """
        segments = dict(self.segments)
        del segments[segment_id]
        return Environment(self.flags, segments)

    def replaced(self, flags: Any, segments: Any, now: int) -> Environment:
        """Return an environment of these flags and segments alone; what did not change keeps its version and time.

        Raises:
            ConfigurationError: If one of them is wrong; the text names it and the field.
        """
        new_flags = complete_all(flags, "flags", complete_flag, "id")
        new_segments = complete_all(segments, "segments", complete_segment, "segmentId")
        return Environment(
            {key: store(each, self.flags.get(key), now, compile_flag) for key, each in new_flags.items()},
            {key: store(each, self.segments.get(key), now, compile_segment) for key, each in new_segments.items()},
        )

    def loaded(self, now: int) -> list[Stored[Flag]]:
        """Return the flags that the server would know of.

        It forgets those that are deleted, that are off without an off variation, and that were archived more than
        `MEMORY` ago.
        """
        return [flag for flag in self.flags.values() if _is_loaded(flag, now)]

    def snapshot(self, now: int) -> Snapshot:
        """Return the loaded flags, and the segments, for the evaluator; made when it is first asked for."""
        if self._snapshot is None or now > self._complete_until:
            loaded = self.loaded(now)
            flags = {flag.compiled.id: flag.compiled for flag in loaded}
            self._snapshot = Snapshot(flags, {key: segment.compiled for key, segment in self.segments.items()})
            self._complete_until = MEMORY + _oldest_archived(loaded)
        return self._snapshot


def _is_loaded(flag: Stored[Flag], now: int) -> bool:
    if flag.fields["deleted"] or not (flag.compiled.enabled or flag.compiled.off_variation):
        return False
    return not (flag.compiled.archived and flag.updated_at < now - MEMORY)


def _oldest_archived(flags: Iterable[Stored[Flag]]) -> float:
    return min((flag.updated_at for flag in flags if flag.compiled.archived), default=math.inf)
