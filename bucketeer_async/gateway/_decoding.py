"""Decoding of JSON text to protobuf messages, by the rules of the server's decoder.

The server decodes JSON with protobuf-go's ``protojson`` and discards unknown fields. ``protojson`` is stricter than
``google.protobuf.json_format`` in some cases and more lenient in others, so this module implements its rules.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import Any, Final, NoReturn

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto
from google.protobuf.message import Message

from bucketeer_async._proto._pool import message_class
from bucketeer_async.gateway._json import NUMBER, Number, Object, UndecodableError, parse
from bucketeer_async.gateway._repair import repaired

_ANY: Final = "google.protobuf.Any"
_DURATION: Final = "google.protobuf.Duration"
_LONGEST_DURATION: Final = 315_576_000_000  # seconds
_DURATION_FORM: Final = re.compile(r"([+-]?)(0|[1-9][0-9]*|(?=\.[0-9]))(?:\.([0-9]{0,9}))?s", re.ASCII)
_NON_FINITE: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclass(slots=True)
class _PendingAny:
    """An Any whose content is decoded after the message around it, so that nested Anys need no recursion."""

    target: Any
    inner: Any
    values: Object


_Anys = list[_PendingAny]


def decode(body: bytes, message: Message) -> None:
    """Fill ``message`` from the JSON text in ``body``.

    Raises:
        UndecodableError: If the server would respond with status 400.
        UnprintableError: If the server would fail to encode the error.
    """
    parsed = repaired(parse(body))
    if not isinstance(parsed, Object):
        raise UndecodableError("syntax error (line 1:1): unexpected token")
    anys: _Anys = []
    _fill(message, parsed, anys)
    for pending in anys:  # the list grows meanwhile: the content of an Any may contain other Anys
        _fill_any(pending, anys)
    for pending in reversed(anys):  # inner Anys first, because outer Anys contain them
        pending.target.value = pending.inner.SerializeToString()


@cache
def _fields(descriptor: Descriptor) -> dict[str, FieldDescriptor]:
    """Return the fields of a message by JSON name and by proto name."""
    return {name: field for field in descriptor.fields for name in (field.json_name, field.name)}


@cache
def _repeated(descriptor: Descriptor) -> frozenset[int]:
    """Return the numbers of the repeated fields. The DescriptorProto has them in all versions of protobuf."""
    file = DescriptorProto()
    descriptor.CopyToProto(file)
    return frozenset(field.number for field in file.field if field.label == FieldDescriptorProto.LABEL_REPEATED)


def _fill(message: Message, values: Object, anys: _Anys) -> None:
    if message.DESCRIPTOR.full_name == _ANY:
        _find_any(message, values, anys)
        return
    fields = _fields(message.DESCRIPTOR)
    seen: set[int] = set()
    for name, value in values:
        field = fields.get(name)
        if field is None:
            continue
        if field.number in seen:
            raise UndecodableError(f"duplicate field {name!r}")
        seen.add(field.number)
        if value is not None:
            _set(message, field, value, anys)


def _set(message: Message, field: FieldDescriptor, value: Any, anys: _Anys) -> None:
    if _is_map(field):
        _set_map(message, field, value, anys)
    elif field.number in _repeated(message.DESCRIPTOR):
        _set_list(message, field, value, anys)
    elif field.message_type is not None:
        target = getattr(message, field.name)
        target.SetInParent()
        _fill_message(target, field, value, anys)
    elif (item := _scalar(field, value)) is not None:
        setattr(message, field.name, item)


def _set_list(message: Message, field: FieldDescriptor, value: Any, anys: _Anys) -> None:
    if not isinstance(value, list) or isinstance(value, Object):
        _reject(field, value)
    target = getattr(message, field.name)
    for each in value:
        if each is None:
            _reject(field, each)
        if field.message_type is not None:
            _fill_message(target.add(), field, each, anys)
        else:
            target.append(_scalar(field, each))


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _set_map(message: Message, field: FieldDescriptor, value: Any, anys: _Anys) -> None:
    if not isinstance(value, Object):
        _reject(field, value)
    target = getattr(message, field.name)
    assert field.message_type is not None  # noqa: S101 - a map is a repeated message
    value_field = field.message_type.fields_by_name["value"]
    seen: set[str] = set()
    for key, each in value:
        if key in seen:
            raise UndecodableError(f"duplicate map key {key!r}")
        seen.add(key)
        if each is None:
            _reject(field, each)
        if value_field.message_type is not None:
            _fill_message(target[key], value_field, each, anys)
        else:
            target[key] = _scalar(value_field, each)


def _fill_message(target: Message, field: FieldDescriptor, value: Any, anys: _Anys) -> None:
    if target.DESCRIPTOR.full_name == _DURATION:
        _fill_duration(target, field, value)
    elif isinstance(value, Object):
        _fill(target, value, anys)
    else:
        _reject(field, value)


def _find_any(target: Any, values: Object, anys: _Anys) -> None:
    types = [value for name, value in values if name == "@type"]
    if not types:
        return  # without a type, the content is ignored and the Any stays empty
    url = types[0]
    if len(types) > 1 or not isinstance(url, str) or isinstance(url, Number) or not url.rpartition("/")[2]:
        raise UndecodableError('invalid "@type" field')
    try:
        inner = message_class(url.rpartition("/")[2])()
    except KeyError:
        raise UndecodableError(f'unable to resolve "{url}": "not found"') from None
    target.type_url = url
    anys.append(_PendingAny(target, inner, Object(pair for pair in values if pair[0] != "@type")))


def _fill_any(pending: _PendingAny, anys: _Anys) -> None:
    name = pending.inner.DESCRIPTOR.full_name
    if name not in {_ANY, _DURATION}:
        _fill(pending.inner, pending.values, anys)
        return
    # In an Any, a well-known type is written as the field "value"; other fields are ignored.
    values = [value for key, value in pending.values if key == "value"]
    if len(values) != 1:
        raise UndecodableError(f'missing or repeated "value" in {name}')
    if name == _DURATION:
        _fill_duration(pending.inner, None, values[0])
    elif isinstance(values[0], Object):
        _fill(pending.inner, values[0], anys)
    else:
        raise UndecodableError(f"unexpected token in {name}")


def _fill_duration(target: Any, field: FieldDescriptor | None, value: Any) -> None:
    match = _DURATION_FORM.fullmatch(value) if isinstance(value, str) and not isinstance(value, Number) else None
    if match is None:
        _reject(field, value)
    sign = -1 if match[1] == "-" else 1
    seconds, nanos = int((match[2] or "0")[:20]), int((match[3] or "").ljust(9, "0") or "0")
    if seconds > _LONGEST_DURATION or (seconds == _LONGEST_DURATION and nanos):
        _reject(field, value)
    target.seconds, target.nanos = sign * seconds, sign * nanos


def _reject(field: FieldDescriptor | None, value: Any) -> NoReturn:
    name = field.full_name if field is not None else _DURATION
    raise UndecodableError(f"invalid value for {name}: {type(value).__name__.strip('_')}")


# Scalars


def _scalar(field: FieldDescriptor, value: Any) -> Any:
    """Return the Python value of a scalar field; None for an unknown enum name, which is silently ignored."""
    return _SCALARS[field.cpp_type](field, value)


def _string(field: FieldDescriptor, value: Any) -> str:
    if not isinstance(value, str) or isinstance(value, Number):
        _reject(field, value)
    return value


def _bool(field: FieldDescriptor, value: Any) -> bool:
    if not isinstance(value, bool):
        _reject(field, value)
    return value


def _integer(field: FieldDescriptor, value: Any, bits: int) -> int:
    """Decode an integer from a number or a string; forms such as 1.0 and 1e2 are accepted."""
    try:
        number = Decimal(_number_text(field, value).rstrip("eE"))  # the server accepts an exponent without digits
    except InvalidOperation:  # the exponent is too large, or consists of a sign
        _reject(field, value)
    if not number:
        return 0
    if number.adjusted() > 20 or number != number.to_integral_value():
        _reject(field, value)
    whole = int(number)
    if not -(2 ** (bits - 1)) <= whole < 2 ** (bits - 1):
        _reject(field, value)
    return whole


def _number_text(field: FieldDescriptor, value: Any) -> str:
    """Return the text of a number; of a string, the number at its beginning if a delimiter follows."""
    if not isinstance(value, str):
        _reject(field, value)
    if isinstance(value, Number):
        return value
    match = NUMBER.match(value)
    if match is None or value != value.strip():
        _reject(field, value)
    return match[0]


def _int32(field: FieldDescriptor, value: Any) -> int:
    return _integer(field, value, 32)


def _int64(field: FieldDescriptor, value: Any) -> int:
    return _integer(field, value, 64)


def _double(field: FieldDescriptor, value: Any) -> float:
    if isinstance(value, str) and not isinstance(value, Number) and value in _NON_FINITE:
        return _NON_FINITE[value]
    text = _number_text(field, value)
    if text[-1] in "eE+-" or math.isinf(number := float(text)):
        _reject(field, value)
    return number


def _enum(field: FieldDescriptor, value: Any) -> int | None:
    if isinstance(value, Number):
        return _integer(field, value, 32)
    if not isinstance(value, str):
        _reject(field, value)
    assert field.enum_type is not None  # noqa: S101 - the field is an enum
    known = field.enum_type.values_by_name.get(value)
    return None if known is None else known.number


_SCALARS: Final[dict[int, Callable[[FieldDescriptor, Any], Any]]] = {
    FieldDescriptor.CPPTYPE_STRING: _string,
    FieldDescriptor.CPPTYPE_BOOL: _bool,
    FieldDescriptor.CPPTYPE_INT32: _int32,
    FieldDescriptor.CPPTYPE_INT64: _int64,
    FieldDescriptor.CPPTYPE_DOUBLE: _double,
    FieldDescriptor.CPPTYPE_ENUM: _enum,
}
