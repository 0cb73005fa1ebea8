# Generated from proto/feature/reason.proto by `nox -s protos`. Do not edit.
from bucketeer_async._proto._pool import load as _load

_load('proto/feature/reason.proto', (
    b'\n\x1aproto/feature/reason.proto\x12\x11bucketeer.feature"\xf6\x02\n\x06Reason\x122\n\x04type\x18\x01 \x01(\x0e2\x1e.bucketeer.feature.Reason.'
    b'TypeR\x04type\x12\x17\n\x07rule_id\x18\x02 \x01(\tR\x06ruleId"\x9e\x02\n\x04Type\x12\n\n\x06TARGET\x10\x00\x12\x08\n\x04RULE\x10\x01\x12\x0b\n\x07DEFAULT\x10\x03\x12\n\n\x06CLIENT\x10\x04\x12\x11\n\rOFF_V'
    b'ARIATION\x10\x05\x12\x10\n\x0cPREREQUISITE\x10\x06\x12\x18\n\x14ERROR_NO_EVALUATIONS\x10\x14\x12\x18\n\x14ERROR_FLAG_NOT_FOUND\x10\x15\x12\x14\n\x10ERROR_WRONG_TYPE'
    b"\x10\x16\x12\x1f\n\x1bERROR_USER_ID_NOT_SPECIFIED\x10\x17\x12'\n#ERROR_FEATURE_FLAG_ID_NOT_SPECIFIED\x10\x18\x12\x13\n\x0fERROR_EXCEPTION\x10\x19\x12\x19\n"
    b'\x15ERROR_CACHE_NOT_FOUND\x10\x1ab\x06proto3'
), globals())
