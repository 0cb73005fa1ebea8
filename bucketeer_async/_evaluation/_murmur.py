"""The hash behind rollouts: MurmurHash3, 128 bit, x64 variant, seed 0 (Austin Appleby, public domain).

The package mmh3, of the extra ``speed``, computes it in C, which takes a twentieth of the time.
"""

from __future__ import annotations

from typing import Final

try:
    from mmh3 import hash64
except ImportError:  # the extra is not installed
    hash64 = None  # type: ignore[assignment]

_MASK: Final = 2**64 - 1
_C1: Final = 0x87C37B91114253D5
_C2: Final = 0x4CF5AD432745937F
_TWO_64: Final = 2.0**64
_TWO_128: Final = 2.0**128


class Hash:
    """The hash of texts with a common prefix.

    Args:
        prefix: The common prefix.
    """

    __slots__ = ("_prefix",)

    def __init__(self, prefix: str = "") -> None:
        self._prefix = _encode(prefix)

    def halves(self, rest: str) -> tuple[int, int]:
        """Return the hash of the prefix followed by ``rest``, as two unsigned 64-bit integers."""
        return hash64(self._prefix + _encode(rest), signed=False)

    def bucket(self, rest: str) -> float:
        """Return the hash of the prefix followed by ``rest``, from 0 to 1, computed in doubles as on the server."""
        h1, h2 = self.halves(rest)
        return (float(h1) * _TWO_64 + float(h2)) / _TWO_128


class PythonHash(Hash):
    """The same in Python; the prefix is hashed once."""

    __slots__ = ("_h1", "_h2", "_length", "_tail")

    def __init__(self, prefix: str = "") -> None:
        encoded = _encode(prefix)
        whole = len(encoded) & ~15
        self._h1, self._h2 = _blocks(encoded, 0, 0, whole)
        self._length = len(encoded)
        self._tail = encoded[whole:]

    def halves(self, rest: str) -> tuple[int, int]:
        encoded = _encode(rest)
        length = self._length + len(encoded)
        data = self._tail + encoded
        whole = len(data) & ~15
        h1, h2 = _blocks(data, self._h1, self._h2, whole)
        if len(data) > whole + 8:
            k2 = int.from_bytes(data[whole + 8 :], "little") * _C2 & _MASK
            h2 ^= (k2 << 33 | k2 >> 31) * _C1 & _MASK
        if len(data) > whole:
            k1 = int.from_bytes(data[whole : whole + 8], "little") * _C1 & _MASK
            h1 ^= (k1 << 31 | k1 >> 33) * _C2 & _MASK
        h1 = (h1 ^ length) + (h2 ^ length) & _MASK
        h2 = (h2 ^ length) + h1 & _MASK
        h1, h2 = _mix(h1), _mix(h2)
        h1 = h1 + h2 & _MASK
        return h1, h2 + h1 & _MASK


def new_hash(prefix: str) -> Hash:
    """Return the fastest implementation that is at hand."""
    return PythonHash(prefix) if hash64 is None else Hash(prefix)


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _blocks(data: bytes, h1: int, h2: int, whole: int) -> tuple[int, int]:
    """Hash the first ``whole`` bytes, a multiple of 16. Masks that would have no effect are left out."""
    for start in range(0, whole, 16):
        k1 = int.from_bytes(data[start : start + 8], "little") * _C1 & _MASK
        h1 ^= (k1 << 31 | k1 >> 33) * _C2 & _MASK
        h1 = (((h1 << 27 | h1 >> 37) & _MASK) + h2) * 5 + 0x52DCE729 & _MASK
        k2 = int.from_bytes(data[start + 8 : start + 16], "little") * _C2 & _MASK
        h2 ^= (k2 << 33 | k2 >> 31) * _C1 & _MASK
        h2 = (((h2 << 31 | h2 >> 33) & _MASK) + h1) * 5 + 0x38495AB5 & _MASK
    return h1, h2


def _mix(k: int) -> int:
    k = (k ^ k >> 33) * 0xFF51AFD7ED558CCD & _MASK
    k = (k ^ k >> 33) * 0xC4CEB9FE1A85EC53 & _MASK
    return k ^ k >> 33
