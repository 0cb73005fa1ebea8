"""The private descriptor pool that all generated modules share.

An application may have its own generated Bucketeer messages, and protobuf's default pool refuses a second copy of a
message. Functions of ``json_format`` need ``descriptor_pool=POOL`` for a message that contains an ``Any``.
"""

from __future__ import annotations

from typing import Any as _Any

from google.protobuf import any_pb2, descriptor_pool, duration_pb2, message_factory
from google.protobuf.internal import enum_type_wrapper

POOL = descriptor_pool.DescriptorPool()
for _module in (any_pb2, duration_pb2):
    POOL.AddSerializedFile(_module.DESCRIPTOR.serialized_pb)


def message_class(full_name: str) -> _Any:
    """Return the class of a message in the pool; raise KeyError if there is none."""
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(full_name))


def load(name: str, serialized: bytes, module: dict[str, _Any]) -> None:
    """Add a file descriptor to the pool, and its messages and enums to the namespace of a generated module."""
    POOL.AddSerializedFile(serialized)
    file = module["DESCRIPTOR"] = POOL.FindFileByName(name)
    for message in file.message_types_by_name.values():
        module[message.name] = _owned(message_factory.GetMessageClass(message), module["__name__"])
    for enum in file.enum_types_by_name.values():
        module[enum.name] = enum_type_wrapper.EnumTypeWrapper(enum)
        for value in enum.values:
            module[value.name] = value.number


def _owned(cls: _Any, module: str) -> _Any:
    """Set the module of a class and of its nested classes, which pickle and repr use; return the class."""
    cls.__module__ = module
    for nested in cls.DESCRIPTOR.nested_types:
        _owned(message_factory.GetMessageClass(nested), module)
    return cls
