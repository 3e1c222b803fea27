"""What ``snapring doctor`` says of one thing."""

from typing import Literal

import msgspec

__all__ = ["Finding"]


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at; ``fix`` says what to do unless it is ok."""

    check: str
    level: Literal["ok", "warn", "fail"]
    text: str
    fix: str = ""
