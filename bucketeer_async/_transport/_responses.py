"""Responses of the gateway, as `ApiClient` returns them. Decoding is left to `_codec.py`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, overload

from bucketeer_async._dataclasses import dataclass
from bucketeer_async._models import Evaluation


class Definitions(Sequence[dict[str, Any]]):  # noqa: PLW1641 - unhashable, as a list
    """A sequence of JSON objects that are stored as text; each access parses the object.

    Equal to any sequence of equal objects.

    Args:
        texts: The JSON text of each object.
    """

    __slots__ = ("texts",)

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts: list[str] = list(texts)

    def __len__(self) -> int:
        return len(self.texts)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> Definitions: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | Definitions:
        if isinstance(index, slice):
            return Definitions(self.texts[index])
        parsed: dict[str, Any] = json.loads(self.texts[index])
        return parsed

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def __repr__(self) -> str:
        return f"<{len(self)} definitions>"


@dataclass(frozen=True, slots=True)
class EventError:
    """Why the gateway did not accept an event.

    Attributes:
        retriable: Whether the gateway may accept the event when it is sent again.
        message: The gateway's message.
    """

    retriable: bool
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterEventsResponse:
    """Response of ``/register_events``.

    Attributes:
        errors: Errors by event id; empty if all events were accepted.
        server_time: Time of the response by the gateway's clock, in Unix seconds; None if the response has no date.
    """

    errors: Mapping[str, EventError]
    server_time: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GetEvaluationResponse:
    """Response of ``/get_evaluation``.

    Attributes:
        evaluation: The evaluation; None if the response has no evaluation.
        size_byte: Size of the response, in bytes.
    """

    evaluation: Evaluation | None
    size_byte: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GetEvaluationsResponse:
    """Response of ``/get_evaluations``.

    Attributes:
        evaluations: Evaluations of all flags of the tag, or of the flags that changed.
        archived_feature_ids: Ids of the flags to remove from a cache.
        user_evaluations_id: Id to send with the next request.
        created_at: Time of the response by the gateway's clock, in Unix seconds; send it as ``evaluated_at`` with the
            next request.
        force_update: Whether ``evaluations`` replaces the whole cache.
        size_byte: Size of the response, in bytes.
    """

    evaluations: list[Evaluation]
    archived_feature_ids: list[str]
    user_evaluations_id: str
    created_at: int
    force_update: bool
    size_byte: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GetFeatureFlagsResponse:
    """Response of ``/get_feature_flags``.

    Attributes:
        features: Flag definitions, as the parsed JSON of ``bucketeer.feature.Feature``.
        archived_feature_flag_ids: Ids of the flags to remove from a cache.
        feature_flags_id: Id to send with the next request.
        requested_at: Time of the response by the gateway's clock, in Unix seconds; send it with the next request.
        force_update: Whether ``features`` replaces the whole cache.
        size_byte: Size of the response, in bytes.
    """

    features: Definitions
    archived_feature_flag_ids: list[str]
    feature_flags_id: str
    requested_at: int
    force_update: bool
    size_byte: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GetSegmentUsersResponse:
    """Response of ``/get_segment_users``.

    Attributes:
        segment_users: Members and rules of segments, as the parsed JSON of ``bucketeer.feature.SegmentUsers``.
        deleted_segment_ids: Ids of the segments to remove from a cache.
        requested_at: Time of the response by the gateway's clock, in Unix seconds; send it with the next request.
        force_update: Whether ``segment_users`` replaces the whole cache.
        size_byte: Size of the response, in bytes.
    """

    segment_users: Definitions
    deleted_segment_ids: list[str]
    requested_at: int
    force_update: bool
    size_byte: int


for _cls in (Definitions, EventError, GetFeatureFlagsResponse, GetSegmentUsersResponse):  # as in the root
    _cls.__module__ = "bucketeer_async.api"
