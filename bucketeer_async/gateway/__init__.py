"""A Bucketeer gateway small enough for a test: in memory, on loopback, as strict as the server, with flags.

``create_app`` is the ASGI application, `LocalGateway` puts a port before it, and
``python -m bucketeer_async.gateway`` runs it by itself; `flag` writes definitions. Needs the extra ``gateway``.
"""

from bucketeer_async.gateway._app import create_app
from bucketeer_async.gateway._builder import flag
from bucketeer_async.gateway._server import LocalGateway
from bucketeer_async.gateway._state import DEFAULT_KEYS, Fault, GatewayKey, GatewayState, RecordedEvent

__all__ = ["DEFAULT_KEYS", "Fault", "GatewayKey", "GatewayState", "LocalGateway", "RecordedEvent", "create_app", "flag"]
