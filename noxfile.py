"""The project's sessions; `nox -l` lists them. Each session creates its own environment from pyproject.toml."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.5"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = True
nox.options.sessions = ["lint", "types", "tests"]
os.environ.setdefault("UV_PYTHON_DOWNLOADS", "never")

PROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PROJECT)


def group(*names: str) -> list[str]:
    """Return the requirements of the dependency groups."""
    return list(nox.project.dependency_groups(PROJECT, *names))


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, spelling and the project file; pre-commit runs the same."""
    session.install(*group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("codespell", ".")
    session.run("validate-pyproject", "pyproject.toml")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types inside the package, and that the public types are complete."""
    session.install("-e", ".[gateway]", *group("types"))
    session.run("mypy")
    session.run("pyright", "--verifytypes", "bucketeer_async", "--ignoreexternal")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the test suite on the current Python, with coverage; list the ten slowest tests."""
    session.install("-e", ".[gateway]", *group("test"))
    slowest = ("--durations=10", "--durations-min=1")
    session.run("pytest", "--cov", "--cov-report=term", *slowest, *session.posargs)


@nox.session
def matrix(session: nox.Session) -> None:
    """Run the suite on every supported Python that is installed, and with the lowest and newest dependencies."""
    found = [version for version in PYTHONS if _interpreter(version)]
    missing = sorted(set(PYTHONS) - set(found))
    session.install("uv")
    for version in found:
        _run_suite(session, version, "highest")
    _run_suite(session, found[0], "lowest-direct")
    _run_suite(session, found[0], "highest", env={"BUCKETEER_TEST_LOOP": "uvloop"})
    if found[-1] != "3.11":  # which has no eager tasks
        _run_suite(session, found[-1], "highest", env={"BUCKETEER_TEST_LOOP": "eager"})
    if missing:
        session.error(f"passed on {', '.join(found)}; not found here: {', '.join(missing)}")


def _interpreter(version: str) -> str | None:
    """Return the path of an interpreter. pyenv's come first, because its shims fail for versions not selected."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    installed = sorted(root.glob(f"{version}.*/bin/python")) if root.is_dir() else []
    if installed:
        return str(installed[-1])
    if sys.version_info[:2] == tuple(map(int, version.split("."))):
        return sys.executable
    return shutil.which(f"python{version}")


def _run_suite(session: nox.Session, version: str, resolution: str, env: dict[str, str] | None = None) -> None:
    folder = Path(session.create_tmp()) / f"{version}-{resolution}"
    interpreter = _interpreter(version)
    assert interpreter is not None  # noqa: S101 - only installed versions are passed
    session.run("uv", "venv", "-q", "--clear", "-p", interpreter, str(folder))
    python = str(folder / "bin" / "python")
    packages = ("-e", ".[gateway]", *group("test"))
    session.run("uv", "pip", "install", "-q", "-p", python, "--resolution", resolution, *packages)
    session.run(python, "-m", "pytest", "-q", external=True, env=env)


@nox.session
def faults(session: nox.Session) -> None:
    """Run the fault matrix and the integrations with full numbers; print the matrix, and write it into the docs."""
    session.install("-e", ".[gateway]", *group("test"))
    env = {"BUCKETEER_FAULTS": "1", "BUCKETEER_FAULT_PAGE": "docs/guide/delivery.md"}
    session.run("pytest", "-q", "tests/faults", "tests/integrations", *session.posargs, env=env)


@nox.session
def soak(session: nox.Session) -> None:
    """Push events for ten minutes under changing faults; check that memory stays flat and that all counts are exact."""
    session.install("-e", ".[gateway]", *group("soak"))
    session.run("python", "-m", "tests.faults.soak", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure this SDK and LaunchDarkly's, and write the page "Performance"; on the Python of ``--force-python``."""
    session.install("-e", ".[gateway]", *group("bench"))
    speed = (Path(session.create_tmp()) / "speed").resolve()  # only one contestant uses the packages of this extra
    session.install("--target", str(speed), *PROJECT["project"]["optional-dependencies"]["speed"])
    session.run("python", "-m", "tests.benchmarks", *session.posargs, env={"BUCKETEER_BENCH_SPEED": str(speed)})


@nox.session
def experiments(session: nox.Session) -> None:
    """Simulate which goals of experiments the server counts; write the tables of the page about experiments."""
    session.install("-e", ".[gateway]", *group("test"))
    session.run("python", "-m", "tests.experiments")


@nox.session
def protos(session: nox.Session) -> None:
    """Generate the protobuf messages; with `-- --check`, only compare them."""
    session.install(*group("protos"))
    session.run("python", "bucketeer_async/_proto/_generate.py", *session.posargs)


@nox.session
def runtimes(session: nox.Session) -> None:
    """Test the generated messages with the lowest and the newest protobuf runtime of the declared range."""
    for requirement in ("protobuf==5.29.0", "protobuf<8"):
        session.install("--upgrade", requirement, "-e", ".[gateway]", *group("test"))
        session.run(
            "pytest", "-q", "--no-header", "tests/test_proto.py", "tests/events/test_encoder.py", "tests/gateway"
        )


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation with warnings as errors; mkdocs counts no warning with its option -q."""
    session.install("-e", ".[gateway]", *group("docs"))
    site = Path(session.create_tmp()).resolve() / "site"
    session.env["NO_MKDOCS_2_WARNING"] = "1"
    session.run("mkdocs", "build", "--strict", "-f", "docs/mkdocs.yml", "-d", str(site))


@nox.session
def demo(session: nox.Session) -> None:
    """Run the demo: a web service under load and a local gateway, whose counts are compared."""
    session.install("-e", ".[gateway]", *group("demo"))
    session.run("python", "docs/examples/demo.py", *session.posargs)
