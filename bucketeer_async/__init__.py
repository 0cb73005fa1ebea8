"""The asyncio-native Python SDK for Bucketeer, the open-source feature-flag and experimentation service."""

from bucketeer_async._api import ApiClient
from bucketeer_async._client import Client
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
from bucketeer_async._models import ApiId, Evaluation, EvaluationDetails, EventKind, Reason, ReasonType, User
from bucketeer_async._options import ProcessorConfig, RetryPolicy, Spool
from bucketeer_async._processor import Processor
from bucketeer_async._records import Receipt
from bucketeer_async._reports import (
    DrainCounts,
    DrainReport,
    Drop,
    DroppedReason,
    EventCounts,
    Fate,
    Outcome,
    RefusedReason,
    SpoolStatistics,
    Statistics,
)
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
    "Client",
    "ClosedError",
    "ConfigurationError",
    "ConnectionFailedError",
    "DecodeError",
    "DrainCounts",
    "DrainReport",
    "Drop",
    "DroppedReason",
    "Evaluation",
    "EvaluationDetails",
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
    "Spool",
    "SpoolStatistics",
    "Statistics",
    "StatusError",
    "UndeliveredError",
    "User",
    "WrongLoopError",
    "__version__",
]
