"""What ``export_snapshot()`` saves, and a later process starts with.

Two lines of UTF-8. The first is a JSON object that tells what the second is: ``format``, ``version``, and ``sha256``,
the hash of the second line. The second is a JSON object::

    {"tag": "shop",
     "environment": false,         whether flags without the tag are in it too
     "savedAt": 1700000000.0,      when the gateway last said that it was up to date, in Unix seconds
     "features": [...],            as the gateway sent them
     "segments": [{"segmentId": "...", "rules": [...], "users": ["user-1", ...], "strays": {"segment": ["user-2"]}}]}

A version that is not known is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any, Final

from bucketeer_async._errors import ConfigurationError
from bucketeer_async._evaluation import MalformedError, Segment, compile_segment
from bucketeer_async._flags._definitions import FlagDefinition, SegmentDefinition, Steps
from bucketeer_async._flags._sync import CachedFlags, CachedSegments, apply_flags
from bucketeer_async._transport._json_reader import Reader
from bucketeer_async._transport._responses import Definitions, GetFeatureFlagsResponse

_FORMAT: Final = "bucketeer-async-snapshot"
_VERSION: Final = 1
_USERS_PER_STEP: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedSnapshot:
    """What a process has saved.

    Attributes:
        tag: Of the flags.
        environment: Whether flags without the tag are among them.
        saved_at: When it was up to date, in Unix seconds.
        features: The flags, as JSON.
        segments: The segments, in our own form.
    """

    tag: str
    environment: bool
    saved_at: float
    features: list[str]
    segments: list[dict[str, Any]]


def dump(
    flags: Mapping[str, FlagDefinition],
    segments: Mapping[str, SegmentDefinition],
    *,
    tag: str,
    environment: bool,
    saved_at: float,
) -> bytes:
    """Encode; from any thread, with room for other threads between the parts."""
    features = ",".join(each.text for each in flags.values())
    members = ",".join(_segment_json(each.segment, each) for each in segments.values() if each.segment)
    head = _to_json({"tag": tag, "environment": environment, "savedAt": saved_at})
    body = f'{head[:-1]},"features":[{features}],"segments":[{members}]}}'.encode()
    header = {"format": _FORMAT, "version": _VERSION, "sha256": hashlib.sha256(body).hexdigest()}
    return f"{_to_json(header)}\n".encode() + body + b"\n"


def _to_json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _segment_json(segment: Segment, held: SegmentDefinition) -> str:
    users = ",".join(_texts_json(segment.members))
    strays = {segment_id: list(each) for segment_id, each in segment.misfiled_members.items()}
    head = _to_json({"segmentId": segment.id, "strays": strays})
    return f'{head[:-1]},"rules":{held.rules},"users":[{users}]}}'


def _texts_json(texts: AbstractSet[str]) -> Iterator[str]:
    listed = list(texts)
    for start in range(0, len(listed), _USERS_PER_STEP):
        yield _to_json(listed[start : start + _USERS_PER_STEP])[1:-1]


def load(data: bytes, tag: str) -> SavedSnapshot:
    """Decode.

    Args:
        data: What `dump` returned.
        tag: What the flags must have been polled for.

    Raises:
        ConfigurationError: If it is nothing of the kind, damaged, of another version, or of another tag.
    """
    first, _, rest = data.partition(b"\n")
    body = rest.removesuffix(b"\n")
    _check_header(first, body)
    try:
        saved = _read(body.decode())
    except ConfigurationError:
        raise
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _wrong(f"it cannot be read ({type(error).__name__})") from None
    if saved.tag != tag:
        raise _wrong(f"it is of the tag {saved.tag!r}, not {tag!r}")
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
        raise _wrong("a flag cannot be read")
    return reader.text[start : reader.index]


def _check_header(line: bytes, body: bytes) -> None:
    try:
        header = json.loads(line)
    except (ValueError, RecursionError):
        raise _wrong("it does not begin with a header") from None
    if not isinstance(header, dict) or header.get("format") != _FORMAT:
        raise _wrong("it does not begin with a header")
    if header.get("version") != _VERSION:
        raise _wrong(f"its version is {header.get('version')!r}, not {_VERSION}")
    if header.get("sha256") != hashlib.sha256(body).hexdigest():
        raise _wrong("it is damaged: its hash does not match")


def _wrong(reason: str) -> ConfigurationError:
    return ConfigurationError(f"LocalEvaluation.bootstrap must be what export_snapshot() returned: {reason}")


def restore(saved: SavedSnapshot) -> Steps[tuple[CachedFlags, CachedSegments]]:
    """Compile what was saved, in short steps. Everything will be asked for at the first poll, for it may be old."""
    answer = GetFeatureFlagsResponse(
        features=Definitions(saved.features),
        archived_feature_flag_ids=[],
        feature_flags_id="",
        requested_at=0,
        force_update=True,
        size_byte=0,
    )
    flags = yield from apply_flags(CachedFlags(), answer, 0.0, requested_all=True)
    segments: dict[str, SegmentDefinition] = {}
    saved.segments.reverse()
    while saved.segments:
        segment_id, held = _restore_segment(saved.segments.pop())
        segments[segment_id] = held
        yield
    return CachedFlags(flags=flags.flags), CachedSegments(segments=segments)


def _restore_segment(fields: Mapping[str, Any]) -> tuple[str, SegmentDefinition]:
    try:
        bare = compile_segment({"segmentId": fields["segmentId"], "rules": fields["rules"]})
        strays = {segment_id: set(each) for segment_id, each in fields["strays"].items()}
        segment = replace(bare, members=set(fields["users"]), misfiled_members=strays)
    except (MalformedError, KeyError, TypeError, AttributeError) as error:
        raise _wrong(f"a segment cannot be read ({type(error).__name__})") from None
    return segment.id, SegmentDefinition(segment, rules=json.dumps(fields["rules"]))
