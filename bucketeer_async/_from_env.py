"""Configuration from environment variables: their names, their forms, and the options that they set.

Making a client of the options is left to `_client.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from bucketeer_async._errors import ConfigurationError
from bucketeer_async._log import GuardedLogger
from bucketeer_async._options import LocalEvaluation, Spool, check_kind

_SWITCHES: Final = dict.fromkeys(("1", "true", "yes", "on"), True) | dict.fromkeys(("0", "false", "no", "off"), False)


def _text(value: str) -> str:
    return value


def _switch(value: str) -> bool:
    try:
        return _SWITCHES[value.lower()]
    except KeyError:
        raise ValueError("1, true, yes or on, or 0, false, no or off") from None


def _seconds(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ValueError("a number of seconds") from None


def _count(value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise ValueError("an integer") from None


def _names(value: str) -> frozenset[str] | str:
    if value == "all":
        return value
    names = frozenset(name.strip() for name in value.split(","))
    if "" in names:
        raise ValueError("names that are separated by commas, or all")
    return names


Readers = Mapping[str, tuple[str, Callable[[str], Any]]]

_REQUIRED: Final = ("BUCKETEER_API_ENDPOINT", "BUCKETEER_API_KEY")
_TAG: Final = "BUCKETEER_TAG"

#: Options of `Client` by variable.
CLIENT: Final[Readers] = {
    "BUCKETEER_API_ENDPOINT": ("endpoint", _text),
    "BUCKETEER_API_KEY": ("api_key", _text),
    _TAG: ("tag", _text),
    "BUCKETEER_TIMEOUT": ("timeout", _seconds),
    "BUCKETEER_ALLOW_HTTP": ("allow_http", _switch),
    "BUCKETEER_PROXY": ("proxy", _text),
}

#: Options of `ProcessorConfig` by variable.
EVENTS: Final[Readers] = {
    "BUCKETEER_QUEUE_CAPACITY": ("queue_capacity", _count),
    "BUCKETEER_NUM_FLUSH_WORKERS": ("num_flush_workers", _count),
    "BUCKETEER_FLUSH_INTERVAL": ("flush_interval", _seconds),
    "BUCKETEER_FLUSH_SIZE": ("flush_size", _count),
    "BUCKETEER_DRAIN_TIMEOUT": ("drain_timeout", _seconds),
    "BUCKETEER_SPOOL": ("spool", Spool),
    "BUCKETEER_EVALUATION_WINDOW": ("evaluation_window", _seconds),
    "BUCKETEER_PRIVATE_ATTRIBUTES": ("private_attributes", _names),
    "BUCKETEER_METRICS": ("metrics", _switch),
}

#: Options of `LocalEvaluation` by variable.
LOCAL: Final[Readers] = {
    "BUCKETEER_POLLING_INTERVAL": ("polling_interval", _seconds),
    "BUCKETEER_BOOTSTRAP": ("bootstrap", _text),
}

EVALUATED_LOCALLY: Final = "BUCKETEER_LOCAL_EVALUATION"
DISABLED: Final = "BUCKETEER_DISABLED"

_PREFIX: Final = "BUCKETEER_"
_KNOWN: Final = (*CLIENT, *EVENTS, *LOCAL, EVALUATED_LOCALLY, DISABLED)
#: Set by Kubernetes if a service is called "bucketeer" or "bucketeer-...": its host and its ports.
_OF_SERVICES: Final = r"\w*_SERVICE_(HOST|PORT)(_\w+)?|\w*_PORT(_\d+_\w+)?"


def check(environ: object) -> None:
    """Check that the environment is one.

    Raises:
        ConfigurationError: If it is no mapping, or a variable of ours is not a str. Values are not shown: one is the key.
    """
    if not isinstance(environ, Mapping):
        raise ConfigurationError(f"environ must be a mapping of str to str, not {type(environ).__name__}")
    for name in _KNOWN:
        if not isinstance(environ.get(name, ""), str):
            raise ConfigurationError(f"{name} must be a str, not {type(environ[name]).__name__}")


def switch(environ: Mapping[str, str], variable: str) -> bool | None:
    """Return the value of a boolean variable; None if the variable is not set.

    Raises:
        ConfigurationError: If the value is not a boolean in one of the accepted forms.
    """
    return options(environ, {variable: ("switch", _switch)}).get("switch")


def local_evaluation(environ: Mapping[str, str], default: LocalEvaluation | None) -> LocalEvaluation | None:
    """Return the options of local evaluation; None if local evaluation is off.

    Args:
        environ: The environment variables.
        default: The options that the variables override. Unless ``BUCKETEER_LOCAL_EVALUATION`` is set, local
            evaluation is on if this is not None.

    Raises:
        ConfigurationError: If a variable has an invalid value.
    """
    wanted = switch(environ, EVALUATED_LOCALLY)
    if wanted is False or (wanted is None and default is None):
        return None
    default = LocalEvaluation() if default is None else check_kind("local_evaluation", default, LocalEvaluation)
    return replace(default, **options(environ, LOCAL))


def warn_of_unknown(environ: Mapping[str, str], logger: GuardedLogger) -> None:
    """Log the variables that look like ours and are not read: one may be misspelled."""
    unknown = [
        name
        for name, value in environ.items()
        if name.startswith(_PREFIX) and value and name not in _KNOWN and not re.fullmatch(_OF_SERVICES, name)
    ]
    if unknown:
        from difflib import get_close_matches  # noqa: PLC0415 - half a millisecond that few need
    for name in sorted(unknown):
        similar = get_close_matches(name.removeprefix(_PREFIX), [each.removeprefix(_PREFIX) for each in _KNOWN], 1)
        hint = f"; is it {_PREFIX}{similar[0]}?" if similar else ""
        logger.warning("the environment variable %s is not read%s", name, hint)


def require(environ: Mapping[str, str], *, with_tag: bool) -> None:
    """Check that the required variables are set.

    Args:
        environ: The environment variables.
        with_tag: Whether the tag is required.

    Raises:
        ConfigurationError: If a required variable is missing; the message names all missing variables.
    """
    required = (*_REQUIRED, _TAG) if with_tag else _REQUIRED
    missing = [variable for variable in required if not environ.get(variable)]
    if missing:
        raise ConfigurationError(f"not set in the environment: {', '.join(missing)}")


def options(environ: Mapping[str, str], readers: Readers) -> dict[str, Any]:
    """Return the options that the variables set; an empty variable counts as not set.

    Raises:
        ConfigurationError: If a value is invalid; the message names the variable and the accepted form.
    """
    found: dict[str, Any] = {}
    for variable, (option, read) in readers.items():
        value = environ.get(variable, "")
        if not value:
            continue
        try:
            found[option] = read(value)
        except ValueError as error:
            raise ConfigurationError(f"{variable} must be {error}, not {value!r}") from None
    return found
