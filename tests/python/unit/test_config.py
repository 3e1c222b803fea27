import dataclasses
from typing import Any

import pytest

from snapring.config import MAX_RANKS, USE_ZMQ, BalanceMethod, ClusterConfig
from snapring.errors import InvalidValue


@pytest.fixture(autouse=True)
def silent_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have the variable set."""
    monkeypatch.delenv(USE_ZMQ, raising=False)


def test_defaults_are_one_process_of_each_kind() -> None:
    """Without arguments it is one rank on one node, balanced automatically, over shared memory."""
    config = ClusterConfig()

    assert dataclasses.asdict(config) == {
        "nodes": 1,
        "node_rank": 0,
        "ranks": 1,
        "dp_attention": False,
        "balance_method": "auto",
        "tokenizer_workers": 1,
        "force_zmq": False,
    }
    assert config.relay is False


def test_it_never_changes() -> None:
    """A config is a value: frozen, equal to its like, usable as a key."""
    config = ClusterConfig(balance_method="ROUND_ROBIN")

    with pytest.raises(dataclasses.FrozenInstanceError):
        config.nodes = 2  # type: ignore[misc]
    assert {config: "seen"}[ClusterConfig(balance_method=BalanceMethod.ROUND_ROBIN)] == "seen"


@pytest.mark.parametrize("written", ["total_tokens", "TOTAL_TOKENS", "Total_Tokens", BalanceMethod.TOTAL_TOKENS])
def test_case_of_the_method_is_irrelevant(written: str) -> None:
    """A method is given as the enum or by name in any case, and kept as the enum."""
    config = ClusterConfig(balance_method=written)

    assert config.balance_method is BalanceMethod.TOTAL_TOKENS


@pytest.mark.parametrize("written", ["", "total tokens", "totaltokens", "least", None, 3])
def test_unknown_methods_are_refused(written: object) -> None:
    """Anything but a method's name raises, and the message lists the names."""
    with pytest.raises(InvalidValue, match=r"auto, round_robin, follow_bootstrap_room, total_requests, total_tokens"):
        ClusterConfig(balance_method=written)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("method", "prefill", "expected"),
    [
        ("auto", True, "follow_bootstrap_room"),
        ("auto", False, "round_robin"),
        ("round_robin", True, "round_robin"),
        ("follow_bootstrap_room", False, "follow_bootstrap_room"),
        ("total_requests", True, "total_requests"),
        ("total_tokens", False, "total_tokens"),
    ],
)
def test_auto_follows_the_room_on_a_prefill_server(method: str, prefill: bool, expected: str) -> None:
    """``auto`` is the room on a prefill server and round robin elsewhere; every other method is itself."""
    assert BalanceMethod(method).resolved(prefill=prefill) == expected


def test_two_methods_read_loads() -> None:
    """Only the methods that count requests or tokens look at what ranks publish."""
    assert [method for method in BalanceMethod if method.reads_loads] == ["total_requests", "total_tokens"]


@pytest.mark.parametrize(
    ("nodes", "dp_attention", "force_zmq", "expected"),
    [
        (1, False, False, False),
        (1, True, False, False),
        (2, False, False, False),
        (2, True, False, True),
        (1, False, True, True),
        (1, True, True, True),
        (2, False, True, True),
        (2, True, True, True),
    ],
)
def test_relay_is_for_ranks_on_other_nodes_or_when_forced(
    nodes: int, dp_attention: bool, force_zmq: bool, expected: bool
) -> None:
    """The relay is on for DP attention over several nodes, and whenever it is forced."""
    config = ClusterConfig(nodes=nodes, dp_attention=dp_attention, force_zmq=force_zmq)

    assert config.relay is expected


@pytest.mark.parametrize("text", ["1", "true", "yes", "on", "True", "ON", " yes "])
def test_environment_forces_zmq(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """An operator switches the relay on by a variable; what the program says goes first."""
    monkeypatch.setenv(USE_ZMQ, text)

    assert ClusterConfig().force_zmq is True
    assert ClusterConfig(force_zmq=False).force_zmq is False


@pytest.mark.parametrize("text", ["", "0", "false", "no", "off", "OFF"])
def test_environment_leaves_zmq_off(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """The words for no mean no; what the program says goes first."""
    monkeypatch.setenv(USE_ZMQ, text)

    assert ClusterConfig().force_zmq is False
    assert ClusterConfig(force_zmq=True).force_zmq is True


@pytest.mark.parametrize("text", ["2", "tru", "enabled", "-"])
def test_environment_is_never_guessed_at(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Any other word raises and names the variable and the words; it is not read where the program decides."""
    monkeypatch.setenv(USE_ZMQ, text)

    with pytest.raises(InvalidValue, match=f"{USE_ZMQ}='{text}'.* 1, true, yes, on, 0, false, no, off"):
        ClusterConfig()
    assert ClusterConfig(force_zmq=False).relay is False


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nodes": 0}, "nodes must be a whole number, 1 or more, not 0"),
        ({"nodes": 1.0}, "nodes must be a whole number, 1 or more, not 1.0"),
        ({"nodes": "2"}, "nodes must be a whole number, 1 or more, not '2'"),
        ({"nodes": 2, "node_rank": 2}, "node_rank must be a whole number from 0 to 1, not 2"),
        ({"node_rank": -1}, "node_rank must be a whole number from 0 to 0, not -1"),
        ({"ranks": 0}, "ranks must be a whole number from 1 to 65536, not 0"),
        ({"ranks": MAX_RANKS + 1}, "ranks must be a whole number from 1 to 65536, not 65537"),
        ({"tokenizer_workers": 0}, "tokenizer_workers must be a whole number, 1 or more, not 0"),
        ({"tokenizer_workers": None}, "tokenizer_workers must be a whole number, 1 or more, not None"),
        ({"dp_attention": "false"}, "dp_attention must be True or False, not 'false'"),
        ({"force_zmq": 1}, "force_zmq must be True or False, not 1"),
    ],
)
def test_unfit_values_are_refused(values: dict[str, Any], message: str) -> None:
    """A value out of range or of another type raises and says what fits."""
    with pytest.raises(InvalidValue) as caught:
        ClusterConfig(**values)

    assert str(caught.value) == message


def test_limits_themselves_fit() -> None:
    """The ends of the ranges are in them."""
    config = ClusterConfig(nodes=2, node_rank=1, ranks=MAX_RANKS)

    assert (config.nodes, config.node_rank, config.ranks) == (2, 1, 65_536)
