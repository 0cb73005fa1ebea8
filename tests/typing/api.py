"""What type checkers must say about the public surface. Read by them only, never run."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction
from typing import Any, Literal, Self, TypedDict, assert_type

import httpx
import httpx2

from bucketeer_async import (
    ApiClient,
    ApiId,
    BoundClient,
    CheckReport,
    Client,
    ClientState,
    ClientStatus,
    DecisiveStep,
    DrainReport,
    Drop,
    Evaluation,
    EvaluationDetails,
    ExplainedClause,
    ExplainedFlag,
    ExplainedPrerequisite,
    ExplainedRollout,
    ExplainedRule,
    ExplainedSegment,
    Explanation,
    FlagChanges,
    FlagEvaluation,
    LocalEvaluation,
    LocalEvaluationStatistics,
    Outcome,
    Processor,
    ProcessorConfig,
    Reason,
    ReasonType,
    Receipt,
    Statistics,
    Subscription,
    User,
    UserEvaluations,
)
from bucketeer_async import Definitions as OldDefinitions
from bucketeer_async import EventError as OldEventError
from bucketeer_async import GetEvaluationResponse as OldGetEvaluationResponse
from bucketeer_async import GetEvaluationsResponse as OldGetEvaluationsResponse
from bucketeer_async import GetFeatureFlagsResponse as OldGetFeatureFlagsResponse
from bucketeer_async import GetSegmentUsersResponse as OldGetSegmentUsersResponse
from bucketeer_async import RegisterEventsResponse as OldRegisterEventsResponse
from bucketeer_async.api import (
    Definitions,
    EventError,
    GetEvaluationResponse,
    GetEvaluationsResponse,
    GetFeatureFlagsResponse,
    GetSegmentUsersResponse,
    RegisterEventsResponse,
)
from bucketeer_async.blocking import ClientThread
from bucketeer_async.gateway import GatewayState, GoalCounts, Linking, experiment


def use_old_paths(
    definitions: OldDefinitions,
    event_error: OldEventError,
    get_evaluation: OldGetEvaluationResponse,
    get_evaluations: OldGetEvaluationsResponse,
    get_feature_flags: OldGetFeatureFlagsResponse,
    get_segment_users: OldGetSegmentUsersResponse,
    register_events: OldRegisterEventsResponse,
) -> None:
    assert_type(definitions, Definitions)
    assert_type(event_error, EventError)
    assert_type(get_evaluation, GetEvaluationResponse)
    assert_type(get_evaluations, GetEvaluationsResponse)
    assert_type(get_feature_flags, GetFeatureFlagsResponse)
    assert_type(get_segment_users, GetSegmentUsersResponse)
    assert_type(register_events, RegisterEventsResponse)


def heard(drop: Drop) -> None:
    assert_type(drop.reason, str)


async def use_processor() -> None:
    user = User("user", {"plan": "pro"})
    evaluation = Evaluation(feature_id="flag", variation_id="on", reason=Reason(ReasonType.DEFAULT))
    api_client = ApiClient(endpoint="localhost", api_key="key")
    async with Processor(api_client, ProcessorConfig(on_drop=heard, overflow="wait", drain_timeout=None)) as processor:
        assert_type(processor, Processor)
        assert_type(await processor.push_evaluation_event(user, evaluation), Receipt)
        assert_type(processor.push_goal_event_nowait(user, "goal", 1), Receipt)
        assert_type(processor.push_goal_event_nowait(user, "goal", Fraction(1, 3)), Receipt)
        receipt = await processor.push_latency_metrics_event(0.1, ApiId.GET_EVALUATION)
        assert_type(receipt.outcome, Outcome | None)
        assert_type(await receipt.settled(), Outcome)
        assert_type(await processor.flush(), bool)
        assert_type(processor.statistics(), Statistics)
    assert_type(await processor.aclose(1.0), DrainReport)
    ProcessorConfig(overflow="block")  # type: ignore[arg-type]
    ProcessorConfig(private_attributes={"email", "phone"}, metrics=False, evaluation_window=600)
    ProcessorConfig(private_attributes="all")
    User(5)  # type: ignore[arg-type]


async def use_api_client() -> None:
    async with ApiClient(endpoint="localhost", api_key="key", http=httpx.AsyncClient()) as api_client:
        assert_type(await api_client.register_events([b"{}"]), RegisterEventsResponse)
        assert_type(await api_client.get_evaluation(User("user"), "flag", tag="tag"), GetEvaluationResponse)
        assert_type(await api_client.ping(), int)
    ApiClient(endpoint="localhost", api_key="key", http=httpx2.AsyncClient())
    ApiClient(endpoint="localhost", api_key="key", http=object())  # type: ignore[arg-type]


def changed(changes: FlagChanges) -> None:
    assert_type(changes.added, frozenset[str])


def use_evaluation(evaluation: FlagEvaluation) -> None:
    assert_type(evaluation.user, User | None)
    assert_type(evaluation.feature_id, str)
    assert_type(evaluation.details, EvaluationDetails[object])
    assert_type(evaluation.details.value, object)
    assert_type(evaluation.default, object)
    assert_type(evaluation.duration, float)


def use_report(report: CheckReport) -> None:
    assert_type(report.role, Literal["client", "server"])
    assert_type(report.endpoint, str)
    assert_type(report.server_time, int)
    assert_type(report.skew, float)
    assert_type(report.latency, float)


def use_status(status: ClientStatus) -> None:
    assert_type(status.state, ClientState)
    assert_type(status.reason, str)
    assert_type(status.ok, bool)


def use_explanation(explanation: Explanation) -> None:
    assert_type(str(explanation), str)
    assert_type(explanation.to_dict(), dict[str, Any])
    assert_type(explanation.reason, Reason)
    assert_type(explanation.decided_by, DecisiveStep)
    assert_type(explanation.flags, tuple[ExplainedFlag, ...])
    for flag in explanation.flags:
        assert_type(flag.prerequisites, tuple[ExplainedPrerequisite, ...])
        assert_type(flag.rules, tuple[ExplainedRule, ...])
        assert_type(flag.rules[0].clauses, tuple[ExplainedClause, ...])
        assert_type(flag.rules[0].clauses[0].actual, str | None)
        assert_type(flag.rules[0].clauses[0].segments, tuple[ExplainedSegment, ...])
        assert_type(flag.rollout, ExplainedRollout | None)
        if flag.rollout is not None:
            assert_type(flag.rollout.shares, tuple[tuple[str, float], ...])
    explanation.error = ""  # type: ignore[misc]


def show(details: EvaluationDetails[object]) -> None:
    assert_type(details.value, object)
    assert_type(details.is_default, bool)
    assert_type(details.error, str)
    details.is_default = False  # type: ignore[misc]


class Layout(TypedDict):
    columns: int


class Level(IntEnum):
    LOW = 1


class Settings:
    @classmethod
    def parse(cls, value: Any) -> Self:
        raise NotImplementedError


def columns_of(value: Any) -> int:
    raise NotImplementedError


async def use_types(client: Client, user: User, given: Mapping[str, int]) -> None:
    assert_type(await client.json_variation(user, "flag", None), Any)
    assert_type(await client.json_variation(user, "flag", {"columns": 3}), dict[str, Any])
    assert_type(await client.json_variation(user, "flag", {}), dict[str, Any])
    assert_type(await client.json_variation(user, "flag", ["a"]), list[Any])
    assert_type(await client.json_variation(user, "flag", []), list[Any])
    assert_type(await client.json_variation(user, "flag", Layout(columns=3)), Mapping[str, Any])
    assert_type(await client.json_variation(user, "flag", given), Mapping[str, Any])
    assert_type(await client.json_variation(user, "flag", ("a", "b")), Sequence[Any])
    assert_type(await client.json_variation(user, "flag", "a"), str)
    assert_type(await client.json_variation(user, "flag", 1), int)
    assert_type(await client.json_variation(user, "flag", Level.LOW), int)
    assert_type(await client.json_variation(user, "flag", 1.5), float)
    assert_type(await client.json_variation(user, "flag", True), bool)
    assert_type(await client.json_variation_details(user, "flag", {"a": 1}), EvaluationDetails[dict[str, Any]])
    assert_type(client.json_variation_nowait(user, "flag", ["a"]), list[Any])
    assert_type(client.json_variation_details_nowait(user, "flag", given), EvaluationDetails[Mapping[str, Any]])
    await client.json_variation(user, "flag", object())  # type: ignore[call-overload]
    await client.json_variation(user, "flag", {1, 2})  # type: ignore[call-overload]

    settings = Settings()
    assert_type(await client.json_variation(user, "flag", settings, parse=Settings.parse), Settings)
    assert_type(await client.json_variation(user, "flag", None, parse=Settings.parse), Settings | None)
    assert_type(await client.json_variation(user, "flag", default=3, parse=columns_of), int)
    assert_type(
        await client.json_variation_details(user, "flag", settings, parse=Settings.parse), EvaluationDetails[Settings]
    )
    assert_type(client.json_variation_nowait(user, "flag", None, parse=Settings.parse), Settings | None)
    assert_type(
        client.json_variation_details_nowait(user, "flag", settings, parse=Settings.parse), EvaluationDetails[Settings]
    )
    assert_type(await client.enum_variation(user, "flag", Level.LOW), Level)
    assert_type(await client.enum_variation(user, "flag", default=Level.LOW), Level)
    assert_type(await client.enum_variation_details(user, "flag", Level.LOW), EvaluationDetails[Level])
    assert_type(client.enum_variation_nowait(user, "flag", Level.LOW), Level)
    assert_type(client.enum_variation_details_nowait(user, "flag", Level.LOW), EvaluationDetails[Level])
    await client.enum_variation(user, "flag", "LOW")  # type: ignore[type-var]
    await client.enum_variation(user, "flag", Level)  # type: ignore[type-var]
    await client.json_variation(user, "flag", settings, parse="Settings")  # type: ignore[call-overload]


def use_client_without_awaiting(client: Client, user: User) -> None:
    assert_type(client.bool_variation_nowait(user, "flag", False), bool)
    assert_type(client.int_variation_nowait(user, "flag", 1), int)
    assert_type(client.float_variation_nowait(user, "flag", 1), float)
    assert_type(client.string_variation_nowait(user, "flag", ""), str)
    assert_type(client.bool_variation_details_nowait(user, "flag", False), EvaluationDetails[bool])
    assert_type(client.int_variation_details_nowait(user, "flag", 1), EvaluationDetails[int])
    assert_type(client.float_variation_details_nowait(user, "flag", 1.0), EvaluationDetails[float])
    assert_type(client.string_variation_details_nowait(user, "flag", ""), EvaluationDetails[str])
    client.bool_variation_nowait(user, "flag", None)  # type: ignore[arg-type]


def use_client_thread(client: Client, user: User) -> None:
    with ClientThread(client, ready_timeout=1) as thread:
        assert_type(thread, ClientThread)
        assert_type(thread.run(client.bool_variation(user, "flag", default=False)), bool)
        assert_type(thread.run(client.json_variation(user, "flag", default=[])), list[Any])
    assert_type(thread.close(timeout=5), DrainReport)
    ClientThread("client")  # type: ignore[arg-type]
    thread.run(client.bool_variation)  # type: ignore[arg-type]


async def use_user_evaluations(flags: UserEvaluations) -> None:
    assert_type(flags.bool("flag", default=False), bool)
    assert_type(flags.int("flag", default=1), int)
    assert_type(flags.float("flag", default=1), float)
    assert_type(flags.string("flag", default=""), str)
    assert_type(flags.json("flag", default=Layout(columns=3)), Mapping[str, Any])
    assert_type(flags.json("flag", default=None), Any)
    assert_type(flags.details("flag", default=False), EvaluationDetails[bool])
    assert_type(flags.details("flag", default=1), EvaluationDetails[int])
    assert_type(flags.details("flag", default=1.0), EvaluationDetails[float])
    assert_type(flags.details("flag", default=""), EvaluationDetails[str])
    assert_type(flags.details("flag", default={"columns": 3}).value, dict[str, Any])
    assert_type(flags.details("flag", default=None), EvaluationDetails[Any])
    assert_type(flags.details("flag", default=Level.LOW), EvaluationDetails[Level])
    assert_type(flags.enum("flag", default=Level.LOW), Level)
    assert_type(flags.json("flag", default=None, parse=Settings.parse), Settings | None)
    assert_type(flags.to_dict(), dict[str, dict[str, str]])
    assert_type(await flags.refresh(), bool)
    flags.bool("flag", default=1)  # type: ignore[arg-type]


async def use_bound_client(bound: BoundClient) -> None:
    assert_type(bound.user, User)
    assert_type(await bound.bool("flag", default=False), bool)
    assert_type(await bound.int("flag", default=1), int)
    assert_type(await bound.float("flag", default=1), float)
    assert_type(await bound.string("flag", default=""), str)
    assert_type(await bound.json("flag", default=["a"]), list[Any])
    assert_type(await bound.json("flag", default=None), Any)
    assert_type(await bound.bool_details("flag", default=False), EvaluationDetails[bool])
    assert_type(await bound.int_details("flag", default=1), EvaluationDetails[int])
    assert_type(await bound.float_details("flag", default=1.0), EvaluationDetails[float])
    assert_type(await bound.string_details("flag", default=""), EvaluationDetails[str])
    assert_type((await bound.json_details("flag", default={"columns": 3})).value, dict[str, Any])
    assert_type(await bound.json("flag", default=None, parse=Settings.parse), Settings | None)
    assert_type(await bound.json_details("flag", default=Settings(), parse=Settings.parse), EvaluationDetails[Settings])
    assert_type(await bound.enum("flag", default=Level.LOW), Level)
    assert_type(await bound.enum_details("flag", default=Level.LOW), EvaluationDetails[Level])
    assert_type(await bound.evaluate_all(), UserEvaluations)
    assert_type(await bound.track("goal", value=Decimal(1)), Receipt)


async def use_client() -> None:
    user = User("user")
    async with Client(endpoint="localhost", api_key="key", tag="tag", http=httpx.AsyncClient()) as client:
        assert_type(client, Client)
        assert_type(client.for_user(user), BoundClient)
        assert_type(await client.evaluate_all(user), UserEvaluations)
        assert_type(await client.evaluate_all(user, only={"flag"}), UserEvaluations)
        assert_type(await client.bool_variation(user, "flag", False), bool)
        assert_type(await client.int_variation(user, "flag", 1), int)
        assert_type(await client.float_variation(user, "flag", 1), float)
        assert_type(await client.string_variation(user, "flag", ""), str)
        assert_type(await client.bool_variation_details(user, "flag", False), EvaluationDetails[bool])
        assert_type(await client.int_variation_details(user, "flag", 1), EvaluationDetails[int])
        assert_type(await client.float_variation_details(user, "flag", 1.0), EvaluationDetails[float])
        assert_type(await client.string_variation_details(user, "flag", ""), EvaluationDetails[str])
        assert_type((await client.bool_variation_details(user, "flag", False)).reason, Reason)
        show(await client.bool_variation_details(user, "flag", False))
        assert_type(await client.track(user, "goal", value=1), Receipt)
        assert_type(await client.track(user, "goal", value=Decimal("49.90")), Receipt)
        await client.track(user, "goal", value="49.90")  # type: ignore[arg-type]
        assert_type(client.track_nowait(user, "goal"), Receipt)
        assert_type(await client.flush(1.0), bool)
        assert_type(client.statistics(), Statistics)
        await client.string_variation(user, "flag", None)  # type: ignore[arg-type]
        use_report(await client.check())
        await client.check(timeout=1)
        assert_type(client.on_evaluation(use_evaluation), Subscription)
        client.on_evaluation(changed)  # type: ignore[arg-type]
        assert_type(client.on_status(use_status), Subscription)
        client.on_status(changed)  # type: ignore[arg-type]
        assert_type(client.on_change(changed), Subscription)
        client.on_change(changed).cancel()
        assert_type(client.statistics().callback_errors, int)
        assert_type(client.export_snapshot(), bytes)
        use_explanation(client.explain(user, "flag"))
        use_client_without_awaiting(client, user)
        use_client_thread(client, user)
        await use_types(client, user, {"columns": 3})
        assert_type(client.statistics().local_evaluation, LocalEvaluationStatistics | None)
    assert_type(await client.aclose(), DrainReport)
    Client(endpoint="localhost", api_key="key", tag="", local_evaluation=LocalEvaluation(polling_interval=5))
    assert_type(Client.from_env({}, events=ProcessorConfig()), Client)
    assert_type(Client.disabled(), Client)


def use_experiments(state: GatewayState) -> None:
    assert_type(state.experiments(), dict[str, dict[str, GoalCounts]])
    assert_type(state.linking, Linking)
    state.set_experiment(experiment("test", feature_id="flag", goal_ids=["goal"]))
    Linking(first="events")  # type: ignore[arg-type]
