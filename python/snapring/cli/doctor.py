"""``snapring doctor``: is all well, and if not, what to do."""

import argparse
from typing import Final

from snapring.cli import options, output

__all__ = ["add_parser", "run"]

COLOURS: Final = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def add_parser(verbs: options.Verbs) -> None:
    """Add the verb's parser."""
    options.verb(verbs, "doctor", run, "Check memory, permissions, limits and rings, and say the fix.")


def run(args: argparse.Namespace) -> int:
    """Print the findings; 1 when one of them is a failure."""
    from snapring.cli.checks import examine

    findings = examine(args.dir)
    if args.json:
        output.print_json(findings)
    else:
        rows: list[list[object]] = []
        for finding in findings:
            rows.append([(finding.level, COLOURS[finding.level]), finding.check, finding.text])
            if finding.fix:
                rows.append(["", "", (f"fix: {finding.fix}", "bold")])
        output.table(["", "check", "finding"], rows)
    return options.Exit.ERROR if any(finding.level == "fail" for finding in findings) else options.Exit.OK
