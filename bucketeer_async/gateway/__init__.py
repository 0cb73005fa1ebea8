"""A local Bucketeer gateway for tests and demos: in memory, with flags, and as strict as the server.

`create_app` returns the ASGI application. `LocalGateway` serves it on a port of the loopback interface. ``python -m
bucketeer_async.gateway`` runs it as a process. `flag` writes definitions of flags. Needs the extra ``gateway``.
"""

from bucketeer_async.gateway._app import create_app
from bucketeer_async.gateway._builder import flag
from bucketeer_async.gateway._server import LocalGateway
from bucketeer_async.gateway._state import DEFAULT_KEYS, Fault, GatewayKey, GatewayState, RecordedEvent

__all__ = ["DEFAULT_KEYS", "Fault", "GatewayKey", "GatewayState", "LocalGateway", "RecordedEvent", "create_app", "flag"]
