"""Runs the gateway as a process: ``python -m bucketeer_async.gateway --port 8000``."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import Sequence

import uvicorn

from bucketeer_async._errors import ConfigurationError
from bucketeer_async.gateway._app import create_app
from bucketeer_async.gateway._flag_file import FlagFile
from bucketeer_async.gateway._linker import Linking
from bucketeer_async.gateway._server import listen
from bucketeer_async.gateway._state import DEFAULT_KEYS, GatewayKey, GatewayState


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, and run the gateway until a signal stops the process."""
    parser = argparse.ArgumentParser(prog="python -m bucketeer_async.gateway", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port; 0 for a free one (default: %(default)s)")
    parser.add_argument("--client-key", action="append", default=[], help="add a client key (default: client-key)")
    parser.add_argument("--server-key", action="append", default=[], help="add a server key (default: server-key)")
    parser.add_argument(
        "--flags",
        metavar="FILE",
        help="a JSON or YAML file of flags, segments and experiments, reloaded when it changes",
    )
    parser.add_argument(
        "--link-first",
        choices=["evaluations", "goals"],
        default="evaluations",
        help="the events that experiments take as soon as they arrive (default: %(default)s)",
    )
    parser.add_argument(
        "--link-delay",
        metavar="SECONDS",
        type=float,
        default=0.0,
        help="how much later experiments take the others (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    keys = {key: GatewayKey(role="SDK_CLIENT") for key in options.client_key}
    keys |= {key: GatewayKey(role="SDK_SERVER") for key in options.server_key}
    try:
        linking = Linking(first=options.link_first, delay=options.link_delay)
        state = GatewayState(keys=keys or DEFAULT_KEYS, linking=linking)
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(_serve(state, options.host, options.port, options.flags))
    except ConfigurationError as error:
        parser.error(str(error))


async def _serve(state: GatewayState, host: str, port: int, flags: str | None) -> None:
    app = create_app(state, any_host=host not in {"127.0.0.1", "::1"})
    config = uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=1)
    async with FlagFile(flags, state).followed() if flags else contextlib.nullcontext():
        with listen(host, port) as listener:
            print(f"Bucketeer gateway on http://{host}:{listener.getsockname()[1]}", flush=True)
            await uvicorn.Server(config).serve(sockets=[listener])


if __name__ == "__main__":
    main(sys.argv[1:])
