"""Composition: makes the parts of a client from its options: an evaluator, a processor, and the connections of both.

Events and flags do not know each other; this file joins the two. Starting and closing the parts is left to
`_client_life.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final, NamedTuple, Protocol, SupportsFloat

from bucketeer_async import _evaluation
from bucketeer_async._client_life import EventsLife
from bucketeer_async._errors import ConfigurationError
from bucketeer_async._events._processor import Processor
from bucketeer_async._events._receipt import Receipt
from bucketeer_async._flags._evaluations import EvaluationEvents, Evaluator, NowaitEvaluator
from bucketeer_async._flags._own_metrics import OwnMetrics
from bucketeer_async._flags._remote import RemoteEvaluator
from bucketeer_async._hooks import Subscription
from bucketeer_async._log import GuardedLogger
from bucketeer_async._models import EventKind, User, check_tag
from bucketeer_async._options import LocalEvaluation, ProcessorConfig, as_option, check_kind
from bucketeer_async._results import FlagChanges, LocalEvaluationStatistics, Statistics
from bucketeer_async._status import Part, Status
from bucketeer_async._transport._api import ApiClient

_ERRORS_SHARE: Final = 0.1  # of the queue's capacity that error metrics may hold


class ClientEvents(EventsLife, EvaluationEvents, Protocol):
    """What a client needs of a `Processor`."""

    def _notice_lost_loop(self) -> None: ...
    def statistics(self) -> Statistics: ...
    async def push_goal_event(self, user: User, goal_id: str, value: SupportsFloat) -> Receipt: ...
    def push_goal_event_nowait(self, user: User, goal_id: str, value: SupportsFloat) -> Receipt: ...


class LocalFlags(NowaitEvaluator, Protocol):
    """The flags of a client with local evaluation, as the client shows them."""

    @property
    def callback_errors(self) -> int: ...
    def statistics(self) -> LocalEvaluationStatistics | None: ...
    def on_change(self, callback: Callable[[FlagChanges], object]) -> Subscription: ...
    def export_snapshot(self) -> bytes: ...
    def explain(self, user: User, feature_id: str) -> _evaluation.Explanation: ...


class Parts(NamedTuple):
    """The parts of a client.

    Attributes:
        events: Takes the events.
        evaluator: Evaluates flags.
        logger: Where the client logs.
        tag: The tag of the flags; "" if the client is disabled.
        strict: Whether arguments of the wrong type raise.
        status: Told what the other parts note.
        api: The connections under both; None if the client is disabled.
        local: The flags of local evaluation; None if the gateway evaluates.
        remote: Has the gateway evaluate; None if flags are evaluated locally.
    """

    events: ClientEvents
    evaluator: Evaluator
    logger: GuardedLogger
    tag: str
    strict: bool
    status: Status
    api: ApiClient | None = None
    local: LocalFlags | None = None
    remote: RemoteEvaluator | None = None


def connected(
    api: ApiClient, events: ProcessorConfig, local_evaluation: LocalEvaluation | None, *, tag: str, timeout: float
) -> Parts:
    """Return the parts of a client that talks to a gateway.

    Args:
        api: The connections.
        events: Options of the processor; its tag is the client's.
        local_evaluation: Options of local evaluation; None has the gateway evaluate flags.
        tag: The tag of the flags.
        timeout: Seconds that an evaluation by the gateway may take.

    Raises:
        ConfigurationError: If an option is wrong.
    """
    config = _tagged(events, tag)
    mode = f"flags are evaluated {'by the gateway' if local_evaluation is None else 'locally'}"
    # The only pushes of the application are goals: what the client pushes by itself never raises.
    logger = GuardedLogger(config.logger)
    status = Status(logger)
    processor = Processor(
        api,
        config,
        _strict_kinds=frozenset({EventKind.GOAL}),
        _mode=mode,
        _on_circuit=status.outcomes_of(Part.EVENTS),
    )
    metrics = OwnMetrics(
        processor if config.metrics else None, max_errors=max(int(config.queue_capacity * _ERRORS_SHARE), 1)
    )
    if local_evaluation is None:
        on_outcome = status.outcomes_of(Part.EVALUATIONS)
        remote = RemoteEvaluator(api, tag=tag, timeout=timeout, metrics=metrics, on_outcome=on_outcome)
        return Parts(
            events=processor,
            evaluator=remote,
            logger=logger,
            tag=tag,
            strict=config.strict,
            status=status,
            api=api,
            remote=remote,
        )
    # They are loaded with `LocalEvaluation`, or here where only the environment names local evaluation.
    from bucketeer_async._flags._local import LocalEvaluator  # noqa: PLC0415
    from bucketeer_async._flags._poller import FlagPoller  # noqa: PLC0415

    options = check_kind("Client.local_evaluation", local_evaluation, LocalEvaluation)
    poller = partial(
        FlagPoller,
        api,
        options,
        tag=tag,
        metrics=metrics,
        logger=logger,
        on_outcome=status.outcomes_of(Part.POLLS),
        on_stale=status.note_stale,
    )
    local = LocalEvaluator(poller, options.bootstrap, tag=tag, metrics=metrics, logger=logger)
    status.is_ready = local.is_ready
    return Parts(
        events=processor,
        evaluator=local,
        logger=logger,
        tag=tag,
        strict=config.strict,
        status=status,
        api=api,
        local=local,
    )


def disabled(*, strict: bool) -> Parts:
    """Return the parts of a disabled client."""
    from bucketeer_async._disabled import DisabledEvaluator, DisabledProcessor  # noqa: PLC0415 - few are

    logger = GuardedLogger(None)
    evaluator = DisabledEvaluator(logger)
    events = DisabledProcessor(logger, strict=strict)
    return Parts(
        events=events,
        evaluator=evaluator,
        logger=logger,
        tag="",
        strict=strict,
        status=Status(logger),
        local=evaluator,
    )


def _tagged(events: object, tag: object) -> ProcessorConfig:
    config = check_kind("Client.events", events, ProcessorConfig)
    tag = as_option(check_tag, "Client.tag", tag)
    if config.tag not in {"", tag}:
        raise ConfigurationError(f"ProcessorConfig.tag must be the client's, {tag!r}, or left out, not {config.tag!r}")
    return replace(config, tag=tag)
