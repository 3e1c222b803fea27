"""``snapring keys``: the keys by which relays, feeds and those who connect to them know each other."""

import argparse
from typing import Final

from snapring.cli import options, output

__all__ = ["add_parser", "run"]

EPILOG: Final = """\
PATH, say relay.key, gets mode 0600 and holds both halves; relay.pub beside it
holds the public one, for the other side. Nothing is ever overwritten, and the
secret half is never printed.

examples:
  snapring keys relay.key          one for the relay,
  snapring keys rank.key           one for each node or rank
  snapring keys rank.key --show    print the public key again
"""


def add_parser(verbs: options.Verbs) -> None:
    """Add the verb's parser."""
    parser = options.verb(verbs, "keys", run, "Make a CURVE key pair for a relay or a rank.", epilog=EPILOG)
    parser.add_argument("path", metavar="PATH", help="key file to make")
    parser.add_argument(
        "--show", action="store_true", help="make nothing; print the public key of a file that is there"
    )


def run(args: argparse.Namespace) -> int:
    """Make the pair, or look at one, and print its public half."""
    from snapring import _core

    public = _core.public_key(args.path) if args.show else _core.make_keys(args.path)
    if args.json:
        output.print_json({"path": args.path, "public_key": public})
    else:
        print(public)
    return options.Exit.OK
