# Generated from proto/feature/evaluation.proto by `nox -s protos`. Do not edit.
import bucketeer_async._proto.feature.reason_pb2  # noqa: F401
import bucketeer_async._proto.feature.variation_pb2  # noqa: F401
from bucketeer_async._proto._pool import load as _load

_load('proto/feature/evaluation.proto', (
    b'\n\x1eproto/feature/evaluation.proto\x12\x11bucketeer.feature\x1a\x1aproto/feature/reason.proto\x1a\x1dproto/feature/varia'
    b'tion.proto"\xdf\x02\n\nEvaluation\x12\x0e\n\x02id\x18\x01 \x01(\tR\x02id\x12\x1d\n\nfeature_id\x18\x02 \x01(\tR\tfeatureId\x12\'\n\x0ffeature_version\x18\x03 \x01(\x05R\x0ef'
    b'eatureVersion\x12\x17\n\x07user_id\x18\x04 \x01(\tR\x06userId\x12!\n\x0cvariation_id\x18\x05 \x01(\tR\x0bvariationId\x12:\n\tvariation\x18\x06 \x01(\x0b2\x1c.bucke'
    b"teer.feature.VariationR\tvariation\x121\n\x06reason\x18\x07 \x01(\x0b2\x19.bucketeer.feature.ReasonR\x06reason\x12'\n\x0fvariation_va"
    b'lue\x18\x08 \x01(\tR\x0evariationValue\x12%\n\x0evariation_name\x18\t \x01(\tR\rvariationName"\x82\x02\n\x0fUserEvaluations\x12\x0e\n\x02id\x18\x01 \x01(\tR\x02id'
    b'\x12?\n\x0bevaluations\x18\x02 \x03(\x0b2\x1d.bucketeer.feature.EvaluationR\x0bevaluations\x12\x1d\n\ncreated_at\x18\x03 \x01(\x03R\tcreatedAt\x120\n\x14'
    b'archived_feature_ids\x18\x04 \x03(\tR\x12archivedFeatureIds\x12!\n\x0cforce_update\x18\x05 \x01(\x08R\x0bforceUpdate"*\n\x05State\x12\n\n\x06QUEUED'
    b'\x10\x00\x12\x0b\n\x07PARTIAL\x10\x01\x12\x08\n\x04FULL\x10\x02b\x06proto3'
), globals())
