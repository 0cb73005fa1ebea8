"""The values of YAML flags as JSON, as the server serves them. Needs the extra ``yaml``; without it they stay YAML."""

from __future__ import annotations

import json
from functools import cache
from typing import Any


def to_json(text: str) -> str:
    """Return the JSON that a YAML document means; the text as it is if it means none."""
    loader = _loader()
    if loader is None:
        return text
    try:
        value = _first_document(loader, text)
        return json.dumps(value, separators=(",", ":"), sort_keys=True, allow_nan=False)
    except Exception:  # noqa: BLE001 - whatever a parser makes of somebody's text, the text is served
        return text


def _first_document(loader: Any, text: str) -> Any:
    reader = loader(text)
    try:
        return reader.get_data() if reader.check_data() else None
    finally:
        reader.dispose()


@cache
def _loader() -> Any:
    try:
        from bucketeer_async._evaluation._yaml_loader import Loader  # noqa: PLC0415 - PyYAML is an extra
    except ImportError:
        return None
    return Loader
