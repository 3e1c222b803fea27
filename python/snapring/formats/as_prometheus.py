"""A table of metrics as the plan of the native renderer, in either text format of Prometheus.

The native renderer knows neither names nor types: it gets, for every family, the header lines and what stands before
and after the rank in each sample, and puts a rank and a number between them. :func:`plan` makes that of a table. The
two formats differ as their specifications say:

- ``text/plain; version=0.0.4`` has no units, calls a counter by the name of its samples (``..._total``), and knows no
  info and no stateset, which become gauges;
- ``application/openmetrics-text; version=1.0.0`` names a counter without ``_total`` and an info without ``_info`` in
  its headers, and ends with ``# EOF``.

Pure functions, safe in any thread and after a fork.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final

from snapring.errors import InvalidValue
from snapring.formats.metrics import STATES, Metric, is_load

__all__ = ["RANK_LABEL", "Family", "Sample", "check_labels", "content_type", "ending", "plan"]

Sample = tuple[bytes, bytes, str, float]
"""What stands before the rank, what stands after it, the source and its scale."""

Family = tuple[bytes, bool, bool, list[Sample]]
"""Header lines, whether it is a counter and whether a load, and samples; without any the family is left out."""

RANK_LABEL: Final = "dp_rank"

_LABEL_NAME: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_SUFFIXES: Final = {"gauge": "", "counter": "_total", "info": "_info", "stateset": ""}
_TYPES_0_0_4: Final = {"gauge": "gauge", "counter": "counter", "info": "gauge", "stateset": "gauge"}


def content_type(openmetrics: bool) -> str:  # noqa: FBT001  the format is the only argument
    """The value of a ``Content-Type`` header."""
    if openmetrics:
        return "application/openmetrics-text; version=1.0.0; charset=utf-8"
    return "text/plain; version=0.0.4; charset=utf-8"


def ending(openmetrics: bool) -> bytes:  # noqa: FBT001  as above
    """What follows the last family."""
    return b"# EOF\n" if openmetrics else b""


def plan(metrics: Iterable[Metric], labels: Mapping[str, str], openmetrics: bool) -> list[Family]:  # noqa: FBT001
    """The families of ``metrics``, in their order, as ``snapring._core.Exposition`` takes them.

    ``labels`` stand in every sample after the rank, sorted by name. Leave out beforehand, by ``families_of``, what the
    ring's schema lacks.

    Raises:
        InvalidValue: a label's name, as :func:`check_labels`.
    """
    metrics = tuple(metrics)
    check_labels(labels, metrics)
    constant = "".join(f',{name}="{_escape_value(labels[name])}"' for name in sorted(labels))
    return [
        (_header(metric, openmetrics), metric.type == "counter", is_load(metric), _samples(metric, constant))
        for metric in metrics
    ]


def check_labels(labels: Mapping[str, str], metrics: Iterable[Metric]) -> None:
    """Whether constant labels may stand beside those that the metrics have of their own.

    Raises:
        InvalidValue: a name is no name of a label, is reserved (two leading underscores) or taken; a value is no text.
    """
    taken = {RANK_LABEL, *(metric.label for metric in metrics if metric.label)}
    for name, value in labels.items():
        if not _LABEL_NAME.fullmatch(name) or name.startswith("__"):
            raise InvalidValue(f"{name!r} is no name of a label; use letters, digits and _, and no leading digit or __")
        if name in taken:
            raise InvalidValue(f"the label {name!r} is set by snapring; choose another name than {sorted(taken)}")
        if not isinstance(value, str):
            raise InvalidValue(f"the label {name!r} is {value!r}; give a text")


def _header(metric: Metric, openmetrics: bool) -> bytes:  # noqa: FBT001  as above
    if openmetrics:
        lines = [f"# HELP {metric.name} {_escape_value(metric.help)}", f"# TYPE {metric.name} {metric.type}"]
    else:
        name = metric.name + _SUFFIXES[metric.type]
        text = metric.help.replace("\\", r"\\").replace("\n", r"\n")  # a quote stands for itself here
        lines = [f"# HELP {name} {text}", f"# TYPE {name} {_TYPES_0_0_4[metric.type]}"]
    if openmetrics and metric.unit:
        lines.append(f"# UNIT {metric.name} {metric.unit}")
    return "".join(f"{line}\n" for line in lines).encode()


def _samples(metric: Metric, constant: str) -> list[Sample]:
    before = f'{metric.name}{_SUFFIXES[metric.type]}{{{RANK_LABEL}="'.encode()
    match metric.type:
        case "info":
            # The renderer puts the text of the field after this, and closes it.
            return [(before, f'"{constant},{metric.label}="'.encode(), f"{metric.source}=", 1.0)]
        case "stateset":
            return [
                (before, f'"{constant},{metric.label}="{state}"}} '.encode(), f"{metric.source}={state}", 1.0)
                for state in STATES
            ]
        case _:
            return [(before, f'"{constant}}} '.encode(), metric.source, metric.scale)]


def _escape_value(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
