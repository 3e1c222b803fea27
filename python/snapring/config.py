"""What the processes of one LLM server know of each other before any of them has published: :class:`ClusterConfig`.

A launcher builds one value and hands it to every process; nothing below reads command lines. The only thing looked up
elsewhere is the default of ``force_zmq``, so that an operator can switch transports without a new build.
"""

import operator
import os
from dataclasses import dataclass, field
from typing import Final

from snapring.choice import CaselessChoice
from snapring.errors import InvalidValue

__all__ = ["MAX_RANKS", "USE_ZMQ", "BalanceMethod", "ClusterConfig"]

USE_ZMQ: Final = "SNAPRING_USE_ZMQ"
"""Environment variable that gives ``force_zmq`` where the caller does not."""

MAX_RANKS: Final = 65_536
"""Most ranks that a ring can have."""

_ON: Final = ("1", "true", "yes", "on")
_OFF: Final = ("0", "false", "no", "off")


class BalanceMethod(CaselessChoice):
    """How requests are spread over the ranks. Names are compared without case.

    Raises:
        InvalidValue: a name that is none of these.

    Examples:
        >>> BalanceMethod("Total_Tokens")
        <BalanceMethod.TOTAL_TOKENS: 'total_tokens'>
    """

    AUTO = "auto"
    """``FOLLOW_BOOTSTRAP_ROOM`` on a prefill server, else ``ROUND_ROBIN``; see :meth:`resolved`."""
    ROUND_ROBIN = "round_robin"
    """One rank after the other."""
    FOLLOW_BOOTSTRAP_ROOM = "follow_bootstrap_room"
    """The request's room number modulo the number of ranks."""
    TOTAL_REQUESTS = "total_requests"
    """The rank with the fewest requests, running and waiting."""
    TOTAL_TOKENS = "total_tokens"
    """The rank with the fewest tokens, running and waiting."""

    @classmethod
    def _what(cls) -> str:
        return "balance method"

    @property
    def reads_loads(self) -> bool:
        """Whether this method looks at the ranks' published loads."""
        return self in {BalanceMethod.TOTAL_REQUESTS, BalanceMethod.TOTAL_TOKENS}

    def resolved(self, *, prefill: bool) -> "BalanceMethod":
        """The method that ``AUTO`` stands for on a prefill server (``prefill``) or any other; else itself."""
        if self is not BalanceMethod.AUTO:
            return self
        return BalanceMethod.FOLLOW_BOOTSTRAP_ROOM if prefill else BalanceMethod.ROUND_ROBIN


def _use_zmq() -> bool:
    """What the environment says of ``force_zmq``; off when it says nothing."""
    text = os.environ.get(USE_ZMQ, "")
    word = text.strip().lower()
    if word and word not in _ON + _OFF:
        raise InvalidValue(f"{USE_ZMQ}={text!r} is no switch; set it to one of {', '.join(_ON + _OFF)}, or unset it")
    return word in _ON


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterConfig:
    """Shape of one server instance and this process's place in it; checked when made, and never changed.

    Args:
        nodes: machines that the server runs on, 1 or more.
        node_rank: this machine, 0 to ``nodes - 1``. HTTP front ends and the dispatcher run on node 0.
        ranks: data-parallel ranks of the whole server, 1 to 65,536: the slots of its ring.
        dp_attention: data-parallel attention, by which ranks live on every node. Without it, a server of several nodes
            has all its publishing ranks on node 0.
        balance_method: a :class:`BalanceMethod` or its name in any case; kept as the former.
        tokenizer_workers: HTTP front-end processes, 1 or more; from 2 on a router stands before them.
        force_zmq: send every rank's load through the relay, also on one node. By default what ``SNAPRING_USE_ZMQ`` says
            when the config is made: 1, true, yes or on; 0, false, no, off or nothing.

    Raises:
        InvalidValue: a value is out of its range or of another type, or ``SNAPRING_USE_ZMQ`` is none of the words.

    Immutable and hashable: threads and both sides of a fork may share it.

    Examples:
        >>> ClusterConfig(nodes=2, ranks=16, dp_attention=True).relay
        True
    """

    nodes: int = 1
    node_rank: int = 0
    ranks: int = 1
    dp_attention: bool = False
    balance_method: str = BalanceMethod.AUTO
    tokenizer_workers: int = 1
    force_zmq: bool = field(default_factory=_use_zmq)

    def __post_init__(self) -> None:
        _check_count("nodes", self.nodes, 1, None)
        _check_count("node_rank", self.node_rank, 0, self.nodes - 1)
        _check_count("ranks", self.ranks, 1, MAX_RANKS)
        _check_count("tokenizer_workers", self.tokenizer_workers, 1, None)
        _check_switch("dp_attention", self.dp_attention)
        _check_switch("force_zmq", self.force_zmq)
        # The one way to normalise a field of a frozen class; nobody has seen the object yet.
        object.__setattr__(self, "balance_method", BalanceMethod(self.balance_method))

    @property
    def relay(self) -> bool:
        """Whether ranks reach the ring through a relay: DP attention over several nodes, or ``force_zmq``.

        Several nodes alone need none, because without DP attention every rank that publishes lives on node 0. This is
        SGLang's rule too.
        """
        return self.force_zmq or (self.dp_attention and self.nodes > 1)


def _check_count(name: str, value: int, least: int, most: int | None) -> None:
    """Refuse what is no whole number in the range; ``None`` is no upper limit."""
    expected = f"a whole number, {least} or more" if most is None else f"a whole number from {least} to {most}"
    try:
        number = operator.index(value)
    except TypeError:
        raise InvalidValue(f"{name} must be {expected}, not {value!r}") from None
    if number < least or (most is not None and number > most):
        raise InvalidValue(f"{name} must be {expected}, not {value!r}")


def _check_switch(name: str, value: bool) -> None:  # noqa: FBT001  the value under test
    """Refuse what is no bool: the text "false" would count as true."""
    if not isinstance(value, bool):
        raise InvalidValue(f"{name} must be True or False, not {value!r}")
