"""The check of a client: the gateway can be reached, and the API key has the role that the client needs.

Three requests: a ping, and one to each of two endpoints that the client uses. The latter have an empty body, which the
gateway refuses after it has checked the key: so no user, no event and no flag is sent in either direction.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final, Literal

from bucketeer_async._errors import (
    ApiError,
    ConfigurationError,
    ConnectionFailedError,
    DecodeError,
    RequestTimeoutError,
    StatusError,
)
from bucketeer_async._notices import CheckReport
from bucketeer_async._options import check_seconds
from bucketeer_async._retry import PauseKind, decide, refuses_body, refuses_key
from bucketeer_async._transport._api import ApiClient

_ENDPOINTS: Final = {"client": "/get_evaluation", "server": "/get_feature_flags"}
_NEEDS: Final = {
    "client": (
        "evaluation by the gateway needs a client key, which the console lists under 'Client SDKs'; with a server key, "
        "set Client.local_evaluation"
    ),
    "server": (
        "local evaluation needs a server key, which the console lists under 'Server SDKs'; with a client key, leave "
        "Client.local_evaluation out"
    ),
}
_BAD_ROLE: Final = "gateway: bad role"
_INVALID: Final = "gateway: invalid APIKey"
_DISABLED: Final = "gateway: disabled APIKey"


async def check(
    api: ApiClient, role: Literal["client", "server"], timeout: float, wall: Callable[[], float] = time.time
) -> CheckReport:
    """Check the gateway and the key.

    Args:
        api: Sends the requests.
        role: The role that the key must have.
        timeout: Seconds that the check may take.
        wall: Unix time, in seconds.

    Raises:
        As `Client.check`.
    """
    check_seconds("timeout", timeout)
    clock = asyncio.get_running_loop().time
    ends = clock() + timeout
    try:
        async with asyncio.timeout_at(ends):
            await api.start()  # loading certificates is no latency of the gateway
            began, sent_at = clock(), wall()
            server_time = await api.ping(timeout=timeout)
            latency = clock() - began
            for path in (_ENDPOINTS[role], "/register_events"):
                await _check_key(api, path, timeout)
    except TimeoutError as error:
        text = f"the check took longer than {timeout:g} s; {_reach(api.endpoint)}, or allow more time"
        raise RequestTimeoutError(text) from error
    except ApiError as error:
        raise _with_advice(error, api.endpoint, role) from error
    # The gateway's time has no fraction, which is half a second on average.
    skew = sent_at + latency / 2 - (server_time + 0.5)
    return CheckReport(endpoint=api.endpoint, role=role, server_time=server_time, skew=skew, latency=latency)


async def _check_key(api: ApiClient, path: str, timeout: float) -> None:
    """Do nothing if the key may use an endpoint.

    Raises:
        ApiError: If it may not, or if that cannot be found out.
    """
    try:
        await api.post_nothing(path, timeout=timeout)
    except StatusError as error:
        if not refuses_body(error):
            raise


def _with_advice(error: ApiError, endpoint: str, role: str) -> Exception:
    """Return an error that says what to do about an error of a request."""
    if isinstance(error, RequestTimeoutError):
        return RequestTimeoutError(f"{error}; {_reach(endpoint)}, or allow more time")
    if isinstance(error, ConnectionFailedError):
        return ConnectionFailedError(f"{error}; {_reach(endpoint)}", maybe_sent=error.maybe_sent)
    if isinstance(error, StatusError) and refuses_key(error):
        return ConfigurationError(f"{error}: {_key_advice(error.detail, endpoint, role)}")
    if isinstance(error, DecodeError) or decide(error).pause_kind is PauseKind.CONFIGURATION:
        return ConfigurationError(
            f"{error}: {endpoint} does not respond as a Bucketeer gateway; check Client.endpoint, which is the host of "
            "the gateway, not of the console, and any proxy on the way"
        )
    return ApiError(f"{error}: the gateway at {endpoint} can be reached, and is failing; try again later")


def _reach(endpoint: str) -> str:
    return f"check Client.endpoint, and that this host may reach {endpoint} (DNS, firewall, proxy, certificates)"


def _key_advice(detail: str, endpoint: str, role: str) -> str:
    if detail == _BAD_ROLE:
        return _NEEDS[role]
    if detail == _INVALID:
        return f"the gateway at {endpoint} does not know the key; check Client.api_key, and that both belong together"
    if detail == _DISABLED:
        return "enable the key, or its environment, in the console, or use another key"
    return "check Client.api_key, and whether a proxy on the way refuses the request"
