"""The ASGI application: passes HTTP requests to the endpoints, and converts the results to HTTP responses."""

from __future__ import annotations

import asyncio
import html
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send

from bucketeer_async._nesting import parse_json
from bucketeer_async.gateway._endpoints import ENDPOINTS, handle
from bucketeer_async.gateway._json import UnprintableError
from bucketeer_async.gateway._linker import Experiment, GoalCounts
from bucketeer_async.gateway._state import Fault, GatewayState
from bucketeer_async.gateway._validation import RefusedRequestError

_LOOPBACK_HOSTS: Final = ("localhost", "127.0.0.1", "[::1]")
_SHOWN: Final = 20  # events on the ``/_dev/`` page
_UNUSABLE: Final = (TypeError, ValueError, RecursionError)  # what a body for the ``/_dev/`` endpoints may raise


def create_app(state: GatewayState, *, any_host: bool = False) -> Starlette:
    """Return an ASGI application that serves a gateway.

    Args:
        state: The state of the gateway, which may be read and changed while the gateway serves.
        any_host: Whether to accept any ``Host`` header. By default, only the names of the loopback interface are
            accepted.
    """
    dev = _DevEndpoints(state)
    hosts = ["*"] if any_host else list(_LOOPBACK_HOSTS)
    return Starlette(
        routes=[
            Route("/_dev/", dev.page, methods=["GET"]),
            Route("/_dev/state", dev.state, methods=["GET"]),
            Route("/_dev/experiments", dev.experiments, methods=["GET"]),
            Route("/_dev/faults", dev.faults, methods=["GET", "POST", "DELETE"]),
            Route("/_dev/flags/{feature_id:path}", dev.flag, methods=["PATCH"]),
            Mount("/", app=_Gateway(state)),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)],
    )


def error_response(status: int, code: int, message: str) -> Response:
    """Return an error response as the server writes it."""
    headers = {"www-authenticate": message} if status == 401 else None
    return JSONResponse({"code": code, "message": message, "details": []}, status, headers)


class _Gateway:
    """The endpoints of the API, and the server's responses to all other paths."""

    def __init__(self, state: GatewayState) -> None:
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        response = await self._respond(request)
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        path = request.scope["path"].rstrip("/")
        if not path:
            return error_response(400, 3, "Bad Request")
        self._state.requests[path] += 1
        if path == "/ping":
            return self._ping(request)
        if path not in ENDPOINTS:
            return error_response(404, 5, "Not Found")
        if request.method != "POST":
            return error_response(501, 12, "Method Not Allowed")
        body = await request.body()
        fault = self._state.fault_for(path)
        if fault is not None and (response := await _apply_fault(fault)) is not None:
            return response
        return self._handle(path, request.headers.get("authorization", "").strip(" \t"), body, fault)

    def _ping(self, request: Request) -> Response:
        if request.method != "GET":
            return error_response(501, 12, "Method Not Allowed")
        return JSONResponse({"time": str(int(self._state.now()))})

    def _handle(self, path: str, key: str, body: bytes, fault: Fault | None) -> Response:
        try:
            return JSONResponse(handle(self._state, ENDPOINTS[path], key, body, fault))
        except RefusedRequestError as error:
            return error_response(error.status, error.code, str(error))
        except UnprintableError:
            return JSONResponse({"code": 13, "message": "failed to marshal error message"}, 500)


async def _apply_fault(fault: Fault) -> Response | None:
    """Wait for the delay of the fault; return its response, or None if the request is to be handled as usual."""
    if fault.delay:
        await asyncio.sleep(fault.delay)
    if not fault.status:
        return None
    headers = dict(fault.headers)
    if fault.retry_after is not None:
        headers["retry-after"] = str(fault.retry_after)
    if fault.body is not None:
        return Response(fault.body, fault.status, headers)
    body = {"code": 14, "message": "this failure was requested with a Fault", "details": []}
    return JSONResponse(body, fault.status, headers)


class _DevEndpoints:
    """The ``/_dev/`` endpoints, for people and for tests in other processes."""

    def __init__(self, state: GatewayState) -> None:
        self._state = state

    async def state(self, _request: Request) -> Response:
        newest = [{"id": each.id, "kind": each.kind, "event": each.event} for each in self._state.newest(_SHOWN)]
        return JSONResponse(
            {
                "counts": self._state.counts(),
                "served": self._state.served(),
                "requests": dict(self._state.requests),
                "flags": [_flag_json(flag.fields) for flag in self._state.environment.flags.values()],
                "flagsProblem": self._state.flags_problem,
                "faults": [_fault_json(fault) for fault in self._state.faults],
                "newest": newest,
            }
        )

    async def experiments(self, _request: Request) -> Response:
        counts = self._state.experiments()
        return JSONResponse(
            {
                "experiments": [
                    _experiment_json(each)
                    | {"variations": {key: asdict(goals) for key, goals in counts[each.id].items()}}
                    for each in self._state.environment.experiments.values()
                ],
                "linking": asdict(self._state.linking),
            }
        )

    async def page(self, _request: Request) -> Response:
        counts = "".join(
            f"<tr><td>{kind}<td>{count['accepted']}<td>{count['unique']}"
            for kind, count in self._state.counts().items()
        )
        served = self._state.served()
        flags = "".join(
            f"<tr><td>{html.escape(flag)}<td>{stored.fields['version']}<td>{_flag_status(stored.fields)}"
            f"<td>{_served_text(served.get(flag, {}))}"
            for flag, stored in self._state.environment.flags.items()
        )
        experiments = "".join(
            f"<tr><td>{html.escape(each)}<td>{html.escape(variation) or 'no evaluation'}"
            f"<td>{goals.linked}<td>{goals.waiting}<td>{_discarded_text(goals.discarded)}"
            for each, counts in self._state.experiments().items()
            for variation, goals in (counts or {"": GoalCounts()}).items()
        )
        events = "".join(
            f"<li><code>{html.escape(json.dumps(each.event, ensure_ascii=False))}</code>"
            for each in self._state.newest(_SHOWN)
        )
        return HTMLResponse(
            "<!doctype html><meta charset=utf-8><title>Local Bucketeer gateway</title>"
            "<h1>Local Bucketeer gateway</h1>"
            f"<table><tr><th>class<th>accepted<th>unique ids{counts}</table>"
            f"<h2>Flags</h2><p>{html.escape(self._state.flags_problem)}</p>"
            f"<table><tr><th>flag<th>version<th>status<th>served{flags}</table>"
            "<h2>Goals of experiments</h2>"
            f"<table><tr><th>experiment<th>variation<th>linked<th>waiting<th>discarded{experiments}</table>"
            f"<h2>Newest events</h2><ol>{events}</ol>"
        )

    async def flag(self, request: Request) -> Response:
        feature_id = request.path_params["feature_id"]
        try:
            changes = await _json_of(request)
            self._state.set_flag(self._state.flag(feature_id) | changes)
        except KeyError:
            return JSONResponse({"error": f"flag {feature_id!r} does not exist"}, 404)
        except _UNUSABLE as error:
            return JSONResponse({"error": f"a change is an object with fields of a flag: {error}"}, 400)
        return JSONResponse(self._state.flag(feature_id))

    async def faults(self, request: Request) -> Response:
        if request.method == "DELETE":
            self._state.clear_faults()
        elif request.method == "POST":
            try:
                self._state.fail(Fault(**await _json_of(request)))
            except _UNUSABLE as error:
                return JSONResponse({"error": f"a fault is an object with the fields of Fault: {error}"}, 400)
        return JSONResponse([_fault_json(fault) for fault in self._state.faults])


async def _json_of(request: Request) -> Any:
    return parse_json((await request.body()).decode())


def _fault_json(fault: Fault) -> dict[str, Any]:
    return {name: getattr(fault, name) for name in Fault.__dataclass_fields__}


def _flag_json(fields: dict[str, Any]) -> dict[str, Any]:
    return {"id": fields["id"], "version": fields["version"], "status": _flag_status(fields)}


def _experiment_json(experiment: Experiment) -> dict[str, Any]:
    return {
        "id": experiment.id,
        "featureId": experiment.feature_id,
        "featureVersion": experiment.feature_version,
        "goalIds": experiment.goal_ids,
        "startAt": experiment.start_at,
        "stopAt": None if experiment.stop_at == math.inf else experiment.stop_at,
    }


def _discarded_text(discarded: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in discarded.items()) or "0"


def _served_text(counts: dict[str, int]) -> str:
    return html.escape(", ".join(f"{variation or 'a default'} {count}" for variation, count in counts.items()))


def _flag_status(fields: dict[str, Any]) -> str:
    if fields["archived"]:
        return "archived"
    return "on" if fields["enabled"] else "off"
