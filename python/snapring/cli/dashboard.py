"""``snapring dashboard``: a Grafana dashboard of what is served."""

import argparse
from typing import Final

from snapring.cli import exposing, options, output

__all__ = ["add_parser", "run"]

EPILOG: Final = """\
Import the file in Grafana, and choose there the Prometheus that scrapes
/metrics of snapring serve, with the same --profile.

example:
  snapring dashboard > dashboard.json
"""


def add_parser(verbs: options.Verbs) -> None:
    """Add the verb's parser."""
    text = "Print a Grafana dashboard of the metrics that are served."
    parser = options.verb(verbs, "dashboard", run, text, epilog=EPILOG)
    exposing.add_profile(parser)


def run(args: argparse.Namespace) -> int:
    """Print it."""
    from snapring.formats.dashboard import dashboard

    output.print_json(dashboard(args.profile or exposing.PROFILES[0]))
    return options.Exit.OK
