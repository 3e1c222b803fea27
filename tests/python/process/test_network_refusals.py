"""Addresses, ports and admissions that do not work out: each is told, at once or by what a writer can be asked."""

from pathlib import Path
from typing import Any

import pytest

import snapring
from network import Child, Host, network
from network_children import Mark
from snapring import State
from snapring._core import make_keys
from support import eventually

PORT = 7700


def relay(host: Host, endpoint: str, *, name: str = "net", **options: Any) -> dict[str, Any]:  # noqa: ANN401  as for Relay
    """Start a relay of two ranks, without keys unless it gets some; what it says of itself or of its end."""
    return host.start("relay", name=name, endpoint=endpoint, ranks=2, **({"insecure": True} | options)).ask()


def sender(host: Host, endpoint: str, rank: int, **options: Any) -> Child:  # noqa: ANN401  as for RemoteWriter
    """Start a sender of one rank."""
    options = {"insecure": True} | options
    return host.start("senders", endpoint=endpoint, first=rank, count=1, ranks=2, every_s=0.01, **options)


@pytest.mark.usefixtures("ring_dir")
def test_a_relay_says_why_it_cannot_listen() -> None:
    """An address of another host, and a port that another ring's relay has, raise an error that names them."""
    with network(1) as (host,):
        elsewhere = relay(host, f"tcp://10.77.0.9:{PORT}")
        first = relay(host, f"tcp://{host.address}:{PORT}")
        second = relay(host, f"tcp://{host.address}:{PORT}", name="other")
        second6 = [relay(host, f"tcp://[{host.address6}]:{PORT}", name=name) for name in ("six", "seven")]

    assert elsewhere["error"] == "SystemRefused"
    assert "10.77.0.9" in elsewhere["message"]
    assert first["endpoint"] == f"tcp://{host.address}:{PORT}"
    assert second["error"] == "SystemRefused"
    assert f"{host.address}:{PORT}" in second["message"]
    assert second6[0]["endpoint"] == f"tcp://[{host.address6}]:{PORT}"
    assert second6[1]["error"] == "SystemRefused"


@pytest.mark.usefixtures("ring_dir")
@pytest.mark.parametrize("v6", [False, True])
def test_addresses_that_are_not_listed(v6: bool) -> None:
    """A sender from an address that the relay does not list learns it, and is not heard; a listed one is."""
    with network(3) as (host, listed, stranger), snapring.Reader("net", schema=Mark) as reader:
        endpoint = f"tcp://[{host.address6}]:{PORT}" if v6 else f"tcp://{host.address}:{PORT}"
        child = host.start(
            "relay",
            name="net",
            endpoint=endpoint,
            ranks=2,
            insecure=True,
            allow=[f"{listed.address6}/128" if v6 else f"{listed.address}/32"],
        )
        eventually(lambda: child.ask()["endpoint"])

        refused = sender(stranger, endpoint, 0)
        admitted = sender(listed, endpoint, 1)
        reason = eventually(lambda: refused.ask()["refusals"][0])
        eventually(lambda: reader.check(1) is State.LIVE)

        assert "does not admit this writer's key or address" in reason
        assert endpoint in reason
        assert child.ask()["stats"]["refused_address"] >= 1
        assert admitted.ask()["refusals"] == [None]
        assert reader.read(0) is None


@pytest.mark.usefixtures("ring_dir")
def test_keys_that_are_not_listed(tmp_path: Path) -> None:
    """A sender whose key is not listed, and one that has no key, learn it; nothing of them arrives."""
    keys = {name: make_keys(tmp_path / name) for name in ("relay", "listed", "other")}
    with network(2) as (host, node), snapring.Reader("net", schema=Mark) as reader:
        endpoint = f"tcp://{host.address}:{PORT}"
        child = host.start(
            "relay", name="net", endpoint=endpoint, ranks=2, key=str(tmp_path / "relay"), clients=[keys["listed"]]
        )
        eventually(lambda: child.ask()["endpoint"])

        other = sender(node, endpoint, 0, insecure=False, key=str(tmp_path / "other"), server_key=keys["relay"])
        bare = sender(node, endpoint, 1)
        reasons = [eventually(lambda child=child: child.ask()["refusals"][0]) for child in (other, bare)]

        assert "does not admit this writer's key" in reasons[0]
        assert "key" in reasons[1]  # which end notices first decides how it says so
        assert child.ask()["stats"]["received"] == 0
        assert reader.read_all() == []


@pytest.mark.usefixtures("ring_dir")
def test_nobody_there_and_then_somebody() -> None:
    """While nothing answers at the relay's address a writer says so, and is connected once there is."""
    with network(2) as (host, node), snapring.Reader("net", schema=Mark) as reader:
        host.silence()
        endpoint = f"tcp://{host.address}:{PORT}"
        child = sender(node, endpoint, 0)
        eventually(lambda: child.ask()["stats"][0]["published"] > 100)
        assert child.ask()["connected"] == [False]
        assert f"{endpoint} does not answer" in eventually(lambda: child.ask()["refusals"][0])
        assert child.ask()["stats"][0]["sent"] == 0

        relay(host, endpoint)
        host.heal()

        eventually(lambda: reader.check(0) is State.LIVE)
        eventually(lambda: child.ask()["connected"] == [True])
