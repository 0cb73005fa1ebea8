"""The responses and definitions of the gateway's endpoints, as `ApiClient` returns them.

For applications that talk to the gateway themselves. Flags and goals need none of these: see `Client`.
"""

from bucketeer_async._transport._responses import (
    Definitions,
    EventError,
    GetEvaluationResponse,
    GetEvaluationsResponse,
    GetFeatureFlagsResponse,
    GetSegmentUsersResponse,
    RegisterEventsResponse,
)

__all__ = [
    "Definitions",
    "EventError",
    "GetEvaluationResponse",
    "GetEvaluationsResponse",
    "GetFeatureFlagsResponse",
    "GetSegmentUsersResponse",
    "RegisterEventsResponse",
]
