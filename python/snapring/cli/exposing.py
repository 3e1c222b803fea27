"""The options of the verbs that hand a ring on in the names that others know."""

import argparse
from typing import Final

from snapring.errors import InvalidValue

__all__ = ["PROFILES", "add_labels", "add_profile", "labels_of"]

PROFILES: Final = ("snapring", "sglang", "vllm", "llmd")
"""Sets of metric names."""


def add_profile(parser: argparse.ArgumentParser, default: str = PROFILES[0]) -> None:
    """Add ``--profile``, None where it is not given; ``default`` is what the help calls that."""
    text = f"names of the metrics: {', '.join(PROFILES)} (default: {default})"
    parser.add_argument("--profile", choices=PROFILES, metavar="P", help=text)


def add_labels(parser: argparse.ArgumentParser) -> None:
    """Add ``--label``, read by :func:`labels_of`."""
    text = "put this label on every sample; repeatable"
    parser.add_argument("--label", type=label, action="append", default=[], metavar="NAME=VALUE", help=text)


def label(text: str) -> tuple[str, str]:
    """Name and value of a label; argparse shows the error as one of usage."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is no label; write model=llama-70b")
    return name, value


def labels_of(args: argparse.Namespace) -> dict[str, str]:
    """The labels of ``args`` by name.

    Raises:
        InvalidValue: one was given twice, has no name that labels may have, or one that the profile uses itself.
    """
    from snapring.formats.as_prometheus import check_labels
    from snapring.formats.profiles import profile_named

    labels: dict[str, str] = {}
    for name, value in args.label:
        if name in labels:
            raise InvalidValue(f"--label {name} is given twice; leave one")
        labels[name] = value
    check_labels(labels, profile_named(args.profile or PROFILES[0]))
    return labels
