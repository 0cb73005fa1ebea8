"""JSON text to protobuf messages, by the rules of the server's decoder.

The server reads JSON with protobuf-go's ``protojson``, unknown fields discarded. It is stricter than
``google.protobuf.json_format`` in some places and laxer in others, so the rules are written out here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import Any, Final, NoReturn

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto
from google.protobuf.message import Message

from bucketeer_async._proto._pool import message_class

_ANY: Final = "google.protobuf.Any"
_DURATION: Final = "google.protobuf.Duration"
_LONGEST_DURATION: Final = 315_576_000_000  # seconds
_DURATION_FORM: Final = re.compile(r"([+-]?)(0|[1-9][0-9]*|(?=\.[0-9]))(?:\.([0-9]{0,9}))?s", re.ASCII)
_NUMBER_FORM: Final = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?", re.ASCII)
_NON_FINITE: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_ESCAPED_BYTE: Final = re.compile("[\udc80-\udcff]")  # how "surrogateescape" shows a byte that is not UTF-8


class UndecodableError(ValueError):
    """The body cannot be decoded; the whole request is a 400 with this text."""

    def __init__(self, text: str) -> None:
        super().__init__(f"proto: {text}")


class UnprintableError(ValueError):
    """A byte that is no UTF-8 stands where a token should begin: even the error text cannot be encoded."""


class _Number(str):
    """A JSON number, as the text that stood there."""

    __slots__ = ()


class _Object(list[tuple[str, Any]]):
    """A JSON object, with its repeated names."""

    __slots__ = ()


def decode(body: bytes, message: Message) -> None:
    """Fill ``message`` from the JSON text in ``body``.

    Raises:
        UndecodableError: If the server would answer 400.
        UnprintableError: If the server would fail to say so.
    """
    parsed = _parse(body)
    if not isinstance(parsed, _Object):
        raise UndecodableError("syntax error (line 1:1): unexpected token")
    _fill(message, parsed)


def _parse(body: bytes) -> Any:
    text = body.decode(errors="surrogateescape")
    try:
        parsed = json.loads(
            text, object_pairs_hook=_Object, parse_int=_Number, parse_float=_Number, parse_constant=_refuse_constant
        )
    except json.JSONDecodeError as error:
        if _ESCAPED_BYTE.match(text, error.pos):
            raise UnprintableError from None
        raise UndecodableError(f"syntax error (line {error.lineno}:{error.colno}): {error.msg}") from None
    except RecursionError:
        raise UndecodableError("exceeded max recursion depth") from None
    if "\\u" in text or not text.isascii():
        _check_texts(parsed)
    return parsed


def _refuse_constant(constant: str) -> NoReturn:
    raise UndecodableError(f"syntax error: invalid value {constant}")


def _check_texts(parsed: Any) -> None:
    """Refuse lone surrogates and invalid UTF-8 anywhere, also in what is ignored."""
    todo = [parsed]
    while todo:
        value = todo.pop()
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                raise UndecodableError("syntax error: invalid UTF-8 or escape in string") from None
        elif isinstance(value, _Object):
            for pair in value:
                todo.extend(pair)
        elif isinstance(value, list):
            todo.extend(value)


@cache
def _fields(descriptor: Descriptor) -> dict[str, FieldDescriptor]:
    """The fields of a message by both of their names."""
    return {name: field for field in descriptor.fields for name in (field.json_name, field.name)}


@cache
def _repeated(descriptor: Descriptor) -> frozenset[int]:
    """The numbers of the repeated fields; read from the file, for the runtimes differ in how they tell."""
    file = DescriptorProto()
    descriptor.CopyToProto(file)
    return frozenset(field.number for field in file.field if field.label == FieldDescriptorProto.LABEL_REPEATED)


def _fill(message: Message, values: _Object) -> None:
    if message.DESCRIPTOR.full_name == _ANY:
        _fill_any(message, values)
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
            _set(message, field, value)


def _set(message: Message, field: FieldDescriptor, value: Any) -> None:
    if _is_map(field):
        _set_map(message, field, value)
    elif field.number in _repeated(message.DESCRIPTOR):
        _set_list(message, field, value)
    elif field.message_type is not None:
        target = getattr(message, field.name)
        target.SetInParent()
        _fill_message(target, field, value)
    elif (item := _scalar(field, value)) is not None:
        setattr(message, field.name, item)


def _set_list(message: Message, field: FieldDescriptor, value: Any) -> None:
    if not isinstance(value, list) or isinstance(value, _Object):
        _refuse(field, value)
    target = getattr(message, field.name)
    for each in value:
        if each is None:
            _refuse(field, each)
        if field.message_type is not None:
            _fill_message(target.add(), field, each)
        else:
            target.append(_scalar(field, each))


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _set_map(message: Message, field: FieldDescriptor, value: Any) -> None:
    if not isinstance(value, _Object):
        _refuse(field, value)
    target = getattr(message, field.name)
    assert field.message_type is not None  # noqa: S101 - a map is a repeated message
    value_field = field.message_type.fields_by_name["value"]
    seen: set[str] = set()
    for key, each in value:
        if key in seen:
            raise UndecodableError(f"duplicate map key {key!r}")
        seen.add(key)
        if each is None:
            _refuse(field, each)
        if value_field.message_type is not None:
            _fill_message(target[key], value_field, each)
        else:
            target[key] = _scalar(value_field, each)


def _fill_message(target: Message, field: FieldDescriptor, value: Any) -> None:
    if target.DESCRIPTOR.full_name == _DURATION:
        _fill_duration(target, field, value)
    elif isinstance(value, _Object):
        _fill(target, value)
    else:
        _refuse(field, value)


def _fill_any(target: Message, values: _Object) -> None:
    types = [value for name, value in values if name == "@type"]
    if not types:
        return  # what it holds without a type is ignored: an empty Any
    url = types[0]
    if len(types) > 1 or not isinstance(url, str) or isinstance(url, _Number) or not url.rpartition("/")[2]:
        raise UndecodableError('invalid "@type" field')
    name = url.rpartition("/")[2]
    try:
        inner = message_class(name)()
    except KeyError:
        raise UndecodableError(f'unable to resolve "{url}": "not found"') from None
    rest = _Object(pair for pair in values if pair[0] != "@type")
    if name in {_ANY, _DURATION}:
        _fill_well_known(inner, name, rest)
    else:
        _fill(inner, rest)
    target.type_url, target.value = url, inner.SerializeToString()  # type: ignore[attr-defined]


def _fill_well_known(inner: Message, name: str, rest: _Object) -> None:
    """A well-known type inside an Any stands under the one name ``value``."""
    found = [value for key, value in rest if key == "value"]
    if len(found) != 1 or len(rest) != 1:
        raise UndecodableError(f'missing or repeated "value" in {name}')
    if name == _DURATION:
        _fill_duration(inner, None, found[0])
    elif isinstance(found[0], _Object):
        _fill(inner, found[0])
    else:
        raise UndecodableError(f"unexpected token in {name}")


def _fill_duration(target: Any, field: FieldDescriptor | None, value: Any) -> None:
    match = _DURATION_FORM.fullmatch(value) if isinstance(value, str) and not isinstance(value, _Number) else None
    if match is None:
        _refuse(field, value)
    sign = -1 if match[1] == "-" else 1
    seconds, nanos = int((match[2] or "0")[:20]), int((match[3] or "").ljust(9, "0") or "0")
    if seconds > _LONGEST_DURATION or (seconds == _LONGEST_DURATION and nanos):
        _refuse(field, value)
    target.seconds, target.nanos = sign * seconds, sign * nanos


def _refuse(field: FieldDescriptor | None, value: Any) -> NoReturn:
    name = field.full_name if field is not None else _DURATION
    raise UndecodableError(f"invalid value for {name}: {type(value).__name__.strip('_')}")


# Scalars


def _scalar(field: FieldDescriptor, value: Any) -> Any:
    """Return the Python value of a scalar field; None for an enum name that is silently dropped."""
    return _SCALARS[field.cpp_type](field, value)


def _string(field: FieldDescriptor, value: Any) -> str:
    if not isinstance(value, str) or isinstance(value, _Number):
        _refuse(field, value)
    return value


def _bool(field: FieldDescriptor, value: Any) -> bool:
    if not isinstance(value, bool):
        _refuse(field, value)
    return value


def _integer(field: FieldDescriptor, value: Any, bits: int) -> int:
    """A number, or a string with a number in it; whole, whatever its form."""
    if not isinstance(value, str) or not _NUMBER_FORM.fullmatch(value):
        _refuse(field, value)
    try:
        number = Decimal(value)
    except InvalidOperation:
        _refuse(field, value)
    if number.adjusted() > 20 or number != number.to_integral_value():
        _refuse(field, value)
    whole = int(number)
    if not -(2 ** (bits - 1)) <= whole < 2 ** (bits - 1):
        _refuse(field, value)
    return whole


def _int32(field: FieldDescriptor, value: Any) -> int:
    return _integer(field, value, 32)


def _int64(field: FieldDescriptor, value: Any) -> int:
    return _integer(field, value, 64)


def _double(field: FieldDescriptor, value: Any) -> float:
    if not isinstance(value, str):
        _refuse(field, value)
    if not isinstance(value, _Number) and value in _NON_FINITE:
        return _NON_FINITE[value]
    number = float(value) if _NUMBER_FORM.fullmatch(value) else math.inf
    if math.isinf(number):
        _refuse(field, value)
    return number


def _enum(field: FieldDescriptor, value: Any) -> int | None:
    if isinstance(value, _Number):
        return _integer(field, value, 32)
    if not isinstance(value, str):
        _refuse(field, value)
    assert field.enum_type is not None  # noqa: S101 - chosen by the field's type
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
