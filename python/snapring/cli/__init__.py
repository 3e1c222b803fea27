"""The command ``snapring``: one module per verb, listed in :data:`VERBS`, and the one place that turns errors to exits.

A verb is a module with two functions: ``add_parser(verbs)`` adds its parser, made by :func:`snapring.cli.options.verb`,
and ``run(args) -> int`` does the work and gives the exit code. What a verb alone needs, rich above all, is imported
inside its functions, so that the others start fast.
"""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from typing import Final, TextIO

from snapring import __version__
from snapring.cli import (
    dashboard,
    demo,
    doctor,
    export,
    feed,
    gc,
    get,
    keys,
    ls,
    options,
    relay,
    schema,
    serve,
    top,
    watch,
)
from snapring.errors import InvalidValue, RankOutOfRange, RingNotFound, SnapringError

__all__ = ["VERBS", "main"]

VERBS: Final[tuple[options.Verb, ...]] = (
    demo,
    top,
    get,
    watch,
    serve,
    export,
    dashboard,
    relay,
    keys,
    feed,
    ls,
    schema,
    gc,
    doctor,
)
"""Every verb, in the order of the help."""

EPILOG: Final = """\
exit codes: 0 ok, 1 error, 2 usage, 3 stale, 4 not found
environment: SNAPRING_DIR where rings live, NO_COLOR no colours,
             SNAPRING_DEBUG=1 tracebacks
"""

# The first class that fits decides.
EXITS: Final = (
    (RingNotFound, options.Exit.NOT_FOUND),
    (InvalidValue, options.Exit.USAGE),
    (RankOutOfRange, options.Exit.USAGE),
    (SnapringError, options.Exit.ERROR),
    (OSError, options.Exit.ERROR),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code; ``argv`` without the program's name, by default that of the process.

    Raises ``SystemExit`` for help, ``--version`` and errors of usage, as argparse does.
    """
    _prepare_streams()
    args = build_parser().parse_args(argv)
    try:
        code: int = args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()  # whoever read has seen enough
        return options.Exit.BROKEN_PIPE
    except KeyboardInterrupt:
        return options.Exit.INTERRUPTED
    except (SnapringError, OSError) as error:
        if os.environ.get("SNAPRING_DEBUG"):
            raise
        print(f"snapring: {_message(error)}", file=sys.stderr)
        _drop_output()
        return next(code for kind, code in EXITS if isinstance(error, kind))
    return code


def _drop_output() -> None:
    """Forget output that cannot be written; the interpreter would complain, and change the exit code, at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _prepare_streams() -> None:
    """Make printing safe: into closed streams, and of letters that a terminal cannot show."""
    # Python has None for a closed stream, and print() takes that for standard output.
    sys.stdout = sys.stdout or _nowhere()
    sys.stderr = sys.stderr or _nowhere()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _nowhere() -> TextIO:
    """A stream to the end of the process that keeps nothing."""
    return os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", closefd=False)


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="snapring",
        description="Live state of every rank of an LLM server.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"snapring {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for verb in VERBS:
        verb.add_parser(verbs)
    return parser


def _message(error: Exception) -> str:
    """One line that says what went wrong."""
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    else:
        text = str(error)
    return " ".join(text.split())
