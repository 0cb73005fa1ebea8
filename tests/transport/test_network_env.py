"""The proxy for an endpoint and the certificates, as environment variables name them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bucketeer_async import ConfigurationError
from bucketeer_async._transport._network_env import certificates, proxy_for

PROXY = "http://proxy.test:3128"
ABOUT_PROXIES = {"http_proxy", "https_proxy", "all_proxy", "no_proxy", "request_method"}


def environment(**variables: str) -> Any:
    """Set these variables, and no other one about proxies."""
    kept = {name: value for name, value in os.environ.items() if name.lower() not in ABOUT_PROXIES}
    return mock.patch.dict(os.environ, kept | variables, clear=True)


def is_direct(endpoint: str, no_proxy: str) -> bool:
    with environment(ALL_PROXY=PROXY, NO_PROXY=no_proxy):
        return proxy_for(endpoint)[0] is None


@pytest.mark.parametrize(
    ("endpoint", "variables", "proxy"),
    [
        ("https://api.example.com", {}, None),
        ("https://api.example.com", {"HTTP_PROXY": PROXY}, None),
        ("https://api.example.com", {"HTTPS_PROXY": PROXY, "ALL_PROXY": "http://other.test"}, PROXY),
        ("https://api.example.com", {"https_proxy": PROXY}, PROXY),
        ("https://api.example.com", {"ALL_PROXY": "proxy.test:3128"}, PROXY),
        ("http://api.example.com", {"HTTP_PROXY": PROXY}, PROXY),
        ("https://api.example.com", {"ALL_PROXY": PROXY, "NO_PROXY": "other.test"}, PROXY),
    ],
)
def test_the_proxy_of_the_scheme_comes_first(endpoint: str, variables: dict[str, str], proxy: str | None) -> None:
    with environment(**variables):
        assert proxy_for(endpoint) == (proxy, [])


@pytest.mark.parametrize(
    ("no_proxy", "endpoint"),
    [
        ("*", "https://api.example.com"),
        ("other.test,*", "https://api.example.com"),
        ("example.com", "https://example.com"),
        ("EXAMPLE.com", "https://api.example.com:9000"),
        (".example.com", "https://api.example.com"),
        ("*.example.com", "https://api.example.com"),
        ("example.com:443", "https://api.example.com"),
        ("example.com:9000", "https://api.example.com:9000"),
        ("https://api.example.com", "https://api.example.com"),
        ("https://*.example.com:9000/", "https://api.example.com:9000"),
        ("all://*example.com", "http://example.com"),
        ("bücher.example", "https://xn--bcher-kva.example"),
        ("localhost", "http://localhost:9000"),
        ("10.0.0.1", "https://10.0.0.1"),
        ("10.0.0.1:9000", "https://10.0.0.1:9000"),
        ("10.0.0.0/8", "https://10.1.2.3"),
        ("10.1.2.3/255.0.0.0", "https://10.1.2.3"),
        ("::1", "http://[::1]:9000"),
        ("[::1]", "http://[::1]:9000"),
        ("[0:0::1]:9000", "http://[::1]:9000"),
        ("fd00::/8", "https://[fd00:1::2]"),
        ("[fd00::]/8", "https://[fd00:1::2]"),
        ("other.test 10.0.0.1", "https://10.0.0.1"),
        ("[::1,,exa$mple,10.0.0.1", "https://10.0.0.1"),
    ],
)
def test_no_proxy_names_hosts_that_are_reached_directly(no_proxy: str, endpoint: str) -> None:
    assert is_direct(endpoint, no_proxy)


@pytest.mark.parametrize(
    ("no_proxy", "endpoint"),
    [
        ("", "https://api.example.com"),
        ("example.com", "https://badexample.com"),
        ("example.com", "https://example.com.test"),
        (".example.com", "https://example.com"),
        ("*.example.com", "https://example.com"),
        ("example.com:9000", "https://api.example.com"),
        ("http://api.example.com", "https://api.example.com"),
        ("https://example.com", "https://api.example.com"),
        ("localhost", "http://my.localhost"),
        ("10.0.0.0/8", "https://11.0.0.1"),
        ("10.0.0.0/8", "https://api.example.com"),
        ("fd00::/8", "https://10.0.0.1"),
        ("[::1]:9000", "http://[::1]"),
    ],
)
def test_no_proxy_leaves_other_hosts_to_the_proxy(no_proxy: str, endpoint: str) -> None:
    assert not is_direct(endpoint, no_proxy)


@pytest.mark.parametrize("entry", ["[::1", "[::1]:port", "fd00::/200", "exa$mple", "a:b:c", "://", "**.test", "1.2/3"])
def test_entries_that_cannot_be_read_are_named_and_ignored(entry: str) -> None:
    with environment(ALL_PROXY=PROXY, NO_PROXY=f"other.test,{entry}"):
        assert proxy_for("https://api.example.com") == (PROXY, [entry])


HOSTS = ["api.example.com", "example.com", "localhost", "127.0.0.1", "10.1.2.3", "[::1]", "[fd00::1]"]
ENTRIES = st.sampled_from(
    ["*", "com", "example.com", ".example.com", "api.example.com", "localhost", "127.0.0.1", "::1", "fd00::1", "1", "3"]
)
PORTS = st.sampled_from(["", ":80", ":443", ":9000"])


@given(
    scheme=st.sampled_from(["http", "https"]),
    host=st.sampled_from(HOSTS),
    port=PORTS,
    entries=st.lists(st.tuples(st.sampled_from(["", "", "all://", "http://", "https://"]), ENTRIES, PORTS)),
    variables=st.sets(st.sampled_from(["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"])),
)
def test_what_httpx_can_read_means_the_same_here(
    scheme: str, host: str, port: str, entries: list[tuple[str, str, str]], variables: set[str]
) -> None:
    # httpx takes ":443" for a mistake if the scheme is not given; it takes an IPv6 address only alone.
    assume(not any(entry[1] == "*" and (entry[0] or entry[2]) for entry in entries))
    assume(not any("::" in entry[1] and (entry[0] or entry[2]) for entry in entries))
    assume(not any(entry[2] in {":80", ":443"} for entry in entries))
    no_proxy = ",".join(map("".join, entries))
    named = {name: f"http://{name.lower().replace('_', '-')}.test" for name in variables}
    url = httpx.URL(f"{scheme}://{host}{port}")

    with environment(**named, NO_PROXY=no_proxy):
        transport = httpx.AsyncClient(verify=False)._transport_for_url(url)
        proxy, unreadable = proxy_for(f"{scheme}://{host}{port}")

    expected = getattr(transport._pool, "_proxy_url", None)  # type: ignore[attr-defined]
    assert not unreadable
    assert (proxy and proxy.removeprefix("http://")) == (expected and expected.host.decode())


def test_certificates_are_named_by_their_variable(tmp_path: Path) -> None:
    file = tmp_path / "authorities.pem"
    file.touch()
    with mock.patch.dict(os.environ, SSL_CERT_FILE="", SSL_CERT_DIR=""):
        assert certificates() == ""
    with mock.patch.dict(os.environ, SSL_CERT_FILE=str(file), SSL_CERT_DIR="/nowhere"):
        assert certificates() == f"SSL_CERT_FILE ({str(file)!r})"
    with mock.patch.dict(os.environ, SSL_CERT_FILE="", SSL_CERT_DIR=f"/nowhere{os.pathsep}{tmp_path}"):
        assert certificates().startswith("SSL_CERT_DIR (")


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_missing_certificates_are_named_by_variable_and_path(variable: str) -> None:
    with (
        mock.patch.dict(os.environ, {"SSL_CERT_FILE": "", "SSL_CERT_DIR": "", variable: "/nowhere/ca.pem"}),
        pytest.raises(ConfigurationError, match=f"{variable} names '/nowhere/ca.pem'"),
    ):
        certificates()
