# Generated from proto/feature/variation.proto by `nox -s protos`. Do not edit.
from bucketeer_async._proto._pool import load as _load

_load('proto/feature/variation.proto', (
    b'\n\x1dproto/feature/variation.proto\x12\x11bucketeer.feature"g\n\tVariation\x12\x0e\n\x02id\x18\x01 \x01(\tR\x02id\x12\x14\n\x05value\x18\x02 \x01(\tR\x05valu'
    b'e\x12\x12\n\x04name\x18\x03 \x01(\tR\x04name\x12 \n\x0bdescription\x18\x04 \x01(\tR\x0bdescriptionb\x06proto3'
), globals())
