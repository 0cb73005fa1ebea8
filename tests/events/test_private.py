"""Private attributes: they leave the process in no event, whichever processor has seen the user before."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketeer_async import ApiId, Evaluation, Processor, ProcessorConfig, Reason, ReasonType, User
from bucketeer_async._events import _private
from bucketeer_async._events._encoder import EventFactory
from bucketeer_async._events._private import PrivateEventFactory
from tests.fakes import FakeClient

USER = User("user-1", {"email": "a@example.com", "plan": "pro", "phone": "5"})
EVALUATION = Evaluation(feature_id="flag", variation_id="on", reason=Reason(ReasonType.DEFAULT))
NAMES = st.sampled_from(["email", "phone", "plan", "all"])


async def sent(user: User, private: Collection[str] | Literal["all"]) -> list[dict[str, Any]]:
    client = FakeClient()
    async with Processor(client, ProcessorConfig(private_attributes=private)) as processor:  # type: ignore[arg-type]
        await processor.push_evaluation_event(user, EVALUATION)
        processor.push_evaluation_event_nowait(user, EVALUATION)
        await processor.push_default_evaluation_event(user, "flag")
        await processor.push_goal_event(user, "goal")
        processor.push_goal_event_nowait(user, "goal", 1)
        processor._record_local_evaluation(user, EVALUATION, 0.1)
    (batch,) = client.batches
    users = [each["event"]["user"] for each in batch if "user" in each["event"]]
    assert len(users) == 6
    return users


@pytest.mark.parametrize(
    ("private", "left"),
    [
        ((), {"email", "plan", "phone"}),
        ({"email", "phone"}, {"plan"}),
        (["email", "unknown"], {"plan", "phone"}),
        ({"all"}, {"email", "plan", "phone"}),
        ("all", set()),
    ],
)
async def test_private_attributes_are_in_no_event(
    private: Collection[str] | Literal["all"], left: Collection[str]
) -> None:
    expected = {"id": "user-1"} | ({"data": {name: USER.attributes[name] for name in left}} if left else {})

    assert await sent(USER, private) == [expected] * 6


class Visitor(User):
    """A user of the application's own class."""


async def test_the_attributes_of_a_subclass_are_private_too() -> None:
    assert await sent(Visitor("user-1", {"email": "a@example.com"}), "all") == [{"id": "user-1"}] * 6


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.booleans(), st.sampled_from(["whole", "some", "none"])), min_size=1, max_size=40
    ),
    st.dictionaries(NAMES, st.just("secret")),
    st.frozensets(NAMES),
)
def test_processors_share_users_and_never_what_is_sent_of_them(
    pushes: list[tuple[int, bool, str]], attributes: dict[str, str], private: frozenset[str]
) -> None:
    kinds: dict[str, tuple[EventFactory, Collection[str]]] = {
        "whole": (EventFactory(tag="", source_id=0, sdk_version=""), ()),
        "some": (PrivateEventFactory(private, tag="", source_id=0, sdk_version=""), private),
        "none": (PrivateEventFactory("all", tag="", source_id=0, sdk_version=""), attributes),
    }
    users = [User(str(number), attributes) for number in range(6)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_private, "_KEPT_USERS", 3)
        for number, is_goal, kind in pushes:
            factory, left_out = kinds[kind]
            user = users[number]
            body = factory.goal(user, "g", 1.0) if is_goal else factory.evaluation(user, EVALUATION)
            left = {name: value for name, value in attributes.items() if name not in left_out}
            assert json.loads(body)["event"]["user"] == {"id": user.id} | ({"data": left} if left else {})
        copies = [factory._copies for factory, _ in kinds.values() if isinstance(factory, PrivateEventFactory)]
        assert all(len(each) <= 3 for each in copies)


def test_a_user_is_copied_once() -> None:
    factory = PrivateEventFactory({"email"}, tag="", source_id=0, sdk_version="")
    factory.evaluation(USER, EVALUATION)
    (first,) = factory._copies.values()
    factory.goal(USER, "goal", 0.0)

    assert [copy is first for copy in factory._copies.values()] == [True]


async def test_without_metrics_those_of_the_application_are_sent() -> None:
    client = FakeClient()
    async with Processor(client, ProcessorConfig(metrics=False)) as processor:
        processor._record_local_evaluation(USER, EVALUATION, 0.1)
        await processor.push_latency_metrics_event(0.1, ApiId.GET_EVALUATION)
        processor.push_internal_error_count_metrics_event_nowait()

    assert processor.statistics().metrics.delivered == sum(client.sizes) - 1 == 2
