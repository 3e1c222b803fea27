"""The option ``--store``: where the nodes of a server meet."""

import argparse
import ipaddress
from typing import TYPE_CHECKING, Final

from snapring.cli.options import duration
from snapring.errors import InvalidValue
from snapring.rendezvous.group import Group

if TYPE_CHECKING:
    import ssl

__all__ = ["MEETING_S", "add_options", "check_reach", "group_of"]

PREFIX: Final = "/snapring"
"""Of every key in etcd."""

MEETING_S: Final = 300.0
"""How long the first meeting may take by default: nodes of a large job start minutes apart."""

ETCD_ONLY: Final = ("store_user", "store_password_file", "store_ca")

STORE_ONLY: Final = ("advertise", "timeout", *ETCD_ONLY)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options by which nodes meet; all have a default."""
    group = parser.add_argument_group("meeting", "tell all nodes where the relay is, and the relay who they are")
    text = "local:DIRECTORY on this host, or etcd:URL[,URL]; with it --job is needed"
    group.add_argument("--store", metavar="KIND:PLACE", help=text)
    group.add_argument("--nodes", type=int, default=1, metavar="N", help="members that meet (default: 1)")
    text = "this member; 0 runs the relay, the others learn its address (default: 0)"
    group.add_argument("--node-rank", type=int, default=0, metavar="R", help=text)
    text = "name or address by which the others reach this node (default: HOST of --listen)"
    group.add_argument("--advertise", metavar="HOST", help=text)
    group.add_argument(
        "--timeout", type=duration, metavar="DURATION", help="how long the first meeting may take (default: 5m)"
    )
    group.add_argument("--store-user", metavar="NAME", help="user of an etcd with authentication")
    text = "its first line is that user's password (default: $SNAPRING_ETCD_PASSWORD)"
    group.add_argument("--store-password-file", metavar="FILE", help=text)
    text = "certificates that an https: etcd is checked by (default: the system's)"
    group.add_argument("--store-ca", metavar="FILE", help=text)


def group_of(args: argparse.Namespace) -> Group | None:
    """The group that ``--store``, ``--nodes``, ``--node-rank`` and ``--job`` mean; None without a store.

    Raises:
        InvalidValue: an option that is none, that is missing, or that has nothing to go with.
    """
    from snapring.rendezvous import EtcdGroup, LocalGroup

    if args.store is None:
        if (args.nodes, args.node_rank) != (1, 0):
            raise InvalidValue("--nodes and --node-rank need --store, where the nodes meet")
        _refuse(args, STORE_ONLY, "--store, where the nodes meet")
        return None
    if not args.job:
        raise InvalidValue("--store needs --job, a name of this launch alone; what another left there misleads it")
    kind, _, place = args.store.partition(":")
    if kind == "local" and place:
        _refuse(args, ETCD_ONLY, "--store etcd:URL")
        return LocalGroup(place, args.node_rank, args.nodes, job=args.job)
    if kind == "etcd" and place:
        if args.store_user is None:
            _refuse(args, ("store_password_file",), "--store-user")
        return EtcdGroup(
            place.split(","),
            PREFIX,
            args.node_rank,
            args.nodes,
            job=args.job,
            tls=_authority(args.store_ca, place),
            user=args.store_user,
            password_file=args.store_password_file,
        )
    raise InvalidValue(f"--store {args.store} is neither local:DIRECTORY nor etcd:URL; torch is for Python alone")


def check_reach(args: argparse.Namespace, endpoint: str | None) -> None:
    """Raise InvalidValue for an endpoint of this host alone where other hosts are meant; None is a standby's.

    A name of this host is often one of its loopback too. Whoever gives ``--advertise`` has a way of his own.
    """
    if args.nodes == 1 or endpoint is None or args.store.startswith("local:"):
        return
    if endpoint.startswith("ipc:") or (args.advertise is None and _is_loopback(endpoint)):
        raise InvalidValue(
            f"other nodes cannot reach {endpoint}; give --listen an address of this node, or say with --advertise "
            "what leads to it; nodes of one host meet in --store local:DIRECTORY"
        )


def _is_loopback(endpoint: str) -> bool:
    host = endpoint.removeprefix("tcp://").rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name that was not resolved; a relay tells addresses
        return host == "localhost"


def _refuse(args: argparse.Namespace, names: tuple[str, ...], missing: str) -> None:
    """Raise InvalidValue for an option that would do nothing."""
    for name in names:
        if getattr(args, name) is not None:
            raise InvalidValue(f"--{name.replace('_', '-')} needs {missing}")


def _authority(path: str | None, urls: str) -> "ssl.SSLContext | None":
    """What checks the store's certificates; None for the system's."""
    import ssl

    if path is None:
        return None
    if not all(url.startswith("https:") for url in urls.split(",")):
        raise InvalidValue("--store-ca needs https: URLs; a plain http: store has no certificate to check")
    try:
        return ssl.create_default_context(cafile=path)
    except OSError as error:  # of ssl too
        raise InvalidValue(f"--store-ca {path} cannot be used: {error.strerror or error}") from error
