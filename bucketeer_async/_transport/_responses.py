"""What the coroutines of `ApiClient` return: frozen values, decoded by `_transport/_codec.py`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

from bucketeer_async._models import Evaluation


class Definitions(Sequence[dict[str, Any]]):  # noqa: PLW1641 - unhashable, as a list
    """JSON objects, kept as texts: each is parsed when it is asked for.

    Equal to any sequence of the same objects.

    Args:
        texts: The JSON of each.
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
    """Why the gateway did not take one event.

    Attributes:
        retriable: Whether the same event may be taken when sent again.
        message: The gateway's words.
    """

    retriable: bool
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterEventsResponse:
    """Answer of ``/register_events``.

    Attributes:
        errors: The events that were not taken, by id; empty if all were.
        server_time: When the gateway answered by its own clock, in Unix seconds; None if it does not say.
    """

    errors: Mapping[str, EventError]
    server_time: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GetEvaluationResponse:
    """Answer of ``/get_evaluation``.

    Attributes:
        evaluation: The variation, or None if the gateway left it out.
        size_byte: Bytes received.
    """

    evaluation: Evaluation | None
    size_byte: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GetEvaluationsResponse:
    """Answer of ``/get_evaluations``.

    Attributes:
        evaluations: Variations of all flags of the tag, or of those that changed.
        archived_feature_ids: Flags to forget.
        user_evaluations_id: To be sent with the next request.
        created_at: Server time, in Unix seconds; to be sent as ``evaluated_at`` with the next request.
        force_update: Whether ``evaluations`` replace everything held before.
        size_byte: Bytes received.
    """

    evaluations: list[Evaluation]
    archived_feature_ids: list[str]
    user_evaluations_id: str
    created_at: int
    force_update: bool
    size_byte: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GetFeatureFlagsResponse:
    """Answer of ``/get_feature_flags``.

    Attributes:
        features: Flag definitions, as the parsed JSON of ``bucketeer.feature.Feature``.
        archived_feature_flag_ids: Flags to forget.
        feature_flags_id: To be sent with the next request.
        requested_at: Server time, in Unix seconds; to be sent with the next request.
        force_update: Whether ``features`` replace everything held before.
        size_byte: Bytes received.
    """

    features: Definitions
    archived_feature_flag_ids: list[str]
    feature_flags_id: str
    requested_at: int
    force_update: bool
    size_byte: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GetSegmentUsersResponse:
    """Answer of ``/get_segment_users``.

    Attributes:
        segment_users: Members and rules of segments, as the parsed JSON of ``bucketeer.feature.SegmentUsers``.
        deleted_segment_ids: Segments to forget.
        requested_at: Server time, in Unix seconds; to be sent with the next request.
        force_update: Whether ``segment_users`` replace everything held before.
        size_byte: Bytes received.
    """

    segment_users: Definitions
    deleted_segment_ids: list[str]
    requested_at: int
    force_update: bool
    size_byte: int
