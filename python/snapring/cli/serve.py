"""``snapring serve``: the load of every rank over HTTP."""

import argparse
import os
from typing import TYPE_CHECKING, Final, Literal

from snapring.cli import exposing, options, output
from snapring.cli.opening import open_reader
from snapring.cli.terminal import catch_stop, ended_by_signals
from snapring.errors import InvalidValue, SnapringError

if TYPE_CHECKING:
    import ssl

    from snapring.serve.bind import Bind

__all__ = ["add_parser", "run"]

EPILOG: Final = """\
/                  a page for people
/v1/loads          JSON of every rank; ?format=prometheus, openmetrics or orca
/v1/loads/stream   changes, as server-sent events; /v1/loads/history the past
/v1/scale          numbers for an autoscaler
/metrics           for Prometheus
/healthz /readyz   for whoever restarts or routes; these need no token

The token is sent as "Authorization: Bearer TOKEN", or as a password, which a
browser asks for. Its file has mode 0600 and one line; without one it is
$SNAPRING_TOKEN, if that is set. Where other hosts can connect, a token is
needed, and --cert and --key keep it secret on the way. SNAPRING_DEBUG=1 logs
to standard error.

examples:
  snapring serve llama
  snapring serve llama --bind 0.0.0.0:9400 --token-file token \\
      --cert cert.pem --key key.pem
  curl http://127.0.0.1:9400/v1/loads
"""


def add_parser(verbs: options.Verbs) -> None:
    """Add the verb's parser."""
    text = "Serve the load of every rank over HTTP, until Ctrl-C."
    parser = options.verb(verbs, "serve", run, text, epilog=EPILOG)
    parser.add_argument("name", metavar="NAME", help="ring; waited for where there is none yet")
    text = "where to listen; port 0 takes a free one (default: 127.0.0.1:9400)"
    parser.add_argument("--bind", default="127.0.0.1:9400", metavar="HOST:PORT", help=text)
    exposing.add_profile(parser, "snapring at /metrics, sglang at /v1/loads")
    exposing.add_labels(parser)
    text = "live ranks that make /readyz say yes: any, all or a number (default: any)"
    parser.add_argument("--ready", type=ready, default="any", metavar="N", help=text)
    text = "answer 404 for a rank that the ring does not have, instead of none"
    parser.add_argument("--strict-ranks", action="store_true", help=text)
    access = parser.add_argument_group("access")
    access.add_argument("--token-file", metavar="FILE", help="ask everybody for the token in this file")
    access.add_argument("--cert", metavar="FILE", help="certificate chain, PEM: serve https")
    access.add_argument("--key", metavar="FILE", help="private key of --cert, PEM")
    text = "let anybody who reaches the port read, without a token"
    access.add_argument("--insecure", action="store_true", help=text)
    options.add_max_age(parser)


def ready(text: str) -> Literal["any", "all"] | int:
    """How many ranks have to be live; argparse shows the error as one of usage."""
    words: dict[str, Literal["any", "all"]] = {"any": "any", "all": "all"}
    if text in words:
        return words[text]
    if not text.isdecimal() or not 1 <= int(text) <= options.MAX_RANKS:
        raise argparse.ArgumentTypeError(f"{text!r} is neither any, nor all, nor a number of ranks, 1 or more")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C, SIGTERM or a hang-up."""
    try:
        from snapring.serve import app
        from snapring.serve.server import Server
    except ModuleNotFoundError as error:
        raise missing(error) from error

    bind, token, tls = access_of(args)
    labels = exposing.labels_of(args)
    if os.environ.get("SNAPRING_DEBUG"):
        log()
    with ended_by_signals(), open_reader(args, must_exist=False) as reader:
        application = app(reader, profile=args.profile, labels=labels, ready=args.ready, strict_ranks=args.strict_ranks)
        made = Server(application, bind, token=token, tls=tls, insecure=args.insecure)
        with made as server, catch_stop() as stop:
            announce(args, server.url, ranks=reader.ranks)
            server.run(lambda: stop.signal is not None)
    return options.Exit.OK


def missing(error: ModuleNotFoundError) -> SnapringError:
    """What to say where the packages that serve are not installed; any other module's absence is a bug of ours."""
    if (error.name or "").partition(".")[0] == "snapring":
        raise error
    return SnapringError(f"{error.name} is not installed, and serving needs it; pip install 'snapring[serve]'")


def access_of(args: argparse.Namespace) -> "tuple[Bind, str | None, ssl.SSLContext | None]":
    """Where to listen, and the token and the certificate that let others in.

    Raises:
        InvalidValue: options that are none, or that leave open to everybody what only --insecure may.
        RingUntrusted: a token file that others may have read.
    """
    from snapring.serve.bind import is_local, parse_bind
    from snapring.serve.secret import read_token
    from snapring.serve.server import tls_context

    bind = parse_bind(args.bind)
    if (args.cert is None) != (args.key is None):
        raise InvalidValue("--cert and --key belong together; give both or none")
    if args.token_file is not None and args.insecure:
        raise InvalidValue("--token-file and --insecure exclude each other; choose one")
    given = os.environ.get("SNAPRING_TOKEN", "")
    local = is_local(bind)
    if not local and args.token_file is None and not given and not args.insecure:
        raise InvalidValue(
            f"other hosts can connect to {args.bind}; add --token-file, or --insecure to let anybody read"
        )
    token = given or None if args.token_file is None else read_token(args.token_file)
    tls = None if args.cert is None else tls_context(args.cert, args.key)
    if not local and token is not None and tls is None:
        output.note("the token goes over the network in the clear; --cert and --key would hide it")
    return bind, token, tls


def log() -> None:
    """Show on standard error what the package logs."""
    import logging

    logger = logging.getLogger("snapring")
    logger.addHandler(logging.StreamHandler())
    logger.setLevel(logging.INFO)


def announce(args: argparse.Namespace, url: str, *, ranks: int | None) -> None:
    """Say where the ring is served, at once, for whoever started this; and whether it is there."""
    if args.json:
        output.print_json_line({"name": args.name, "url": url, "ranks": ranks})
    else:
        print(f"serving {args.name} on {url}", flush=True)
    if ranks is None:
        output.note(f"no ring {args.name!r} yet; it is served as soon as it is there")
