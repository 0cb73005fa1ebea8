"""The asyncio-native Python SDK for Bucketeer, the open-source feature-flag and experimentation service."""

import contextlib
import importlib
import typing

from bucketeer_async._bound_client import BoundClient
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
from bucketeer_async._events._processor import Processor
from bucketeer_async._events._receipt import Receipt
from bucketeer_async._flags._user_evaluations import UserEvaluations
from bucketeer_async._hooks import Subscription
from bucketeer_async._models import ApiId, Evaluation, EvaluationDetails, EventKind, Reason, ReasonType, User
from bucketeer_async._notices import CheckReport, ClientState, ClientStatus, FlagEvaluation
from bucketeer_async._options import ProcessorConfig, RetryPolicy
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

__all__ = [
    "ApiClient",
    "ApiError",
    "ApiId",
    "BoundClient",
    "BucketeerError",
    "CheckReport",
    "Client",
    "ClientState",
    "ClientStatus",
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
    "FlagEvaluation",
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
    "Subscription",
    "UndeliveredError",
    "User",
    "UserEvaluations",
    "WrongLoopError",
    "__version__",
]

#: What few clients need is loaded when a module names it, so that a client made on the event loop loads nothing: by name,
#: the module that has it, and those that it is for.
_LOADED_LATER = {
    "LocalEvaluation": ("_options", "_flags._local", "_flags._poller"),
    "Spool": ("_options", "_events._spool_writer"),
    **dict.fromkeys(
        (
            *("DecisiveStep", "ExplainedClause", "ExplainedFlag", "ExplainedPrerequisite"),
            *("ExplainedRollout", "ExplainedRule", "ExplainedSegment", "Explanation"),
        ),
        ("_evaluation._explanation",),
    ),
    # Kept until 1.0: the responses of the endpoints have moved to `bucketeer_async.api`.
    **dict.fromkeys(
        (
            *("Definitions", "EventError", "GetEvaluationResponse", "GetEvaluationsResponse"),
            *("GetFeatureFlagsResponse", "GetSegmentUsersResponse", "RegisterEventsResponse"),
        ),
        ("api",),
    ),
}

if typing.TYPE_CHECKING:
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
    from bucketeer_async._options import LocalEvaluation, Spool

    from .api import Definitions as Definitions
    from .api import EventError as EventError
    from .api import GetEvaluationResponse as GetEvaluationResponse
    from .api import GetEvaluationsResponse as GetEvaluationsResponse
    from .api import GetFeatureFlagsResponse as GetFeatureFlagsResponse
    from .api import GetSegmentUsersResponse as GetSegmentUsersResponse
    from .api import RegisterEventsResponse as RegisterEventsResponse
else:

    def __getattr__(name):
        if name not in _LOADED_LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module, *others = [f"{__name__}.{each}" for each in _LOADED_LATER[name]]
        for each in others:
            with contextlib.suppress(ImportError):  # of SQLite, which is missed where a spool is used
                importlib.import_module(each)
        globals()[name] = getattr(importlib.import_module(module), name)
        return globals()[name]

    def __dir__():
        return sorted({*globals(), *__all__})


# Where an object is shown (a repr, a traceback, help()), its class has the name that users import. The classes that are
# left out have annotations that `typing.get_type_hints` can look up only in the module that defines them.
for _cls in (
    ApiClient,
    ApiError,
    ApiId,
    BoundClient,
    BucketeerError,
    Client,
    ClientState,
    ClientStatus,
    ClosedError,
    ConfigurationError,
    ConnectionFailedError,
    DecodeError,
    DrainCounts,
    DrainReport,
    Drop,
    DroppedReason,
    Evaluation,
    EventKind,
    Fate,
    FlagChanges,
    FlagEvaluation,
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
    Subscription,
    UndeliveredError,
    UserEvaluations,
    WrongLoopError,
):
    _cls.__module__ = __name__
