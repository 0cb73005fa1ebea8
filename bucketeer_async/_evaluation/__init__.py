"""Local flag evaluation: plain values and functions that compute the same variations as the server."""

from bucketeer_async._evaluation._errors import EvaluationCause, EvaluationError, MalformedError
from bucketeer_async._evaluation._evaluate import evaluate
from bucketeer_async._evaluation._flags import Flag, Served, Variation, compile_flag, dependencies, lacks_yaml, segments
from bucketeer_async._evaluation._segments import Segment, SegmentBuilder, compile_segment
from bucketeer_async._evaluation._snapshot import Snapshot

__all__ = [
    "EvaluationCause",
    "EvaluationError",
    "Flag",
    "MalformedError",
    "Segment",
    "SegmentBuilder",
    "Served",
    "Snapshot",
    "Variation",
    "compile_flag",
    "compile_segment",
    "dependencies",
    "evaluate",
    "lacks_yaml",
    "segments",
]
