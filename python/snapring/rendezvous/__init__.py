"""Agreement between ranks on several nodes over an engine that is there anyway: one value for all, and who is alive.

- :func:`sync_from_leader`: one value from rank 0 to all, with a deadline, all or nothing;
- :func:`register` and :func:`rows`: a leased row per rank, and whether all are there;
- the engines: :class:`LocalGroup` (files on one host), :class:`TorchGroup` (the store of ``torch.distributed``),
  :class:`EtcdGroup` (etcd v3).

The values are small and change rarely: ports, endpoints, public keys. Load itself goes through the ring and the relay.
"""

from snapring.rendezvous.etcd import EtcdGroup
from snapring.rendezvous.group import MAX_ENTRY_BYTES, Group
from snapring.rendezvous.listener import listener_answers
from snapring.rendezvous.local import LocalGroup
from snapring.rendezvous.records import MAX_VALUE_BYTES, Member
from snapring.rendezvous.registration import Registration
from snapring.rendezvous.registry import register
from snapring.rendezvous.row import Row, Rows, rows
from snapring.rendezvous.sync import sync_from_leader
from snapring.rendezvous.torch_group import TorchGroup

__all__ = [
    "MAX_ENTRY_BYTES",
    "MAX_VALUE_BYTES",
    "EtcdGroup",
    "Group",
    "LocalGroup",
    "Member",
    "Registration",
    "Row",
    "Rows",
    "TorchGroup",
    "listener_answers",
    "register",
    "rows",
    "sync_from_leader",
]
