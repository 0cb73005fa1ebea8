"""ByteLimit: how many bytes of events one batch may have: as configured, or less once something refuses larger bodies.

A limit that was learnt grows back: the gateway, or what stands before it, may only have been refusing for a moment.
"""

from __future__ import annotations

from typing import Final

_SMALLEST: Final = 1024  # bytes; a server that refuses even this is not refusing for the size
_FEW: Final = 5  # accepted posts of at least half the limit, after which it is tried to grow
_LOST: Final = 100  # posts after which a try without a result, such as one in an outage, does not count
_MANY: Final = 320  # the same, at most, after tries that were refused


class ByteLimit:
    """The limit of one processor.

    A limit below the configured one doubles once enough posts of at least half its size were accepted: one larger post
    is tried, and the limit rises if it is accepted. If not, twice as many posts are needed before the next try.

    Args:
        configured: Bytes that a batch may have as far as the application is concerned.

    Attributes:
        value: Bytes that a batch may have now.
        is_learnt: Whether that is less than the configured.
    """

    def __init__(self, configured: int) -> None:
        self._configured = configured
        self.value = configured
        self.is_learnt = False
        self._accepted = 0
        self._needed = _FEW
        self._changed_at = 0  # number of the latest post when the limit last changed
        self._tried = -_LOST  # number of the latest post when a larger one was let go

    def allowance(self, last_post: int) -> int:
        """Return the bytes that the next batch may have, below the configured: the limit, or a try of twice as much."""
        if self._accepted < self._needed or last_post < self._tried + _LOST:
            return self.value
        return min(2 * self.value, self._configured)

    def taken(self, size: int, last_post: int) -> None:
        """Note that a batch of so many bytes is about to be posted: beyond the limit it is a try, one at a time."""
        if size > self.value:
            self._tried = last_post

    def accepted(self, size: int, post: int) -> None:
        """Note that a post of so many bytes was accepted."""
        if 4 * size >= 7 * self.value:
            self._change(min(2 * self.value, self._configured), post)
            if not self.is_learnt:
                self._needed = _FEW
        elif size > self.value:  # half of a post that was refused, say: a size that is accepted, and no more than that
            self._change(size, post)
        elif 2 * size >= self.value:
            self._accepted += 1

    def refused(self, size: int, post: int, last_post: int) -> None:
        """Note that a post of so many bytes was refused for its size.

        Args:
            size: Bytes of its events.
            post: Its number.
            last_post: Number of the latest post.
        """
        if post <= self._changed_at:
            return  # it began before the limit last changed
        if size > self.value:
            self._needed = min(2 * self._needed, _MANY)
            self._change(self.value, last_post)
        else:
            self._change(max(min(self.value, size // 2), _SMALLEST), last_post)

    def _change(self, value: int, post: int) -> None:
        self.value = value
        self.is_learnt = value < self._configured
        self._accepted = 0
        self._tried = -_LOST
        self._changed_at = post
