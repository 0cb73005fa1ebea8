"""The ids with which the server detects changes: 64-bit FNV-1a hashes, in decimal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

_BASIS: Final = 0xCBF29CE484222325
_PRIME: Final = 0x100000001B3
_MASK: Final = 2**64 - 1


def feature_flags_id(updated: Mapping[str, int]) -> str:
    """Return the id of a set of flags.

    Args:
        updated: Unix times of the flags' last changes, by flag id.
    """
    return _hash(_flags(updated))


def user_evaluations_id(user_id: str, attributes: Mapping[str, str], updated: Mapping[str, int]) -> str:
    """Return the id of a user's evaluations of a set of flags.

    Args:
        user_id: Id of the user.
        attributes: Attributes of the user.
        updated: Unix times of the flags' last changes, by flag id.
    """
    return _hash([user_id, *(f"{name}:{attributes[name]}" for name in sorted(attributes)), *_flags(updated)])


def _flags(updated: Mapping[str, int]) -> list[str]:
    return [f"{feature_id}:{updated[feature_id]}" for feature_id in sorted(updated)]


def _hash(texts: Iterable[str]) -> str:
    value = _BASIS
    for byte in "".join(texts).encode():
        value = (value ^ byte) * _PRIME & _MASK
    return str(value)
