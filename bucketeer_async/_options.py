"""Options of the client and the processor: frozen, and validated when they are created."""

from __future__ import annotations

import inspect
import logging
import math
import os
from collections.abc import Callable, Collection
from typing import Final, Literal, TypeVar, get_args

from bucketeer_async._dataclasses import dataclass, field
from bucketeer_async._errors import ConfigurationError
from bucketeer_async._models import check_tag, check_text, shown
from bucketeer_async._results import Drop

_T = TypeVar("_T")

Overflow = Literal["drop_newest", "drop_oldest", "wait"]
Scope = Literal["auto", "tag", "environment"]

#: Seconds. The gateway rejects goal and evaluation events that are older than 744 hours.
SERVER_WINDOW: Final = 744 * 3600.0

_LONGEST_COMMIT_INTERVAL: Final = 0.05  # seconds
_LARGEST_SIZE: Final = 2**40  # bytes
#: The least and the largest values of the integers in `ProcessorConfig`.
_RANGES: Final = {
    "queue_capacity": (1, 10_000_000),
    "queue_max_bytes": (1, _LARGEST_SIZE),
    "num_flush_workers": (1, 1000),  # each is a task
    "flush_size": (1, 1000),
    "max_batch_size": (1, 1000),  # a larger batch would block the event loop for too long
    "flush_max_bytes": (1024, 3 * 2**20),  # the gateway rejects requests of more than 4 MiB
}


def check_kind(name: str, value: object, kind: type[_T]) -> _T:
    """Return ``value`` if it is an instance of ``kind``.

    Raises:
        ConfigurationError: If it is not; the message contains ``name``.
    """
    if not isinstance(value, kind):
        raise ConfigurationError(f"{name} must be a {kind.__name__}, not {shown(value)}")
    return value


def as_option(check: Callable[[str, object], _T], name: str, value: object) -> _T:
    """Return what ``check(name, value)`` returns.

    Raises:
        ConfigurationError: If the check raises a TypeError or a ValueError; with the same message.
    """
    try:
        return check(name, value)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(str(error)) from None


def check_int(name: str, value: object, *, minimum: int = 1, maximum: int | None = None) -> None:
    """Check that ``value`` is an int from ``minimum`` to ``maximum``.

    Raises:
        ConfigurationError: If it is not; the message contains ``name``.
    """
    if isinstance(value, int) and not isinstance(value, bool) and minimum <= value <= (maximum or value):
        return
    form = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
    raise ConfigurationError(f"{name} must be an int {form}, not {shown(value)}")


def check_seconds(name: str, value: object, *, zero: bool = False) -> None:
    """Check that ``value`` is a finite number of seconds, more than 0 (or at least 0, with ``zero``).

    Raises:
        ConfigurationError: If the value is not such a number; the message contains ``name``.
    """
    if not isinstance(value, int | float) or isinstance(value, bool) or not _is_finite(value):
        raise ConfigurationError(f"{name} must be a finite number of seconds, not {shown(value)}")
    if value < 0 or (value == 0 and not zero):
        raise ConfigurationError(f"{name} must be {'at least' if zero else 'more than'} 0 seconds, not {value!r}")


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an int beyond the range of a float
        return False


def is_callback(value: object) -> bool:
    """Whether a value can be called back: a function or another callable, but no coroutine function.

    The call of a coroutine function would only make a coroutine, which would never run.
    """
    return callable(value) and not any(map(inspect.iscoroutinefunction, (value, type(value).__call__)))


def _is_path(value: object) -> bool:
    """Whether a value is a path that the operating system can look up: a str or os.PathLike, and not of bytes."""
    if not isinstance(value, str | os.PathLike):
        return False
    path = os.fspath(value)
    try:
        return isinstance(path, str) and path != "" and "\0" not in path and bool(os.fsencode(path))
    except UnicodeEncodeError:  # a lone surrogate
        return False


def _private_attributes(names: object) -> frozenset[str] | Literal["all"]:
    """Return the names of private attributes as a copy that cannot be changed, or ``"all"``."""
    if isinstance(names, str) and names == "all":
        return "all"
    if isinstance(names, str | bytes) or not isinstance(names, Collection):
        raise ConfigurationError(
            f'ProcessorConfig.private_attributes must be a collection of names, such as {{"email"}}, or "all", '
            f"not {shown(names)}"
        )
    for name in names:
        as_option(check_text, "a name in ProcessorConfig.private_attributes", name)
    return frozenset(names)


def check_timeout(timeout: object) -> float | None:
    """Return the timeout of a call in seconds; None for no timeout, which infinity means too.

    A negative number means 0: it is what a caller with a deadline computes once the deadline is over.

    Raises:
        TypeError: If the timeout is neither a number nor None.
        ValueError: If the timeout is NaN.
    """
    if timeout is None:
        return None
    if not isinstance(timeout, int | float) or isinstance(timeout, bool):
        raise TypeError(f"timeout must be a number of seconds or None, not {shown(timeout)}")
    if timeout <= 0:
        return 0.0
    if not timeout > 0:
        raise ValueError("timeout must be a number of seconds or None, not NaN")
    return float(timeout) if _is_finite(timeout) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """The backoff between two tries while the gateway is unavailable.

    The pause before a try is a random number between 0 and a step ("full jitter"). The step doubles with each failure.

    Args:
        initial: First step in seconds, more than 0.
        maximum: Longest step in seconds, at least ``initial``. During the first 10 seconds of an outage, a step of
            event delivery is at most 2 seconds.

    Raises:
        ConfigurationError: If an option is not a positive number, or ``maximum`` is less than ``initial``.
    """

    initial: float = 0.5
    maximum: float = 30.0

    def __post_init__(self) -> None:
        check_seconds("RetryPolicy.initial", self.initial)
        check_seconds("RetryPolicy.maximum", self.maximum)
        if self.maximum < self.initial:
            raise ConfigurationError(
                f"RetryPolicy.maximum must be at least initial ({self.initial}), not {self.maximum}"
            )


@dataclass(frozen=True, slots=True)
class Spool:
    """A directory in which undelivered events outlive the process.

    Events that are not delivered by the end of a drain are written to the spool. The next processor with the same path
    delivers these events. Delivery is at least once: an event that is sent again has the same id. Spooled events expire
    like all events, ``event_lifetime`` seconds after the push.

    One processor owns a spool at a time; a second one keeps its events in memory until the spool is free. Use a spool
    for one environment of the gateway only. A spool contains ids and attributes of users, but no API key.

    Args:
        path: The directory. A missing directory is created with mode 0700; the files in it have mode 0600.
        durable: If True, every accepted event is written within 100 milliseconds, so that it survives a crash of the
            process or a loss of power. If False, only the events that are left at the end of a drain are written.
        max_bytes: Largest size of the file in bytes, from 65,536 to 2**40. Events that do not fit stay in memory.
        commit_interval: With ``durable``: seconds for which writes are collected before a commit, from 0 to 0.05.

    Raises:
        ConfigurationError: If an option is invalid; the message names the option and what is accepted.
    """

    path: str | os.PathLike[str]
    durable: bool = field(default=False, kw_only=True)
    max_bytes: int = field(default=256 * 2**20, kw_only=True)
    commit_interval: float = field(default=0.02, kw_only=True)

    def __post_init__(self) -> None:
        if not _is_path(self.path):
            raise ConfigurationError(
                f"Spool.path must be a non-empty path of a directory, a str or os.PathLike, not {shown(self.path)}"
            )
        check_kind("Spool.durable", self.durable, bool)
        check_int("Spool.max_bytes", self.max_bytes, minimum=64 * 1024, maximum=_LARGEST_SIZE)
        check_seconds("Spool.commit_interval", self.commit_interval, zero=True)
        if self.commit_interval > _LONGEST_COMMIT_INTERVAL:
            raise ConfigurationError(
                f"Spool.commit_interval must be at most {_LONGEST_COMMIT_INTERVAL} seconds, "
                f"not {self.commit_interval}: events must be written within 100 ms"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessorConfig:
    """Options of a `Processor`.

    Args:
        tag: Tag of every event, text without control characters that is not blank; "" for no tag.
        queue_capacity: Largest number of events that are accepted and not settled, from 1 to 10,000,000. Beyond this
            number, ``overflow`` applies.
        queue_max_bytes: Largest size of these events in bytes, from 1 to 2**40. Beyond this size, ``overflow`` applies.
        overflow: What a push does while the queue is full. ``"drop_newest"`` refuses the new event. ``"drop_oldest"``
            drops the oldest queued events. ``"wait"`` makes an awaited push wait for room, and refuses a ``_nowait``
            push.
        num_flush_workers: Largest number of batches in flight, from 1 to 1000.
        flush_interval: Seconds after its first event at which a batch is sent, more than 0.
        flush_size: Number of events at which a batch is sent at once, at most ``max_batch_size`` and
            ``queue_capacity``. While other batches are in flight, the batch is sent when its first event is 50 ms old.
        max_batch_size: Largest number of events in a batch, from 1 to 1000. A batch has more than ``flush_size`` events
            if there is a backlog or other batches are in flight.
        flush_max_bytes: Largest size of the events in a batch, from 1024 bytes to 3 MiB and at most
            ``queue_max_bytes``. The gateway rejects requests of more than 4 MiB in binary protobuf.
        request_timeout: Timeout of one request in seconds, more than 0. The gateway's proxy waits up to 15 seconds
            before its first retry, so less than 20 seconds leads to duplicates when the gateway is slow.
        event_lifetime: Seconds after which an undelivered event expires, more than 0 and at most 2,678,400 (31 days),
            the gateway's limit.
        drain_timeout: Timeout of ``aclose()`` in seconds, at least 0; None for no timeout. ``docker stop`` kills a
            process after 10 seconds, Kubernetes after 30 seconds.
        retry: The backoff between two tries.
        spool: The spool in which undelivered events outlive the process; None for no spool.
        strict: Whether a push with invalid input raises an exception instead of being refused.
        evaluation_window: Seconds, more than 0, in which an evaluation event is refused as ``duplicate`` if it repeats the
            last one that was accepted of the same user and flag: the same version of the flag, variation, and type of
            reason. Goals, and evaluation events about a default, are never refused so. None for no window.
        private_attributes: Names of the attributes of users that are left out of events, or ``"all"``. They are used for
            targeting all the same: in this process with local evaluation, and otherwise by the gateway, to which
            requests for evaluations send all attributes. The id of a user is always sent.
        metrics: Whether the SDK pushes metrics events of its own: latencies, sizes and errors of evaluations and polls.
            The ``push_*_metrics_event`` methods of a `Processor` are the application's, and push in any case.
        on_drop: Called with a `Drop` for every event that will not be delivered, on a separate thread. An exception of
            the callback is logged, and a slow callback delays no event.
        logger: The logger; None for ``logging.getLogger("bucketeer_async")``.

    Raises:
        ConfigurationError: If an option is invalid; the message names the option and what is accepted.
    """

    tag: str = ""
    queue_capacity: int = 100_000
    queue_max_bytes: int = 128 * 2**20
    overflow: Overflow = "drop_newest"
    num_flush_workers: int = 8
    flush_interval: float = 30.0
    flush_size: int = 100
    max_batch_size: int = 500
    flush_max_bytes: int = 2**20
    request_timeout: float = 20.0
    event_lifetime: float = 86_400.0
    drain_timeout: float | None = 25.0
    retry: RetryPolicy = field(default_factory=RetryPolicy)  # a default value would be hashed at import
    spool: Spool | None = None
    strict: bool = False
    evaluation_window: float | None = None
    private_attributes: Collection[str] | Literal["all"] = ()
    metrics: bool = True
    on_drop: Callable[[Drop], None] | None = None
    logger: logging.Logger | None = None

    def __post_init__(self) -> None:
        self._check_values()
        for name, (minimum, maximum) in _RANGES.items():
            check_int(f"ProcessorConfig.{name}", getattr(self, name), minimum=minimum, maximum=maximum)
        for name in ("flush_interval", "request_timeout", "event_lifetime"):
            check_seconds(f"ProcessorConfig.{name}", getattr(self, name))
        if self.drain_timeout is not None:
            check_seconds("ProcessorConfig.drain_timeout", self.drain_timeout, zero=True)
        if self.evaluation_window is not None:
            check_seconds("ProcessorConfig.evaluation_window", self.evaluation_window)
        self._check_limits()

    def _check_values(self) -> None:
        as_option(check_tag, "ProcessorConfig.tag", self.tag)
        if self.overflow not in get_args(Overflow):
            raise ConfigurationError(
                f"ProcessorConfig.overflow must be one of {get_args(Overflow)}, not {shown(self.overflow)}"
            )
        check_kind("ProcessorConfig.retry", self.retry, RetryPolicy)
        check_kind("ProcessorConfig.strict", self.strict, bool)
        check_kind("ProcessorConfig.metrics", self.metrics, bool)
        object.__setattr__(self, "private_attributes", _private_attributes(self.private_attributes))
        if self.spool is not None:
            check_kind("ProcessorConfig.spool", self.spool, Spool)
        if self.logger is not None:
            check_kind("ProcessorConfig.logger", self.logger, logging.Logger)
        if self.on_drop is not None and not is_callback(self.on_drop):
            raise ConfigurationError(
                f"ProcessorConfig.on_drop must be a function that is not a coroutine, not {shown(self.on_drop)}"
            )

    def _check_limits(self) -> None:
        if self.flush_size > min(self.max_batch_size, self.queue_capacity):
            raise ConfigurationError(
                f"ProcessorConfig.flush_size ({self.flush_size}) must be at most max_batch_size ({self.max_batch_size}) "
                f"and queue_capacity ({self.queue_capacity})"
            )
        if self.flush_max_bytes > self.queue_max_bytes:
            raise ConfigurationError(
                f"ProcessorConfig.flush_max_bytes ({self.flush_max_bytes}) must be at most queue_max_bytes "
                f"({self.queue_max_bytes})"
            )
        if self.event_lifetime > SERVER_WINDOW:
            raise ConfigurationError(
                f"ProcessorConfig.event_lifetime must be at most {SERVER_WINDOW:.0f} seconds (31 days, the gateway's "
                f"limit), not {self.event_lifetime}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalEvaluation:
    """Options of local evaluation: flags are evaluated in this process, from polled definitions.

    Local evaluation needs a server key.

    Args:
        polling_interval: Seconds between two polls, more than 0. Each interval is up to 10 % shorter or longer, so that
            the polls of many processes spread. The official SDKs poll every 60 seconds.
        full_refresh_interval: Seconds between two polls of all definitions, at least ``polling_interval``. The other
            polls request only changes, and the gateway's responses omit some changes.
        request_timeout: Timeout of one request in seconds, more than 0.
        scope: The flags to poll. ``"tag"`` polls the flags of the tag. ``"environment"`` polls all flags. ``"auto"``
            polls the flags of the tag, and all flags once a flag of the tag depends on a flag without the tag. Only
            flags of the tag are served, whatever the scope.
        bootstrap: The bytes that ``export_snapshot()`` returned, or the path of a file with these bytes. Flags are
            evaluated from this snapshot until the first poll succeeds. None for no snapshot.
        retry: The backoff after a failed poll.

    Raises:
        ConfigurationError: If an option is invalid; the message names the option and what is accepted.
    """

    polling_interval: float = 60.0
    full_refresh_interval: float = 3600.0
    request_timeout: float = 30.0
    scope: Scope = "auto"
    bootstrap: str | os.PathLike[str] | bytes | None = field(default=None, repr=False)  # bytes contain ids of users
    retry: RetryPolicy = field(default_factory=lambda: RetryPolicy(initial=1.0, maximum=60.0))

    def __post_init__(self) -> None:
        for name in ("polling_interval", "full_refresh_interval", "request_timeout"):
            check_seconds(f"LocalEvaluation.{name}", getattr(self, name))
        if self.full_refresh_interval < self.polling_interval:
            raise ConfigurationError(
                f"LocalEvaluation.full_refresh_interval must be at least polling_interval ({self.polling_interval}), "
                f"not {self.full_refresh_interval}"
            )
        if self.scope not in get_args(Scope):
            raise ConfigurationError(f"LocalEvaluation.scope must be one of {get_args(Scope)}, not {shown(self.scope)}")
        check_kind("LocalEvaluation.retry", self.retry, RetryPolicy)
        if self.bootstrap is None or _is_path(self.bootstrap) or (isinstance(self.bootstrap, bytes) and self.bootstrap):
            return
        kind = (
            "one that is empty or no path" if isinstance(self.bootstrap, str | bytes) else type(self.bootstrap).__name__
        )
        raise ConfigurationError(  # the value is not shown, because a snapshot contains ids of users
            f"LocalEvaluation.bootstrap must be bytes or the path of a file, not {kind}"
        )
