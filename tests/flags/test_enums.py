"""The text of a variation as a member of an enum: by its value, and by nothing else."""

from __future__ import annotations

from enum import EJECT, Enum, Flag, IntEnum, IntFlag, StrEnum
from typing import Any

import pytest

from bucketeer_async._flags._conversion import WrongTypeError
from bucketeer_async._flags._enums import enum_kind


class Colour(Enum):
    RED = "red"
    BLUE = "blue"
    NAVY = "blue"  # noqa: PIE796 - an alias


class Plan(StrEnum):
    FREE = "free"
    PRO = "pro"

    @classmethod
    def _missing_(cls, value: object) -> Plan | None:
        return cls.PRO if value == "professional" else None


class Level(IntEnum):
    LOW = 1
    HIGH = 10


class Share(Enum):
    HALF = 0.5
    ALL = 1.0


class Switch(Enum):
    ON = True
    OFF = False


class Limit(Enum):
    NONE = False
    LOW = 10
    AUTO = "auto"
    OTHER = None


class Rights(Flag):
    READ = 1
    WRITE = 2


class Bits(IntFlag, boundary=EJECT):
    A = 1


class Broken(Enum):
    A = "a"

    @classmethod
    def _missing_(cls, value: object) -> Broken:
        raise KeyError(value)


@pytest.mark.parametrize(
    ("default", "text", "member"),
    [
        (Colour.RED, "blue", Colour.BLUE),
        (Colour.NAVY, "red", Colour.RED),
        (Plan.FREE, "pro", Plan.PRO),
        (Plan.FREE, "professional", Plan.PRO),
        (Level.LOW, "10", Level.HIGH),
        (Share.HALF, "1", Share.ALL),
        (Share.ALL, "0.50", Share.HALF),
        (Switch.OFF, "true", Switch.ON),
        (Limit.LOW, "auto", Limit.AUTO),
        (Limit.AUTO, "10", Limit.LOW),
        (Limit.AUTO, "false", Limit.NONE),
        (Limit.OTHER, "10", Limit.LOW),
        (Rights.READ, "3", Rights.READ | Rights.WRITE),
        (Rights.READ | Rights.WRITE, "2", Rights.WRITE),
    ],
)
def test_a_value_is_the_member_with_this_value(default: Enum, text: str, member: Enum) -> None:
    assert enum_kind(default).convert(text) is member


@pytest.mark.parametrize(
    ("default", "text"),
    [
        (Colour.RED, "BLUE"),
        (Colour.RED, " blue"),
        (Colour.RED, ""),
        (Colour.RED, "Colour.BLUE"),
        (Level.LOW, "2"),
        (Level.LOW, "1.9"),
        (Level.LOW, "true"),
        (Level.LOW, "LOW"),
        (Share.HALF, "NaN"),
        (Switch.ON, "on"),
        (Limit.LOW, "None"),
        (Bits.A, "8"),
        (Broken.A, "b"),
    ],
)
def test_every_other_text_is_of_the_wrong_type(default: Enum, text: str) -> None:
    with pytest.raises(WrongTypeError) as caught:
        enum_kind(default).convert(text)

    assert str(caught.value) == f"the value is not the value of a member of {type(default).__name__}"


class Point(Enum):
    ORIGIN = (0, 0)


@pytest.mark.parametrize(
    ("default", "words"),
    [
        ("red", "default must be a member of an Enum, not of type str"),
        (None, "default must be a member of an Enum, not of type NoneType"),
        (Colour, "default must be a member of an Enum, not of type EnumType"),
        (Point.ORIGIN, "with values of the types str, bool, int, float, not of Point"),
    ],
)
def test_a_default_that_no_flag_can_be_is_a_type_error(default: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        enum_kind(default)
