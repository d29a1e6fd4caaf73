"""One type for "how long": ``3 epochs``, ``2000 steps``, ``5k examples``, ``10M tokens``, ``20 minutes``."""

from __future__ import annotations

import re
from decimal import Decimal
from enum import StrEnum
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema


class Unit(StrEnum):
    """What a duration counts."""

    EPOCHS = "epochs"
    STEPS = "steps"
    EXAMPLES = "examples"
    TOKENS = "tokens"
    MINUTES = "minutes"


_PATTERN = re.compile(
    r"(?P<amount>\d+(?:\.\d+)?)(?P<scale>[kKM]?)\s*(?P<unit>epoch|step|example|token|minute)s?"
)
_SCALES = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6}
_RULE = (
    "must be a positive number (a whole one of steps, examples or tokens) and a unit, such as '3 epochs', "
    "'2000 steps', '5k examples', '10M tokens' or '20 minutes'"
)


def _plain(amount: float | Decimal) -> str:
    """Return ``amount`` in digits, without exponent and without trailing zeros."""
    return f"{amount:.6f}".rstrip("0").rstrip(".")


class Duration:
    """A positive amount of a unit; immutable and hashable.

    Example:
        >>> Duration.parse("10M tokens")
        Duration('10M tokens')
        >>> Duration.parse("1 epoch") == Duration.parse("1 epochs")
        True
    """

    __slots__ = ("amount", "unit")
    amount: float
    unit: Unit

    def __init__(self, amount: float, unit: Unit) -> None:
        amount = round(float(amount), 6)
        if not 0 < amount < 1e15:
            raise ValueError(f"a duration must be positive and finite, but is {amount}")
        if unit in (Unit.STEPS, Unit.EXAMPLES, Unit.TOKENS) and amount != int(amount):
            raise ValueError(f"{unit} must be a whole number, but is {amount}")
        object.__setattr__(self, "amount", amount)
        object.__setattr__(self, "unit", unit)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"Duration is immutable: cannot set {name}")

    def __reduce__(self) -> tuple[type[Duration], tuple[float, Unit]]:
        return type(self), (self.amount, self.unit)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Duration) and (self.amount, self.unit) == (other.amount, other.unit)

    def __hash__(self) -> int:
        return hash((self.amount, self.unit))

    @classmethod
    def parse(cls, text: str) -> Duration:
        """Return the duration that ``text`` says.

        Raises:
            ValueError: not ``<number>[k|M] epochs|steps|examples|tokens|minutes`` or not positive.
        """
        match = _PATTERN.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"{text!r}: {_RULE}")
        # Of floats, 8390016.117 k would not be whole.
        amount = Decimal(match["amount"]) * Decimal(_SCALES[match["scale"]])
        return cls(float(amount), Unit(match["unit"] + "s"))

    def __str__(self) -> str:
        for scale, letter in ((1e6, "M"), (1e3, "k")):
            # At most three decimals of a whole number: exact, and read back as the same amount.
            if self.unit is not Unit.EPOCHS and self.amount >= scale and self.amount % (scale / 1000) == 0:
                return f"{_plain(Decimal(int(self.amount)) / int(scale))}{letter} {self.unit}"
        word = self.unit[:-1] if self.amount == 1 else self.unit
        return f"{_plain(self.amount)} {word}"

    def __repr__(self) -> str:
        return f"Duration({str(self)!r})"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        serialization = core_schema.to_string_ser_schema()
        return core_schema.no_info_plain_validator_function(cls._decode, serialization=serialization)

    @classmethod
    def _decode(cls, value: object) -> Duration:
        if isinstance(value, Duration):
            return value
        try:
            return cls.parse(str(value))
        except ValueError:
            raise PydanticCustomError("duration", _RULE) from None

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        pattern = re.sub(r"\(\?P<\w+>", "(", _PATTERN.pattern)  # editors know other dialects of named groups
        return {
            "type": "string",
            "pattern": f"^{pattern}$",
            "examples": ["3 epochs", "2000 steps", "10M tokens"],
        }
