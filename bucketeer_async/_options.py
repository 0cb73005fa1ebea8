"""The options of the processor: frozen, checked once, when they are made."""

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

#: The gateway takes no goal or evaluation event older than 744 hours, so none is kept longer.
SERVER_WINDOW: Final = 744 * 3600.0

_LONGEST_COMMIT_INTERVAL: Final = 0.05  # seconds


def _require(name: str, value: object, kind: type) -> None:
    if not isinstance(value, kind):
        raise ConfigurationError(f"{name} must be a {kind.__name__}, not {value!r}")


def _require_int(name: str, value: object, *, minimum: int = 1) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise ConfigurationError(f"{name} must be an int of at least {minimum}, not {value!r}")


def check_seconds(name: str, value: object, *, zero: bool = False) -> None:
    """Do nothing if ``value`` is a finite, positive number (or 0, with ``zero``).

    Raises:
        ConfigurationError: Otherwise; the message names the field.
    """
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ConfigurationError(f"{name} must be a finite number of seconds, not {value!r}")
    if value < 0 or (value == 0 and not zero):
        raise ConfigurationError(f"{name} must be {'at least' if zero else 'more than'} 0 seconds, not {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How long to wait between two tries while the gateway is in trouble.

    A wait is drawn at random between 0 and the step ("full jitter"); the step doubles with each failed probe.

    Args:
        initial: First step, in seconds.
        maximum: Longest step, in seconds. During the first 10 s of an outage a step is at most 2 s.

    Raises:
        ConfigurationError: If a field is not a positive number, or ``maximum`` is below ``initial``.
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
    """Where events are kept that must outlive the process.

    What cannot be delivered by the end of the drain is written there, and delivered by the next processor that is
    given the same path. Delivery is at least once: an event that is sent again has the same id. Events in the spool
    live as long as all others, ``event_lifetime`` from their push.

    A spool has one owner at a time: a second process that wants it works without until it is free. It belongs to one
    environment of the gateway, and holds what users and flags are called, but no key.

    Args:
        path: A directory, made with mode 0700 if need be; the files in it have mode 0600.
        durable: Whether every accepted event is written while it waits, so that it survives the death of the process
            100 ms later, and the loss of power; without, only what is left at the end of a drain.
        max_bytes: How large the file may become, at least 64 KiB; what does not fit is kept in memory alone.
        commit_interval: With ``durable``: seconds for which writes are gathered, at most 0.05.

    Raises:
        ConfigurationError: If a field is wrong; the message names it and the accepted form.
    """

    path: str | os.PathLike[str]
    durable: bool = field(default=False, kw_only=True)
    max_bytes: int = field(default=256 * 2**20, kw_only=True)
    commit_interval: float = field(default=0.02, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.path, str | os.PathLike) or not os.fspath(self.path):
            raise ConfigurationError(f"Spool.path must be a non-empty path of a directory, not {self.path!r}")
        _require("Spool.durable", self.durable, bool)
        _require_int("Spool.max_bytes", self.max_bytes, minimum=64 * 1024)
        check_seconds("Spool.commit_interval", self.commit_interval, zero=True)
        if self.commit_interval > _LONGEST_COMMIT_INTERVAL:
            raise ConfigurationError(
                f"Spool.commit_interval must be at most {_LONGEST_COMMIT_INTERVAL} seconds, or an event would not be "
                f"safe within 100 ms, not {self.commit_interval!r}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessorConfig:
    """Every knob of a `Processor`.

    Args:
        tag: The tag put into every event: printable ASCII.
        queue_capacity: Events accepted and not yet settled; over it ``overflow`` decides.
        queue_max_bytes: Bytes of those events; over it ``overflow`` decides.
        overflow: ``"drop_newest"`` refuses the new event, ``"drop_oldest"`` gives up the oldest queued ones,
            ``"wait"`` makes an awaited push wait for room (a ``_nowait`` push is refused).
        num_flush_workers: Batches on the way at once.
        flush_interval: Seconds after which a batch leaves, counted from its first event.
        flush_size: Number of events that make a batch leave at once; if others are on their way, once its first event
            is 50 ms old.
        max_batch_size: Events in one batch when there is a backlog, or when others are on their way.
        flush_max_bytes: Bytes of the events in one batch, at most 3 MiB: the gateway refuses more than 4 MiB of
            binary protobuf.
        request_timeout: Seconds that one post may take. The gateway's own proxy tries for up to 15 s before its
            first retry, so less than 20 s means duplicates when the gateway is slow.
        event_lifetime: Seconds that an undelivered event is kept, at most 31 days, which is what the gateway takes.
        drain_timeout: Seconds that ``aclose()`` may take; None for as long as needed. ``docker stop`` waits 10 s
            and Kubernetes 30 s before they kill a process.
        retry: How long to wait between tries.
        spool: Where to keep events that must outlive the process; None for nowhere.
        strict: Whether a push of bad input raises instead of being refused.
        on_drop: Called with every event that will not be delivered, on a thread of its own: what it raises is
            logged, and how long it takes delays nothing.
        logger: Where to log; None means ``logging.getLogger("bucketeer_async")``.

    Raises:
        ConfigurationError: If a field is wrong; the message names it and the accepted form.
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
        self._check_words()
        for name in ("queue_capacity", "queue_max_bytes", "num_flush_workers", "flush_size", "max_batch_size"):
            _require_int(f"ProcessorConfig.{name}", getattr(self, name))
        _require_int("ProcessorConfig.flush_max_bytes", self.flush_max_bytes, minimum=1024)
        for name in ("flush_interval", "request_timeout", "event_lifetime"):
            check_seconds(f"ProcessorConfig.{name}", getattr(self, name))
        if self.drain_timeout is not None:
            check_seconds("ProcessorConfig.drain_timeout", self.drain_timeout, zero=True)
        self._check_order()

    def _check_words(self) -> None:
        try:
            tag = check_text("ProcessorConfig.tag", self.tag)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(str(error)) from None
        if not (tag.isascii() and tag.isprintable()):
            raise ConfigurationError("ProcessorConfig.tag must be printable ASCII without line breaks")
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

    def _check_order(self) -> None:
        if self.flush_size > min(self.max_batch_size, self.queue_capacity):
            raise ConfigurationError(
                f"ProcessorConfig.flush_size ({self.flush_size}) must be at most max_batch_size ({self.max_batch_size}) "
                f"and queue_capacity ({self.queue_capacity})"
            )
        if self.max_batch_size > 1000:
            raise ConfigurationError(
                f"ProcessorConfig.max_batch_size must be at most 1000, the work done in one turn of the loop, "
                f"not {self.max_batch_size}"
            )
        if self.flush_max_bytes > min(3 * 2**20, self.queue_max_bytes):
            raise ConfigurationError(
                f"ProcessorConfig.flush_max_bytes ({self.flush_max_bytes}) must be at most 3 MiB "
                f"and queue_max_bytes ({self.queue_max_bytes})"
            )
        if self.event_lifetime > SERVER_WINDOW:
            raise ConfigurationError(
                f"ProcessorConfig.event_lifetime must be at most {SERVER_WINDOW:.0f} seconds (31 days, the gateway's limit), "
                f"not {self.event_lifetime}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalEvaluation:
    """Flags are evaluated here, from definitions that are polled; needs a server key.

    Args:
        polling_interval: Seconds from one poll to the next, up to 10 % more or less, so that many processes spread.
            The official SDKs poll every 60 s.
        full_refresh_interval: Seconds after which everything is asked for again, not only what has changed: the
            gateway's answers about changes leave some out.
        request_timeout: Seconds that one request may take.
        scope: ``"tag"`` polls the flags of the tag, ``"environment"`` all flags. ``"auto"`` begins with the tag, and
            polls all once a flag of the tag depends on one that lacks it. Only flags of the tag are served.
        bootstrap: What ``export_snapshot()`` returned, or a file that holds it. Flags are evaluated from it until
            the first poll has succeeded.
        retry: How long to wait after a poll that failed.

    Raises:
        ConfigurationError: If a field is wrong; the message names it and the accepted form.
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
