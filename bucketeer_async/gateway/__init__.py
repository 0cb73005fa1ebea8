"""A local Bucketeer gateway for tests and demos: in memory, with flags, and as strict as the server.

`create_app` returns the ASGI application. `LocalGateway` serves it on a port of the loopback interface. ``python -m
bucketeer_async.gateway`` runs it as a process. `flag` and `experiment` write definitions. Needs the extra ``gateway``.
"""

# A request goes from _app (HTTP: paths, headers, faults, errors) to _endpoints (one function per endpoint), by way of
# _decoding, _json and _repair (the server's decoder) and _validation (its checks). _evaluations and _polls make the
# responses, with the ids of _ids; _state has keys, events and faults, _environment the flags, segments and
# experiments, which _definitions and _shapes check. _linker links goals to experiments. _server opens a port; _flag_file, _flag_yaml and _builder are ways to write flags.
#
# Elsewhere: the value of a flag (_evaluation). Nothing of the client is used here, so that tests of the one against the
# other compare two independent readings of the protocol.

try:
    from bucketeer_async.gateway._app import create_app
    from bucketeer_async.gateway._builder import experiment, flag
    from bucketeer_async.gateway._linker import GoalCounts, Linking
    from bucketeer_async.gateway._server import LocalGateway
    from bucketeer_async.gateway._state import DEFAULT_KEYS, Fault, GatewayKey, GatewayState, RecordedEvent
except ModuleNotFoundError as _error:
    _missing = (_error.name or "").partition(".")[0]
    if _missing not in {"starlette", "uvicorn"}:
        raise
    _text = f'the local gateway needs {_missing}, which is not installed: pip install "bucketeer-async[gateway]"'
    raise ModuleNotFoundError(_text, name=_missing) from _error

__all__ = [
    "DEFAULT_KEYS",
    "Fault",
    "GatewayKey",
    "GatewayState",
    "GoalCounts",
    "Linking",
    "LocalGateway",
    "RecordedEvent",
    "create_app",
    "experiment",
    "flag",
]
