"""Names what is measured on: the machine, the Python and its build, and the versions of the packages."""

from __future__ import annotations

import os
import platform
import sys
import sysconfig
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

_PACKAGES: Final = ("bucketeer-async", "launchdarkly-server-sdk", "httpx", "anyio", "aiohttp")


def describe() -> dict[str, Any]:
    """Return the names, and whether the build is an optimized one."""
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "build": ", ".join(_build()),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs{_model()}, {platform.system()}",
        "packages": {name: found for name in _PACKAGES if (found := installed(name))},
    }


def is_optimized() -> bool:
    """Return whether Python was built with profile-guided optimization, as the builds of most distributions are."""
    configured = sysconfig.get_config_var("CONFIG_ARGS") or ""
    # Debian's own builds are profile-guided, but do not say so in their configuration.
    return "--enable-optimizations" in configured or (
        sys.base_prefix == "/usr" and Path("/etc/debian_version").exists()
    )


def installed(package: str) -> str:
    """Return the version of a package, or "" if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _build() -> list[str]:
    build = ["optimized build" if is_optimized() else "unoptimized build"]
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        build.append("free-threaded")
    if sysconfig.get_config_var("Py_DEBUG"):
        build.append("debug")
    return build


def _model() -> str:
    """Return the model of the CPU, in parentheses, where Linux tells it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f" ({models[0]})" if models else ""
