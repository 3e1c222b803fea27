"""Enums whose members are found by name in any case: a leaf of the vocabulary."""

from enum import StrEnum
from typing import Self

from snapring.errors import InvalidValue

__all__ = ["CaselessChoice"]


class CaselessChoice(StrEnum):
    """A choice by name; what is asked for and not there raises InvalidValue with the names that are.

    Subclasses give their members and, in :meth:`_what`, what the message calls them.
    """

    @classmethod
    def _what(cls) -> str:
        """What a value is called: ``"balance method"``."""
        return cls.__name__

    @classmethod
    def _missing_(cls, value: object) -> Self:
        """Find the name without its case."""
        for choice in cls:
            if isinstance(value, str) and value.lower() == choice.lower():
                return choice
        raise InvalidValue(f"unknown {cls._what()} {value!r}; valid ones, in any case: {', '.join(cls)}")
