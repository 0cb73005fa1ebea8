"""Local flag evaluation: plain values and functions that compute the same variations as the server.

The way begins at `evaluate` in `_evaluate`, with a `Snapshot` of all flags and segments: `_prerequisites` orders the flags
that a flag depends on, `_flags` has one compiled flag and chooses its variation, by `_rules`, their `_clauses`,
`_segments` and the `_rollout` of percentages. `_fields` reads definitions, `_murmur`, `_versions` and `_yaml` are what
the server computes with. No await, no clock, no request: where the definitions come from is left to `_flags` beside
this folder.
"""

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
