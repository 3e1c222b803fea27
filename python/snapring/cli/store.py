"""The option ``--store``: where the nodes of a server meet."""

import argparse

from snapring.cli.options import duration
from snapring.errors import InvalidValue
from snapring.rendezvous.group import Group

__all__ = ["add_options", "group_of"]

PREFIX = "/snapring"
"""Of every key in etcd."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options by which nodes meet; all have a default."""
    group = parser.add_argument_group("meeting", "tell all nodes where the relay is, and the relay who they are")
    text = "local:DIRECTORY on this host, or etcd:URL[,URL]"
    group.add_argument("--store", metavar="KIND:PLACE", help=text)
    group.add_argument("--nodes", type=int, default=1, metavar="N", help="members that meet (default: 1)")
    text = "this member; 0 runs the relay, the others learn its address (default: 0)"
    group.add_argument("--node-rank", type=int, default=0, metavar="R", help=text)
    text = "name or address by which the others reach this node (default: HOST of --listen)"
    group.add_argument("--advertise", metavar="HOST", help=text)
    text = "how long the first meeting may take (default: 5m)"
    group.add_argument("--timeout", type=duration, default=300.0, metavar="DURATION", help=text)


def group_of(args: argparse.Namespace) -> Group | None:
    """The group that ``--store``, ``--nodes``, ``--node-rank`` and ``--job``, else the ring's name, mean; None without.

    Raises:
        InvalidValue: an option that is none, or that has no store to go with.
    """
    from snapring.rendezvous import EtcdGroup, LocalGroup

    if args.store is None:
        if (args.nodes, args.node_rank) != (1, 0):
            raise InvalidValue("--nodes and --node-rank need --store, where the nodes meet")
        return None
    kind, _, place = args.store.partition(":")
    job = args.job or args.name
    if kind == "local" and place:
        return LocalGroup(place, args.node_rank, args.nodes, job=job)
    if kind == "etcd" and place:
        return EtcdGroup(place.split(","), PREFIX, args.node_rank, args.nodes, job=job)
    raise InvalidValue(f"--store {args.store} is neither local:DIRECTORY nor etcd:URL; torch is for Python alone")
