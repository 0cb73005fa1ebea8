"""Imports point downwards, every module sits on a layer, and importing the package stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "bucketeer_async"

#: From the bottom up. A module imports only from lines above its own.
LAYERS = [
    "_version _errors",  # words
    "_models",
    "_results",
    "_options _proto",
    "_go_numbers _log _background _retry",
    "_lifecycle",  # tools
    "_from_env",
    "_transport _evaluation",  # subjects
    "_events _flags",
    "_disabled _client_life",  # the client
    "_composition",
    "_client",
    "api spool gateway",  # doors
    "__init__",
]
LEVEL = {name: level for level, line in enumerate(LAYERS) for name in line.split()}
GATEWAY_MAY_USE = {"_evaluation", "_models", "_results", "_errors", "_proto", "_background", "gateway"}


def modules() -> dict[str, list[Path]]:
    """The files of each top-level module of the package; the generated ones and their tools are `_proto`."""
    found: dict[str, list[Path]] = {}
    for path in PACKAGE.rglob("*.py"):
        found.setdefault(path.relative_to(PACKAGE).parts[0].removesuffix(".py"), []).append(path)
    return found


def imported(path: Path) -> set[str]:
    """The top-level modules of the package that a file imports, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("bucketeer_async.")}


def test_every_module_sits_on_a_layer() -> None:
    assert modules().keys() == LEVEL.keys()


@pytest.mark.parametrize("module", sorted(LEVEL))
def test_imports_point_downwards(module: str) -> None:
    upwards = {
        (path.name, name)
        for path in modules()[module]
        for name in imported(path) - {module}
        if LEVEL[name] >= LEVEL[module]
    }

    assert not upwards


def test_the_gateway_and_the_client_can_disagree() -> None:
    used = {name for path in modules()["gateway"] for name in imported(path)}

    assert used <= GATEWAY_MAY_USE


def test_http_is_known_in_one_module() -> None:
    knowing = {
        module
        for module, paths in modules().items()
        for path in paths
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Import) and any(alias.name.startswith("httpx") for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("httpx"))
    }

    assert knowing == {"_transport"}


def test_importing_is_light() -> None:
    heavy = [
        "starlette",
        "uvicorn",
        "fastapi",
        "aiohttp",
        "openfeature",
        "httpx",
        "httpx2",
        "google.protobuf",
        "sqlite3",
        "bucketeer_async.gateway",
    ]
    code = f"import sys, bucketeer_async; print([name for name in {heavy} if name in sys.modules])"

    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert loaded.strip() == "[]"
