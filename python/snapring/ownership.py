"""Which role owns the relay socket: the rule alone, as a table of a config's values.

On node 0 exactly one role may own it, on every other node none, so that two processes never bind the same address.
Which *process* of that role owns it is settled at run time by a kernel lock, because a launcher may start several, as
standbys.
"""

from enum import StrEnum
from typing import Self

from snapring.config import BalanceMethod, ClusterConfig
from snapring.errors import InvalidValue

__all__ = ["Role", "is_relay_owner", "relay_owner_role", "sends_to_relay"]


class Role(StrEnum):
    """The processes of a server that may own the relay; the values are the names that they go by.

    Raises:
        InvalidValue: a name that is none of these.
    """

    TOKENIZER_MANAGER = "TokenizerManager"
    """The one HTTP front end, where there is one."""
    MULTI_TOKENIZER_ROUTER = "MultiTokenizerRouter"
    """Stands before the HTTP front ends, where there are several."""
    DATA_PARALLEL_CONTROLLER = "DataParallelController"
    """Dispatches requests to the ranks, where there are several."""

    @classmethod
    def _missing_(cls, value: object) -> Self:
        """Say what the names are."""
        raise InvalidValue(f"unknown role {value!r}; valid roles: {', '.join(cls)}")


def relay_owner_role(config: ClusterConfig) -> Role | None:
    """The role that owns the relay on this node, or ``None``; the first line that fits decides.

    ======================================================  ========================
    no relay (:attr:`ClusterConfig.relay`)                  nobody
    a node other than 0                                     nobody
    several ranks, and the balance method reads loads       DataParallelController
    several tokenizer workers                               MultiTokenizerRouter
    else                                                    TokenizerManager
    ======================================================  ========================

    The controller owns the relay only where it looks at loads for each request anyway; else the tokenizer side does,
    because it serves them over HTTP. ``auto`` never stands for a method that reads loads. The rule is SGLang's, so that
    a launcher written for it starts the same processes. Pure: any thread and either side of a fork may ask.

    Examples:
        >>> relay_owner_role(ClusterConfig(nodes=2, ranks=16, dp_attention=True, balance_method="total_tokens"))
        <Role.DATA_PARALLEL_CONTROLLER: 'DataParallelController'>
    """
    if not config.relay or config.node_rank != 0:
        return None
    if config.ranks > 1 and BalanceMethod(config.balance_method).reads_loads:
        return Role.DATA_PARALLEL_CONTROLLER
    return Role.MULTI_TOKENIZER_ROUTER if config.tokenizer_workers > 1 else Role.TOKENIZER_MANAGER


def is_relay_owner(config: ClusterConfig, role: Role | str) -> bool:
    """Whether a process in ``role``, a :class:`Role` or its name, owns the relay on this node.

    Raises:
        InvalidValue: no such role. A name that is merely misspelt would otherwise read as "not the owner" and leave the
            socket to nobody.
    """
    return Role(role) is relay_owner_role(config)


def sends_to_relay(config: ClusterConfig) -> bool:
    """Whether this node's ranks publish through the relay and not straight into the ring.

    With the relay on, ranks of node 0 still write into shared memory, where they are read: a socket would only add a
    way to get lost. ``force_zmq`` sends them through it all the same. Pure.
    """
    return config.relay and (config.force_zmq or config.node_rank != 0)
