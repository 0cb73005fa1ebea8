"""Local flag evaluation: plain values and functions that compute the same variations as the server.

::

    evaluate             _evaluate: where the way begins; evaluates the flag's dependencies first, the flag itself last
      Snapshot.order     _snapshot, _prerequisites: the dependencies in the order of their evaluation
      Flag.serve         _flags: prerequisites and the off variation, targets, rules, the default strategy
        Condition        _rules, _clauses, _segments, _versions: whether a rule matches the user
        Strategy         _rollout, _murmur: which variation a rule or the default chooses

`explain` in `_explain`, to be imported from there, has the same evaluator record what it tries, and returns an
`Explanation` (`_explanation`).

- `compile_flag` and `compile_segment` make flags and segments from parsed JSON, whose fields are read by `_fields`.
- `_errors` has the causes of failures; `_yaml` and `_yaml_loader` convert the values of YAML flags.

The names below are loaded with their modules when they are first used: of a client whose flags the gateway evaluates, only
the errors are.

No function waits, reads a clock, or logs. Elsewhere: how flags are fetched and cached, the caller's default, and events
(the folder `_flags` of the package).
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bucketeer_async._evaluation._errors import EvaluationCause, EvaluationError, MalformedError
    from bucketeer_async._evaluation._evaluate import evaluate
    from bucketeer_async._evaluation._explanation import Explanation
    from bucketeer_async._evaluation._flags import (
        Flag,
        Served,
        Variation,
        compile_flag,
        dependencies,
        lacks_yaml,
        segments,
    )
    from bucketeer_async._evaluation._segments import Segment, SegmentBuilder, compile_segment
    from bucketeer_async._evaluation._snapshot import Snapshot

__all__ = [
    "EvaluationCause",
    "EvaluationError",
    "Explanation",
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

_NAMES = {
    "_errors": ("EvaluationCause", "EvaluationError", "MalformedError"),
    "_evaluate": ("evaluate",),
    "_explanation": ("Explanation",),
    "_flags": ("Flag", "Served", "Variation", "compile_flag", "dependencies", "lacks_yaml", "segments"),
    "_segments": ("Segment", "SegmentBuilder", "compile_segment"),
    "_snapshot": ("Snapshot",),
}


def __getattr__(name: str) -> object:
    for module, names in _NAMES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
