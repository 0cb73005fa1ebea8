"""Client: flags and goals, for applications: the surface that people read first. It decides nothing itself.

The variation methods are in `_variations.py` and `_variations_nowait.py`. The parts of a client are left to
`_composition.py`, start and close to `_client_life.py`, and what becomes of an evaluation to `_flags/_evaluations.py`.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import EllipsisType, TracebackType
from typing import Final, NoReturn, Self, SupportsFloat

from bucketeer_async import _composition as parts
from bucketeer_async import _evaluation
from bucketeer_async._bound_client import BoundClient
from bucketeer_async._client_life import ClientLife
from bucketeer_async._composition import LocalFlags, Parts
from bucketeer_async._errors import ConfigurationError
from bucketeer_async._events._receipt import Receipt
from bucketeer_async._flags._evaluations import Evaluations
from bucketeer_async._flags._user_evaluations import UserEvaluations, evaluate_all
from bucketeer_async._hooks import Hook, Subscription
from bucketeer_async._lifecycle import NO_COPY
from bucketeer_async._log import GuardedLogger, RateLimitedLog
from bucketeer_async._models import User, check_text, check_user
from bucketeer_async._notices import CheckReport, ClientStatus, FlagEvaluation
from bucketeer_async._options import LocalEvaluation, ProcessorConfig, check_kind
from bucketeer_async._results import DrainReport, FlagChanges, Statistics
from bucketeer_async._transport._api import ApiClient
from bucketeer_async._transport._endpoint import ApiKey
from bucketeer_async._transport._http import HttpClient
from bucketeer_async._variations import Variations
from bucketeer_async._variations_nowait import NowaitVariations

_LOGGED_FLAGS: Final = 200  # reasons and flags that the log lines about defaults tell apart


class Client(Variations, NowaitVariations):
    """Feature flags and goals of a Bucketeer environment.

    Evaluating a flag never raises because a server or a network failed: the default is returned, and the ``*_details``
    variants say why. Every evaluation is recorded as an evaluation event, every default as a default evaluation event;
    the events are delivered in the background.

    Use the client as an async context manager, or call `start` and `aclose`, from any task of one event loop. In a
    forked child the client is new, and has to be started there.

    Args:
        endpoint: The gateway: a host (``"api.example.com"``), or a URL without a path. ``http`` is for loopback
            addresses.
        api_key: A client key, because the gateway evaluates flags for no other; with ``local_evaluation`` a server key.
        tag: The tag of the flags, which is put into every event, too. Only with ``local_evaluation`` may the tag be
            empty, for all flags.
        timeout: Seconds that one evaluation by the gateway may take, from waiting for a connection to the last byte. To
            wait less, cancel the call: ``async with asyncio.timeout(0.1)``.
        events: Options of the delivery of events, whose tag is the client's; None for the defaults.
        local_evaluation: Options of local evaluation, which polls the definitions of flags and evaluates them in this
            process; None has the gateway evaluate.
        source_id: As in `ApiClient`.
        sdk_version: As in `ApiClient`.
        allow_http: Whether ``http`` may be used beyond loopback.
        max_connections: Requests under way at once; posts of events have as many connections of their own. With a
            client of your own: what its limits allow, for both.
        ssl_context: For a private certificate authority or client certificates.
        proxy: URL of a proxy. None: the proxy that ``HTTPS_PROXY``, ``ALL_PROXY`` and ``NO_PROXY`` name, if any.
        http: An ``httpx.AsyncClient`` or ``httpx2.AsyncClient`` of your own; the client never closes it.

    Raises:
        ConfigurationError: If an argument is wrong; the message names it and the accepted form.
    """

    def __init__(
        self,
        *,
        endpoint: str,
        api_key: str,
        tag: str,
        timeout: float = 5.0,
        events: ProcessorConfig | None = None,
        local_evaluation: LocalEvaluation | None = None,
        source_id: int = 0,
        sdk_version: str | None = None,
        allow_http: bool = False,
        max_connections: int = 100,
        ssl_context: ssl.SSLContext | None = None,
        proxy: str | None = None,
        http: HttpClient | None = None,
    ) -> None:
        api_key = ApiKey(api_key)  # type: ignore[assignment] # error trackers keep the variables of a traceback
        api = ApiClient(
            endpoint=endpoint,
            api_key=api_key,
            timeout=timeout,
            source_id=source_id,
            sdk_version=sdk_version,
            allow_http=allow_http,
            max_connections=max_connections,
            ssl_context=ssl_context,
            proxy=proxy,
            http=http,
        )
        events = ProcessorConfig() if events is None else events
        self._compose(parts.connected(api, events, local_evaluation, tag=tag, timeout=timeout))

    def _compose(self, composed: Parts) -> None:
        self._events = composed.events
        self._local = composed.local
        self._remote = composed.remote
        self._api = composed.api
        self._status = composed.status
        self._life = ClientLife(composed.events, composed.api, composed.evaluator, composed.status.note_life)
        log = RateLimitedLog(composed.logger, max_details=_LOGGED_FLAGS)
        self._evaluations: Evaluations = Evaluations(
            self._life.evaluator,
            composed.events,
            log,
            tag=composed.tag,
            strict=composed.strict,
            local=composed.local,
            require_running=self._life.require_running,
        )
        self._on_evaluation: Hook[FlagEvaluation] = Hook("on_evaluation", composed.logger)

    @classmethod
    def from_env(
        cls,
        environ: Mapping[str, str] | None = None,
        *,
        events: ProcessorConfig | None = None,
        local_evaluation: LocalEvaluation | None = None,
        http: HttpClient | None = None,
    ) -> Self:
        """Make a client from environment variables; a disabled one if ``BUCKETEER_DISABLED`` is set.

        The guide has the table of the variables. An empty variable counts as not set. A variable that begins with
        ``BUCKETEER_`` and is not in the table is logged as a warning.

        Args:
            environ: The variables; ``os.environ`` if None.
            events: Options of events for which no variable is set; None for the defaults.
            local_evaluation: Options of local evaluation for which no variable is set. If given, flags are evaluated
                locally unless a variable says otherwise.
            http: As in `Client`.

        Raises:
            ConfigurationError: If variables are missing or wrong; the message names all that are missing, or the first
                one that is wrong.
        """
        from bucketeer_async import _from_env as _environment  # noqa: PLC0415 - 0.3 ms, which other clients need not pay

        environ = os.environ if environ is None else environ
        _environment.check(environ)
        events = check_kind("events", ProcessorConfig() if events is None else events, ProcessorConfig)
        _environment.warn_of_unknown(environ, GuardedLogger(events.logger))
        if _environment.switch(environ, _environment.DISABLED):
            return cls.disabled(strict=events.strict)
        local_evaluation = _environment.local_evaluation(environ, local_evaluation)
        _environment.require(environ, with_tag=local_evaluation is None)
        options = {"tag": "", **_environment.options(environ, _environment.CLIENT)}
        options["api_key"] = ApiKey(options["api_key"])
        events = replace(events, **_environment.options(environ, _environment.EVENTS))
        del environ  # as the key
        return cls(events=events, local_evaluation=local_evaluation, http=http, **options)

    @classmethod
    def disabled(cls, *, strict: bool = False) -> Self:
        """Make a client that returns the default of every evaluation and sends nothing.

        The reason is ``CLIENT``. Goals are refused with the reason ``disabled``.

        Args:
            strict: As in `ProcessorConfig`.
        """
        client = cls.__new__(cls)
        client._compose(parts.disabled(strict=strict))  # noqa: SLF001 - of this class
        return client

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} {NO_COPY}")

    def __repr__(self) -> str:
        if not hasattr(self, "_life"):  # the constructor has raised, and its variables are shown
            return "<Client>"
        return f"<Client {self._life.state.value}>"

    def __del__(self) -> None:
        # The tasks of a closed loop may live for ever, and all parts of the client with them: only the client itself is
        # sure to be collected.
        events = getattr(self, "_events", None)  # there is none if the constructor has raised
        if events is not None:
            events._notice_lost_loop()

    # Lifecycle

    async def start(self) -> None:
        """Begin to evaluate flags and to deliver events; no effect while running.

        Callers at the same time share one start, which is undone only if all of them are cancelled.

        Raises:
            ClosedError: If the client is closing or closed, or is closed before it runs.
            ConfigurationError: If the certificates, the proxy or the bootstrap cannot be used.
            WrongLoopError: If the client was started on another event loop.
        """
        await self._life.start()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def wait_ready(self) -> None:
        """Wait until flags can be evaluated; returns at once if the gateway evaluates them.

        There is no limit to the wait: bound it by ``asyncio.timeout()``.

        Raises:
            ClosedError: If the client is not running.
            WrongLoopError: If the client was started on another event loop.
        """
        await self._life.evaluator().wait_ready()

    async def flush(self, timeout: float | None = None) -> bool:
        """Send the events that wait now, and wait until every event accepted before this call is settled.

        Args:
            timeout: Seconds to wait; None or infinity for as long as it takes.

        Returns:
            Whether all of them are settled; False when the time ran out first.

        Raises:
            TypeError: If the timeout is neither a number nor None.
            ValueError: If the timeout is NaN.
            ClosedError: If the client was never started.
            WrongLoopError: If the client was started on another event loop.
        """
        return await self._life.flush(timeout)

    async def aclose(self, timeout: float | EllipsisType | None = ...) -> DrainReport:
        """Refuse new evaluations, wait for those under way, deliver all events, and report what was left.

        The closing goes on when a caller is cancelled, within the ``timeout`` of that caller, too. Every caller waits
        for the same closing and gets the same report.

        Args:
            timeout: Seconds that all of this may still take, if that is less than the client's ``timeout`` and
                ``drain_timeout`` together. Less than 0 counts as 0.

        Returns:
            What became of the events that were waiting.

        Raises:
            TypeError: If the timeout is neither a number nor None.
            ValueError: If the timeout is NaN.
            WrongLoopError: If the client was started on another event loop.
        """
        return await self._life.aclose(timeout)

    def statistics(self) -> Statistics:
        """Return all counters of events, exact to the event, and those of flag evaluation; from any thread."""
        return replace(
            self._events.statistics(),
            local_evaluation=None if self._local is None else self._local.statistics(),
            remote_evaluation=None if self._remote is None else self._remote.statistics(),
            callback_errors=self._on_evaluation.errors
            + self._status.hook.errors
            + (0 if self._local is None else self._local.callback_errors),
        )

    # One user

    def for_user(self, user: User) -> BoundClient:
        """Return a client for one user: ``await bound.bool("new-checkout", default=False)``.

        Nothing is evaluated yet, and nothing raised: what is not a `User` is so at each call of the bound client.
        """
        return BoundClient(user, lambda: self._evaluations, self._events)

    async def evaluate_all(self, user: User, only: Iterable[str] | None = None) -> UserEvaluations:
        """Evaluate all flags of a user at one moment, for synchronous code.

        With local evaluation, all flags are evaluated by the same definitions; otherwise, the gateway evaluates them in
        one request. Evaluation events are pushed when a flag is accessed, not before. If the flags cannot be evaluated,
        every access returns its default, and the details say why.

        Args:
            user: The user.
            only: The ids of the flags that are wanted, all others are left out; None for all. With local evaluation only
                these are evaluated; the gateway evaluates and sends all.

        Raises:
            TypeError: If ``only`` is a str, or contains anything but str.
            ValueError: If ``only`` contains an empty id.
            WrongLoopError: If the client was started on another event loop.
        """
        return await evaluate_all(self._evaluations, user, only)

    # Hooks

    def on_evaluation(self, callback: Callable[[FlagEvaluation], object]) -> Subscription:
        """Register a callback that is called after every evaluation of a flag, with the value, its reason and the duration.

        The callback is called before the variation method returns, on the event loop; for a variation that is not
        awaited, in the thread of the call. It must be short. What it raises is logged and counted. It is not called for
        an evaluation that raised or was cancelled.

        Raises:
            TypeError: If the callback is not callable, or is a coroutine function.
        """
        from bucketeer_async._flags._observed import ObservedEvaluations  # noqa: PLC0415 - few applications observe

        subscription = self._on_evaluation.register(callback)
        if not isinstance(self._evaluations, ObservedEvaluations):
            self._evaluations = ObservedEvaluations(self._evaluations, self._on_evaluation)
        return subscription

    def on_status(self, callback: Callable[[ClientStatus], object]) -> Subscription:
        """Register a callback that is called when the state of the client changes, with the state and the reason.

        If the client was started, the callback is called with the present status at once. It is called on the event
        loop, and must be short. What it raises is logged and counted.

        Raises:
            TypeError: If the callback is not callable, or is a coroutine function.
        """
        return self._status.on_status(callback)

    def on_change(self, callback: Callable[[FlagChanges], object]) -> Subscription:
        """Register a callback that is called after every poll that has changed flags, the first poll included.

        The callback is called on the event loop, once the new flags are in use, and must be short. What it raises is
        logged and counted.

        Raises:
            ConfigurationError: If the client has no local evaluation.
            TypeError: If the callback is not callable, or is a coroutine function.
        """
        return self._local_flags().on_change(callback)

    # Deployment

    async def check(self, timeout: float = 5.0) -> CheckReport:
        """Check that the gateway can be reached, and that the API key has the role that this client needs.

        For deployments and startup probes; the client need not be started. No event is pushed, and no flag is requested.

        Args:
            timeout: Seconds that the check may take.

        Raises:
            ConfigurationError: If the gateway refuses the key, the endpoint is not a gateway's, or the client is
                disabled. The text says what to change; so do those of the next two.
            ConnectionFailedError: If the gateway cannot be reached; a `RequestTimeoutError` if the time ran out.
            ApiError: If the gateway is failing.
            ClosedError: If the client is closed.
            WrongLoopError: If the client was first used on another event loop.
        """
        from bucketeer_async._check import check  # noqa: PLC0415 - deployments call it, and few others

        if self._api is None:
            raise ConfigurationError("the client is disabled: there is no gateway to check; unset BUCKETEER_DISABLED")
        return await check(self._api, "client" if self._local is None else "server", timeout)

    # Local evaluation

    def export_snapshot(self) -> bytes:
        """Return the flags and segments as of the export, for ``LocalEvaluation(bootstrap=...)``.

        The bytes contain the ids of users in segments, and no key. For a large environment the call takes a second or
        so; it may be made from any thread.

        Raises:
            ConfigurationError: If the client has no local evaluation.
            NotReadyError: If no flags have arrived yet.
        """
        return self._local_flags().export_snapshot()

    def explain(self, user: User, feature_id: str) -> _evaluation.Explanation:
        """Return why a flag serves what it does to a user, step by step, as of the flags of this moment.

        The explanation is computed by the evaluator itself, in tens of microseconds for each flag, and pushes no event;
        the call may be made from any thread. Where the default would be returned, because there is no such flag for
        example, the explanation says so: nothing is raised. That a value does not have the type of a variation method
        is not part of an explanation.

        The explanation contains the id and attributes of the user, and values of rules and targets, which may be ids of
        other users. Nothing of it is logged.

        Args:
            user: The user.
            feature_id: The flag.

        Raises:
            ConfigurationError: If the client has no local evaluation: only the gateway knows why, and does not tell.
            NotReadyError: If no flags have arrived yet, or the client is disabled.
            TypeError: If the user is not a `User`, or the flag's id is not a str.
            ValueError: If the flag's id is empty, or not valid Unicode.
        """
        return self._local_flags().explain(check_user(user), check_text("feature_id", feature_id, empty=False))

    def _local_flags(self) -> LocalFlags:
        if self._local is None:
            raise ConfigurationError("Client.local_evaluation is not set: the gateway evaluates the flags")
        return self._local

    # Goals

    async def track(self, user: User, goal_id: str, *, value: SupportsFloat = 0.0) -> Receipt:
        """Record that a user reached a goal.

        Args:
            user: The user.
            goal_id: The goal; not empty.
            value: A finite real number, such as a float, an int or a ``Decimal``; the gateway stores it as a 32-bit
                float.

        Raises:
            WrongLoopError: If the client was started on another event loop.
        """
        return await self._events.push_goal_event(user, goal_id, value)

    def track_nowait(self, user: User, goal_id: str, *, value: SupportsFloat = 0.0) -> Receipt:
        """As `track`; never waits, and may be called from any thread."""
        return self._events.push_goal_event_nowait(user, goal_id, value)
