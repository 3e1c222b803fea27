"""Who gets into a relay with keys, and who learns a secret: nobody else."""

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
import zmq

import snapring
from pyzmq_sender import HANG_MS, Sender
from snapring import InvalidValue, LoadSnapshot, RingUntrusted, State, SystemRefused, _core
from snapring.schema import compile_schema
from support import eventually, python, run

FREE = "tcp://127.0.0.1:0"
FRAMES = int(os.environ.get("SNAPRING_FRAMES", "5000"))
"""What strangers try to send."""
CONNECTIONS = 3
"""Of every kind of stranger."""


class Key(NamedTuple):
    """A key file, and what it holds."""

    file: Path
    public: str
    secret: str


class Keys(NamedTuple):
    """The relay's, a listed sender's, and one that nobody lists."""

    relay: Key
    sender: Key
    stranger: Key


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    """Fresh keys, each in its file."""

    def made(name: str) -> Key:
        file = tmp_path / f"{name}.key"
        return Key(file, _core.make_keys(file), file.read_text().split('"')[3])

    return Keys(made("relay"), made("sender"), made("stranger"))


def pyzmq(server: str, public: str, secret: str) -> dict[str, bytes]:
    """Options of a pyzmq socket."""
    names = ("curve_serverkey", "curve_publickey", "curve_secretkey")
    return {name: value.encode() for name, value in zip(names, (server, public, secret), strict=True)}


@pytest.fixture
def push() -> Iterator[Callable[[], "zmq.Socket[bytes]"]]:
    """Makes PUSH sockets that take any number of messages, and forget at the end what nobody took from them."""
    with ExitStack() as ends:
        context = ends.enter_context(zmq.Context())

        def made() -> "zmq.Socket[bytes]":
            socket = ends.enter_context(context.socket(zmq.PUSH))
            socket.sndhwm = socket.linger = 0
            return socket

        yield made


def test_nothing_of_strangers_is_accepted(ring_dir: Path, keys: Keys, push: Callable[[], "zmq.Socket[bytes]"]) -> None:
    """Of all that is sent with a wrong key, an unlisted one, to a wrong relay or without keys, nothing is accepted.

    The counters say so, and a sender with the right key gets in beside them.
    """
    relay_key, sender, stranger = keys
    kinds = {
        "unlisted": pyzmq(relay_key.public, stranger.public, stranger.secret),
        "forged": pyzmq(relay_key.public, sender.public, stranger.secret),
        "another relay's": pyzmq(stranger.public, sender.public, sender.secret),
        "none": {},
    }
    endpoint = f"ipc://{ring_dir}/socket"
    strangers = []
    for options in [*kinds.values()] * CONNECTIONS:
        socket = push()
        for name, value in options.items():
            setattr(socket, name, value)
        socket.connect(endpoint)
        strangers.append(socket)
    forger = Sender(strangers[0], compile_schema(LoadSnapshot).text, rank=0)
    for number in range(FRAMES):
        strangers[number % len(strangers)].send(forger.frame(num_running_reqs=number), zmq.DONTWAIT)
    reader = snapring.Reader("far")

    with snapring.Relay("far", endpoint, ranks=2, key=relay_key.file, clients=[sender.public]) as relay:

        def all_were_refused() -> bool:
            stats = relay.stats()
            return stats["refused_key"] >= CONNECTIONS and stats["handshakes_failed"] >= 3 * CONNECTIONS

        eventually(all_were_refused)
        assert relay.stats()["received"] == 0
        assert reader.read(0) is None
        with snapring.RemoteWriter(relay.endpoint or "", 1, 2, key=sender.file, server_key=relay_key.public) as writer:
            writer.publish(LoadSnapshot(num_running_reqs=1))
            eventually(lambda: reader.read(1) is not None)
        assert reader.read(0) is None


@pytest.mark.usefixtures("ring_dir")
@pytest.mark.parametrize(
    ("wrong", "counter", "reason"),
    [
        ("unlisted", "refused_key", "does not admit this writer's key"),
        ("another relay's", "handshakes_failed", "is server_key its key"),
        # It depends on who is first to see that only one of both has keys.
        ("none", "handshakes_failed", "does it want key=|one of both ends has keys"),
    ],
)
def test_a_refused_writer_learns_why(keys: Keys, wrong: str, counter: str, reason: str) -> None:
    """The writer says why the relay does not take it, the relay counts it, and neither stops for that."""
    relay_key, sender, stranger = keys
    options: dict[str, object] = {
        "unlisted": {"key": stranger.file, "server_key": relay_key.public},
        "another relay's": {"key": sender.file, "server_key": stranger.public},
        "none": {"insecure": True},
    }[wrong]
    with (
        snapring.Relay("far", FREE, ranks=1, key=relay_key.file, clients=[sender.public]) as relay,
        snapring.RemoteWriter(relay.endpoint or "", 0, 1, **options) as writer,  # type: ignore[arg-type]  a table
    ):
        eventually(lambda: writer.last_refusal is not None and relay.stats()[counter] > 0)

        assert writer.publish(LoadSnapshot()) == 1
        assert re.search(reason, writer.last_refusal or "")
        assert not writer.is_connected
        assert relay.stats()["received"] == 0


@pytest.mark.usefixtures("ring_dir")
def test_admit_lets_a_new_key_in(keys: Keys) -> None:
    """A writer that was refused gets in by itself once its key is admitted, also beside those of before."""
    relay_key, sender, stranger = keys
    reader = snapring.Reader("far")
    with (
        snapring.Relay("far", FREE, ranks=2, key=relay_key.file, clients=[sender.public]) as relay,
        snapring.RemoteWriter(relay.endpoint or "", 0, 2, key=stranger.file, server_key=relay_key.public) as late,
    ):
        late.publish(LoadSnapshot(num_running_reqs=5))
        eventually(lambda: relay.stats()["refused_key"] > 0)

        relay.admit([str(stranger.file.with_suffix(".pub"))])

        eventually(lambda: reader.check(0) is State.LIVE)
        with snapring.RemoteWriter(
            relay.endpoint or "", 1, 2, key=sender.file, server_key=relay_key.file.with_suffix(".pub")
        ) as listed:
            listed.publish(LoadSnapshot())
            eventually(lambda: reader.check(1) is State.LIVE)


@pytest.mark.usefixtures("ring_dir")
def test_a_relay_that_nobody_drives_lets_nobody_in(keys: Keys) -> None:
    """While nobody polls, nobody answers for new connections, so none is admitted, not even one with the right key."""
    relay_key, sender, _ = keys
    with (
        snapring.Relay("far", FREE, ranks=1, drain="poll", key=relay_key.file, clients=[sender.public]) as relay,
        snapring.RemoteWriter(relay.endpoint or "", 0, 1, key=sender.file, server_key=relay_key.public) as writer,
    ):
        writer.publish(LoadSnapshot())
        eventually(lambda: writer.last_refusal is not None)
        assert not writer.is_connected
        assert relay.stats()["received"] == 0

        def turn() -> bool:
            relay.poll()
            return relay.stats()["published"] > 0

        eventually(turn, HANG_MS / 1000)


def spoil(kind: str, file: Path) -> None:
    """Makes a good key file one that is not to be trusted."""
    if kind == "loose":
        file.chmod(0o640)
    elif kind == "hard link":
        os.link(file, file.with_name("other.key"))
    elif kind == "foreign":
        if os.geteuid() != 0:
            pytest.skip("only root can give a file away")
        os.chown(file, 12345, -1)
    else:
        file.rename(file.with_name("other.key"))
        file.symlink_to(file.with_name("other.key")) if kind == "link" else os.mkfifo(file, 0o600)


@pytest.mark.usefixtures("ring_dir")
@pytest.mark.parametrize("kind", ["loose", "link", "hard link", "foreign", "fifo"])
def test_key_files_that_others_may_know_are_refused(keys: Keys, kind: str) -> None:
    """A secret that others may have read or replaced serves neither end."""
    relay_key, sender, _ = keys
    spoil(kind, sender.file)

    with pytest.raises(RingUntrusted, match=r"sender\.key"):
        snapring.Relay("far", FREE, ranks=1, key=sender.file, clients=[relay_key.public])
    with pytest.raises(RingUntrusted, match=r"sender\.key"):
        snapring.RemoteWriter("tcp://127.0.0.1:9", 0, 1, key=sender.file, server_key=relay_key.public)


@pytest.mark.usefixtures("ring_dir")
def test_lists_of_keys_that_others_may_write_are_refused(keys: Keys) -> None:
    """A public key that others could have put there is not admitted, at the start or later."""
    relay_key, sender, _ = keys
    listed = sender.file.with_suffix(".pub")
    with snapring.Relay("far", FREE, ranks=1, key=relay_key.file) as relay:
        listed.chmod(0o666)

        for folder_or_file in (listed, listed.parent):
            with pytest.raises(RingUntrusted, match="chmod go-w"):
                relay.admit([str(folder_or_file)])
            with pytest.raises(RingUntrusted, match="chmod go-w"):
                snapring.Relay("other", FREE, ranks=1, key=relay_key.file, clients=[folder_or_file])


def test_keys_are_never_overwritten(keys: Keys) -> None:
    """Making keys where a file is, is an error, and both files stay as they were."""
    file = keys.sender.file
    files = (file, file.with_suffix(".pub"))
    before = [path.read_text() for path in files]

    with pytest.raises(SystemRefused, match="never overwritten"):
        _core.make_keys(file)

    assert [path.read_text() for path in files] == before
    assert [path.stat().st_mode & 0o777 for path in files] == [0o600, 0o644]


TELL = """
import glob, json, sys, traceback
import snapring
from snapring import _core
relay_key, sender_key, mangled, server, client = sys.argv[1:]
free = "tcp://127.0.0.1:0"
secret = open(sender_key).read().split('"')[3]
told = []
with (
    snapring.Relay("far", free, ranks=1, key=relay_key, clients=[client]) as relay,
    snapring.RemoteWriter(relay.endpoint, 0, 1, key=sender_key, server_key=server) as writer,
):
    writer.publish(snapring.LoadSnapshot())
    for call in (
        lambda: snapring.Relay("other", free, ranks=1, key=mangled),
        lambda: snapring.RemoteWriter(relay.endpoint, 0, 1, key=mangled, server_key=server),
        lambda: snapring.RemoteWriter(relay.endpoint, 0, 1, key=secret, server_key=server),
        lambda: _core.public_key(mangled),
        lambda: _core.make_keys(sender_key),
    ):
        try:
            call()
        except snapring.SnapringError:
            told.append(traceback.format_exc())
        else:
            sys.exit("no error")
    told += [repr(each) for each in (relay, writer, relay.stats(), writer.stats(), relay.last_error)]
    for path in ["/proc/self/cmdline", "/proc/self/environ", *glob.glob("/proc/self/task/*/comm")]:
        told.append(open(path, "rb").read().decode(errors="replace"))
print(json.dumps(told))
"""


@pytest.mark.usefixtures("ring_dir")
def test_secrets_are_told_to_nobody(keys: Keys, tmp_path: Path) -> None:
    """No secret shows in errors, in what objects say of themselves, or in what other processes may see of this one."""
    relay_key, sender, stranger = keys
    mangled = tmp_path / "mangled.key"
    mangled.write_text(f'public = "{sender.public}"\nsecret = "{stranger.secret}"\n')
    mangled.chmod(0o600)

    told = run(python(TELL, *map(str, (relay_key.file, sender.file, mangled, relay_key.public, sender.public))))

    assert len(json.loads(told)) > 12
    text = "\n".join(json.loads(told))
    for key in keys:
        assert key.secret not in text
        assert key.secret[5:30] not in text


def test_a_key_is_no_path(keys: Keys) -> None:
    """Whoever passes the secret itself where its file belongs reads what to do, and no secret in the error."""
    with pytest.raises(InvalidValue, match="name the file") as caught:
        snapring.RemoteWriter("tcp://127.0.0.1:9", 0, 1, key=keys.sender.secret, server_key=keys.relay.public)

    assert keys.sender.secret not in str(caught.value)
