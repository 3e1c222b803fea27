"""Conditions on ranks, as ``--until`` takes them: ``num_waiting_reqs==0``, ``any(state)==DEAD``, ``sum(x)>=3``."""

import operator
import re
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import msgspec

from snapring.errors import InvalidValue
from snapring.state import State

__all__ = ["Condition", "check_state", "parse"]


class Fields(Protocol):
    """A rank, asked for its fields."""

    def get(self, name: str) -> Any:  # noqa: ANN401  a field may hold anything
        """The field by dotted path, None where not reported."""


COMPARE: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
TOTAL: Final[dict[str, Callable[[list[Any]], Any]]] = {"sum": sum, "min": min, "max": max}
"""Functions of all ranks' values that give one value to compare."""

WORDS: Final[dict[str, object]] = {"true": True, "false": False, "none": None}
"""Values that are neither numbers nor text."""

SHAPE: Final = re.compile(
    r"""\s*(?: (?P<over> all|any|sum|min|max ) \s*\( \s*(?P<inner> [\w.]+ )\s* \) | (?P<field> [\w.]+ ) )
        \s*(?P<compare> ==|!=|<=|>=|<|> )
        \s*(?P<value> \S.*? )\s*""",
    re.VERBOSE,
)


class Condition(msgspec.Struct, frozen=True):
    """One comparison, over ``all`` ranks unless another function is named.

    A rank that does not report the field fulfils nothing but ``==none`` (and ``!=`` of a value); with ``sum``, ``min``
    and ``max`` it is left out, and where no rank reports the field the condition does not hold. Names of states match
    in any case.
    """

    text: str
    over: str
    field: str
    compare: str
    value: object

    def holds(self, ranks: Sequence[Fields]) -> bool:
        """Whether it holds of ``ranks``; never of none at all.

        Raises:
            InvalidValue: the field cannot be compared with the value.
        """
        values = [rank.get(self.field) for rank in ranks]
        if self.over in TOTAL:
            reported = [value for value in values if value is not None]
            return bool(reported) and self._fits(self._total(reported))
        fits = [self._fits(value) for value in values]
        return any(fits) if self.over == "any" else bool(fits) and all(fits)

    def _fits(self, found: object) -> bool:
        compare = COMPARE[self.compare]
        if self.compare in {"==", "!="}:
            if self.field == "state" and isinstance(found, str) and isinstance(self.value, str):
                return compare(found.upper(), self.value.upper())
            return compare(found, self.value)
        if found is None:
            return False
        try:
            return compare(found, self.value)
        except TypeError:
            raise self._mismatch(found) from None

    def _total(self, values: list[Any]) -> object:
        try:
            return TOTAL[self.over](values)
        except TypeError:
            raise self._mismatch(values[0]) from None

    def _mismatch(self, found: object) -> InvalidValue:
        return InvalidValue(f"{self.text!r} compares {self.field}, which is {found!r}, with {self.value!r}")


def parse(text: str) -> Condition:
    """The condition of a text.

    Raises:
        ValueError: it is none; the message shows one that is.
    """
    found = SHAPE.fullmatch(text)
    if found is None:
        raise ValueError(
            f"{text!r} is no condition; write num_waiting_reqs==0, sum(num_waiting_reqs)<5 or any(state)==DEAD"
        )
    field = found["inner"] or found["field"]
    return Condition(text, found["over"] or "all", field, found["compare"], _value(found["value"]))


def check_state(condition: Condition) -> None:
    """Raise InvalidValue unless a condition on the state of ranks compares it with a state."""
    if str(condition.value).upper() not in State.__members__:
        states = ", ".join(State.__members__)
        raise InvalidValue(f"{condition.text!r} can never tell: states are {states}")


def _value(text: str) -> object:
    """A number, a word of :data:`WORDS`, or the text itself, which may stand in quotes."""
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    try:
        return int(text) if re.fullmatch(r"[-+]?\d+", text) else float(text)
    except ValueError:
        return text.strip("'\"")
