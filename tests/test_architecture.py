"""The map of the package: layers between folders, no cycle within a folder, and a page that shows the same map."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "bucketeer_async"
PAGE = PACKAGE.parent / "docs" / "architecture.md"

#: From the top down. A module imports only from lines below its own; modules on one line do not know each other.
LAYERS = """
__init__
api blocking spool gateway

_client_thread
_client
_bound_client _composition
_check _client_life _disabled _from_env _variations _variations_nowait

_events _flags
_evaluation _transport

_status
_lifecycle
_hooks
_background _retry _log _go_numbers _nesting

_options
_results _notices
_models
_errors _dataclasses _process_id _version _proto
"""
LEVEL = {name: -number for number, line in enumerate(LAYERS.split("\n")) for name in line.split()}
FOLDERS = sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists() and path.name != "_proto")
GATEWAY_MAY_USE = {
    *("_background", "_errors", "_evaluation", "_models", "_nesting", "_options", "_proto", "_results", "gateway")
}


def modules() -> dict[str, list[Path]]:
    """Return the files of each top-level module of the package."""
    found: dict[str, list[Path]] = {}
    for path in PACKAGE.rglob("*.py"):
        found.setdefault(path.relative_to(PACKAGE).parts[0].removesuffix(".py"), []).append(path)
    return found


def imported(path: Path) -> set[str]:
    """Return the modules of the package that a file imports, also inside functions and for type checkers."""
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


def test_the_page_has_the_same_layers() -> None:
    block = PAGE.read_text().partition("```text\ndoors ")[2].partition("```")[0]
    rows = [re.findall(r"\b__init__|(?<![\w-])_?[a-z]\w*(?=[,\n])", line + "\n") for line in block.splitlines()]

    assert {name for row in rows for name in row} == LEVEL.keys()
    assert all(
        min(map(LEVEL.__getitem__, upper)) > max(map(LEVEL.__getitem__, lower)) for upper, lower in pairwise(rows)
    )


def test_the_page_names_functions_that_exist() -> None:
    text = PAGE.read_text()
    steps = set(re.findall(r"^ *([A-Za-z_.]+) {2,}((?:_\w+/)?_\w+\.py)", text, flags=re.MULTILINE))
    steps |= set(re.findall(r"`([\w.]+)` in `([\w/]+\.py)`", text))

    assert len(steps) > 80
    assert not {(name, file) for name, file in steps if name not in defined_in(located(file))}


def located(name: str) -> Path:
    """Return the path of a file that the page names, from the package or from the root of the project."""
    return PACKAGE / name if (PACKAGE / name).exists() else PACKAGE.parent / name


def defined_in(path: Path) -> set[str]:
    """Return the names that a file defines: functions, classes, constants, and the members of classes."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        names |= names_of(node)
        if isinstance(node, ast.ClassDef):
            inner = {name for each in ast.walk(node) for name in names_of(each)}
            names |= {f"{node.name}.{name}" for name in inner}
    return names


def names_of(node: ast.AST) -> set[str]:
    """Return the names that one statement defines."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {name for each in targets if (name := getattr(each, "id", None) or getattr(each, "attr", None))}


def test_the_page_names_files_that_exist() -> None:
    named = re.findall(r"`([\w./]+/[\w./]*|\w+\.(?:py|toml))`", PAGE.read_text())

    assert len(named) > 100
    assert not [name for name in named if not located(name).exists()]


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


def test_dataclasses_that_an_import_loads_are_generated_when_they_are_used() -> None:
    compiling = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module == "dataclasses"
        if any(alias.name == "dataclass" for alias in node.names)
    }

    assert {name for name in compiling if not name.startswith("gateway/")} == {"_dataclasses.py", "spool.py"}


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
        "bucketeer_async._evaluation._explain",
    ]
    code = f"import sys, bucketeer_async; print([name for name in {heavy} if name in sys.modules])"

    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert loaded.strip() == "[]"
