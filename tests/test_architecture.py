"""The map of the package: layers between folders, no cycle within one, and a page that names every file."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "bucketeer_async"
PAGE = PACKAGE.parent / "docs" / "architecture.md"

#: From the top down. A module imports only from lines below its own; what stands on one line does not know each other.
LAYERS = """
__init__
api spool gateway

_client
_composition
_client_life _disabled

_events _flags
_evaluation _transport

_from_env _lifecycle
_background _retry _log _go_numbers

_options
_results
_models
_errors _version _proto
"""
LEVEL = {name: -number for number, line in enumerate(LAYERS.split("\n")) for name in line.split()}
FOLDERS = sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists() and path.name != "_proto")
GATEWAY_MAY_USE = {"_background", "_errors", "_evaluation", "_models", "_proto", "_results", "gateway"}


def modules() -> dict[str, list[Path]]:
    """The files of each top-level module of the package."""
    found: dict[str, list[Path]] = {}
    for path in PACKAGE.rglob("*.py"):
        found.setdefault(path.relative_to(PACKAGE).parts[0].removesuffix(".py"), []).append(path)
    return found


def imported(path: Path) -> set[str]:
    """The modules of the package that a file imports, also inside functions and for type checkers, by dotted name."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            module = f"bucketeer_async.{node.module}" if node.level else node.module or ""
            names |= {f"{module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.removeprefix("bucketeer_async.") for name in names if name.startswith("bucketeer_async.")}


def folders_imported(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(path)}


def test_every_module_sits_on_a_layer() -> None:
    assert modules().keys() == LEVEL.keys()


@pytest.mark.parametrize("module", sorted(LEVEL))
def test_imports_point_downwards(module: str) -> None:
    upwards = {
        (path.name, name)
        for path in modules()[module]
        for name in folders_imported(path) - {module}
        if LEVEL[name] >= LEVEL[module]
    }

    assert not upwards


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_folder_has_a_cycle(folder: str) -> None:
    left = {
        path.stem: {name.split(".")[1] for name in imported(path) if name.startswith(f"{folder}.")} - {path.stem}
        for path in (PACKAGE / folder).glob("*.py")
        if path.stem != "__init__"
    }
    while free := {name for name, needed in left.items() if not needed & left.keys()}:
        left = {name: needed for name, needed in left.items() if name not in free}

    assert not left


def test_the_page_names_every_file() -> None:
    named = set(re.findall(r"^\| \**`([^`]+)`", PAGE.read_text(), flags=re.MULTILINE))
    files = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if "_proto" not in path.parts and (path.name != "__init__.py" or path.parent == PACKAGE)
    }

    assert {name for name in named if name.endswith(".py")} == files
    assert {name.rstrip("/") for name in named if name.endswith("/")} == {*FOLDERS, "_proto"}


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_folder_says_what_is_inside(folder: str) -> None:
    text = ast.get_docstring(ast.parse((PACKAGE / folder / "__init__.py").read_text()))

    assert text is not None
    assert len(text) > 100


def test_the_gateway_and_the_client_can_disagree() -> None:
    used = {name for path in modules()["gateway"] for name in folders_imported(path)}

    assert used <= GATEWAY_MAY_USE


def test_http_is_known_in_one_file() -> None:
    knowing = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Import) and any(alias.name.startswith("httpx") for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("httpx"))
    }

    assert knowing == {"_transport/_http.py"}


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
