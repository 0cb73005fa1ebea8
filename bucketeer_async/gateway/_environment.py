"""The flags, segments and experiments of a gateway; versions and times of updates advance as on the server.

An `Environment` is immutable: each change returns a new one.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from bucketeer_async._errors import ConfigurationError
from bucketeer_async._evaluation import Flag, Segment, Snapshot, compile_flag, compile_segment
from bucketeer_async.gateway._definitions import (
    Definition,
    complete_all,
    complete_experiment,
    complete_flag,
    complete_segment,
)
from bucketeer_async.gateway._linker import Experiment, compile_experiment

MEMORY: Final = 30 * 86_400  # seconds; the age limit of changes in a response, and of archived flags

_NEW: Final[Definition] = {
    "version": 0,
    "createdAt": "0",
    "updatedAt": "0",
}  # the fields of a definition that does not exist yet
_T = TypeVar("_T", Flag, Segment)


@dataclass(frozen=True, slots=True)
class Stored(Generic[_T]):
    """A stored definition.

    Attributes:
        fields: The definition with all fields, as the server sends it.
        compiled: The compiled definition.
        updated_at: Unix time of the last change, in whole seconds.
    """

    fields: Definition
    compiled: _T
    updated_at: int


def store(
    fields: Definition, previous: Stored[_T] | None, now: int, compile_: Callable[[Mapping[str, Any]], _T]
) -> Stored[_T]:
    """Return the stored definition after an update: ``previous`` if nothing changes, else with a new version and time.

    A version and a time in ``fields`` are used if they are later than the previous ones. The time advances by at least
    a second even if two changes happen within a second, because the server's ids contain the time in seconds.
    """
    if previous is not None and _is_unchanged(fields, previous.fields):
        return previous
    before = _NEW if previous is None else previous.fields
    stated, last = int(fields["updatedAt"]), int(before["updatedAt"])
    updated_at = stated if stated > last else max(now, last + 1)
    updated = fields | {"updatedAt": str(updated_at)}
    if "version" in fields:
        updated["version"] = max(fields["version"], before["version"] + 1)
        updated["createdAt"] = next(
            each for each in (fields["createdAt"], before["createdAt"], str(now)) if each != "0"
        )
    return Stored(updated, compile_(updated), updated_at)


def _is_unchanged(fields: Definition, before: Definition) -> bool:
    later = any(_is_later(fields, before, name) for name in ("version", "updatedAt"))
    return not later and _content(fields) == _content(before)


def _is_later(fields: Definition, before: Definition, name: str) -> bool:
    return int(fields.get(name, 0)) > int(before.get(name, 0))


def _content(fields: Definition) -> Definition:
    return {name: value for name, value in fields.items() if name not in _NEW}


class Environment:
    """The flags, segments and experiments of a gateway at one time.

    Args:
        flags: The flags by id, including flags that the server would not load.
        segments: The segments by id.
        experiments: The experiments by id.
    """

    def __init__(
        self,
        flags: Mapping[str, Stored[Flag]] | None = None,
        segments: Mapping[str, Stored[Segment]] | None = None,
        experiments: Mapping[str, Experiment] | None = None,
    ) -> None:
        self.flags: Mapping[str, Stored[Flag]] = flags or {}
        self.segments: Mapping[str, Stored[Segment]] = segments or {}
        self.experiments: Mapping[str, Experiment] = experiments or {}
        self._snapshot: Snapshot | None = None
        self._complete_until: float = -math.inf  # when the snapshot's oldest archived flag is no longer loaded

    def with_flag(self, fields: Mapping[str, Any], now: int) -> Environment:
        """Return an environment in which a flag is created or replaced.

        Raises:
            ConfigurationError: If the definition is invalid; the message names the flag and the field.
        """
        flag = complete_flag(fields)
        stored = store(flag, self.flags.get(flag["id"]), now, compile_flag)
        return Environment({**self.flags, flag["id"]: stored}, self.segments, self.experiments)

    def without_flag(self, feature_id: str) -> Environment:
        """Return an environment without a flag; responses to polls do not mention the deletion.

        Raises:
            KeyError: If the flag does not exist.
        """
        flags = dict(self.flags)
        del flags[feature_id]
        return Environment(flags, self.segments, self.experiments)

    def with_segment(self, fields: Mapping[str, Any], now: int) -> Environment:
        """Return an environment in which a segment is created or replaced.

        Raises:
            ConfigurationError: If the definition is invalid; the message names the segment and the field.
        """
        segment = complete_segment(fields)
        stored = store(segment, self.segments.get(segment["segmentId"]), now, compile_segment)
        return Environment(self.flags, {**self.segments, segment["segmentId"]: stored}, self.experiments)

    def without_segment(self, segment_id: str) -> Environment:
        """Return an environment without a segment.

        Raises:
            KeyError: If the segment does not exist.
        """
        segments = dict(self.segments)
        del segments[segment_id]
        return Environment(self.flags, segments, self.experiments)

    def with_experiment(self, fields: Mapping[str, Any]) -> Environment:
        """Return an environment in which an experiment is created or replaced.

        Raises:
            ConfigurationError: If the definition is invalid; the message names the experiment and the field.
        """
        experiment = complete_experiment(fields)
        _check_flag_of(experiment, self.flags)
        experiments = {**self.experiments, experiment["id"]: compile_experiment(experiment)}
        return Environment(self.flags, self.segments, experiments)

    def without_experiment(self, experiment_id: str) -> Environment:
        """Return an environment without an experiment.

        Raises:
            KeyError: If the experiment does not exist.
        """
        experiments = dict(self.experiments)
        del experiments[experiment_id]
        return Environment(self.flags, self.segments, experiments)

    def replaced(self, flags: Any, segments: Any, experiments: Any, now: int) -> Environment:
        """Return an environment of only these definitions; one that is unchanged keeps its version and time.

        Raises:
            ConfigurationError: If a definition is invalid; the message names the definition and the field.
        """
        new_flags = complete_all(flags, "flags", complete_flag, "id")
        new_segments = complete_all(segments, "segments", complete_segment, "segmentId")
        new_experiments = complete_all(experiments, "experiments", complete_experiment, "id")
        for experiment in new_experiments.values():
            _check_flag_of(experiment, new_flags)
        return Environment(
            {key: store(each, self.flags.get(key), now, compile_flag) for key, each in new_flags.items()},
            {key: store(each, self.segments.get(key), now, compile_segment) for key, each in new_segments.items()},
            {key: compile_experiment(each) for key, each in new_experiments.items()},
        )

    def loaded(self, now: int) -> list[Stored[Flag]]:
        """Return the flags that the server would load into its cache.

        The server does not load flags that are deleted, that are off and have no off variation, or that were archived
        more than `MEMORY` seconds ago.
        """
        return [flag for flag in self.flags.values() if _is_loaded(flag, now)]

    def snapshot(self, now: int) -> Snapshot:
        """Return a snapshot of the loaded flags and the segments for the evaluator; created on first use."""
        if self._snapshot is None or now > self._complete_until:
            loaded = self.loaded(now)
            flags = {flag.compiled.id: flag.compiled for flag in loaded}
            self._snapshot = Snapshot(flags, {key: segment.compiled for key, segment in self.segments.items()})
            self._complete_until = MEMORY + _oldest_archived(loaded)
        return self._snapshot


def _check_flag_of(experiment: Definition, flags: Iterable[str]) -> None:
    feature_id = experiment["featureId"]
    if feature_id not in (known := set(flags)):
        close = difflib.get_close_matches(feature_id, known, 1)
        suggestion = f"; did you mean {close[0]}?" if close else ""
        raise ConfigurationError(
            f"experiment {experiment['id']!r}: featureId must be the id of a flag of this gateway, "
            f"not {feature_id!r}{suggestion}"
        )


def _is_loaded(flag: Stored[Flag], now: int) -> bool:
    if flag.fields["deleted"] or not (flag.compiled.enabled or flag.compiled.off_variation):
        return False
    return not (flag.compiled.archived and flag.updated_at < now - MEMORY)


def _oldest_archived(flags: Iterable[Stored[Flag]]) -> float:
    return min((flag.updated_at for flag in flags if flag.compiled.archived), default=math.inf)
