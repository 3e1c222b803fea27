"""``snapring relay``: snapshots of ranks on other nodes, into a ring of this one."""

import argparse
import errno
import select
import time
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Final

from snapring.cli import options, output, store
from snapring.cli.terminal import StopRequest, catch_stop, ended_by_signals
from snapring.errors import InvalidValue, SnapringError, SystemRefused

if TYPE_CHECKING:
    from snapring.meeting import Meeting
    from snapring.relay import Relay
    from snapring.rendezvous.group import Group

__all__ = ["add_parser", "run"]

STANDBY_LOOK_S: Final = 0.1
"""Between two looks whether a standby has become the owner; the take-over itself waits for no look."""

OWNER_LOOK_S: Final = 1.0
"""Between two looks for new errors, and for keys that ranks have posted."""

STORE_S: Final = 3.0
"""Longest wait for the store while the relay works; asked again at the next look."""

EPILOG: Final = """\
The first relay of a ring owns its socket, others stand by and take over within
milliseconds. tcp:// needs --key, and lets in those listed by --client or
through the store. With --store, start the same command on every node: node 0
relays, and the others print its address and public key for their ranks, and
post the public half of --key, by which their ranks get in. Each launch needs a
--job of its own: the address that a killed one left behind misleads the next.

examples:
  snapring relay llama --ranks 8
  snapring relay llama --ranks 16 --listen tcp://10.0.0.1:5600 \\
      --key relay.key --client keys/
  snapring relay llama --ranks 16 --listen tcp://10.0.0.1:0 --key node.key \\
      --store etcd:http://10.0.0.1:2379 --nodes 2 --node-rank 0 --job launch-7
"""


def add_parser(verbs: options.Verbs) -> None:
    """Add the verb's parser."""
    text = "Write what ranks on other nodes send into a ring, until Ctrl-C."
    parser = options.verb(verbs, "relay", run, text, epilog=EPILOG)
    parser.add_argument("name", metavar="NAME", help="ring; made where there is none")
    parser.add_argument("--ranks", type=int, required=True, metavar="N", help="ranks of the ring")
    text = "tcp://HOST:PORT, PORT 0 for a free one, or ipc:///PATH (default: a socket beside the ring)"
    parser.add_argument("--listen", metavar="URL", help=text)
    parser.add_argument("--key", metavar="FILE", help="own CURVE key file, made by snapring keys")
    text = "public key of a rank, its .pub file, or a directory of such; repeatable"
    parser.add_argument("--client", action="append", default=[], metavar="KEY", help=text)
    text = "addresses that may connect, such as 10.0.0.0/8; repeatable (default: all)"
    parser.add_argument("--allow", action="append", metavar="NET", help=text)
    text = "let anybody who reaches the port forge loads, without keys"
    parser.add_argument("--insecure", action="store_true", help=text)
    parser.add_argument("--job", default="", metavar="JOB", help="job of the ring and of its ranks")
    parser.add_argument("--keep", action="store_true", help="leave the ring when this ends")
    standby = parser.add_mutually_exclusive_group()
    standby.add_argument("--no-standby", action="store_true", help="fail where another relay owns the ring")
    text = "as a standby, kill an owner that has hung for so long"
    standby.add_argument("--kill-hung", type=options.duration, metavar="DURATION", help=text)
    parser.add_argument("--stats", type=options.interval, metavar="DURATION", help="print counters this often")
    store.add_options(parser)


def run(args: argparse.Namespace) -> int:
    """Relay, or on another node hold its address, until Ctrl-C, SIGTERM or a hang-up."""
    group = store.group_of(args)
    if group is not None and group.rank != 0:
        return hold(args, group)
    if args.key is not None and group is None and not args.client:
        raise InvalidValue("--key without --client or --store admits nobody; list the ranks' public keys")
    if group is not None and host_of(args) in {"0.0.0.0", "[::]"}:  # noqa: S104  refused
        raise InvalidValue("nobody can connect to all interfaces; give --advertise, what others reach this node by")
    with ended_by_signals(), ExitStack() as stack:
        relay = stack.enter_context(opened(args, group))
        if group is not None:
            store.check_reach(args, relay.endpoint)
        say(args, relay)
        service = stack.enter_context(closing(Service(args, relay, group)))
        service.meet()
        with catch_stop() as stop:
            service.serve(stop)
    return options.Exit.OK


def hold(args: argparse.Namespace, group: "Group") -> int:
    """As another node: tell where the relay is, and keep the own key posted for as long as ranks here may need it."""
    with ended_by_signals(), met(args, group), catch_stop() as stop:
        select.select([stop.fileno()], [], [])
    return options.Exit.OK


def opened(args: argparse.Namespace, group: "Group | None") -> "Relay":
    """The relay, owner or standby; on the port that the nodes know, unless somebody else has taken it."""
    from snapring.meeting import address_in

    found = None if group is None else address_in(group)
    listen = listen_at(args, None if found is None else found.endpoint)
    try:
        return relay_at(args, listen)
    except SystemRefused as error:
        if listen == args.listen or error.errno != errno.EADDRINUSE:
            raise
        output.note(f"{listen}, which the nodes know, is taken by somebody else; the nodes have to meet again")
        return relay_at(args, args.listen)


def relay_at(args: argparse.Namespace, listen: str | None) -> "Relay":
    """The relay that the options mean, at an endpoint."""
    from snapring.relay import Relay

    return Relay(
        args.name,
        listen,
        ranks=args.ranks,
        job=args.job,
        standby=not args.no_standby,
        kill_hung=args.kill_hung,
        key=args.key,
        clients=args.client,
        allow=args.allow,
        insecure=args.insecure,
        keep=args.keep,
        directory=args.dir,
    )


def listen_at(args: argparse.Namespace, found: str | None) -> str | None:
    """``--listen``, its free port replaced by the one that the nodes know; the ring knows it too, unless it is new."""
    if args.listen is None or found is None or not args.listen.endswith((":0", ":*")):
        listen: str | None = args.listen
        return listen
    known, _, port = found.rpartition(":")
    listen = args.listen.rpartition(":")[0]
    return f"{listen}:{port}" if known == f"tcp://{host_of(args)}" else args.listen


def host_of(args: argparse.Namespace) -> str | None:
    """What the others connect to; None for a socket file."""
    if args.advertise is not None or args.listen is None or not args.listen.startswith("tcp://"):
        host: str | None = args.advertise
        return host
    named: str = args.listen.removeprefix("tcp://").rpartition(":")[0]
    return named


def met(args: argparse.Namespace, group: "Group", relay: "Relay | None" = None) -> "Meeting":
    """Meet the other nodes, and say so."""
    from snapring.meeting import meet

    host = None if relay is None else host_of(args)
    timeout_s = store.MEETING_S if args.timeout is None else args.timeout
    meeting = meet(group, timeout_s, relay=relay, key=args.key, host=host)
    if args.json:
        found = {"event": "met", "nodes": group.size, "endpoint": meeting.endpoint, "server_key": meeting.server_key}
        output.print_json_line(found)
    else:
        key = f", public key {meeting.server_key}" if meeting.server_key else ""
        print(f"{group.size} nodes met: the relay of {args.name} is at {meeting.endpoint}{key}", flush=True)
    return meeting


def say(args: argparse.Namespace, relay: "Relay") -> None:
    """Print whether this relay owns the ring, and where it listens."""
    from snapring import _core

    owner = relay.is_owner
    key = None if args.key is None else _core.public_key(args.key)
    if args.json:
        event = "owner" if owner else "standby"
        place = {"name": args.name, "endpoint": relay.endpoint, "server_key": key, "term": relay.term}
        output.print_json_line({"event": event, **place})
    elif owner:
        shown = f", public key {key}" if key else ""
        print(f"owner of {args.name} at {relay.endpoint}, term {relay.term}{shown}", flush=True)
    else:
        print(f"standby of {args.name}, term {relay.term}", flush=True)


class Service:
    """A relay at work: the native thread does it, and this tells of it."""

    def __init__(self, args: argparse.Namespace, relay: "Relay", group: "Group | None") -> None:
        self.args, self.relay, self.group = args, relay, group
        self.meeting: Meeting | None = None
        self.said = relay.is_owner
        self.said_of: dict[str, str] = {}
        self.stats_at = time.monotonic() + (args.stats or 0.0)

    def meet(self) -> None:
        """Meet the other nodes, if there are any; a standby does so once it has taken over."""
        if self.group is not None and self.said:
            self.meeting = met(self.args, self.group, self.relay)

    def close(self) -> None:
        """Take the address back, before the relay is closed; a store that refuses keeps it."""
        if self.meeting is not None:
            try:
                self.meeting.close()
            except SnapringError as error:
                output.note(f"the address of the relay stays in the store, though nobody listens there: {error}")

    def serve(self, stop: StopRequest) -> None:
        """Look now and then until somebody asks for the end."""
        while stop.signal is None:
            self.look()
            pause_s = OWNER_LOOK_S if self.said else STANDBY_LOOK_S
            if self.args.stats is not None:
                pause_s = min(pause_s, max(0.0, self.stats_at - time.monotonic()))
            select.select([stop.fileno()], [], [], pause_s)

    def look(self) -> None:
        """Tell of a take-over, of new errors and, when it is time, of the counters."""
        if self.relay.is_owner and not self.said:
            self.said = True
            say(self.args, self.relay)
        if self.group is not None and self.said:
            self.admit(self.group)
        if self.relay.last_error:
            self.complain("relay", self.relay.last_error)
        if self.args.stats is not None and time.monotonic() >= self.stats_at:
            self.stats_at = time.monotonic() + self.args.stats
            self.count()

    def admit(self, group: "Group") -> None:
        """Let in whose keys have come; after a take-over, all of them. A store that fails is asked again."""
        from snapring.meeting import resume

        try:
            if self.meeting is None:
                host = host_of(self.args)
                self.meeting = resume(self.relay, group, key=self.args.key, host=host, timeout=STORE_S)
            else:
                self.meeting.admit(STORE_S)
        except SnapringError as error:  # also a store that is refused, as one whose mode somebody changed
            self.complain("store", str(error))

    def complain(self, source: str, text: str) -> None:
        """Print an error once, until its source has another; it is tried again anyway."""
        if self.said_of.get(source) != text:
            self.said_of[source] = text
            output.note(text)

    def count(self) -> None:
        """Print the counters: all as JSON, else those that are not 0."""
        counters = self.relay.stats()
        if self.args.json:
            output.print_json_line({"event": "stats", "owner": self.relay.is_owner, **counters})
        else:
            print(" ".join(f"{name}={value}" for name, value in counters.items() if value) or "nothing yet", flush=True)
