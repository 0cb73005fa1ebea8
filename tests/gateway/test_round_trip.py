"""Round trips: the gateway accepts every event that the SDK can produce, and decodes it to what was pushed."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bucketeer_async import ApiId, Evaluation, EventKind, Reason, ReasonType, StatusError, User
from bucketeer_async._events._encoder import EVENT_ID, EventFactory
from bucketeer_async._transport._codec import register_events_body
from bucketeer_async.gateway import GatewayState
from bucketeer_async.gateway._endpoints import ENDPOINTS, handle

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
ids = texts.filter(bool)
names = texts.filter(lambda name: name not in {"userAttributesUpdated", "user_attributes_updated"})
users = st.builds(User, ids, st.dictionaries(names, texts, max_size=4))
int32s = st.integers(0, 2**31 - 1)
evaluations = st.builds(
    Evaluation,
    feature_id=ids,
    variation_id=ids,
    feature_version=int32s,
    reason=st.builds(Reason, st.sampled_from(ReasonType), texts),
)
numbers = st.floats(allow_nan=False, allow_infinity=False)
errors = st.builds(StatusError, st.integers(404, 599)) | st.builds(OSError, texts) | st.builds(ValueError, texts)
api_ids = st.sampled_from(ApiId)
pushes: st.SearchStrategy[tuple[Any, ...]] = st.one_of(
    st.tuples(st.just("evaluation"), users, evaluations),
    st.tuples(
        st.just("default_evaluation"), users, ids, st.sampled_from([each for each in ReasonType if each.is_error])
    ),
    st.tuples(st.just("goal"), users, ids, numbers),
    st.tuples(st.just("get_evaluation_latency"), st.floats(0, 1e9)),
    st.tuples(st.just("get_evaluation_size"), int32s),
    st.tuples(st.just("timeout_error_count")),
    st.tuples(st.just("internal_error_count")),
    st.tuples(st.just("latency"), st.floats(0, 1e9), api_ids),
    st.tuples(st.just("size"), int32s, api_ids),
    st.tuples(st.just("error"), errors, api_ids),
)


def kind_of(name: str) -> EventKind:
    return (
        EventKind(name.removeprefix("default_"))
        if name in {"evaluation", "default_evaluation", "goal"}
        else EventKind.METRICS
    )


def post(state: GatewayState, events: list[bytes]) -> Any:
    body = register_events_body(events, source_id=0, sdk_version="1.2.3")
    return handle(state, ENDPOINTS["/register_events"], "client-key", body, None)


def as_pushed(event: dict[str, Any]) -> dict[str, Any]:
    """Return the event with enum names replaced by numbers, so that it can be compared with the pushed event."""
    return {key: value for key, value in event.items() if key not in {"@type", "reason", "sourceId", "event"}}


@given(st.lists(pushes, min_size=1, max_size=8), texts, st.sampled_from([0, 5, 1000]))
def test_what_is_pushed_is_taken_as_it_was_meant(pushed: list[tuple[Any, ...]], tag: str, source_id: int) -> None:
    factory = EventFactory(tag=tag, source_id=source_id, sdk_version="1.2.3")
    events = [getattr(factory, name)(*arguments) for name, *arguments in pushed]
    state = GatewayState()

    assert post(state, events) == {"errors": {}}

    assert [event.id for event in state.events] == [event[EVENT_ID].decode() for event in events]
    assert [event.kind for event in state.events] == [kind_of(name) for name, *_ in pushed]
    for event, recorded in zip(events, state.events, strict=True):
        sent = json.loads(event)["event"]
        assert as_pushed(recorded.event) == as_pushed(sent)
        assert int(recorded.message.source_id) == source_id
        if "reason" in sent:
            assert int(recorded.message.reason.type) == sent["reason"].get("type", 0)
            assert recorded.message.reason.rule_id == sent["reason"].get("ruleId", "")


@given(st.lists(pushes, min_size=2, max_size=8), st.data())
def test_every_split_of_a_batch_is_taken(pushed: list[tuple[Any, ...]], data: st.DataObject) -> None:
    factory = EventFactory(tag="tag", source_id=0, sdk_version="1.2.3")
    events = [getattr(factory, name)(*arguments) for name, *arguments in pushed]
    middle = data.draw(st.integers(1, len(events) - 1))
    state = GatewayState()

    for part in (events[:middle], events[middle:]):
        assert post(state, part) == {"errors": {}}

    assert [event.id for event in state.events] == [event[EVENT_ID].decode() for event in events]
