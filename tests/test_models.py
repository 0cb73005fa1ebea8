"""Values and options: the accepted values, and the errors for all others."""

from __future__ import annotations

import copy
import json
import logging
import math
import pickle
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from functools import partial
from typing import Any

import pytest

from bucketeer_async import (
    ApiId,
    ConfigurationError,
    DrainCounts,
    DrainReport,
    Drop,
    Evaluation,
    EvaluationDetails,
    ProcessorConfig,
    Reason,
    ReasonType,
    RetryPolicy,
    Spool,
    UndeliveredError,
    User,
)
from bucketeer_async._events._encoder import EventFactory
from bucketeer_async._models import evaluation_of

DEFAULT = Reason(ReasonType.DEFAULT)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: User(""), ValueError, r"User\.id must not be empty"),
        (lambda: User(None), TypeError, r"User\.id must be a str, not NoneType"),
        (lambda: User(b"user"), TypeError, r"User\.id must be a str, not bytes"),
        (lambda: User("a\ud800"), ValueError, r"User\.id has a lone surrogate at index 1"),
        (lambda: User("u", [("a", "b")]), TypeError, r"User\.attributes must be a mapping of str to str, not list"),
        (lambda: User("u", {1: "b"}), TypeError, r"a key of User\.attributes must be a str, not int"),
        (lambda: User("u", {"age": 30}), TypeError, r"User\.attributes\['age'\] must be a str, not int"),
        (lambda: User("u", {"x": None}), TypeError, r"User\.attributes\['x'\] must be a str, not NoneType"),
        (lambda: User("u", {"x": True}), TypeError, r"User\.attributes\['x'\] must be a str, not bool"),
        (lambda: User("u", {"x": "\udfff"}), ValueError, r"User\.attributes\['x'\] has a lone surrogate"),
        (lambda: User("u", {"userAttributesUpdated": "true"}), ValueError, "userAttributesUpdated"),
        (lambda: User("u", {"user_attributes_updated": "x"}), ValueError, "user_attributes_updated"),
        (lambda: Reason(3), TypeError, r"Reason\.type must be a member of ReasonType, not int"),
        (lambda: Reason(ReasonType.RULE, 5), TypeError, r"Reason\.rule_id must be a str"),
        (
            lambda: Evaluation(feature_id="", variation_id="v", reason=DEFAULT),
            ValueError,
            r"Evaluation\.feature_id must not be empty",
        ),
        (
            lambda: Evaluation(feature_id="f", variation_id="", reason=DEFAULT),
            ValueError,
            r"Evaluation\.variation_id must not be empty",
        ),
        (
            lambda: Evaluation(feature_id="f", variation_id="v", reason=None),
            TypeError,
            r"Evaluation\.reason must be a Reason, not NoneType",
        ),
        (
            lambda: Evaluation(feature_id="f", variation_id="v", reason=DEFAULT, feature_version=2**31),
            ValueError,
            r"Evaluation\.feature_version must be from 0 to 2147483647",
        ),
        (
            lambda: Evaluation(feature_id="f", variation_id="v", reason=DEFAULT, feature_version=1.0),
            TypeError,
            r"Evaluation\.feature_version must be an int, not float",
        ),
        (
            lambda: Evaluation(feature_id="f", variation_id="v", reason=DEFAULT, variation_name=7),
            TypeError,
            r"Evaluation\.variation_name must be a str",
        ),
    ],
    ids=range(20),
)
def test_wrong_values_raise_where_they_are_made(make: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        make()


def test_unicode_that_is_valid_passes() -> None:
    user = User("😀\x00مرحبا", {"": "𐍈", "plan": ""})

    assert user.attributes == {"": "𐍈", "plan": ""}


def test_an_evaluation_of_a_default_needs_no_variation() -> None:
    Evaluation(feature_id="f", variation_id="", reason=Reason(ReasonType.ERROR_EXCEPTION))


def test_a_user_is_a_value() -> None:
    attributes = {"plan": "pro"}
    user = User("u", attributes)
    attributes["plan"] = "free"

    assert user == User("u", {"plan": "pro"})
    assert hash(user) == hash(User("u", {"other": "attribute"}))
    assert pickle.loads(pickle.dumps(user)) == user
    assert copy.deepcopy(user) == user
    assert [each.name for each in fields(user)] == ["id", "attributes"]


def test_a_user_can_be_made_a_dict_and_json() -> None:
    user = User("u", {"plan": "pro"})

    assert asdict(user) == {"id": "u", "attributes": {"plan": "pro"}}
    assert json.loads(json.dumps(asdict(user))) == asdict(user)
    for copied in (
        copy.copy(user.attributes),
        copy.deepcopy(user.attributes),
        pickle.loads(pickle.dumps(user.attributes)),
    ):
        assert type(copied) is dict
        assert copied == user.attributes


@pytest.mark.parametrize(
    "change",
    [
        lambda attributes: attributes.__setitem__("plan", "free"),
        lambda attributes: attributes.__delitem__("plan"),
        lambda attributes: attributes.__ior__({"plan": "free"}),
        lambda attributes: attributes.update(plan="free"),
        lambda attributes: attributes.setdefault("other", "x"),
        lambda attributes: attributes.pop("plan"),
        lambda attributes: attributes.popitem(),
        lambda attributes: attributes.clear(),
    ],
    ids=["set", "del", "or", "update", "setdefault", "pop", "popitem", "clear"],
)
def test_the_attributes_of_a_user_cannot_be_changed(change: Callable[[Any], None]) -> None:
    user = User("u", {"plan": "pro"})

    with pytest.raises(TypeError, match=r"make another User, with a copy by dict\(user.attributes\)"):
        change(user.attributes)

    assert user.attributes == {"plan": "pro"}


def test_an_evaluation_can_be_copied_pickled_and_taken_apart() -> None:
    prototype = Evaluation(feature_id="flag", variation_id="on", feature_version=3, reason=Reason(ReasonType.DEFAULT))
    evaluation = evaluation_of(prototype, "user")
    factory = EventFactory(tag="", source_id=0, sdk_version="1.0.0")
    factory.evaluation(User("user"), evaluation)  # which keeps what it encodes

    for other in (pickle.loads(pickle.dumps(evaluation)), copy.deepcopy(evaluation), replace(evaluation)):
        assert other == evaluation
        assert json.loads(factory.evaluation(User("user"), other))["event"]["featureVersion"] == 3
    assert asdict(evaluation) == {
        "feature_id": "flag",
        "variation_id": "on",
        "reason": {"type": ReasonType.DEFAULT, "rule_id": ""},
        "feature_version": 3,
        "user_id": "user",
        "variation_name": "",
        "variation_value": "",
    }


def test_error_reasons() -> None:
    assert {reason for reason in ReasonType if not reason.is_error} == {
        ReasonType.TARGET,
        ReasonType.RULE,
        ReasonType.DEFAULT,
        ReasonType.OFF_VARIATION,
        ReasonType.PREREQUISITE,
    }
    assert ApiId.SDK_GET_VARIATION == 100


@pytest.mark.parametrize("reason", ReasonType)
def test_details_tell_a_default_by_the_reason(reason: ReasonType) -> None:
    details = EvaluationDetails(feature_id="flag", value=1, reason=Reason(reason))

    assert details.is_default is reason.is_error
    assert "is_default" not in asdict(details)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"tag": 5}, r"ProcessorConfig\.tag must be a str, not int"),
        ({"tag": "\ud800"}, r"ProcessorConfig\.tag has a lone surrogate"),
        ({"queue_capacity": 0}, r"ProcessorConfig\.queue_capacity must be an int from 1 to 10000000, not 0"),
        ({"queue_capacity": 10.0}, r"ProcessorConfig\.queue_capacity must be an int"),
        (
            {"queue_capacity": 10**7 + 1},
            r"ProcessorConfig\.queue_capacity must be an int from 1 to 10000000, not 10000001",
        ),
        (
            {"queue_max_bytes": 10**400},
            r"ProcessorConfig\.queue_max_bytes must be an int from 1 to 1099511627776, not 1",
        ),
        ({"num_flush_workers": 1001}, r"ProcessorConfig\.num_flush_workers must be an int from 1 to 1000, not 1001"),
        ({"flush_size": 10**30}, r"ProcessorConfig\.flush_size must be an int from 1 to 1000"),
        ({"num_flush_workers": True}, r"ProcessorConfig\.num_flush_workers must be an int"),
        ({"overflow": "block"}, r"ProcessorConfig\.overflow must be one of"),
        ({"flush_interval": 0}, r"ProcessorConfig\.flush_interval must be more than 0 seconds"),
        ({"flush_interval": math.nan}, r"ProcessorConfig\.flush_interval must be a finite number"),
        ({"flush_interval": 10**400}, r"ProcessorConfig\.flush_interval must be a finite number of seconds, not 1000"),
        ({"flush_interval": "1"}, r"ProcessorConfig\.flush_interval must be a finite number"),
        ({"flush_size": 501}, r"ProcessorConfig\.flush_size \(501\) must be at most max_batch_size \(500\)"),
        ({"queue_capacity": 50}, r"and queue_capacity \(50\)"),
        ({"max_batch_size": 1001}, r"ProcessorConfig\.max_batch_size must be an int from 1 to 1000"),
        ({"flush_max_bytes": 100}, r"ProcessorConfig\.flush_max_bytes must be an int from 1024 to 3145728, not 100"),
        ({"flush_max_bytes": 4 * 2**20}, r"ProcessorConfig\.flush_max_bytes must be an int from 1024 to 3145728"),
        ({"queue_max_bytes": 2000}, r"flush_max_bytes \(1048576\) must be at most queue_max_bytes \(2000\)"),
        ({"event_lifetime": 32 * 86400}, r"ProcessorConfig\.event_lifetime must be at most 2678400 seconds"),
        ({"drain_timeout": -1}, r"ProcessorConfig\.drain_timeout must be at least 0 seconds"),
        ({"retry": None}, r"ProcessorConfig\.retry must be a RetryPolicy"),
        ({"strict": 1}, r"ProcessorConfig\.strict must be a bool"),
        ({"on_drop": 1}, r"ProcessorConfig\.on_drop must be a function that is not a coroutine, not 1"),
        ({"logger": "name"}, r"ProcessorConfig\.logger must be a Logger"),
        ({"tag": "line\nbreak"}, r"ProcessorConfig\.tag must be text without control characters"),
        ({"tag": " "}, r"ProcessorConfig\.tag must be text without control characters that is not blank"),
        ({"evaluation_window": 0}, r"ProcessorConfig\.evaluation_window must be more than 0 seconds, not 0"),
        ({"evaluation_window": True}, r"ProcessorConfig\.evaluation_window must be a finite number of seconds"),
        ({"metrics": 0}, r"ProcessorConfig\.metrics must be a bool, not 0"),
        (
            {"private_attributes": "email"},
            r"ProcessorConfig\.private_attributes must be a collection of names, .*'email'",
        ),
        (
            {"private_attributes": None},
            r"ProcessorConfig\.private_attributes must be a collection of names, .* not None",
        ),
        ({"private_attributes": [5]}, r"a name in ProcessorConfig\.private_attributes must be a str, not int"),
        ({"spool": "folder"}, r"ProcessorConfig\.spool must be a Spool"),
    ],
    ids=lambda value: None if isinstance(value, str) else ",".join(f"{key}={each!r}" for key, each in value.items()),
)
def test_wrong_options_name_the_field_and_the_form(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        ProcessorConfig(**options)


@pytest.mark.parametrize(
    ("path", "options", "match"),
    [
        ("", {}, r"Spool\.path must be a non-empty path"),
        (b"bytes", {}, r"Spool\.path must be a non-empty path"),
        ("a\0b", {}, r"Spool\.path must be a non-empty path"),
        ("spool-\ud800", {}, r"Spool\.path must be a non-empty path"),
        ("spool", {"durable": 1}, r"Spool\.durable must be a bool"),
        ("spool", {"max_bytes": 1000}, r"Spool\.max_bytes must be an int from 65536 to 1099511627776, not 1000"),
        ("spool", {"max_bytes": 10**30}, r"Spool\.max_bytes must be an int from 65536 to 1099511627776"),
        ("spool", {"commit_interval": -1}, r"Spool\.commit_interval must be at least 0"),
        ("spool", {"commit_interval": 0.06}, r"Spool\.commit_interval must be at most 0\.05 seconds"),
    ],
)
def test_wrong_options_of_a_spool_name_the_field_and_the_form(path: Any, options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        Spool(path, **options)


async def coroutine(_drop: Drop) -> None:
    pass


class Awaited:
    async def __call__(self, _drop: Drop) -> None:
        pass


@pytest.mark.parametrize("callback", [coroutine, partial(coroutine), Awaited(), Awaited().__call__], ids=range(4))
def test_a_callback_that_would_have_to_be_awaited_is_refused(callback: Any) -> None:
    with pytest.raises(
        ConfigurationError, match=r"ProcessorConfig\.on_drop must be a function that is not a coroutine"
    ):
        ProcessorConfig(on_drop=callback)


def test_a_message_about_a_wrong_value_is_short_and_never_fails() -> None:
    class Nasty:
        def __repr__(self) -> str:
            raise RuntimeError("no repr")

    for name in ("queue_capacity", "drain_timeout"):  # no str of such an int can be made
        with pytest.raises(ConfigurationError, match=rf"ProcessorConfig\.{name} must be .*, not int\(\.\.\.\)$"):
            ProcessorConfig(**{name: 10**5000})  # type: ignore[arg-type]
    for wrong, words in ((Nasty(), r"not Nasty\(\.\.\.\)$"), ("x" * 10**6, r"not 'x{199}\.\.\.$")):
        with pytest.raises(ConfigurationError, match=words):
            ProcessorConfig(overflow=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"feature_version must be from 0 to 2147483647, not int\("):
        Evaluation(feature_id="f", variation_id="v", reason=Reason(ReasonType.DEFAULT), feature_version=10**5000)


def test_right_options_pass() -> None:
    ProcessorConfig(drain_timeout=None, queue_capacity=10**7, num_flush_workers=1000)
    ProcessorConfig(drain_timeout=0, on_drop=print, logger=logging.getLogger("mine"))


def test_a_retry_policy_is_ordered() -> None:
    with pytest.raises(ConfigurationError, match=r"RetryPolicy\.maximum must be at least initial"):
        RetryPolicy(initial=5, maximum=1)
    with pytest.raises(ConfigurationError, match=r"RetryPolicy\.initial must be more than 0"):
        RetryPolicy(initial=0)


def test_a_report_says_whether_anything_was_left() -> None:
    complete = DrainReport(total=DrainCounts(delivered=5, rejected=1, expired=1))
    assert complete.complete
    complete.raise_for_undelivered()

    with pytest.raises(UndeliveredError, match="2 events were not delivered and 1 not confirmed"):
        DrainReport(total=DrainCounts(undelivered=2, unconfirmed=1)).raise_for_undelivered()
