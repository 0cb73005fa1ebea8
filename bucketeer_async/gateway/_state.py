"""The state of the gateway: keys, definitions, accepted events and what became of them, and simulated faults."""

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

from bucketeer_async._models import EventKind, shown
from bucketeer_async._options import check_kind
from bucketeer_async._proto._pool import POOL, message_class
from bucketeer_async.gateway._environment import Environment
from bucketeer_async.gateway._linker import GoalCounts, Linker, Linking, UserEvaluation, UserGoal

_WINDOW: Final = 100_000  # events that are stored
_ANY: Final = message_class("google.protobuf.Any")
_MAX_NESTED: Final = 50  # messages in an event that is shown; protobuf calls itself some five times for each


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayKey:
    """An API key.

    Attributes:
        role: Name of a ``bucketeer.account.APIKey.Role``: ``"SDK_CLIENT"``, ``"SDK_SERVER"``, ...
        disabled: Whether the key is disabled.
        environment_disabled: Whether the environment of the key is disabled.
    """

    role: str
    disabled: bool = False
    environment_disabled: bool = False


#: The API keys of a gateway by default.
DEFAULT_KEYS: Final[Mapping[str, GatewayKey]] = {
    "client-key": GatewayKey(role="SDK_CLIENT"),
    "server-key": GatewayKey(role="SDK_SERVER"),
}


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """An accepted event.

    Attributes:
        id: Id of the event.
        kind: Kind of the event.
        message: The decoded protobuf message.
    """

    id: str
    kind: EventKind
    message: Any = field(repr=False)

    @property
    def event(self) -> dict[str, Any]:
        """The event as canonical proto3 JSON, without fields that have their default.

        It is {} if more than 50 messages are nested in it, one in the other.
        """
        if _is_nested_too_deeply(self.message):
            return {}
        fields: dict[str, Any] = json_format.MessageToDict(self.message, descriptor_pool=POOL)
        return fields


def _is_nested_too_deeply(message: Any) -> bool:
    """Return whether an event contains so many messages, one in the other, that protobuf may fail to show it.

    Such a message is the ``event`` of a metrics event, or the ``value`` of an Any in an Any.
    """
    for _ in range(_MAX_NESTED + 1):
        envelope = getattr(message, "event", message)
        if not isinstance(envelope, _ANY) or not envelope.type_url:
            return False
        message = message_class(envelope.type_url.rpartition("/")[2]).FromString(envelope.value)
    return True


@dataclass(slots=True, kw_only=True)
class Fault:
    """A simulated fault of the gateway.

    Attributes:
        status: HTTP status of a fake response, from 200 to 599; 0 to handle requests as usual.
        body: Body of the fake response; None for an error body of the gateway.
        headers: Headers of the fake response.
        retry_after: ``Retry-After`` header of the fake response, in seconds or as text; None for no such header.
        delay: Seconds before the response, at least 0.
        partial: Share of goal and evaluation events that are rejected, from 0 to 1.
        retriable: Whether the errors of these events are retriable.
        message: Message of the errors of these events.
        requests: Number of requests after which the fault ends, at least 1; None for no limit.
        seconds: Seconds after which the fault ends; None for no limit.
        path: Path of the endpoint that has the fault.

    Raises:
        ValueError: If an attribute is out of range.
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
            raise ValueError(f"status must be 0 or from 200 to 599, not {shown(self.status)}")
        if self.delay < 0:
            raise ValueError(f"delay must be at least 0 seconds, not {shown(self.delay)}")
        if not 0 <= self.partial <= 1:
            raise ValueError(f"partial must be from 0 to 1, not {shown(self.partial)}")
        if self.requests is not None and self.requests < 1:
            raise ValueError(f"requests must be at least 1, not {shown(self.requests)}")


class GatewayState:
    """The state of a gateway.

    Args:
        keys: The valid API keys.
        flags: Definitions of the flags: ``bucketeer.feature.Feature`` in JSON, for example from `flag`.
        segments: Definitions of the segments: ``bucketeer.feature.SegmentUsers`` in JSON, where an entry of ``users``
            may be the id of a user.
        experiments: Definitions of the experiments, for example from `experiment`.
        linking: How goals are linked to experiments.
        window: Number of the newest accepted events that are stored. Older events are only counted.
        now: Returns the Unix time, in seconds.

    Attributes:
        environment: The current flags, segments and experiments.
        linking: How goals are linked to experiments; not to be changed.
        flags_problem: Why the current flag file is invalid; "" if it is valid or the gateway has no flag file.

    Raises:
        ConfigurationError: If a definition is invalid; the message names the definition and the field.
    """

    def __init__(
        self,
        *,
        keys: Mapping[str, GatewayKey] = DEFAULT_KEYS,
        flags: Sequence[Mapping[str, Any]] = (),
        segments: Sequence[Mapping[str, Any]] = (),
        experiments: Sequence[Mapping[str, Any]] = (),
        linking: Linking = Linking(),
        window: int = _WINDOW,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.keys: dict[str, GatewayKey] = dict(keys)
        self.now: Callable[[], float] = now
        self.environment: Environment = Environment().replaced(flags, segments, experiments, int(now()))
        self.linking: Final[Linking] = check_kind("linking", linking, Linking)
        self.flags_problem: str = ""
        self.requests: Counter[str] = Counter()
        self._events: deque[RecordedEvent] = deque(maxlen=window)
        self._accepted: Counter[EventKind] = Counter()
        self._ids: dict[EventKind, set[str]] = {kind: set() for kind in EventKind}
        self._served: Counter[tuple[str, str]] = Counter()
        self._linker = Linker(linking)
        self._faults: list[tuple[Fault, float]] = []
        self._random = random.Random(0)  # noqa: S311 - not used for security

    def flag(self, feature_id: str) -> dict[str, Any]:
        """Return a copy of a flag's definition, including ``version`` and ``updatedAt``.

        Raises:
            KeyError: If the flag does not exist.
        """
        return copy.deepcopy(self.environment.flags[feature_id].fields)

    def set_flag(self, fields: Mapping[str, Any]) -> None:
        """Create or replace a flag. A change increases its ``version`` and ``updatedAt``.

        Raises:
            ConfigurationError: If the definition is invalid; the message names the flag and the field.
        """
        self.environment = self.environment.with_flag(fields, int(self.now()))

    def update_flag(self, feature_id: str, **changes: Any) -> None:
        """Change fields of a flag, by their JSON names: ``update_flag("new-checkout", enabled=False)``.

        Raises:
            KeyError: If the flag does not exist.
            ConfigurationError: If the new definition is invalid; the message names the flag and the field.
        """
        self.set_flag(self.environment.flags[feature_id].fields | changes)

    def archive_flag(self, feature_id: str) -> None:
        """Archive a flag. For 30 days, responses to polls mention the archived flag.

        Raises:
            KeyError: If the flag does not exist.
        """
        self.update_flag(feature_id, archived=True)

    def remove_flag(self, feature_id: str) -> None:
        """Delete a flag. Responses to polls do not mention the deletion.

        Raises:
            KeyError: If the flag does not exist.
        """
        self.environment = self.environment.without_flag(feature_id)

    def set_segment(self, fields: Mapping[str, Any]) -> None:
        """Create or replace a segment. A change increases its ``updatedAt``.

        Raises:
            ConfigurationError: If the definition is invalid; the message names the segment and the field.
        """
        self.environment = self.environment.with_segment(fields, int(self.now()))

    def remove_segment(self, segment_id: str) -> None:
        """Delete a segment. For flags that still name the segment, it has no members.

        Raises:
            KeyError: If the segment does not exist.
        """
        self.environment = self.environment.without_segment(segment_id)

    def set_experiment(self, fields: Mapping[str, Any]) -> None:
        """Create or replace an experiment. If it changes, it begins without results.

        Raises:
            ConfigurationError: If the definition is invalid; the message names the experiment and the field.
        """
        self.environment = self.environment.with_experiment(fields)

    def remove_experiment(self, experiment_id: str) -> None:
        """Delete an experiment and its results.

        Raises:
            KeyError: If the experiment does not exist.
        """
        self.environment = self.environment.without_experiment(experiment_id)

    @property
    def events(self) -> list[RecordedEvent]:
        """The newest accepted events, oldest first."""
        return list(self._events)

    def newest(self, count: int) -> list[RecordedEvent]:
        """Return the ``count`` newest accepted events, newest first."""
        return list(itertools.islice(reversed(self._events), count))

    def record(self, events: Iterable[RecordedEvent]) -> None:
        """Store and count the accepted events of one post, and link their goals to experiments."""
        new = []
        for event in events:
            self._events.append(event)
            self._accepted[event.kind] += 1
            ids = self._ids[event.kind]
            if event.id not in ids:
                ids.add(event.id)
                new.append(event)
        for event in new:
            if event.kind is EventKind.EVALUATION:
                self._served[event.message.feature_id, event.message.variation_id] += 1
        if self.environment.experiments:
            self._linker.define(self.environment.experiments)
            self._linker.take((_for_linker(event) for event in new if event.kind is not EventKind.METRICS), self.now())

    def forget_events(self) -> None:
        """Delete all accepted events, and reset their counters."""
        self._events.clear()
        self._accepted.clear()
        self._ids = {kind: set() for kind in EventKind}
        self._served.clear()
        self._linker.forget()

    def counts(self) -> dict[str, dict[str, int]]:
        """Return counters by kind of event: ``accepted`` events, and ``unique`` event ids."""
        return {kind.value: {"accepted": self._accepted[kind], "unique": len(self._ids[kind])} for kind in EventKind}

    def served(self) -> dict[str, dict[str, int]]:
        """Return the numbers of evaluation events by flag id and variation id; each event id counts once.

        The variation id is "" if the caller's default was served.
        """
        flags: dict[str, dict[str, int]] = {}
        for (feature_id, variation_id), count in self._served.items():
            flags.setdefault(feature_id, {})[variation_id] = count
        return flags

    def experiments(self) -> dict[str, dict[str, GoalCounts]]:
        """Return what became of goal events by experiment id and variation id.

        The variation id is "" for goals for which no evaluation of the user was found.
        """
        self._linker.define(self.environment.experiments)
        self._linker.advance(self.now())
        return self._linker.counts()

    def fail(self, fault: Fault) -> None:
        """Simulate a fault from now on. If several faults of a path are active, the oldest one applies."""
        self._faults.append((fault, time.monotonic()))

    def clear_faults(self) -> None:
        """End all simulated faults."""
        self._faults.clear()

    @property
    def faults(self) -> list[Fault]:
        """The active faults."""
        now = time.monotonic()
        self._faults = [
            (fault, since) for fault, since in self._faults if fault.seconds is None or now - since < fault.seconds
        ]
        return [fault for fault, _ in self._faults]

    def fault_for(self, path: str) -> Fault | None:
        """Return the fault that applies to a request to ``path``, and count the request; None if no fault applies."""
        fault = next((each for each in self.faults if each.path == path), None)
        if fault is not None and fault.requests is not None:
            fault.requests -= 1
            if not fault.requests:
                self._faults = [(each, since) for each, since in self._faults if each is not fault]
        return fault

    def fails_event(self, fault: Fault | None) -> bool:
        """Return, at random, whether a partial fault rejects an event."""
        return fault is not None and self._random.random() < fault.partial


def _for_linker(event: RecordedEvent) -> UserEvaluation | UserGoal:
    message = event.message
    user_id = message.user_id or message.user.id
    if event.kind is EventKind.GOAL:
        return UserGoal(message.timestamp, user_id, message.goal_id)
    return UserEvaluation(message.timestamp, user_id, message.feature_id, message.feature_version, message.variation_id)
