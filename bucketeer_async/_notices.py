"""What a client tells its application: the values that callbacks of hooks are called with, and the report of a check."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from bucketeer_async._dataclasses import dataclass, field
from bucketeer_async._models import EvaluationDetails, User


class ClientState(StrEnum):
    """The state of a client, as callbacks of ``on_status`` see it."""

    STARTING = "starting"
    """The client was started, and flags cannot be evaluated yet."""
    READY = "ready"
    """Flags can be evaluated."""
    STALE = "stale"
    """No poll has succeeded for three polling intervals: flags are evaluated as they were. With local evaluation only."""
    FAILING = "failing"
    """Events cannot be delivered, or three polls or three evaluations by the gateway in a row have failed."""
    RECOVERED = "recovered"
    """As `READY`, after the client was `STALE` or `FAILING`."""
    CLOSED = "closed"
    """The client is closed, or its start has failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientStatus:
    """The status of a client.

    Attributes:
        state: The state.
        reason: In words why the client is `STALE` or `FAILING`, without API key, user and payload; "" in other states.
    """

    state: ClientState
    reason: str = ""

    @property
    def ok(self) -> bool:
        """Whether flags are evaluated and events are delivered: the state is `READY` or `RECOVERED`."""
        return self.state in {ClientState.READY, ClientState.RECOVERED}


@dataclass(frozen=True, slots=True, kw_only=True)
class FlagEvaluation:
    """An evaluation of a flag that has ended. Its repr has no user, and no value.

    Attributes:
        user: The user; None if the argument was not a `User`.
        feature_id: The flag; "" if the argument was not a str.
        details: The value, and where it comes from.
        default: The caller's default.
        duration: Seconds that the evaluation took, with all its waiting.
    """

    user: User | None = field(repr=False)
    feature_id: str
    details: EvaluationDetails[object] = field(repr=False)
    default: object = field(repr=False)
    duration: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """What `Client.check` has found.

    Attributes:
        endpoint: The base URL of the gateway.
        role: The role of the API key.
        server_time: Time by the gateway's clock, in whole Unix seconds.
        skew: Seconds that the clock of this host is ahead of the gateway's, negative if behind; exact to half a second
            and half of ``latency``.
        latency: Seconds that the gateway took to respond to a request that needs no key, a new connection included.
    """

    endpoint: str
    role: Literal["client", "server"]
    server_time: int
    skew: float
    latency: float
