"""Options of the client and the processor: frozen, and validated when they are created."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from bucketeer_async._errors import ConfigurationError
from bucketeer_async._models import check_text
from bucketeer_async._results import Drop

Overflow = Literal["drop_newest", "drop_oldest", "wait"]
Scope = Literal["auto", "tag", "environment"]

#: Seconds. The gateway rejects goal and evaluation events that are older than 744 hours.
SERVER_WINDOW: Final = 744 * 3600.0

_LONGEST_COMMIT_INTERVAL: Final = 0.05  # seconds


def _require(name: str, value: object, kind: type) -> None:
    if not isinstance(value, kind):
        raise ConfigurationError(f"{name} must be a {kind.__name__}, not {value!r}")


def _require_int(name: str, value: object, *, minimum: int = 1) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise ConfigurationError(f"{name} must be an int of at least {minimum}, not {value!r}")


def check_seconds(name: str, value: object, *, zero: bool = False) -> None:
    """Check that ``value`` is a finite number of seconds, more than 0 (or at least 0, with ``zero``).

    Raises:
        ConfigurationError: If the value is not such a number; the message contains ``name``.
    """
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ConfigurationError(f"{name} must be a finite number of seconds, not {value!r}")
    if value < 0 or (value == 0 and not zero):
        raise ConfigurationError(f"{name} must be {'at least' if zero else 'more than'} 0 seconds, not {value!r}")


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
        max_bytes: Largest size of the file in bytes, at least 65,536. Events that do not fit stay in memory.
        commit_interval: With ``durable``: seconds for which writes are collected before a commit, from 0 to 0.05.

    Raises:
        ConfigurationError: If an option is invalid; the message names the option and what is accepted.
    """

    path: str | os.PathLike[str]
    durable: bool = field(default=False, kw_only=True)
    max_bytes: int = field(default=256 * 2**20, kw_only=True)
    commit_interval: float = field(default=0.02, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.path, str | os.PathLike) or not os.fspath(self.path):
            raise ConfigurationError(
                f"Spool.path must be a non-empty path of a directory, a str or os.PathLike, not {self.path!r}"
            )
        _require("Spool.durable", self.durable, bool)
        _require_int("Spool.max_bytes", self.max_bytes, minimum=64 * 1024)
        check_seconds("Spool.commit_interval", self.commit_interval, zero=True)
        if self.commit_interval > _LONGEST_COMMIT_INTERVAL:
            raise ConfigurationError(
                f"Spool.commit_interval must be at most {_LONGEST_COMMIT_INTERVAL} seconds, "
                f"not {self.commit_interval!r}: events must be written within 100 ms"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessorConfig:
    """Options of a `Processor`.

    Args:
        tag: Tag of every event, in printable ASCII.
        queue_capacity: Largest number of events that are accepted and not settled, at least 1. Beyond this number,
            ``overflow`` applies.
        queue_max_bytes: Largest size of these events in bytes, at least 1. Beyond this size, ``overflow`` applies.
        overflow: What a push does while the queue is full. ``"drop_newest"`` refuses the new event. ``"drop_oldest"``
            drops the oldest queued events. ``"wait"`` makes an awaited push wait for room, and refuses a ``_nowait``
            push.
        num_flush_workers: Largest number of batches in flight, at least 1.
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
    retry: RetryPolicy = RetryPolicy()
    spool: Spool | None = None
    strict: bool = False
    on_drop: Callable[[Drop], None] | None = None
    logger: logging.Logger | None = None

    def __post_init__(self) -> None:
        self._check_values()
        for name in ("queue_capacity", "queue_max_bytes", "num_flush_workers", "flush_size", "max_batch_size"):
            _require_int(f"ProcessorConfig.{name}", getattr(self, name))
        _require_int("ProcessorConfig.flush_max_bytes", self.flush_max_bytes, minimum=1024)
        for name in ("flush_interval", "request_timeout", "event_lifetime"):
            check_seconds(f"ProcessorConfig.{name}", getattr(self, name))
        if self.drain_timeout is not None:
            check_seconds("ProcessorConfig.drain_timeout", self.drain_timeout, zero=True)
        self._check_limits()

    def _check_values(self) -> None:
        try:
            tag = check_text("ProcessorConfig.tag", self.tag)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(str(error)) from None
        if not (tag.isascii() and tag.isprintable()):
            raise ConfigurationError(f"ProcessorConfig.tag must be printable ASCII without line breaks, not {tag!r}")
        if self.overflow not in get_args(Overflow):
            raise ConfigurationError(
                f"ProcessorConfig.overflow must be one of {get_args(Overflow)}, not {self.overflow!r}"
            )
        _require("ProcessorConfig.retry", self.retry, RetryPolicy)
        _require("ProcessorConfig.strict", self.strict, bool)
        if self.spool is not None:
            _require("ProcessorConfig.spool", self.spool, Spool)
        if self.logger is not None:
            _require("ProcessorConfig.logger", self.logger, logging.Logger)
        if self.on_drop is not None and not callable(self.on_drop):
            raise ConfigurationError(f"ProcessorConfig.on_drop must be callable, not {self.on_drop!r}")

    def _check_limits(self) -> None:
        if self.flush_size > min(self.max_batch_size, self.queue_capacity):
            raise ConfigurationError(
                f"ProcessorConfig.flush_size ({self.flush_size}) must be at most max_batch_size ({self.max_batch_size}) "
                f"and queue_capacity ({self.queue_capacity})"
            )
        if self.max_batch_size > 1000:
            raise ConfigurationError(
                f"ProcessorConfig.max_batch_size must be at most 1000, not {self.max_batch_size}: a larger batch would "
                "block the event loop for too long"
            )
        if self.flush_max_bytes > min(3 * 2**20, self.queue_max_bytes):
            raise ConfigurationError(
                f"ProcessorConfig.flush_max_bytes ({self.flush_max_bytes}) must be at most 3 MiB "
                f"and queue_max_bytes ({self.queue_max_bytes})"
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
    bootstrap: str | os.PathLike[str] | bytes | None = None
    retry: RetryPolicy = RetryPolicy(initial=1.0, maximum=60.0)

    def __post_init__(self) -> None:
        for name in ("polling_interval", "full_refresh_interval", "request_timeout"):
            check_seconds(f"LocalEvaluation.{name}", getattr(self, name))
        if self.full_refresh_interval < self.polling_interval:
            raise ConfigurationError(
                f"LocalEvaluation.full_refresh_interval must be at least polling_interval ({self.polling_interval}), "
                f"not {self.full_refresh_interval}"
            )
        if self.scope not in get_args(Scope):
            raise ConfigurationError(f"LocalEvaluation.scope must be one of {get_args(Scope)}, not {self.scope!r}")
        _require("LocalEvaluation.retry", self.retry, RetryPolicy)
        if self.bootstrap is not None and not (
            isinstance(self.bootstrap, str | bytes | os.PathLike) and os.fspath(self.bootstrap)
        ):
            raise ConfigurationError(
                f"LocalEvaluation.bootstrap must be bytes or the path of a file, not {type(self.bootstrap).__name__}"
            )
