"""Validation of the arguments of `ApiClient`. The key is redacted wherever it is printed or pickled."""

from __future__ import annotations

import ipaddress
import ssl
from typing import Final
from urllib.parse import SplitResult, urlsplit

from bucketeer_async._errors import ConfigurationError
from bucketeer_async._models import shown
from bucketeer_async._options import check_kind

_FORM: Final = "a host such as 'api.example.com', or a URL such as 'https://api.example.com:9000' without a path"


class ApiKey:
    """An API key whose str, repr and pickle are redacted.

    Args:
        value: The key, or an `ApiKey`.

    Raises:
        ConfigurationError: If the key cannot be sent as a header.
    """

    __slots__ = ("_value",)

    def __init__(self, value: object) -> None:
        self._value: str = value.reveal() if isinstance(value, ApiKey) else check_header("ApiClient.api_key", value)

    def reveal(self) -> str:
        """Return the key, for the ``Authorization`` header."""
        return self._value

    def __repr__(self) -> str:
        return "ApiKey('***')"

    def __reduce__(self) -> tuple[type[ApiKey], tuple[str]]:
        return (ApiKey, ("redacted",))


def check_header(name: str, value: object) -> str:
    """Return ``value`` if it can be sent as an HTTP header.

    Raises:
        ConfigurationError: If the value is not a non-empty str of printable ASCII without blanks. The message does not
            contain the value, which may be a secret.
    """
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{name} must be a non-empty str")
    if not all("!" <= character <= "~" for character in value):
        raise ConfigurationError(f"{name} must be printable ASCII without blanks or line breaks")
    return value


def check_connecting(ssl_context: object, proxy: object, http: object) -> None:
    """Check the arguments that say how the gateway is connected to.

    Raises:
        ConfigurationError: If one of them has the wrong type, or there are an HTTP client and another of them.
    """
    if not isinstance(ssl_context, ssl.SSLContext | None):
        raise ConfigurationError(f"ApiClient.ssl_context must be an ssl.SSLContext, not {shown(ssl_context)}")
    if not isinstance(proxy, str | None):  # not shown, as it may have a password
        raise ConfigurationError(f"ApiClient.proxy must be a URL, a str, not {type(proxy).__name__}")
    if http is None:
        return
    if not all(hasattr(http, name) for name in ("build_request", "send", "aclose")):  # a sync client has no `aclose`
        raise ConfigurationError(f"ApiClient.http must be an httpx.AsyncClient, not {shown(http)}")
    if ssl_context is not None or proxy is not None:
        raise ConfigurationError("ApiClient.ssl_context and proxy belong to the client given as http: set them there")


def normalize_endpoint(endpoint: object, *, allow_http: object) -> str:
    """Return the base URL of a gateway: scheme, host and port, without a trailing slash.

    Raises:
        ConfigurationError: If the endpoint is not a host or a URL in an accepted form; the message contains the form.
    """
    allowed = check_kind("ApiClient.allow_http", allow_http, bool)
    if not isinstance(endpoint, str) or not endpoint:
        raise ConfigurationError(f"ApiClient.endpoint must be {_FORM}")
    if not all("!" <= character <= "~" for character in endpoint):
        raise ConfigurationError(f"ApiClient.endpoint must be ASCII without blanks: {_FORM}")
    parts, host, port = _split(endpoint if "://" in endpoint else f"https://{endpoint}")
    if parts.scheme not in {"http", "https"}:
        raise ConfigurationError(f"ApiClient.endpoint must use https (or http), not {parts.scheme!r}")
    if "@" in parts.netloc or parts.query or parts.fragment or parts.path.strip("/"):
        raise ConfigurationError(f"ApiClient.endpoint must have no user, path, query or fragment: {_FORM}")
    if parts.scheme == "http" and not allowed and not is_loopback(host):
        raise ConfigurationError(
            "ApiClient.endpoint must use https, because http would send the API key unencrypted; "
            "http is accepted for loopback addresses, or with allow_http=True"
        )
    name = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{name}" + (f":{port}" if port is not None else "")


def _split(url: str) -> tuple[SplitResult, str, int | None]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if not host or port == 0 or any(character in host for character in "\\^`{}|<>\"'%"):
        raise ConfigurationError(f"ApiClient.endpoint must be {_FORM}")
    return parts, host, port


def is_loopback(host: str) -> bool:
    """Return whether a host is surely this one."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
