import random
from dataclasses import replace
from itertools import product

import pytest

from snapring.config import BalanceMethod, ClusterConfig
from snapring.errors import InvalidValue
from snapring.ownership import Role, is_relay_owner, relay_owner_role, sends_to_relay

MANAGER = Role.TOKENIZER_MANAGER
ROUTER = Role.MULTI_TOKENIZER_ROUTER
CONTROLLER = Role.DATA_PARALLEL_CONTROLLER

LOADS = ("total_requests", "total_tokens")
TURNS = ("auto", "round_robin", "follow_bootstrap_room")

# Each row of the rule: relay on, node ranks, ranks, methods, tokenizer workers, owner.
TABLE: list[tuple[bool, tuple[int, ...], tuple[int, ...], tuple[str, ...], tuple[int, ...], Role | None]] = [
    (False, (0, 1), (1, 2, 8), (*TURNS, *LOADS), (1, 2, 4), None),
    (True, (1, 2), (1, 2, 8), (*TURNS, *LOADS), (1, 2, 4), None),
    (True, (0,), (1,), (*TURNS, *LOADS), (1,), MANAGER),
    (True, (0,), (1,), (*TURNS, *LOADS), (2, 4), ROUTER),
    (True, (0,), (2, 8), LOADS, (1, 2, 4), CONTROLLER),
    (True, (0,), (2, 8), TURNS, (1,), MANAGER),
    (True, (0,), (2, 8), TURNS, (2, 4), ROUTER),
]

GRID = [
    ClusterConfig(
        nodes=nodes,
        node_rank=node_rank,
        ranks=ranks,
        dp_attention=dp_attention,
        balance_method=method,
        tokenizer_workers=workers,
        force_zmq=force_zmq,
    )
    for nodes, ranks, dp_attention, method, workers, force_zmq in product(
        (1, 2, 3), (1, 2, 3, 65_536), (False, True), BalanceMethod, (1, 2, 3, 64), (False, True)
    )
    for node_rank in range(nodes)
]


@pytest.mark.parametrize(("relay", "node_ranks", "rank_counts", "methods", "workers", "expected"), TABLE)
def test_every_row_of_the_table(
    relay: bool,
    node_ranks: tuple[int, ...],
    rank_counts: tuple[int, ...],
    methods: tuple[str, ...],
    workers: tuple[int, ...],
    expected: Role | None,
) -> None:
    """Each row of the rule holds for every combination of inputs that it stands for."""
    owners = {
        relay_owner_role(
            ClusterConfig(
                nodes=3,
                node_rank=node_rank,
                ranks=ranks,
                dp_attention=relay,
                balance_method=method,
                tokenizer_workers=count,
                force_zmq=False,
            )
        )
        for node_rank, ranks, method, count in product(node_ranks, rank_counts, methods, workers)
    }

    assert owners == {expected}


def test_at_most_one_role_owns() -> None:
    """Over the whole grid of inputs: one owner on node 0 with the relay on, none anywhere else."""
    wrong = [
        config
        for config in GRID
        if sum(is_relay_owner(config, role) for role in Role) != (1 if config.relay and config.node_rank == 0 else 0)
    ]

    assert len(GRID) == (1 + 2 + 3) * 4 * 2 * 5 * 4 * 2  # node ranks of each size, times all other values
    assert wrong == []


def test_one_owner_in_the_whole_cluster() -> None:
    """The nodes of one server together have one owner with the relay on, none without."""
    for config in (config for config in GRID if config.node_rank == 0):
        nodes = [replace(config, node_rank=node_rank) for node_rank in range(config.nodes)]
        owners = [role for node in nodes if (role := relay_owner_role(node)) is not None]

        assert len(owners) == config.relay, config


def test_case_of_the_method_changes_nothing(rng: random.Random) -> None:
    """Any spelling of the method's name in capitals and small letters gives the same owner."""
    for config in GRID:
        spelt = "".join(rng.choice((letter.lower(), letter.upper())) for letter in config.balance_method)
        same = replace(config, balance_method=spelt)

        assert relay_owner_role(same) == relay_owner_role(config), spelt


def test_the_way_the_relay_came_on_changes_nothing() -> None:
    """A relay that was forced has the same owner as one that the nodes need."""
    for config in (config for config in GRID if config.relay and not config.force_zmq):
        forced = replace(config, dp_attention=False, force_zmq=True)

        assert relay_owner_role(forced) == relay_owner_role(config), config


@pytest.mark.parametrize("role", Role)
def test_roles_go_by_name(role: Role) -> None:
    """A role is given as the enum or as its name."""
    config = ClusterConfig(force_zmq=True)

    assert is_relay_owner(config, role.value) is is_relay_owner(config, role) is (role is MANAGER)
    assert [str(role) for role in Role] == ["TokenizerManager", "MultiTokenizerRouter", "DataParallelController"]


@pytest.mark.parametrize("role", ["TokenizerWorker", "tokenizermanager", "", None])
@pytest.mark.parametrize("force_zmq", [False, True])
def test_unknown_roles_are_refused(role: object, force_zmq: bool) -> None:
    """A role that does not exist raises with the relay on or off, and the message lists the roles."""
    with pytest.raises(InvalidValue, match="TokenizerManager, MultiTokenizerRouter, DataParallelController"):
        is_relay_owner(ClusterConfig(force_zmq=force_zmq), role)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("nodes", "node_rank", "dp_attention", "force_zmq", "expected"),
    [
        (1, 0, False, False, False),
        (1, 0, True, False, False),
        (2, 0, True, False, False),
        (2, 1, True, False, True),
        (2, 1, False, False, False),
        (1, 0, False, True, True),
        (2, 0, True, True, True),
        (2, 0, False, True, True),
        (2, 1, False, True, True),
    ],
)
def test_ranks_send_from_other_nodes_or_when_forced(
    nodes: int, node_rank: int, dp_attention: bool, force_zmq: bool, expected: bool
) -> None:
    """Ranks of node 0 write shared memory unless forced; those of other nodes send whenever there is a relay."""
    config = ClusterConfig(nodes=nodes, node_rank=node_rank, dp_attention=dp_attention, force_zmq=force_zmq)

    assert sends_to_relay(config) is expected


def test_nobody_sends_to_nobody() -> None:
    """Where any rank of a server sends, its node 0 has an owner that receives."""
    deaf = [
        config for config in GRID if sends_to_relay(config) and relay_owner_role(replace(config, node_rank=0)) is None
    ]

    assert deaf == []
