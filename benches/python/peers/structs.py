"""Builds msgspec Structs, sections included, from a nested load."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any

import msgspec
from model import Foreign


def build(kind: type[msgspec.Struct], values: Mapping[str, Any]) -> Foreign:
    """Return a `kind` with those of `values` that it has fields for; sections become their own Structs."""
    expression, names = constructor(kind, values)
    return eval(expression, names)  # noqa: S307  source made just above


def constructor(kind: type[msgspec.Struct], values: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the call that builds a `kind`, with keyword arguments as an engine writes it, and the names in it."""
    names: dict[str, Any] = {}
    return _call(kind, values, names), names


def _call(kind: type[msgspec.Struct], values: Mapping[str, Any], names: dict[str, Any]) -> str:
    arguments = []
    for field, hint in typing.get_type_hints(kind).items():
        if field not in values or field not in kind.__struct_fields__:
            continue
        section = next((part for part in (hint, *typing.get_args(hint)) if _is_struct(part)), None)
        if section is not None and isinstance(values[field], Mapping):
            arguments.append(f"{field}={_call(section, values[field], names)}")
        else:
            names[f"value{len(names)}"] = values[field]
            arguments.append(f"{field}=value{len(names) - 1}")
    maker = f"make{len(names)}"
    names[maker] = kind
    return f"{maker}({', '.join(arguments)})"


def _is_struct(hint: object) -> bool:
    return isinstance(hint, type) and issubclass(hint, msgspec.Struct)
