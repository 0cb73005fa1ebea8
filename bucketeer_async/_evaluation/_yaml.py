"""Conversion of the values of YAML flags to JSON, as on the server. Without the extra ``yaml``, values stay YAML."""

from __future__ import annotations

import json
from functools import cache
from typing import Any, Final

#: What to do if `is_available` returns False.
INSTALL: Final = 'pip install "bucketeer-async[yaml]"'


def is_available() -> bool:
    """Return whether the extra ``yaml`` is installed."""
    return _loader() is not None


def to_json(text: str) -> str:
    """Return a YAML document as JSON; the unchanged text if the document cannot be converted."""
    loader = _loader()
    if loader is None:
        return text
    try:
        value = _first_document(loader, text)
        return json.dumps(value, separators=(",", ":"), sort_keys=True, allow_nan=False)
    except Exception:  # noqa: BLE001 - whatever a parser raises for a user's text, the text is served
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
