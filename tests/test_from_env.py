"""A client from environment variables; the guide has the same table of variables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bucketeer_async import Client, ConfigurationError, LocalEvaluation, ProcessorConfig, Spool
from bucketeer_async._from_env import (
    CLIENT,
    DISABLED,
    EVALUATED_LOCALLY,
    EVENTS,
    LOCAL,
    local_evaluation,
    options,
    switch,
)


def test_every_variable_is_read() -> None:
    environ = {
        "BUCKETEER_API_ENDPOINT": "api.example.com",
        "BUCKETEER_API_KEY": "key",
        "BUCKETEER_TAG": "shop",
        "BUCKETEER_TIMEOUT": "0.5",
        "BUCKETEER_ALLOW_HTTP": "Yes",
        "BUCKETEER_PROXY": "http://proxy.example.com:3128",
        "BUCKETEER_QUEUE_CAPACITY": "1000",
        "BUCKETEER_NUM_FLUSH_WORKERS": "2",
        "BUCKETEER_FLUSH_INTERVAL": "1.5",
        "BUCKETEER_FLUSH_SIZE": "50",
        "BUCKETEER_DRAIN_TIMEOUT": "8",
        "BUCKETEER_SPOOL": "/var/spool/shop",
        "BUCKETEER_EVALUATION_WINDOW": "600",
        "BUCKETEER_PRIVATE_ATTRIBUTES": "email, phone",
        "BUCKETEER_METRICS": "off",
    }

    assert environ.keys() == {*CLIENT, *EVENTS}
    assert options(environ, CLIENT) == {
        "endpoint": "api.example.com",
        "api_key": "key",
        "tag": "shop",
        "timeout": 0.5,
        "allow_http": True,
        "proxy": "http://proxy.example.com:3128",
    }
    assert ProcessorConfig(**options(environ, EVENTS)) == ProcessorConfig(
        queue_capacity=1000,
        num_flush_workers=2,
        flush_interval=1.5,
        flush_size=50,
        drain_timeout=8.0,
        spool=Spool("/var/spool/shop"),
        evaluation_window=600.0,
        private_attributes={"email", "phone"},
        metrics=False,
    )
    assert options({"BUCKETEER_PRIVATE_ATTRIBUTES": "all"}, EVENTS) == {"private_attributes": "all"}


def test_an_empty_variable_counts_as_not_set() -> None:
    assert options(dict.fromkeys({**CLIENT, **EVENTS}, ""), {**CLIENT, **EVENTS}) == {}


@pytest.mark.parametrize(
    ("variable", "value", "form"),
    [
        ("BUCKETEER_TIMEOUT", "soon", "a number of seconds"),
        ("BUCKETEER_FLUSH_SIZE", "1.5", "an integer"),
        ("BUCKETEER_PRIVATE_ATTRIBUTES", "email,,phone", "names that are separated by commas, or all"),
        ("BUCKETEER_ALLOW_HTTP", "maybe", "1, true, yes or on, or 0, false, no or off"),
    ],
)
def test_a_value_that_cannot_be_read_is_told_with_its_variable(variable: str, value: str, form: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{variable} must be {form}, not '{value}'"):
        options({variable: value}, {**CLIENT, **EVENTS})


def test_options_of_the_wrong_type_are_told() -> None:
    environ = {"BUCKETEER_API_ENDPOINT": "api.example.com", "BUCKETEER_API_KEY": "key", "BUCKETEER_TAG": "shop"}
    for wrong in ({"events": {}}, {"local_evaluation": True}):
        with pytest.raises(ConfigurationError, match=rf"{next(iter(wrong))} must be a "):
            Client.from_env(environ, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ("secret", "environ must be a mapping of str to str, not str"),
        ([("BUCKETEER_API_KEY", "secret")], "environ must be a mapping of str to str, not list"),
        ({"BUCKETEER_API_KEY": b"secret"}, "BUCKETEER_API_KEY must be a str, not bytes"),
        ({"BUCKETEER_TIMEOUT": 5.0}, "BUCKETEER_TIMEOUT must be a str, not float"),
    ],
)
def test_what_is_no_environment_is_told_without_its_values(environ: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{message}$"):
        Client.from_env(environ)


def test_all_that_is_missing_is_named_at_once() -> None:
    both = "not set in the environment: BUCKETEER_API_ENDPOINT, BUCKETEER_API_KEY"
    for environ in ({}, {EVALUATED_LOCALLY: "0"}):
        with pytest.raises(ConfigurationError, match=f"^{both}, BUCKETEER_TAG$"):
            Client.from_env(environ)
    with pytest.raises(ConfigurationError, match=f"^{both}$"):
        Client.from_env({EVALUATED_LOCALLY: "1", "BUCKETEER_API_KEY": ""})


def test_variables_that_are_not_read_are_told(caplog: pytest.LogCaptureFixture) -> None:
    unknown = {"BUCKETEER_ENDPOINT": "api.example.com", "BUCKETEER_DISABLE": "1", "BUCKETEER_XYZ": "1"}
    not_ours = {
        "BUCKETEER_EMPTY": "",
        "BUCKETEER_SERVICE_HOST": "10.0.0.1",
        "BUCKETEER_API_SERVICE_PORT_HTTP": "80",
        "BUCKETEER_PORT": "tcp://10.0.0.1:80",
        "BUCKETEER_API_PORT_80_TCP_ADDR": "10.0.0.1",
        "OTHER_TAG": "shop",
    }

    with pytest.raises(ConfigurationError, match="BUCKETEER_API_ENDPOINT"):
        Client.from_env(unknown | not_ours)

    assert caplog.messages == [
        "the environment variable BUCKETEER_DISABLE is not read; is it BUCKETEER_DISABLED?",
        "the environment variable BUCKETEER_ENDPOINT is not read; is it BUCKETEER_API_ENDPOINT?",
        "the environment variable BUCKETEER_XYZ is not read",
    ]


def test_all_variables_that_are_read_are_known(caplog: pytest.LogCaptureFixture) -> None:
    Client.from_env(dict.fromkeys((*CLIENT, *EVENTS, *LOCAL, EVALUATED_LOCALLY), "") | {DISABLED: "1"})

    assert not caplog.messages


@pytest.mark.parametrize(("value", "disabled"), [("", None), ("0", False), ("OFF", False), ("1", True), ("true", True)])
def test_a_client_may_be_switched_off(value: str, disabled: bool | None) -> None:
    assert switch({DISABLED: value}, DISABLED) is disabled


@pytest.mark.parametrize(
    ("value", "otherwise", "found"),
    [
        ("", None, None),
        ("0", LocalEvaluation(), None),
        ("1", None, LocalEvaluation(polling_interval=5.0, bootstrap="flags.json")),
        ("", LocalEvaluation(scope="tag"), LocalEvaluation(polling_interval=5.0, bootstrap="flags.json", scope="tag")),
    ],
    ids=["unset", "off", "on", "otherwise"],
)
def test_flags_may_be_evaluated_locally(
    value: str, otherwise: LocalEvaluation | None, found: LocalEvaluation | None
) -> None:
    environ = {EVALUATED_LOCALLY: value, "BUCKETEER_POLLING_INTERVAL": "5", "BUCKETEER_BOOTSTRAP": "flags.json"}

    assert local_evaluation(environ, otherwise) == found


def test_the_guide_lists_every_variable() -> None:
    guide = (Path(__file__).parent.parent / "docs" / "guide" / "client.md").read_text()

    missing = [
        variable
        for variable in (*CLIENT, *EVENTS, *LOCAL, EVALUATED_LOCALLY, DISABLED)
        if f"| `{variable}` |" not in guide
    ]

    assert not missing
