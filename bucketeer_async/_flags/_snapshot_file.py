"""The file format of snapshots: exported by ``export_snapshot()``, and loaded as ``LocalEvaluation.bootstrap``.

A file is two lines of UTF-8. The first line is a JSON object, the header: ``format``, ``version``, and ``sha256``, the
hash of the second line. The second line is a JSON object::

    {"tag": "shop",
     "environment": false,         whether flags without the tag are included
     "savedAt": 1700000000.0,      Unix seconds; when the gateway last confirmed the flags
     "features": [...],            flags as the gateway sent them
     "segments": [{"segmentId": "...", "rules": [...], "users": ["user-1", ...], "strays": {"segment": ["user-2"]}}]}

``strays`` are the `Segment.misfiled_members`. A file of another version is rejected.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any, Final

from bucketeer_async._dataclasses import dataclass, field
from bucketeer_async._errors import ConfigurationError
from bucketeer_async._evaluation import MalformedError, Segment, compile_segment
from bucketeer_async._flags._definitions import FlagDefinition, SegmentDefinition, Steps, rules_json
from bucketeer_async._flags._sync import CachedFlags, CachedSegments, apply_flags
from bucketeer_async._transport._json_reader import Reader
from bucketeer_async._transport._responses import Definitions, GetFeatureFlagsResponse

_FORMAT: Final = "bucketeer-async-snapshot"
_VERSION: Final = 1
_USERS_PER_STEP: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedSnapshot:
    """The content of a snapshot file.

    Attributes:
        tag: The tag for which the flags were polled.
        environment: Whether flags without the tag are included.
        saved_at: When the gateway last confirmed that the flags were up to date, in Unix seconds.
        features: The flags, as JSON.
        segments: The segments, in the form of the file.
    """

    tag: str
    environment: bool
    saved_at: float
    features: list[str] = field(repr=False)
    segments: list[dict[str, Any]] = field(repr=False)


def dump(
    flags: Mapping[str, FlagDefinition],
    segments: Mapping[str, SegmentDefinition],
    *,
    tag: str,
    environment: bool,
    saved_at: float,
) -> bytes:
    """Return the content of a snapshot file. May run in any thread; gives way to other threads between the parts."""
    features = ",".join(each.text for each in flags.values())
    members = ",".join(_segment_json(each.segment, each) for each in segments.values() if each.segment)
    head = _to_json({"tag": tag, "environment": environment, "savedAt": saved_at})
    body = f'{head[:-1]},"features":[{features}],"segments":[{members}]}}'.encode()
    header = {"format": _FORMAT, "version": _VERSION, "sha256": hashlib.sha256(body).hexdigest()}
    return f"{_to_json(header)}\n".encode() + body + b"\n"


def _to_json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _segment_json(segment: Segment, definition: SegmentDefinition) -> str:
    users = ",".join(_texts_json(segment.members))
    strays = {segment_id: list(each) for segment_id, each in segment.misfiled_members.items()}
    head = _to_json({"segmentId": segment.id, "strays": strays})
    return f'{head[:-1]},"rules":{definition.rules},"users":[{users}]}}'


def _texts_json(texts: AbstractSet[str]) -> Iterator[str]:
    listed = list(texts)
    for start in range(0, len(listed), _USERS_PER_STEP):
        yield _to_json(listed[start : start + _USERS_PER_STEP])[1:-1]


def load(data: bytes, tag: str) -> SavedSnapshot:
    """Read the content of a snapshot file.

    Args:
        data: The content, as `dump` returned it.
        tag: The tag for which the flags must have been polled.

    Raises:
        ConfigurationError: If the data is not a snapshot file, is damaged, or has another version or tag.
    """
    first, _, rest = data.partition(b"\n")
    body = rest.removesuffix(b"\n")
    _check_header(first, body)
    try:
        saved = _read(body.decode())
    except ConfigurationError:
        raise
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _invalid_bootstrap(f"the data cannot be read ({type(error).__name__})") from None
    if saved.tag != tag:
        raise _invalid_bootstrap(f"the flags are of the tag {saved.tag!r}, not {tag!r}")
    return saved


def _read(text: str) -> SavedSnapshot:
    reader, fields = Reader(text), dict[str, Any]()
    for key in reader.members():
        if key == "features":
            fields[key] = [_text(reader) for _ in reader.entries()]
        elif key == "segments":
            fields[key] = [reader.value() for _ in reader.entries()]
        else:
            fields[key] = reader.value()
    return SavedSnapshot(
        tag=fields["tag"],
        environment=bool(fields["environment"]),
        saved_at=float(fields["savedAt"]),
        features=fields["features"],
        segments=fields["segments"],
    )


def _text(reader: Reader) -> str:
    start = reader.index
    if not isinstance(reader.value(), dict):
        raise _invalid_bootstrap("a flag cannot be read")
    return reader.text[start : reader.index]


def _check_header(line: bytes, body: bytes) -> None:
    try:
        header = json.loads(line)
    except (ValueError, RecursionError):
        raise _invalid_bootstrap("the data does not begin with a header") from None
    if not isinstance(header, dict) or header.get("format") != _FORMAT:
        raise _invalid_bootstrap("the data does not begin with a header")
    if header.get("version") != _VERSION:
        raise _invalid_bootstrap(f"the version is {header.get('version')!r}, not {_VERSION}")
    if header.get("sha256") != hashlib.sha256(body).hexdigest():
        raise _invalid_bootstrap("the data is damaged: the hash does not match")


def _invalid_bootstrap(reason: str) -> ConfigurationError:
    return ConfigurationError(f"LocalEvaluation.bootstrap must be what export_snapshot() returned: {reason}")


def restore(saved: SavedSnapshot) -> Steps[tuple[CachedFlags, CachedSegments]]:
    """Return the cached flags and segments of a file, in short steps; the first poll still requests everything."""
    response = GetFeatureFlagsResponse(
        features=Definitions(saved.features),
        archived_feature_flag_ids=[],
        feature_flags_id="",
        requested_at=0,
        force_update=True,
        size_byte=0,
    )
    flags = yield from apply_flags(CachedFlags(), response, 0.0, requested_all=True)
    segments: dict[str, SegmentDefinition] = {}
    saved.segments.reverse()
    while saved.segments:
        segment_id, definition = _restore_segment(saved.segments.pop())
        segments[segment_id] = definition
        yield
    return CachedFlags(flags=flags.flags), CachedSegments(segments=segments)


def _restore_segment(fields: Mapping[str, Any]) -> tuple[str, SegmentDefinition]:
    try:
        bare = compile_segment({"segmentId": fields["segmentId"], "rules": fields["rules"]})
        strays = {segment_id: set(each) for segment_id, each in fields["strays"].items()}
        segment = replace(bare, members=set(fields["users"]), misfiled_members=strays)
    except (MalformedError, KeyError, TypeError, AttributeError) as error:
        raise _invalid_bootstrap(f"a segment cannot be read ({type(error).__name__})") from None
    return segment.id, SegmentDefinition(segment, rules_json(fields["rules"]))
