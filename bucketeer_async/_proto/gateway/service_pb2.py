# Generated from proto/gateway/service.proto by `nox -s protos`. Do not edit.
import bucketeer_async._proto.event.client.event_pb2  # noqa: F401
import bucketeer_async._proto.feature.evaluation_pb2  # noqa: F401
import bucketeer_async._proto.user.user_pb2  # noqa: F401
from bucketeer_async._proto._pool import load as _load

_load('proto/gateway/service.proto', (
    b'\n\x1bproto/gateway/service.proto\x12\x11bucketeer.gateway\x1a\x1eproto/event/client/event.proto\x1a\x1eproto/feature/eval'
    b'uation.proto\x1a\x15proto/user/user.proto""\n\x0cPingResponse\x12\x12\n\x04time\x18\x01 \x01(\x03R\x04time"\xae\x01\n\x15RegisterEventsRequest\x125\n'
    b'\x06events\x18\x01 \x03(\x0b2\x1d.bucketeer.event.client.EventR\x06events\x12\x1f\n\x0bsdk_version\x18\x02 \x01(\tR\nsdkVersion\x12=\n\tsource_id\x18\x03'
    b' \x01(\x0e2 .bucketeer.event.client.SourceIdR\x08sourceId"\x94\x02\n\x16RegisterEventsResponse\x12M\n\x06errors\x18\x01 \x03(\x0b25.bucket'
    b'eer.gateway.RegisterEventsResponse.ErrorsEntryR\x06errors\x1a?\n\x05Error\x12\x1c\n\tretriable\x18\x01 \x01(\x08R\tretriable\x12\x18\n\x07mes'
    b'sage\x18\x02 \x01(\tR\x07message\x1aj\n\x0bErrorsEntry\x12\x10\n\x03key\x18\x01 \x01(\tR\x03key\x12E\n\x05value\x18\x02 \x01(\x0b2/.bucketeer.gateway.RegisterEven'
    b'tsResponse.ErrorR\x05value:\x028\x01"\xd1\x01\n\x14GetEvaluationRequest\x12\x10\n\x03tag\x18\x01 \x01(\tR\x03tag\x12(\n\x04user\x18\x02 \x01(\x0b2\x14.bucketeer.use'
    b'r.UserR\x04user\x12\x1d\n\nfeature_id\x18\x03 \x01(\tR\tfeatureId\x12=\n\tsource_id\x18\x04 \x01(\x0e2 .bucketeer.event.client.SourceIdR\x08so'
    b'urceId\x12\x1f\n\x0bsdk_version\x18\x05 \x01(\tR\nsdkVersion"V\n\x15GetEvaluationResponse\x12=\n\nevaluation\x18\x01 \x01(\x0b2\x1d.bucketeer.fea'
    b'ture.EvaluationR\nevaluation"\xf6\x03\n\x15GetEvaluationsRequest\x12\x10\n\x03tag\x18\x01 \x01(\tR\x03tag\x12(\n\x04user\x18\x02 \x01(\x0b2\x14.bucketeer.us'
    b'er.UserR\x04user\x12.\n\x13user_evaluations_id\x18\x03 \x01(\tR\x11userEvaluationsId\x12\x1d\n\nfeature_id\x18\x04 \x01(\tR\tfeatureId\x12=\n\tsour'
    b'ce_id\x18\x05 \x01(\x0e2 .bucketeer.event.client.SourceIdR\x08sourceId\x12|\n\x19user_evaluation_condition\x18\x06 \x01(\x0b2@.buckete'
    b'er.gateway.GetEvaluationsRequest.UserEvaluationConditionR\x17userEvaluationCondition\x12\x1f\n\x0bsdk_version\x18\x07 \x01'
    b'(\tR\nsdkVersion\x1at\n\x17UserEvaluationCondition\x12!\n\x0cevaluated_at\x18\x01 \x01(\x03R\x0bevaluatedAt\x126\n\x17user_attributes_upda'
    b'ted\x18\x02 \x01(\x08R\x15userAttributesUpdated"\xce\x01\n\x16GetEvaluationsResponse\x12>\n\x05state\x18\x01 \x01(\x0e2(.bucketeer.feature.UserE'
    b'valuations.StateR\x05state\x12D\n\x0bevaluations\x18\x02 \x01(\x0b2".bucketeer.feature.UserEvaluationsR\x0bevaluations\x12.\n\x13use'
    b'r_evaluations_id\x18\x03 \x01(\tR\x11userEvaluationsId"\xd7\x01\n\x16GetFeatureFlagsRequest\x12\x10\n\x03tag\x18\x01 \x01(\tR\x03tag\x12(\n\x10feature_fl'
    b'ags_id\x18\x02 \x01(\tR\x0efeatureFlagsId\x12!\n\x0crequested_at\x18\x03 \x01(\x03R\x0brequestedAt\x12=\n\tsource_id\x18\x04 \x01(\x0e2 .bucketeer.event'
    b'.client.SourceIdR\x08sourceId\x12\x1f\n\x0bsdk_version\x18\x05 \x01(\tR\nsdkVersion"\xbc\x01\n\x16GetSegmentUsersRequest\x12\x1f\n\x0bsegment_id'
    b's\x18\x01 \x03(\tR\nsegmentIds\x12!\n\x0crequested_at\x18\x02 \x01(\x03R\x0brequestedAt\x12=\n\tsource_id\x18\x03 \x01(\x0e2 .bucketeer.event.client.S'
    b'ourceIdR\x08sourceId\x12\x1f\n\x0bsdk_version\x18\x04 \x01(\tR\nsdkVersionb\x06proto3'
), globals())
