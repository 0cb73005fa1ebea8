"""Environment variables about the network: the proxy for an endpoint, and where the certificates are.

``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY`` and ``NO_PROXY`` mean what they mean to httpx. An entry of ``NO_PROXY``
that httpx cannot read, such as ``[::1]``, would keep it from making a client; here all of these are read, too:

======================================= ===========================================
entry                                   the hosts that are reached without a proxy
======================================= ===========================================
``*``                                   all
``example.com``                         the domain and its subdomains
``.example.com``, ``*.example.com``     the subdomains
``localhost``                           that host alone
``10.0.0.1``, ``::1``, ``[::1]``        the address
``10.0.0.0/8``, ``fd00::/8``            the addresses of the network
any of these with ``:443`` behind it    likewise, but for one port; an address in brackets if it is an IPv6 address
any of these with ``https://`` before   likewise, but for one scheme; of a domain only the host of that name
======================================= ===========================================
"""

from __future__ import annotations

import os
import re
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies

from bucketeer_async._errors import ConfigurationError

_PORTS: Final = {"http": 80, "https": 443}
# Patterns, which are compiled when they are used: few environments have a NO_PROXY.
_HOST_AND_PORT: Final = r"(\[[^\]]+\]|[^\[\]:/]+)(?::(\d+))?/?"
_IN_BRACKETS: Final = r"\[([^\]]+)\](/\d+)?"
_DOMAIN: Final = r"\*?\.?\w[\w.-]*"


def proxy_for(endpoint: str) -> tuple[str | None, list[str]]:
    """Return the proxy for an endpoint, and the entries of ``NO_PROXY`` that cannot be read.

    Args:
        endpoint: The base URL, as `normalize_endpoint` returns it.

    Returns:
        The URL of the proxy that the environment, or the system's settings, name for the endpoint; None for none. If
        there is none to begin with, ``NO_PROXY`` is not read.
    """
    named, url = getproxies(), urlsplit(endpoint)
    proxy = named.get(url.scheme) or named.get("all")
    if not proxy:
        return None, []
    entries = [entry for entry in re.split(r"[\s,]+", named.get("no", "")) if entry]
    if "*" in entries:
        return None, []
    unreadable = []
    for entry in entries:
        try:
            if _has_host(entry, url):
                return None, []
        except ValueError:
            unreadable.append(entry)
    return (proxy if "://" in proxy else f"http://{proxy}"), unreadable


def _has_host(entry: str, url: SplitResult) -> bool:
    """Whether an entry of ``NO_PROXY`` means the host of a URL.

    Raises:
        ValueError: If the entry cannot be read.
    """
    scheme, _, rest = entry.lower().rpartition("://")
    host_and_port = re.fullmatch(_HOST_AND_PORT, rest)
    host, port = host_and_port.groups() if host_and_port else (rest, None)
    network = _network(host)
    pattern = _domain_pattern(host, is_exact=bool(scheme)) if network is None else ""
    if scheme not in {"", "all", url.scheme} or (port and int(port) != (url.port or _PORTS[url.scheme])):
        return False
    name = url.hostname or ""
    return _matches(pattern, name) if network is None else _is_in(network, name)


def _network(text: str) -> IPv4Network | IPv6Network | None:
    """Return the network that a text means, which may be a single address; None if it is a name."""
    try:
        return ip_network(re.sub(_IN_BRACKETS, r"\1\2", text), strict=False)
    except ValueError:
        return None


def _is_in(network: IPv4Network | IPv6Network, host: str) -> bool:
    try:
        return ip_address(host) in network
    except ValueError:
        return False


def _domain_pattern(domain: str, *, is_exact: bool) -> str:
    """Return the pattern of the hosts that a domain means: ``*.`` for subdomains, ``*`` for the domain and those.

    Raises:
        ValueError: If the domain is not valid.
    """
    if not domain.isascii():
        name = domain.lstrip("*.")
        domain = domain.removesuffix(name) + name.encode("idna").decode()
    if not re.fullmatch(_DOMAIN, domain, re.ASCII):
        raise ValueError("not a domain")
    return domain if is_exact or domain == "localhost" else f"*{domain.removeprefix('*')}"


def _matches(pattern: str, host: str) -> bool:
    if pattern.startswith("*."):
        return host.endswith(pattern[1:]) and len(host) >= len(pattern)
    if pattern.startswith("*"):
        return host == pattern[1:] or host.endswith(f".{pattern[1:]}")
    return host == pattern


def certificates() -> str:
    """Return which variable says where the certificates of authorities are, for error messages; "" if none does.

    Raises:
        ConfigurationError: If the variable names nothing that can be read.
    """
    file, folders = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if file:
        variable, path, exists = "SSL_CERT_FILE", file, os.access(file, os.R_OK)
    elif folders:
        variable, path = "SSL_CERT_DIR", folders
        exists = any(os.access(folder, os.R_OK) for folder in folders.split(os.pathsep))
    else:
        return ""
    if not exists:
        raise ConfigurationError(
            f"the environment variable {variable} names {path!r}, which does not exist or cannot be read"
        )
    return f"{variable} ({path!r})"


def certificates_changed_at() -> int:
    """Return when the file that ``SSL_CERT_FILE`` names was changed last, in nanoseconds; 0 if it names none."""
    file = os.environ.get("SSL_CERT_FILE")
    return Path(file).stat().st_mtime_ns if file else 0
