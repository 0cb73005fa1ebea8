"""Builds and encodes every event; the one owner of their times and ids.

An event leaves here as the bytes of its JSON: canonical proto3 JSON with enums as numbers (names that the
gateway does not know would silently become 0). The templates are proven equal to ``json_format`` in the tests.
What happens to the bytes afterwards is the ledger's business.
"""

from __future__ import annotations

import math
import os
import struct
import time
from collections.abc import Callable, Mapping
from json.encoder import encode_basestring as _text
from typing import Final, NamedTuple

from bucketeer_async._events._error_metrics import error_detail
from bucketeer_async._models import (
    ApiId,
    Evaluation,
    EventKind,
    Reason,
    ReasonType,
    User,
    check_enum,
    check_int32,
    check_text,
)

#: Where its id stands in the body of every event; as a text of its own it would weigh 85 bytes more.
EVENT_ID: Final = slice(7, 43)

_TYPE: Final = "type.googleapis.com/bucketeer.event.client."
_MAX_DURATION: Final = 315_576_000_000.0  # seconds; the range of google.protobuf.Duration
_LEAST_LATENCY: Final = 1e-9  # seconds; the gateway silently discards a latency of 0
_UUID_GROUPS: Final = struct.Struct("8s4s4s4s12s")  # of hexadecimal digits
_VERSION_4: Final = bytes(byte & 0x0F | 0x40 for byte in range(256))  # what becomes of byte 6, by RFC 9562
_VARIANT_1: Final = bytes(byte & 0x3F | 0x80 for byte in range(256))  # and of byte 8


class EncodedEvent(NamedTuple):
    """An event ready for the wire."""

    kind: EventKind
    body: bytes

    @property
    def event_id(self) -> str:
        """UUID v4 of the event."""
        return self.body[EVENT_ID].decode()


class UnreportedError(ValueError):
    """The failure has no metrics event: 401 and 403 are the application's configuration, not an incident."""


class IdPool:
    """UUID v4 texts from pooled randomness; any thread may take one."""

    def __init__(self, size: int = 256) -> None:
        self._size = size
        self._ids: list[str] = []

    def __call__(self) -> str:
        while True:
            try:
                return self._ids.pop()  # atomic, so no two threads get the same one
            except IndexError:
                self._ids.extend(self._fresh())

    def _fresh(self) -> list[str]:
        numbers = bytearray(os.urandom(16 * self._size))
        numbers[6::16] = numbers[6::16].translate(_VERSION_4)
        numbers[8::16] = numbers[8::16].translate(_VARIANT_1)
        groups = _UUID_GROUPS.iter_unpack(numbers.hex().encode())
        return [(b"%b-%b-%b-%b-%b" % group).decode() for group in groups]


class EventFactory:
    """Makes the events of one processor.

    Args:
        tag: The tag of every event.
        source_id: ``bucketeer.event.client.SourceId`` as a number; 0 is UNKNOWN and left out, as proto3 JSON does.
        sdk_version: Version of the SDK.
        now: Unix time in seconds.
        new_id: Makes event ids, UUIDs of version 4.
    """

    def __init__(
        self,
        *,
        tag: str,
        source_id: int,
        sdk_version: str,
        now: Callable[[], float] = time.time,
        new_id: Callable[[], str] | None = None,
    ) -> None:
        self._now = now
        self._new_id = new_id or IdPool()
        self._tag = tag
        self._tag_label = _map_json({"tag": tag})
        source = f',"sourceId":{source_id}' if source_id else ""
        self._source = source + (f',"sdkVersion":{_text(sdk_version)}' if sdk_version else "")
        self._end = (f',"tag":{_text(tag)}' if tag else "") + self._source + "}}"

    def evaluation(self, user: User, evaluation: Evaluation) -> EncodedEvent:
        """Encode that ``user`` got ``evaluation``.

        Raises:
            TypeError: If an argument has the wrong type.
        """
        if not isinstance(evaluation, Evaluation):
            raise TypeError(f"evaluation must be an Evaluation, not {type(evaluation).__name__}")
        return self._evaluation(user, _evaluation_json(evaluation))

    def default_evaluation(self, user: User, feature_id: str, reason: ReasonType) -> EncodedEvent:
        """Encode that ``user`` got the caller's default.

        Raises:
            TypeError: If an argument has the wrong type.
            ValueError: If the feature id is empty or no valid text, or the reason is not one for a default.
        """
        check_text("feature_id", feature_id, empty=False)
        if not check_enum("reason", reason, ReasonType).is_error:
            raise ValueError(f"reason must be CLIENT or one of ERROR_*, not {reason.name}: a default was served")
        return self._evaluation(user, f'"featureId":{_text(feature_id)},"reason":{{"type":{reason:d}}}')

    def _evaluation(self, user: User, fields: str) -> EncodedEvent:
        about_user = _user_json(user)
        body = (
            f'{{"id":"{self._new_id()}","event":{{"@type":"{_TYPE}EvaluationEvent","timestamp":"{int(self._now())}",'
            f"{fields},{about_user}{self._end}"
        )
        return EncodedEvent(EventKind.EVALUATION, body.encode())

    def goal(self, user: User, goal_id: str, value: float) -> EncodedEvent:
        """Encode that ``user`` reached the goal.

        Raises:
            TypeError: If an argument has the wrong type.
            ValueError: If the goal id is empty or no valid text, or the value is not a finite double.
        """
        check_text("goal_id", goal_id, empty=False)
        number = _finite("value", value)
        about_user = _user_json(user)
        # Only a positive zero is proto3's default; repr() is the shortest text that reads back exactly.
        amount = f',"value":{number!r}' if number or math.copysign(1.0, number) < 0 else ""
        body = (
            f'{{"id":"{self._new_id()}","event":{{"@type":"{_TYPE}GoalEvent","timestamp":"{int(self._now())}",'
            f'"goalId":{_text(goal_id)}{amount},{about_user}{self._end}'
        )
        return EncodedEvent(EventKind.GOAL, body.encode())

    def get_evaluation_latency(self, duration: float) -> EncodedEvent:
        """Encode the seed's latency message.

        Raises:
            TypeError: If the duration is not a number.
            ValueError: If it is not finite, negative, or over the range of a protobuf Duration.
        """
        text = _duration_text(_seconds(duration))
        return self._metrics(
            "GetEvaluationLatencyMetricsEvent", f',"labels":{self._labels(state="FULL")},"duration":"{text}"'
        )

    def get_evaluation_size(self, size_byte: int) -> EncodedEvent:
        """Encode the seed's size message.

        Raises:
            TypeError: If the size is not an int.
            ValueError: If it is not from 0 to 2**31 - 1.
        """
        return self._metrics(
            "GetEvaluationSizeMetricsEvent", f',"labels":{self._labels(state="FULL")}{_size(size_byte)}'
        )

    def timeout_error_count(self) -> EncodedEvent:
        """Encode the seed's count of a timeout."""
        return self._metrics("TimeoutErrorCountMetricsEvent", self._seed_tag())

    def internal_error_count(self) -> EncodedEvent:
        """Encode the seed's count of an internal error."""
        return self._metrics("InternalErrorCountMetricsEvent", self._seed_tag())

    def latency(self, duration: float, api_id: ApiId) -> EncodedEvent:
        """Encode how long an operation took.

        A duration of 0 is sent as a nanosecond, because the gateway silently discards 0.

        Raises:
            TypeError: If an argument has the wrong type.
            ValueError: If the duration is not finite, negative, or over the range of a protobuf Duration.
        """
        seconds = max(_seconds(duration), _LEAST_LATENCY)
        return self._metrics(
            "LatencyMetricsEvent", f'{_api(api_id)},"labels":{self._tag_label},"latencySecond":{seconds!r}'
        )

    def size(self, size_byte: int, api_id: ApiId) -> EncodedEvent:
        """Encode how many bytes an answer had.

        Raises:
            TypeError: If an argument has the wrong type.
            ValueError: If the size is not from 0 to 2**31 - 1.
        """
        return self._metrics("SizeMetricsEvent", f'{_api(api_id)},"labels":{self._tag_label}{_size(size_byte)}')

    def error(self, error: BaseException, api_id: ApiId) -> EncodedEvent:
        """Encode a failed operation, as the message for its class of failure.

        Raises:
            TypeError: If an argument has the wrong type.
            UnreportedError: If the failure has no metrics event (401, 403).
        """
        if not isinstance(error, BaseException):
            raise TypeError(f"error must be an exception, not {type(error).__name__}")
        detail = error_detail(error)
        if detail is None:
            raise UnreportedError("401 and 403 have no metrics event: they are logged")
        return self._metrics(detail.message, f'{_api(api_id)},"labels":{self._labels(**detail.labels)}')

    def _metrics(self, message: str, fields: str) -> EncodedEvent:
        body = (
            f'{{"id":"{self._new_id()}","event":{{"@type":"{_TYPE}MetricsEvent","timestamp":"{int(self._now())}",'
            f'"event":{{"@type":"{_TYPE}{message}"{fields}}}{self._source}}}}}'
        )
        return EncodedEvent(EventKind.METRICS, body.encode())

    def _labels(self, **labels: str) -> str:
        return _map_json({"tag": self._tag, **labels})

    def _seed_tag(self) -> str:
        return f',"tag":{_text(self._tag)}' if self._tag else ""


def _user_json(user: User) -> str:
    """Return what an event says about ``user``, made once per user.

    Raises:
        TypeError: If it is not a User.
    """
    if not isinstance(user, User):
        raise TypeError(f"user must be a User, not {type(user).__name__}")
    encoded = user._encoded  # noqa: SLF001 - the user carries the encoding, this module makes it
    if not encoded:
        user_id = _text(user.id)
        data = f',"data":{_map_json(user.attributes)}' if user.attributes else ""
        encoded = f'"userId":{user_id},"user":{{"id":{user_id}{data}}}'
        object.__setattr__(user, "_encoded", encoded)
    return encoded


def _evaluation_json(evaluation: Evaluation) -> str:
    """Return what an event says about an evaluation, made once for all users that it was made for."""
    carrier = evaluation._prototype or evaluation  # noqa: SLF001 - as with the user
    encoded = carrier._encoded  # noqa: SLF001
    if not encoded:
        version = f',"featureVersion":{carrier.feature_version:d}' if carrier.feature_version else ""
        variation = f',"variationId":{_text(carrier.variation_id)}' if carrier.variation_id else ""
        reason = _reason_json(carrier.reason)
        encoded = f'"featureId":{_text(carrier.feature_id)}{version}{variation},"reason":{reason}'
        object.__setattr__(carrier, "_encoded", encoded)
    return encoded


def _map_json(entries: Mapping[str, str]) -> str:
    return "{" + ",".join(f"{_text(key)}:{_text(value)}" for key, value in entries.items()) + "}"


def _reason_json(reason: Reason) -> str:
    fields = []
    if reason.type:
        fields.append(f'"type":{reason.type:d}')
    if reason.rule_id:
        fields.append(f'"ruleId":{_text(reason.rule_id)}')
    return "{" + ",".join(fields) + "}"


def _api(api_id: ApiId) -> str:
    return f',"apiId":{check_enum("api_id", api_id, ApiId):d}'


def _size(size_byte: int) -> str:
    size = check_int32("size_byte", size_byte, minimum=0)
    return f',"sizeByte":{size:d}' if size else ""


def _finite(name: str, value: object) -> float:
    number = value if type(value) is float else _as_float(name, value)
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, not {number}")
    return number


def _as_float(name: str, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} must be a float or an int, not {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} must fit into a double") from None


def _seconds(duration: object) -> float:
    seconds = _finite("duration", duration)
    if not 0 <= seconds <= _MAX_DURATION:
        raise ValueError(f"duration must be from 0 to {_MAX_DURATION:.0f} seconds, not {seconds}")
    return seconds


def _duration_text(seconds: float) -> str:
    """Return proto3 JSON's form of a Duration: 0, 3, 6 or 9 decimals."""
    whole, nanos = divmod(round(seconds * 1_000_000_000), 1_000_000_000)
    if not nanos:
        return f"{whole}s"
    decimals = f"{nanos:09d}"
    while decimals.endswith("000"):
        decimals = decimals[:-3]
    return f"{whole}.{decimals}s"
