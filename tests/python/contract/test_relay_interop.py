"""Relays and remote writers against pyzmq, which brings a libzmq of its own into the process."""

import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import zmq

import pure_reader
import pyzmq_sender
import snapring
from pyzmq_sender import BEAT, GOODBYE, SNAPSHOT, Frame, Sender, digest, opened
from snapring import LoadSnapshot, State, _core
from snapring.schema import compile_schema
from support import eventually, python, run

SCHEMA = compile_schema(LoadSnapshot).text
TRANSPORTS = ["ipc", "tcp", "curve"]


class Ends(NamedTuple):
    """What both ends are opened with."""

    endpoint: str
    relay: dict[str, Any]
    writer: dict[str, Any]
    server: dict[str, bytes]
    client: dict[str, bytes]


@pytest.fixture(params=TRANSPORTS)
def ends(request: pytest.FixtureRequest, ring_dir: Path, tmp_path: Path) -> Ends:
    """The same exchange over a socket beside the ring, over TCP in the clear, and over TCP with keys."""
    if request.param == "ipc":
        return Ends(f"ipc://{ring_dir}/socket", {}, {}, {}, {})
    if request.param == "tcp":
        insecure = {"insecure": True}
        return Ends("tcp://127.0.0.1:0", insecure, insecure, {}, {})
    relay, writer = tmp_path / "relay.key", tmp_path / "writer.key"
    keys = [_core.make_keys(path) for path in (relay, writer)]
    server = {"curve_server": True, "curve_secretkey": secret(relay)}
    client = {
        "curve_serverkey": keys[0].encode(),
        "curve_publickey": keys[1].encode(),
        "curve_secretkey": secret(writer),
    }
    return Ends(
        "tcp://127.0.0.1:0",
        {"key": relay, "clients": [keys[1]]},
        {"key": writer, "server_key": keys[0]},
        server,
        client,
    )


def secret(path: Path) -> bytes:
    """The secret key of a key file."""
    return path.read_text().split('"')[3].encode()


def test_a_pyzmq_program_publishes(ends: Ends) -> None:
    """What thirty lines of pyzmq and struct send, readers see as if a writer had published it."""
    reader = snapring.Reader("far")
    with (
        snapring.Relay("far", ends.endpoint, ranks=4, job="serve", **ends.relay) as relay,
        opened(zmq.PUSH, **ends.client) as push,
    ):
        push.connect(relay.endpoint or "")
        sender = Sender(push, SCHEMA, rank=2, job="serve")
        sender.publish(num_running_reqs=3)
        sender.publish(num_running_reqs=4, token_usage=0.5)

        eventually(lambda: (snap := reader.read(2)) is not None and snap.origin[2] == 2)
        snap = reader.read(2)
        assert snap is not None
        moment = snap.value.timestamp
        assert snap.value == LoadSnapshot(dp_rank=2, num_running_reqs=4, token_usage=0.5, timestamp=moment)
        assert (snap.version, snap.state) == (2, State.LIVE)
        assert relay.stats()["published"] == relay.stats()["received"] == 2
        sender.close()
        eventually(lambda: reader.check(2) is State.DEAD)


def test_a_pyzmq_program_reads_a_remote_writer(ends: Ends) -> None:
    """What a remote writer sends is what the page of the format says: values, a sign of life, a goodbye."""
    before_ns = time.time_ns()
    with opened(zmq.PULL, **ends.server) as pull:
        pull.bind(ends.endpoint)
        endpoint = pull.last_endpoint.rstrip(b"\0").decode()
        with snapring.RemoteWriter(endpoint, rank=1, ranks=4, job="serve", **ends.writer) as writer:
            writer.publish(LoadSnapshot(num_running_reqs=7, timestamp=8.0))
            first = Frame.decode(pull.recv())
            writer.beat()
            sign = next_of(BEAT, pull)
        last = next_of(GOODBYE, pull)

    assert (first.kind, first.rank, first.version) == (SNAPSHOT, 1, 1)
    assert (first.job, first.fingerprint) == (digest("serve"), digest(SCHEMA))
    assert before_ns <= first.start_ns <= first.wall_ns <= time.time_ns()
    assert 0 <= first.age_ns < time.time_ns() - before_ns
    fields = pure_reader.decode(json.loads(SCHEMA)["fields"], first.payload)
    assert (fields["dp_rank"], fields["num_running_reqs"], fields["timestamp"]) == (1, 7, 8.0)
    assert fields["token_usage"] is None
    for frame in (sign, last):
        assert frame[1:7] == first[1:7]
        assert frame.payload == b""


def next_of(kind: int, pull: "zmq.Socket[bytes]") -> Frame:
    """The next frame of that kind; the same snapshot may come again before it."""
    while (frame := Frame.decode(pull.recv())).kind != kind:
        pass
    return frame


BOTH = """
import {first}
import {second}
import snapring, sys, zmq
sys.path.insert(0, sys.argv[1])
from pyzmq_sender import Frame, Sender
from snapring.schema import compile_schema
from support import eventually
COUNT = 2000
schema = compile_schema(snapring.LoadSnapshot).text
reader = snapring.Reader("far")
with zmq.Context() as context, context.socket(zmq.PUSH) as push, context.socket(zmq.PULL) as pull:
    pull.rcvtimeo = 60_000
    port = pull.bind_to_random_port("tcp://127.0.0.1")
    with snapring.Relay("far", ranks=1) as relay:
        push.connect(relay.endpoint)
        sender = Sender(push, schema, rank=0)
        with snapring.RemoteWriter(f"tcp://127.0.0.1:{{port}}", rank=0, ranks=1, insecure=True) as writer:
            for number in range(1, COUNT + 1):
                sender.publish(num_running_reqs=number)
                writer.publish(snapring.LoadSnapshot(num_running_reqs=number))
            while Frame.decode(pull.recv()).version < COUNT:
                pass
        eventually(lambda: relay.stats()["published"] == COUNT)
        print(reader.read(0).value.num_running_reqs)
"""


@pytest.mark.usefixtures("ring_dir")
@pytest.mark.parametrize(("first", "second"), [("snapring", "zmq"), ("zmq", "snapring")])
def test_two_libzmq_in_one_process(first: str, second: str) -> None:
    """Ours and pyzmq's talk to each other inside one process, whichever is loaded first."""
    tests = str(Path(pyzmq_sender.__file__).parent)

    assert run(python(BOTH.format(first=first, second=second), tests)) == "2000\n"
