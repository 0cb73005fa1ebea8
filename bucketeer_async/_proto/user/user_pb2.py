# Generated from proto/user/user.proto by `nox -s protos`. Do not edit.
from bucketeer_async._proto._pool import load as _load

_load('proto/user/user.proto', (
    b'\n\x15proto/user/user.proto\x12\x0ebucketeer.user"\xde\x03\n\x04User\x12\x0e\n\x02id\x18\x01 \x01(\tR\x02id\x122\n\x04data\x18\x02 \x03(\x0b2\x1e.bucketeer.user.User'
    b'.DataEntryR\x04data\x12E\n\x0btagged_data\x18\x03 \x03(\x0b2$.bucketeer.user.User.TaggedDataEntryR\ntaggedData\x12\x1b\n\tlast_seen'
    b'\x18\x04 \x01(\x03R\x08lastSeen\x12\x1d\n\ncreated_at\x18\x05 \x01(\x03R\tcreatedAt\x1a|\n\x04Data\x12:\n\x05value\x18\x01 \x03(\x0b2$.bucketeer.user.User.Data.Va'
    b'lueEntryR\x05value\x1a8\n\nValueEntry\x12\x10\n\x03key\x18\x01 \x01(\tR\x03key\x12\x14\n\x05value\x18\x02 \x01(\tR\x05value:\x028\x01\x1a7\n\tDataEntry\x12\x10\n\x03key\x18\x01 \x01(\tR'
    b'\x03key\x12\x14\n\x05value\x18\x02 \x01(\tR\x05value:\x028\x01\x1aX\n\x0fTaggedDataEntry\x12\x10\n\x03key\x18\x01 \x01(\tR\x03key\x12/\n\x05value\x18\x02 \x01(\x0b2\x19.bucketeer.user.'
    b'User.DataR\x05value:\x028\x01b\x06proto3'
), globals())
