"""The asyncio-native Python SDK for Bucketeer, the open-source feature-flag and experimentation service."""

from bucketeer_async._client import Client
from bucketeer_async._errors import (
    ApiError,
    BucketeerError,
    ClosedError,
    ConfigurationError,
    ConnectionFailedError,
    DecodeError,
    NotReadyError,
    RequestTimeoutError,
    StatusError,
    UndeliveredError,
    WrongLoopError,
)
from bucketeer_async._evaluation._explanation import (
    DecisiveStep,
    ExplainedClause,
    ExplainedFlag,
    ExplainedPrerequisite,
    ExplainedRollout,
    ExplainedRule,
    ExplainedSegment,
    Explanation,
)
from bucketeer_async._events._processor import Processor
from bucketeer_async._events._receipt import Receipt
from bucketeer_async._models import ApiId, Evaluation, EvaluationDetails, EventKind, Reason, ReasonType, User
from bucketeer_async._options import LocalEvaluation, ProcessorConfig, RetryPolicy, Spool
from bucketeer_async._results import (
    DrainCounts,
    DrainReport,
    Drop,
    DroppedReason,
    EventCounts,
    Fate,
    FlagChanges,
    LocalEvaluationStatistics,
    Outcome,
    RefusedReason,
    RemoteEvaluationStatistics,
    SnapshotSource,
    SpoolStatistics,
    Statistics,
)
from bucketeer_async._transport._api import ApiClient
from bucketeer_async._version import __version__

# Kept until 1.0: the responses of the endpoints have moved to `bucketeer_async.api`.
from .api import Definitions as Definitions
from .api import EventError as EventError
from .api import GetEvaluationResponse as GetEvaluationResponse
from .api import GetEvaluationsResponse as GetEvaluationsResponse
from .api import GetFeatureFlagsResponse as GetFeatureFlagsResponse
from .api import GetSegmentUsersResponse as GetSegmentUsersResponse
from .api import RegisterEventsResponse as RegisterEventsResponse

__all__ = [
    "ApiClient",
    "ApiError",
    "ApiId",
    "BucketeerError",
    "Client",
    "ClosedError",
    "ConfigurationError",
    "ConnectionFailedError",
    "DecisiveStep",
    "DecodeError",
    "DrainCounts",
    "DrainReport",
    "Drop",
    "DroppedReason",
    "Evaluation",
    "EvaluationDetails",
    "EventCounts",
    "EventKind",
    "ExplainedClause",
    "ExplainedFlag",
    "ExplainedPrerequisite",
    "ExplainedRollout",
    "ExplainedRule",
    "ExplainedSegment",
    "Explanation",
    "Fate",
    "FlagChanges",
    "LocalEvaluation",
    "LocalEvaluationStatistics",
    "NotReadyError",
    "Outcome",
    "Processor",
    "ProcessorConfig",
    "Reason",
    "ReasonType",
    "Receipt",
    "RefusedReason",
    "RemoteEvaluationStatistics",
    "RequestTimeoutError",
    "RetryPolicy",
    "SnapshotSource",
    "Spool",
    "SpoolStatistics",
    "Statistics",
    "StatusError",
    "UndeliveredError",
    "User",
    "WrongLoopError",
    "__version__",
]

# Where an object is shown (a repr, a traceback, help()), its class has the name that users import. The classes that are
# left out have annotations that `typing.get_type_hints` can look up only in the module that defines them.
for _cls in (
    ApiClient,
    ApiError,
    ApiId,
    BucketeerError,
    Client,
    ClosedError,
    ConfigurationError,
    ConnectionFailedError,
    DecisiveStep,
    DecodeError,
    DrainCounts,
    DrainReport,
    Drop,
    DroppedReason,
    Evaluation,
    EventKind,
    ExplainedClause,
    ExplainedFlag,
    ExplainedPrerequisite,
    ExplainedRollout,
    ExplainedRule,
    ExplainedSegment,
    Explanation,
    Fate,
    FlagChanges,
    LocalEvaluationStatistics,
    NotReadyError,
    Outcome,
    Processor,
    Reason,
    ReasonType,
    Receipt,
    RefusedReason,
    RemoteEvaluationStatistics,
    RequestTimeoutError,
    RetryPolicy,
    SnapshotSource,
    SpoolStatistics,
    Statistics,
    StatusError,
    UndeliveredError,
    WrongLoopError,
):
    _cls.__module__ = __name__
