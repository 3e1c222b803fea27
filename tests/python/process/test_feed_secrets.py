from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import zmq
from zmq.utils.monitor import recv_monitor_message

from process.subscriber import HANG_MS, Router
from snapring import LoadSnapshot
from snapring.errors import InvalidValue, RingUntrusted
from snapring.feed import LoadFeed

FREE = "tcp://127.0.0.1:0"
Keys = tuple[bytes, bytes]


@pytest.fixture
def router() -> Iterator[Router]:
    """Whoever subscribes."""
    with closing(Router()) as router:
        yield router


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """The feed's own keys."""
    return keep(tmp_path / "feed.key", zmq.curve_keypair())


def keep(path: Path, keys: Keys) -> Path:
    """Write a key file, as ``snapring keys`` would, and the public key beside it."""
    public = f'public = "{keys[0].decode()}"\n'
    path.touch(mode=0o600)
    path.write_text(f'{public}secret = "{keys[1].decode()}"\n')
    path.with_suffix(".pub").write_text(public)
    return path


def public_key(path: Path) -> bytes:
    """The public key of a key file."""
    return path.read_text().split('"')[1].encode()


def follow(router: Router, feed: LoadFeed, key_file: Path, keys: Keys) -> zmq.Socket[bytes]:
    """A subscriber with these keys that knows the feed's; gives its monitor."""
    options = {"curve_serverkey": public_key(key_file), "curve_publickey": keys[0], "curve_secretkey": keys[1]}
    return router.watch(feed.endpoint, **options)


def refusal(monitor: zmq.Socket[bytes]) -> int:
    """The event that ends the first handshake."""
    ends = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    while monitor.poll(HANG_MS):
        event: int = recv_monitor_message(monitor)["event"]
        if event & (ends | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED):
            return event
    pytest.fail("the handshake never ended")


def test_listed_routers_are_served_and_others_are_not(router: Router, key_file: Path, tmp_path: Path) -> None:
    """Keys that are listed receive, by text or by file; another key, and none at all, are refused in the handshake."""
    by_text, by_file, stranger = zmq.curve_keypair(), zmq.curve_keypair(), zmq.curve_keypair()
    file = keep(tmp_path / "router.key", by_file).with_suffix(".pub")
    with LoadFeed(FREE, 0, key=key_file, clients=[by_text[0].decode(), file]) as feed:
        server = public_key(key_file)
        for public, secret in (by_text, by_file):
            listed = router.follow(
                feed.endpoint, curve_serverkey=server, curve_publickey=public, curve_secretkey=secret
            )
            listed.join(feed)
        refused = follow(router, feed, key_file, stranger)
        plain = router.watch(feed.endpoint)

        assert refusal(refused) == zmq.EVENT_HANDSHAKE_FAILED_AUTH
        assert refusal(plain) != zmq.EVENT_HANDSHAKE_SUCCEEDED
        last = feed.publish(LoadSnapshot(num_running_reqs=5))
        assert listed.receive_until(last).load[1] == 5
        assert [subscriber.has_message() for subscriber in router.watched] == [False, False]


def test_a_feed_beside_has_the_same_keys(router: Router, key_file: Path) -> None:
    """What admits routers to one rank admits them to all, and nobody else."""
    listed = zmq.curve_keypair()
    with (
        LoadFeed(FREE, 0, key=key_file, clients=[listed[0].decode()]) as first,
        LoadFeed("tcp://0.0.0.0:0", 1, beside=first) as feed,
    ):
        endpoint = feed.endpoint.replace("0.0.0.0", "127.0.0.1")  # noqa: S104  as above
        keys = {"curve_publickey": listed[0], "curve_secretkey": listed[1]}
        subscriber = router.follow(endpoint, curve_serverkey=public_key(key_file), **keys)
        plain = router.watch(endpoint)

        assert subscriber.join(feed) >= 1
        assert refusal(plain) != zmq.EVENT_HANDSHAKE_SUCCEEDED
    with LoadFeed(FREE, 0) as other, pytest.raises(InvalidValue, match="leave them out"):
        LoadFeed(FREE, 1, key=key_file, beside=other)


def test_keys_go_together(key_file: Path) -> None:
    """One half of what is needed is a mistake, and so is a key file that others may read."""
    with pytest.raises(InvalidValue, match="would admit nobody"):
        LoadFeed(FREE, 0, key=key_file)
    with pytest.raises(InvalidValue, match="clients= goes with key="):
        LoadFeed(FREE, 0, clients=[key_file.with_suffix(".pub")])
    key_file.chmod(0o644)
    with pytest.raises(RingUntrusted, match="chmod 600"):
        LoadFeed(FREE, 0, key=key_file, clients=[key_file.with_suffix(".pub")])
