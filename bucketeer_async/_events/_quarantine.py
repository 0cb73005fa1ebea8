"""Quarantine: records whose batches failed although the gateway was well, so that they hold up no others.

An outage and a body that the gateway cannot take look alike at first; one other record tells the two apart (see
`_batch.py`). What is under suspicion then waits apart from the queue, in *parts* that are halved until the bad records
are alone, and as *lone* records, which are tried again after pauses that grow.

::

    queue --batch fails, the gateway takes another record--> part --fails again--> two halves --...--> lone
      ^                                                       |                        |                | tried again
      '----------------- (never: a suspect leaves by being settled) -------------------'                '-- after a pause

Evidence is kept by numbers of posts: each post gets the next number when it begins. A failure remembers the number of
the latest post by then; the gateway was well after a failure if a post with a greater number was accepted.

Invariants:

- A suspect is queued (in a part, or alone) or in flight, and counts so in the ledger.
- At most a tenth of each bound of the queue is lone; over it the one that has failed alone most often is dropped.
- Lone suspects together are posted at most once a second, but when a flush or a drain has every one tried at once.

Used under the ledger's lock.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from typing import Final

from bucketeer_async._events._receipt import Receipt
from bucketeer_async._events._suspicion import Suspicion
from bucketeer_async._models import EventKind

ANY_OPENING: Final = -2  # as an opening of the circuit: no record has failed during it

_LONE_INTERVAL: Final = 1.0  # seconds between two posts of lone suspects
_LONGEST_PAUSE: Final = 600.0  # seconds between two tries of one lone suspect
_LONGEST_WAIT: Final = 30.0  # seconds between two tries of parts while no other record waits
_CLOSING_PAUSE: Final = 1.0  # seconds; the longest while closing
_REFUSAL_PAUSES: Final = (30.0, 60.0)  # seconds after the first refusal of a lone suspect, and after each further one
_REFUSALS: Final = 3  # of a lone event, after which it is rejected ...
_REFUSALS_SPAN: Final = 60.0  # ... if so many seconds lie between the first and the last
_CLOSING_REFUSALS: Final = 2  # while closing, whatever the time between them
_LAST_TRIES: Final = 2  # failures alone while closing, after which a suspect is not waited for


class Whole:
    """A suspect part that was halved: if both halves are taken, it was its size that was refused.

    Attributes:
        size: Bytes of its events.
        taken: Halves that were taken.
        failed: Whether a half has failed, too.
    """

    __slots__ = ("failed", "size", "taken")

    def __init__(self, size: int) -> None:
        self.size = size
        self.taken = 0
        self.failed = False


class Part:
    """Records that are posted together.

    Attributes:
        records: The records, the oldest first.
        is_suspect: Whether the part comes from the quarantine.
        failure: Number of the latest post when the part last failed; 0 if it has not.
        post: Number of its latest post.
        place: Where in the queue a lone record was taken out; None: at the head.
        whole: The part that this one is a half of; None: none, or the whole was not suspect.
    """

    __slots__ = ("failure", "is_suspect", "place", "post", "records", "whole")

    def __init__(
        self,
        records: list[Receipt],
        *,
        is_suspect: bool = False,
        failure: int = 0,
        place: int | None = None,
        whole: Whole | None = None,
    ) -> None:
        self.records = records
        self.place = place
        self.post = 0
        self.whole = whole
        self.is_suspect = is_suspect
        self.failure = failure

    def cut(self, middle: int) -> tuple[Part, Part]:
        """Return the two parts before and behind an index, in the order of a stack: the first one last."""
        first, second = self.records[:middle], self.records[middle:]
        if self.whole is not None:
            self.whole.failed = True
        whole = Whole(self.size) if self.is_suspect else None
        return (
            Part(second, is_suspect=self.is_suspect, failure=self.failure, whole=whole),
            Part(first, is_suspect=self.is_suspect, failure=self.failure, whole=whole),
        )

    @property
    def size(self) -> int:
        """Bytes of the events."""
        return sum(len(record._body) for record in self.records)


def has_failed_during(record: Receipt, opening: int) -> bool:
    """Whether a record has failed as a probe during an opening of the circuit."""
    return record._suspicion is not None and record._suspicion.opening == opening


def suspicion_of(record: Receipt, failure: int) -> Suspicion:
    """Return what is known of a record that has just failed."""
    suspicion = record._suspicion
    if suspicion is None:
        suspicion = record._suspicion = Suspicion(failure)
    return suspicion


class Quarantine:
    """The suspects of one ledger.

    Args:
        capacity: Lone records at most.
        max_bytes: Bytes of their bodies at most.

    Attributes:
        counts: Suspects by class.
        held: Suspects.
        oldest: Monotonic seconds of the earliest push of a suspect; no suspect is older.
        is_postponed: Whether parts are not posted for a while.
        lone: The lone suspects, in the order in which they came.
    """

    def __init__(self, capacity: float, max_bytes: float) -> None:
        self._capacity = max(1.0, capacity)
        self._max_bytes = max_bytes
        self.counts: Counter[EventKind] = Counter()
        self.held = 0
        self.is_postponed = False
        self.lone: dict[Receipt, None] = {}
        self.lone_bytes = 0
        self._parts: deque[Part] = deque()
        self._next_lone_at = -math.inf
        self._parts_at = -math.inf  # monotonic seconds; no part is posted before
        self._postponed = 0
        self.oldest = math.inf  # no suspect was pushed before
        self._closing = False

    def __iter__(self) -> Iterator[Receipt]:
        for part in self._parts:
            yield from part.records
        yield from self.lone

    # In

    def add(self, part: Part, *, first: bool = False) -> None:
        """Take a part in, to be posted soon; ``first``, before all others."""
        part.is_suspect = True
        (self._parts.appendleft if first else self._parts.append)(part)
        self._count(part.records)

    def add_lone(self, record: Receipt) -> None:
        """Take in a record that has failed alone."""
        self.lone[record] = None
        size = len(record._body)
        self.lone_bytes += size
        self._count([record])

    def _count(self, records: Iterable[Receipt]) -> None:
        for record in records:
            self.counts[record.kind] += 1
            self.held += 1
            self.oldest = min(self.oldest, record._pushed_at)

    def failed_alone(self, suspicion: Suspicion, failure: int, now: float) -> None:
        """Note that a post of one record alone has failed while the gateway was well, and when it is tried again."""
        suspicion.failures += 1
        suspicion.last_failure = failure
        self.note_try(suspicion)
        pause = min(2.0 ** min(suspicion.failures - 1, 60), _LONGEST_PAUSE)
        suspicion.retry_at = now + (min(pause, _CLOSING_PAUSE) if self._closing else pause)

    def note_try(self, suspicion: Suspicion) -> None:
        """Count a failed post of one record alone if closing has begun."""
        suspicion.last_tries += self._closing

    def refused_alone(self, suspicion: Suspicion, failure: int, now: float) -> None:
        """Note that the gateway has refused one record alone, and when it is tried again."""
        self.failed_alone(suspicion, failure, now)
        if not suspicion.refusals:
            suspicion.first_refusal, suspicion.first_refused_at = failure, now
        pause = _REFUSAL_PAUSES[min(suspicion.refusals, 1)]
        suspicion.refusals += 1
        suspicion.retry_at = now + (_CLOSING_PAUSE if self._closing else pause)

    def is_guilty(self, suspicion: Suspicion, accepted: int, now: float) -> bool:
        """Whether a record was refused alone so often that it is itself the cause.

        Args:
            suspicion: What is known of the record, the last refusal included.
            accepted: Number of the latest post that was accepted.
            now: Monotonic seconds.
        """
        if accepted <= suspicion.first_refusal:
            return False
        if self._closing:
            return suspicion.refusals >= _CLOSING_REFUSALS
        return suspicion.refusals >= _REFUSALS and now - suspicion.first_refused_at >= _REFUSALS_SPAN

    def postpone(self, now: float) -> None:
        """Post no part for a while, because no other record waits that could show whether the gateway is available."""
        self._postponed += 1
        self.is_postponed = True
        pause = min(2.0 ** (self._postponed - 1), _LONGEST_WAIT)
        self._parts_at = now + (min(pause, _CLOSING_PAUSE) if self._closing else pause)

    def resume(self) -> None:
        """Post parts again, because the gateway has accepted a post."""
        self._postponed = 0
        self.is_postponed = False
        self._parts_at = -math.inf

    # Out

    def next_due(self) -> float:
        """Return the monotonic seconds at which a part or a lone suspect may be posted; infinity if there is none."""
        if self._parts and self._parts_at == -math.inf:
            return -math.inf
        if not self.lone:
            return self._parts_at if self._parts else math.inf
        retry_at = min(record._suspicion.retry_at for record in self.lone if record._suspicion is not None)
        if not self._closing and retry_at > -math.inf:
            retry_at = max(retry_at, self._next_lone_at)
        return min(retry_at, self._parts_at) if self._parts else retry_at

    def take(self, now: float) -> Part | None:
        """Take out the next part, or the lone suspect that has waited longest for its next try."""
        if self._parts and self._parts_at <= now:
            part = self._parts.popleft()
            self._uncount(part.records)
            return part
        if not self.lone or self.next_due() > now:
            return None
        record = min(self.lone, key=_retry_at)
        self._next_lone_at = now + _LONE_INTERVAL
        self.remove(record)
        suspicion = record._suspicion
        return Part([record], is_suspect=True, failure=0 if suspicion is None else suspicion.last_failure)

    def remove(self, record: Receipt) -> None:
        """Take a lone suspect out."""
        del self.lone[record]
        self.lone_bytes -= len(record._body)
        self._uncount([record])

    def take_probe(self, opening: int) -> Receipt | None:
        """Take out a suspect that has not failed as a probe during this opening of the circuit, if there is one."""
        for record in self.lone:
            if not has_failed_during(record, opening):
                self.remove(record)
                return record
        for part in self._parts:
            for index, record in enumerate(part.records):
                if not has_failed_during(record, opening):
                    del part.records[index]
                    if not part.records:
                        self._parts.remove(part)
                    self._uncount([record])
                    return record
        return None

    def excess(self) -> Receipt | None:
        """Take out the record that is over the bounds: the one that has failed most often, the oldest among equals."""
        if len(self.lone) <= self._capacity and self.lone_bytes <= self._max_bytes:
            return None
        return self.take_worst()

    def take_worst(self) -> Receipt:
        """Take out the lone suspect that has failed alone most often, the oldest among equals."""
        record = max(self.lone, key=_badness)
        self.remove(record)
        return record

    def take_expired(self, now: float, lifetime: float) -> list[Receipt]:
        """Take out the suspects that are past their lifetime, in seconds."""
        # The same sum as the collector's: with another rounding the two might disagree for ever.
        if self.oldest + lifetime > now:
            return []
        expired = [record for record in self.lone if record._pushed_at + lifetime <= now]
        for record in expired:
            self.remove(record)
        for part in self._parts:
            gone = [record for record in part.records if record._pushed_at + lifetime <= now]
            if gone:
                part.records = [record for record in part.records if record._pushed_at + lifetime > now]
                self._uncount(gone)
                expired += gone
        self._parts = deque(part for part in self._parts if part.records)
        self.oldest = min((record._pushed_at for record in self), default=math.inf)
        return expired

    def take_all(self) -> list[Receipt]:
        """Take all suspects out, the oldest first."""
        suspects = sorted(self, key=_pushed_at)
        self._parts.clear()
        self.lone.clear()
        self.lone_bytes = 0
        self.counts.clear()
        self.held = 0
        self.oldest = math.inf
        return suspects

    def _uncount(self, records: Iterable[Receipt]) -> None:
        for record in records:
            self.counts[record.kind] -= 1
            self.held -= 1

    # Flushing and closing

    def try_at_once(self) -> None:
        """Have every lone suspect tried once, as soon as a flush task is free."""
        for record in self.lone:
            if record._suspicion is not None:
                record._suspicion.retry_at = -math.inf
        self.resume()

    def close(self) -> None:
        """Have every suspect tried at once, and again without long pauses."""
        self._closing = True
        self.try_at_once()

    def hopeless(self) -> int:
        """Return how many lone suspects have failed so often since closing began that they are not waited for."""
        return sum(
            record._suspicion is not None and record._suspicion.last_tries >= _LAST_TRIES for record in self.lone
        )

    def failed_since(self, post: int, epoch: int) -> int:
        """Return how many lone suspects older than an epoch have failed alone after the post with that number."""
        return sum(
            record._suspicion is not None and record._suspicion.last_failure > post and record._epoch < epoch
            for record in self.lone
        )


def _retry_at(record: Receipt) -> float:
    return -math.inf if record._suspicion is None else record._suspicion.retry_at


def _badness(record: Receipt) -> tuple[int, float]:
    return (0 if record._suspicion is None else record._suspicion.failures, -record._pushed_at)


def _pushed_at(record: Receipt) -> float:
    return record._pushed_at
