"""What the gateway holds: keys, flags and segments, accepted events, and how it was told to misbehave."""

from __future__ import annotations

import copy
import itertools
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from google.protobuf import json_format

from bucketeer_async._models import EventKind
from bucketeer_async._proto._pool import POOL
from bucketeer_async.gateway._environment import Environment

_WINDOW: Final = 100_000  # events kept in detail


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayKey:
    """An API key.

    Attributes:
        role: Name in ``bucketeer.account.APIKey.Role``: ``"SDK_CLIENT"``, ``"SDK_SERVER"``, ...
        disabled: Whether the key is switched off.
        environment_disabled: Whether its environment is.
    """

    role: str
    disabled: bool = False
    environment_disabled: bool = False


#: The keys of a gateway that was not given others.
DEFAULT_KEYS: Final[Mapping[str, GatewayKey]] = {
    "client-key": GatewayKey(role="SDK_CLIENT"),
    "server-key": GatewayKey(role="SDK_SERVER"),
}


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """An accepted event.

    Attributes:
        id: Its id.
        kind: Its class.
        message: The decoded message.
    """

    id: str
    kind: EventKind
    message: Any = field(repr=False)

    @property
    def event(self) -> dict[str, Any]:
        """The event as canonical proto3 JSON, fields at their default left out; {} if it is nested too deep to show."""
        try:
            fields: dict[str, Any] = json_format.MessageToDict(self.message, descriptor_pool=POOL)
        except RecursionError:
            return {}
        return fields


@dataclass(slots=True, kw_only=True)
class Fault:
    """One way to misbehave.

    Attributes:
        status: Answered instead of the truth; 0 to answer the truth.
        body: Body of that answer; None for an error body as the gateway makes it.
        headers: Headers of that answer.
        retry_after: Its ``Retry-After``, in seconds or as text.
        delay: Seconds before anything is answered.
        partial: Share of the events, 0 to 1, that are not taken though the others are.
        retriable: What is said about these.
        message: What is said about these.
        requests: How many requests it lasts; None until it is cleared.
        seconds: How long it lasts; None until it is cleared.
        path: The endpoint it is about.
    """

    status: int = 0
    body: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    retry_after: float | str | None = None
    delay: float = 0.0
    partial: float = 0.0
    retriable: bool = True
    message: str = "Failed to publish event"
    requests: int | None = None
    seconds: float | None = None
    path: str = "/register_events"

    def __post_init__(self) -> None:
        if not (isinstance(self.status, int) and (self.status == 0 or 200 <= self.status < 600)):
            raise ValueError(f"status must be 0 or from 200 to 599, not {self.status!r}")
        if self.delay < 0 or not 0 <= self.partial <= 1:
            raise ValueError("delay must be at least 0 seconds, and partial from 0 to 1")
        if self.requests is not None and self.requests < 1:
            raise ValueError(f"requests must be at least 1, not {self.requests!r}")


class GatewayState:
    """Everything that a gateway knows.

    Args:
        keys: The API keys that exist.
        flags: The flags, in the server's JSON form of ``bucketeer.feature.Feature``; `flag` writes simple ones.
        segments: The segments, in its form of ``bucketeer.feature.SegmentUsers``; a user may be just an id.
        window: How many accepted events are kept in detail; counters are exact beyond that.
        now: Unix time in seconds.

    Attributes:
        environment: The flags and segments at this moment.
        flags_problem: Why the file of flags, if there is one, cannot be used as it is now; "" if it can.

    Raises:
        ConfigurationError: If a flag or segment cannot be one; the text names it and the field.
    """

    def __init__(
        self,
        *,
        keys: Mapping[str, GatewayKey] = DEFAULT_KEYS,
        flags: Sequence[Mapping[str, Any]] = (),
        segments: Sequence[Mapping[str, Any]] = (),
        window: int = _WINDOW,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.keys: dict[str, GatewayKey] = dict(keys)
        self.now: Callable[[], float] = now
        self.environment: Environment = Environment().replaced(flags, segments, int(now()))
        self.flags_problem: str = ""
        self.requests: Counter[str] = Counter()
        self._events: deque[RecordedEvent] = deque(maxlen=window)
        self._accepted: Counter[EventKind] = Counter()
        self._ids: dict[EventKind, set[str]] = {kind: set() for kind in EventKind}
        self._served: Counter[tuple[str, str]] = Counter()
        self._faults: list[tuple[Fault, float]] = []
        self._random = random.Random(0)  # noqa: S311 - which events of a partial fault fail need be no secret

    def flag(self, feature_id: str) -> dict[str, Any]:
        """Return a copy of a flag's definition, with its version and the time of its last change.

        Raises:
            KeyError: If there is no such flag.
        """
        return copy.deepcopy(self.environment.flags[feature_id].fields)

    def set_flag(self, fields: Mapping[str, Any]) -> None:
        """Make or replace a flag; if that changes it, its version and ``updatedAt`` move on.

        Raises:
            ConfigurationError: If it cannot be one; the text names the flag and the field.
        """
        self.environment = self.environment.with_flag(fields, int(self.now()))

    def update_flag(self, feature_id: str, **changes: Any) -> None:
        """Change fields of a flag, by their JSON names: ``update_flag("new-checkout", enabled=False)``.

        Raises:
            KeyError: If there is no such flag.
            ConfigurationError: If it cannot be changed so; the text names the flag and the field.
        """
        self.set_flag(self.environment.flags[feature_id].fields | changes)

    def archive_flag(self, feature_id: str) -> None:
        """Archive a flag; diffs tell that for 30 days.

        Raises:
            KeyError: If there is no such flag.
        """
        self.update_flag(feature_id, archived=True)

    def remove_flag(self, feature_id: str) -> None:
        """Delete a flag; no diff tells that.

        Raises:
            KeyError: If there is no such flag.
        """
        self.environment = self.environment.without_flag(feature_id)

    def set_segment(self, fields: Mapping[str, Any]) -> None:
        """Make or replace a segment; if that changes it, its ``updatedAt`` moves on.

        Raises:
            ConfigurationError: If it cannot be one; the text names the segment and the field.
        """
        self.environment = self.environment.with_segment(fields, int(self.now()))

    def remove_segment(self, segment_id: str) -> None:
        """Delete a segment; flags may still name it, and then have nobody in it.

        Raises:
            KeyError: If there is no such segment.
        """
        self.environment = self.environment.without_segment(segment_id)

    @property
    def events(self) -> list[RecordedEvent]:
        """The newest accepted events, oldest first."""
        return list(self._events)

    def newest(self, count: int) -> list[RecordedEvent]:
        """The ``count`` newest accepted events, newest first."""
        return list(itertools.islice(reversed(self._events), count))

    def record(self, events: Iterable[RecordedEvent]) -> None:
        """Take events in."""
        for event in events:
            self._events.append(event)
            self._accepted[event.kind] += 1
            ids = self._ids[event.kind]
            if event.kind is EventKind.EVALUATION and event.id not in ids:
                self._served[event.message.feature_id, event.message.variation_id] += 1
            ids.add(event.id)

    def forget_events(self) -> None:
        """Begin again, with no accepted events."""
        self._events.clear()
        self._accepted.clear()
        self._ids = {kind: set() for kind in EventKind}
        self._served.clear()

    def counts(self) -> dict[str, dict[str, int]]:
        """By class: ``accepted``, every time an event was taken, and ``unique``, the number of different ids."""
        return {kind.value: {"accepted": self._accepted[kind], "unique": len(self._ids[kind])} for kind in EventKind}

    def served(self) -> dict[str, dict[str, int]]:
        """How many different evaluation events named each variation, by flag; "" stands for a default."""
        flags: dict[str, dict[str, int]] = {}
        for (feature_id, variation_id), count in self._served.items():
            flags.setdefault(feature_id, {})[variation_id] = count
        return flags

    def fail(self, fault: Fault) -> None:
        """Misbehave from now on; the oldest fault that still lasts acts."""
        self._faults.append((fault, time.monotonic()))

    def clear_faults(self) -> None:
        """Behave again."""
        self._faults.clear()

    @property
    def faults(self) -> list[Fault]:
        """The faults that still last."""
        now = time.monotonic()
        self._faults = [
            (fault, since) for fault, since in self._faults if fault.seconds is None or now - since < fault.seconds
        ]
        return [fault for fault, _ in self._faults]

    def fault_for(self, path: str) -> Fault | None:
        """The fault that acts on one request to ``path``, which counts as one of its requests."""
        fault = next((each for each in self.faults if each.path == path), None)
        if fault is not None and fault.requests is not None:
            fault.requests -= 1
            if not fault.requests:
                self._faults = [(each, since) for each, since in self._faults if each is not fault]
        return fault

    def is_unlucky(self, fault: Fault | None) -> bool:
        """Whether one event is among those that a partial fault does not take."""
        return fault is not None and self._random.random() < fault.partial
