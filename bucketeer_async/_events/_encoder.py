"""Encoding of events. All timestamps and ids of events are made in this module.

An event is encoded as canonical proto3 JSON, with enums as numbers because the gateway silently reads an unknown name
as 0. The tests compare the templates with ``json_format``. Queueing the events is left to `_ledger.py`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import fields
from json.encoder import encode_basestring as _text
from math import copysign, inf, isfinite
from typing import Final, NoReturn, SupportsFloat, TypeGuard

from bucketeer_async._events._error_metrics import error_detail
from bucketeer_async._models import (
    ApiId,
    Evaluation,
    Reason,
    ReasonType,
    User,
    check_enum,
    check_int32,
    check_text,
    check_user,
)

#: Position of the event's id in every body. A separate str would take 85 bytes per event.
EVENT_ID: Final = slice(7, 43)

_MAX_DURATION: Final = 315_576_000_000.0  # seconds; the largest google.protobuf.Duration
_LEAST_LATENCY: Final = 1e-9  # seconds; the gateway silently discards a latency of 0
_KEPT_GOALS: Final = 1000  # fields of goal ids, and of values
_LONGEST_KEPT_GOAL: Final = 200  # characters
_BLANK_ID: Final = b"........-....-....-....-............ "
_DIGIT_COLUMNS: Final = [column for column, place in enumerate(_BLANK_ID) if place == ord(".")]
_VERSION_4: Final = bytes(byte & 0x0F | 0x40 for byte in range(256))  # translates byte 6 (RFC 9562)
_VARIANT_1: Final = bytes(byte & 0x3F | 0x80 for byte in range(256))  # translates byte 8


class UnreportedError(ValueError):
    """The error has no metrics event: 401 and 403 are errors of the application's configuration."""


class TooLargeError(ValueError):
    """The event alone is larger than ``flush_max_bytes``."""


class IdPool:
    """Generates version 4 UUIDs from pooled randomness; safe for use from any thread."""

    def __init__(self, size: int = 1024) -> None:
        self._size = size
        self._ids: list[str] = []

    def __call__(self) -> str:
        while True:
            try:
                return self._ids.pop()  # atomic: no two threads get the same id
            except IndexError:
                self._ids.extend(self._fresh())

    def _fresh(self) -> list[str]:
        numbers = bytearray(os.urandom(16 * self._size))
        numbers[6::16] = numbers[6::16].translate(_VERSION_4)
        numbers[8::16] = numbers[8::16].translate(_VARIANT_1)
        digits = numbers.hex().encode()
        ids = bytearray(_BLANK_ID * self._size)
        for place, column in enumerate(_DIGIT_COLUMNS):  # a digit of all ids at once, which is three times as fast
            ids[column :: len(_BLANK_ID)] = digits[place :: len(_DIGIT_COLUMNS)]
        return ids.decode().split()


class EventFactory:
    """Encodes the events of a processor.

    Args:
        tag: Tag of every event.
        source_id: Number of a ``bucketeer.event.client.SourceId``; 0 is UNKNOWN, which proto3 JSON omits.
        sdk_version: Version of the SDK.
        max_bytes: Largest size of an event.
        now: Returns the Unix time, in seconds.
        new_id: Returns a new event id, a version 4 UUID.

    Every method returns an event as JSON, an element of ``RegisterEventsRequest.events``, and raises a `TooLargeError`
    if it is too large.
    """

    def __init__(
        self,
        *,
        tag: str,
        source_id: int,
        sdk_version: str,
        max_bytes: float = inf,
        now: Callable[[], float] = time.time,
        new_id: Callable[[], str] | None = None,
    ) -> None:
        self._now = now
        self._new_id = new_id or IdPool()
        self._max_bytes = max_bytes
        self._second: tuple[int, int, str] = (0, 0, "")  # one tuple: no thread sees half of a change
        self._goals: dict[str, str] = {}
        self._amounts: dict[float, str] = {}
        self._tag = tag
        self._tag_label = _map_json({"tag": tag})
        self._local_latency = f'{_api(ApiId.SDK_GET_VARIATION)},"labels":{self._tag_label},"latencySecond":'
        source = f',"sourceId":{source_id}' if source_id else ""
        self._source = source + (f',"sdkVersion":{_text(sdk_version)}' if sdk_version else "")
        self._end = (f',"tag":{_text(tag)}' if tag else "") + self._source + "}}"

    def evaluation(self, user: User, evaluation: Evaluation) -> bytes:
        """Encode an evaluation event: ``user`` was served the variation of ``evaluation``.

        Raises:
            TypeError: If an argument has the wrong type.
        """
        if type(evaluation) is not Evaluation:
            evaluation = checked_evaluation(evaluation)
        shared = evaluation._prototype or evaluation  # noqa: SLF001 - the caches of this module
        return self._evaluation(user, shared._encoded or _evaluation_json(shared))  # noqa: SLF001

    def default_evaluation(self, user: User, feature_id: str, reason: ReasonType) -> bytes:
        """Encode an evaluation event: ``user`` was served the caller's default.

        Raises:
            TypeError: If an argument has the wrong type.
            ValueError: If the feature id is empty or not valid Unicode, or the reason is not for a default.
        """
        check_text("feature_id", feature_id, empty=False)
        if not check_enum("reason", reason, ReasonType).is_error:
            raise ValueError(
                f"reason must be CLIENT or one of ERROR_*, the reasons for serving a default, not {reason.name}"
            )
        return self._evaluation(user, f'"featureId":{_text(feature_id)},"reason":{{"type":{reason:d}}}')

    def _evaluation(self, user: User, fields: str) -> bytes:
        user_fields = (user._encoded if type(user) is User else "") or _user_json(user)  # noqa: SLF001 - see there
        begin, end, second = self._second
        if not begin <= (now := self._now()) < end:
            second = self._begin_second(now)
        body = (
            f'{{"id":"{self._new_id()}","event":{{"@type":"type.googleapis.com/bucketeer.event.client.EvaluationEvent",'
            f'"timestamp":"{second}",{fields},{user_fields}{self._end}'
        ).encode()
        return body if len(body) <= self._max_bytes else self._too_large(body)

    def goal(self, user: User, goal_id: str, value: SupportsFloat) -> bytes:
        """Encode a goal event: ``user`` reached the goal.

        Raises:
            TypeError: If an argument has the wrong type; the value may be any real number, but not a bool.
            ValueError: If the goal id is empty or not valid Unicode, or the value is not a finite double.
        """
        goal = (self._goals.get(goal_id) if type(goal_id) is str else None) or self._goal_json(goal_id)
        amount = self._amounts.get(value) if type(value) is float else None
        if amount is None:
            amount = self._amount_json(value)
        user_fields = (user._encoded if type(user) is User else "") or _user_json(user)  # noqa: SLF001 - see there
        begin, end, second = self._second
        if not begin <= (now := self._now()) < end:
            second = self._begin_second(now)
        body = (
            f'{{"id":"{self._new_id()}","event":{{"@type":"type.googleapis.com/bucketeer.event.client.GoalEvent",'
            f'"timestamp":"{second}",{goal}{amount},{user_fields}{self._end}'
        ).encode()
        return body if len(body) <= self._max_bytes else self._too_large(body)

    def _goal_json(self, goal_id: str) -> str:
        """Return the field of a goal id; kept for the next time, as an application has few of them."""
        goal = f'"goalId":{_text(check_text("goal_id", goal_id, empty=False))}'
        if len(self._goals) < _KEPT_GOALS and len(goal_id) <= _LONGEST_KEPT_GOAL:
            self._goals[goal_id] = goal
        return goal

    def _amount_json(self, value: SupportsFloat) -> str:
        """Return the field of a goal's value; kept for the next time, as prices come again."""
        number = _finite("value", value)
        if not number:  # 0.0 and -0.0 are one key; the default, which proto3 JSON omits, is 0.0 but not -0.0
            return ',"value":-0.0' if copysign(1.0, number) < 0 else ""
        amount = f',"value":{number!r}'  # the shortest exact text of a double
        if len(self._amounts) < _KEPT_GOALS:
            self._amounts[number] = amount
        return amount

    def _begin_second(self, now: float) -> str:
        """Return a Unix time in whole seconds as text, which is kept while the second lasts."""
        second = int(now)
        text = str(second)
        self._second = (second, second + 1, text)
        return text

    def _too_large(self, body: bytes) -> NoReturn:
        raise TooLargeError(f"the event has {len(body)} bytes; flush_max_bytes is {self._max_bytes}")

    def get_evaluation_latency(self, duration: float) -> bytes:
        """Encode a ``GetEvaluationLatencyMetricsEvent``; ``duration`` is in seconds.

        Raises:
            TypeError: If the duration is not a number.
            ValueError: If the duration is not from 0 to 315,576,000,000, the largest protobuf Duration.
        """
        text = _duration_text(_seconds(duration))
        return self._metrics(
            "GetEvaluationLatencyMetricsEvent", f',"labels":{self._labels(state="FULL")},"duration":"{text}"'
        )

    def get_evaluation_size(self, size_byte: int) -> bytes:
        """Encode a ``GetEvaluationSizeMetricsEvent``; ``size_byte`` is in bytes.

        Raises:
            TypeError: If the size is not an int.
            ValueError: If the size is not from 0 to 2**31 - 1.
        """
        return self._metrics(
            "GetEvaluationSizeMetricsEvent", f',"labels":{self._labels(state="FULL")}{_size(size_byte)}'
        )

    def timeout_error_count(self) -> bytes:
        """Encode a ``TimeoutErrorCountMetricsEvent``."""
        return self._metrics("TimeoutErrorCountMetricsEvent", self._tag_field())

    def internal_error_count(self) -> bytes:
        """Encode an ``InternalErrorCountMetricsEvent``."""
        return self._metrics("InternalErrorCountMetricsEvent", self._tag_field())

    def latency(self, duration: float, api_id: ApiId) -> bytes:
        """Encode the latency of an operation, in seconds.

        A duration of 0 is encoded as a nanosecond, because the gateway silently discards 0.

        Raises:
            TypeError: If an argument has the wrong type.
            ValueError: If the duration is not from 0 to 315,576,000,000, the largest protobuf Duration.
        """
        is_fine = type(duration) is float and _LEAST_LATENCY <= duration <= _MAX_DURATION
        seconds = duration if is_fine else max(_seconds(duration), _LEAST_LATENCY)
        fields = f'{_api(api_id)},"labels":{self._tag_label},"latencySecond":{seconds!r}'
        return self._metrics("LatencyMetricsEvent", fields)

    def local_latency(self, nanoseconds: int) -> bytes:
        """Encode the latency of an evaluation in this process, from 0 to 10**18 nanoseconds.

        Every local evaluation has such an event, so it is encoded in half the time of the others.
        """
        begin, end, second = self._second
        if not begin <= (now := self._now()) < end:
            second = self._begin_second(now)
        body = (  # a number with an exponent is JSON, too, and an int has its text sooner than a float
            f'{{"id":"{self._new_id()}","event":{{"@type":"type.googleapis.com/bucketeer.event.client.MetricsEvent",'
            f'"timestamp":"{second}","event":{{"@type":"type.googleapis.com/bucketeer.event.client.LatencyMetricsEvent"'
            f"{self._local_latency}{nanoseconds or 1}e-9}}{self._source}}}}}"
        ).encode()
        return body if len(body) <= self._max_bytes else self._too_large(body)

    def size(self, size_byte: int, api_id: ApiId) -> bytes:
        """Encode the size of an operation's response, in bytes.

        Raises:
            TypeError: If an argument has the wrong type.
            ValueError: If the size is not from 0 to 2**31 - 1.
        """
        return self._metrics("SizeMetricsEvent", f'{_api(api_id)},"labels":{self._tag_label}{_size(size_byte)}')

    def error(self, error: BaseException, api_id: ApiId) -> bytes:
        """Encode the error of an operation, as the message for the class of the error.

        Raises:
            TypeError: If an argument has the wrong type.
            UnreportedError: If the error has no metrics event (401 and 403).
        """
        if not isinstance(error, BaseException):
            raise TypeError(f"error must be an exception, not {type(error).__name__}")
        detail = error_detail(error)
        if detail is None:
            raise UnreportedError("the statuses 401 and 403 have no metrics event and are only logged")
        return self._metrics(detail.message, f'{_api(api_id)},"labels":{self._labels(**detail.labels)}')

    def _metrics(self, message: str, fields: str) -> bytes:
        begin, end, second = self._second
        if not begin <= (now := self._now()) < end:
            second = self._begin_second(now)
        body = (
            f'{{"id":"{self._new_id()}","event":{{"@type":"type.googleapis.com/bucketeer.event.client.MetricsEvent",'
            f'"timestamp":"{second}","event":{{"@type":"type.googleapis.com/bucketeer.event.client.{message}"{fields}}}'
            f"{self._source}}}}}"
        ).encode()
        return body if len(body) <= self._max_bytes else self._too_large(body)

    def _labels(self, **labels: str) -> str:
        return _map_json({"tag": self._tag, **labels})

    def _tag_field(self) -> str:
        return f',"tag":{_text(self._tag)}' if self._tag else ""


def _user_json(user: User) -> str:
    """Return the fields of an event that describe the user; encoded once per user.

    Raises:
        TypeError: If the argument is not a `User`.
    """
    user = check_user(user)
    encoded = user._encoded  # noqa: SLF001 - the cache of this module, kept in the user
    if not encoded:
        user_id = _text(user.id)
        data = f',"data":{_map_json(user.attributes)}' if user.attributes else ""
        encoded = f'"userId":{user_id},"user":{{"id":{user_id}{data}}}'
        object.__setattr__(user, "_encoded", encoded)
    return encoded


def checked_evaluation(evaluation: object) -> Evaluation:
    """Return an `Evaluation`; a copy of what is not of that very class, as `check_user` does with users.

    Raises:
        TypeError: If it is anything else.
    """
    if type(evaluation) is Evaluation:
        return evaluation
    if not isinstance(evaluation, Evaluation):
        raise TypeError(f"evaluation must be an Evaluation, not {type(evaluation).__name__}")
    return Evaluation(**{each.name: getattr(evaluation, each.name) for each in fields(Evaluation)})


def _evaluation_json(evaluation: Evaluation) -> str:
    """Return the fields of an event that describe the evaluation; encoded once for all copies of an evaluation."""
    version = f',"featureVersion":{evaluation.feature_version:d}' if evaluation.feature_version else ""
    variation = f',"variationId":{_text(evaluation.variation_id)}' if evaluation.variation_id else ""
    reason = _reason_json(evaluation.reason)
    encoded = f'"featureId":{_text(evaluation.feature_id)}{version}{variation},"reason":{reason}'
    object.__setattr__(evaluation, "_encoded", encoded)
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
    if not isinstance(api_id, ApiId):
        check_enum("api_id", api_id, ApiId)  # raises
    return f',"apiId":{api_id:d}'


def _size(size_byte: int) -> str:
    size = check_int32("size_byte", size_byte, minimum=0)
    return f',"sizeByte":{size:d}' if size else ""


def _finite(name: str, value: object) -> float:
    """Return a number as a float.

    Raises:
        TypeError: If it is not a real number.
        ValueError: If it is not finite, or does not fit into a double.
    """
    number = value if type(value) is float else _as_float(name, value)
    if not isfinite(number):
        raise ValueError(f"{name} must be finite, not {number}")
    return number


def _as_float(name: str, value: object) -> float:
    if isinstance(value, bool) or not (isinstance(value, int | float) or _is_other_real(value)):
        raise TypeError(f"{name} must be a real number, not {type(value).__name__}")
    try:
        return float(value)
    except (OverflowError, ValueError):  # 10**400; Decimal("sNaN")
        raise ValueError(f"{name} must be finite and fit into a double") from None


def _is_other_real(value: object) -> TypeGuard[SupportsFloat]:
    from decimal import Decimal  # noqa: PLC0415 - an application that has such a number has loaded its module
    from numbers import Real  # noqa: PLC0415 - likewise

    return isinstance(value, Real | Decimal)


def _seconds(duration: object) -> float:
    """Return a duration as a float.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is not in the range of a protobuf Duration, or negative.
    """
    seconds = _finite("duration", duration)
    if not 0 <= seconds <= _MAX_DURATION:
        raise ValueError(f"duration must be from 0 to {_MAX_DURATION:.0f} seconds, not {seconds}")
    return seconds


def _duration_text(seconds: float) -> str:
    """Return a Duration in proto3 JSON, which has 0, 3, 6 or 9 decimals."""
    whole, nanos = divmod(round(seconds * 1_000_000_000), 1_000_000_000)
    if not nanos:
        return f"{whole}s"
    decimals = f"{nanos:09d}"
    while decimals.endswith("000"):
        decimals = decimals[:-3]
    return f"{whole}.{decimals}s"
