"""The asyncio-native Python SDK for Bucketeer, the open-source feature-flag and experimentation service."""

from bucketeer_async._api import ApiClient
from bucketeer_async._errors import (
    ApiError,
    BucketeerError,
    ClosedError,
    ConfigurationError,
    ConnectionFailedError,
    DecodeError,
    RequestTimeoutError,
    StatusError,
    UndeliveredError,
    WrongLoopError,
)
from bucketeer_async._models import (
    ApiId,
    DrainCounts,
    DrainReport,
    Drop,
    DroppedReason,
    Evaluation,
    EventCounts,
    EventKind,
    Fate,
    Outcome,
    Reason,
    ReasonType,
    RefusedReason,
    Statistics,
    User,
)
from bucketeer_async._options import ProcessorConfig, RetryPolicy
from bucketeer_async._processor import Processor
from bucketeer_async._records import Receipt
from bucketeer_async._responses import (
    EventError,
    GetEvaluationResponse,
    GetEvaluationsResponse,
    GetFeatureFlagsResponse,
    GetSegmentUsersResponse,
    RegisterEventsResponse,
)
from bucketeer_async._version import __version__

__all__ = [
    "ApiClient",
    "ApiError",
    "ApiId",
    "BucketeerError",
    "ClosedError",
    "ConfigurationError",
    "ConnectionFailedError",
    "DecodeError",
    "DrainCounts",
    "DrainReport",
    "Drop",
    "DroppedReason",
    "Evaluation",
    "EventCounts",
    "EventError",
    "EventKind",
    "Fate",
    "GetEvaluationResponse",
    "GetEvaluationsResponse",
    "GetFeatureFlagsResponse",
    "GetSegmentUsersResponse",
    "Outcome",
    "Processor",
    "ProcessorConfig",
    "Reason",
    "ReasonType",
    "Receipt",
    "RefusedReason",
    "RegisterEventsResponse",
    "RequestTimeoutError",
    "RetryPolicy",
    "Statistics",
    "StatusError",
    "UndeliveredError",
    "User",
    "WrongLoopError",
    "__version__",
]
