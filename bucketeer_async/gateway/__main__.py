"""Runs the gateway by itself: ``python -m bucketeer_async.gateway --port 8000``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import uvicorn

from bucketeer_async.gateway._app import create_app
from bucketeer_async.gateway._server import listen
from bucketeer_async.gateway._state import DEFAULT_KEYS, GatewayKey, GatewayState


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, and serve until a signal ends it."""
    parser = argparse.ArgumentParser(prog="python -m bucketeer_async.gateway", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port; 0 for a free one (default: %(default)s)")
    parser.add_argument("--client-key", action="append", default=[], help="a client key (default: client-key)")
    parser.add_argument("--server-key", action="append", default=[], help="a server key (default: server-key)")
    options = parser.parse_args(arguments)
    keys = {key: GatewayKey(role="SDK_CLIENT") for key in options.client_key}
    keys |= {key: GatewayKey(role="SDK_SERVER") for key in options.server_key}
    app = create_app(GatewayState(keys=keys or DEFAULT_KEYS), any_host=options.host not in {"127.0.0.1", "::1"})
    with listen(options.host, options.port) as listener:
        print(f"Bucketeer gateway on http://{options.host}:{listener.getsockname()[1]}", flush=True)
        config = uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=1)
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main(sys.argv[1:])
