"""The server's test vectors: each case must have the same evaluation, or the same error."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bucketeer_async import User
from bucketeer_async._evaluation import EvaluationError, Snapshot, compile_flag, compile_segment, evaluate
from bucketeer_async._evaluation._murmur import Hash, PythonHash

VECTORS = Path(__file__).with_name("vectors")
THEMES = sorted(
    path.name.removesuffix(".json.gz") for path in VECTORS.glob("*.gz") if not path.name.startswith("hashes")
)
#: Malformed flags, on which the server's evaluator crashes; this package reports an error.
CAUSES = {"REFERENCE_CRASH": "MALFORMED"}


def load(theme: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(gzip.decompress((VECTORS / f"{theme}.json.gz").read_bytes()))
    return loaded


def unchecked_user(fields: Mapping[str, Any]) -> User:
    """Make a user whose id need not be valid: the evaluator accepts every id."""
    user = object.__new__(User)
    object.__setattr__(user, "id", fields.get("id", ""))
    object.__setattr__(user, "attributes", fields.get("data") or {})
    return user


def answer(snapshot: Snapshot, case: Mapping[str, Any]) -> dict[str, Any]:
    user = unchecked_user(case["user"])
    try:
        served = evaluate(snapshot, user, case["featureId"], case.get("tag", ""))
    except EvaluationError as error:
        return {"error": error.cause.value}
    return {
        "evaluationId": f"{served.feature_id}:{served.feature_version}:{user.id}",
        "featureVersion": served.feature_version,
        "variationId": served.variation.id,
        "variationName": served.variation.name,
        "variationValue": served.variation.value,
        "reason": {"type": served.reason.type.name, "ruleId": served.reason.rule_id},
    }


def meaning(text: object) -> object:
    """Return a value parsed as JSON, or the unchanged text if the value is not JSON."""
    try:
        return json.dumps(json.loads(str(text), parse_int=float), sort_keys=True)
    except ValueError:
        return text


def expected(case: Mapping[str, Any]) -> dict[str, Any]:
    fields = dict(case["expect"])
    if "error" in fields:
        fields["error"] = CAUSES.get(fields["error"], fields["error"])
    return fields


@pytest.mark.parametrize("theme", THEMES)
def test_every_case_has_the_servers_answer(theme: str) -> None:
    vectors = load(theme)
    snapshot = Snapshot(
        {each["id"]: compile_flag(each) for each in vectors["features"]},
        {each["segmentId"]: compile_segment(each) for each in vectors["segmentUsers"]},
    )
    wrong = []
    for case in vectors["cases"]:
        wanted = expected(case)
        found = {name: value for name, value in answer(snapshot, case).items() if name in wanted}
        if theme == "yaml":
            for each in (wanted, found):
                each["variationValue"] = meaning(each.get("variationValue"))
        if found != wanted:
            wrong.append((case["id"], wanted, found))

    assert not wrong
    assert len(vectors["cases"]) > 40


def test_there_are_as_many_cases_as_there_were() -> None:
    assert sum(len(load(theme)["cases"]) for theme in THEMES) == 4984


@pytest.mark.parametrize("implementation", [Hash, PythonHash])
def test_every_text_falls_where_the_server_has_it(implementation: type[Hash]) -> None:
    if implementation is Hash:
        pytest.importorskip("mmh3")
    for each in load("hashes")["buckets"]:
        text = each["text"]
        for cut in range(len(text) + 1):
            hashed = implementation(text[:cut])
            assert tuple(f"{half:016x}" for half in hashed.halves(text[cut:])) == (each["h1"], each["h2"])
            assert hashed.bucket(text[cut:]) == each["bucket"]
