"""The store that ``snapring relay`` meets in: where its options lead, and who could reach the relay."""

import argparse
import http.server
import shutil
import ssl
import threading
from pathlib import Path

import pytest

import snapring
from etcd_server import etcd
from snapring.cli import build_parser
from snapring.cli.relay import Service
from snapring.cli.store import check_reach, group_of
from snapring.errors import InvalidValue, RendezvousFailed, StoreUnavailable
from snapring.rendezvous.etcd_gateway import Gateway
from support import run

SECONDS = 20.0


def parsed(*words: str) -> argparse.Namespace:
    """What the options of a relay mean."""
    return build_parser().parse_args(["relay", "far", "--ranks", "1", *words])


def entry(*words: str) -> bytes | None:
    """What the store of these options has, asked for once."""
    group = group_of(parsed("--job", "launch-1", *words))
    assert group is not None
    return group.read("f", 0, SECONDS)


def test_an_etcd_with_users(tmp_path: Path) -> None:
    """A user with a password file gets in where nobody does without."""
    password = tmp_path / "password"
    password.write_text("secret\n")
    password.chmod(0o600)
    with etcd() as url:
        gateway = Gateway([url], tls=None, user=None, password_file=None)
        for path, request in [
            ("user/add", {"name": "root", "password": "secret"}),
            ("user/grant", {"user": "root", "role": "root"}),
            ("enable", {}),
        ]:
            gateway.ask(f"/v3/auth/{path}", request, SECONDS)

        with pytest.raises(RendezvousFailed, match="wants a log-in"):
            entry("--store", f"etcd:{url}")
        assert entry("--store", f"etcd:{url}", "--store-user", "root", "--store-password-file", str(password)) is None


class Empty(http.server.BaseHTTPRequestHandler):
    """An etcd that has nothing."""

    def do_POST(self) -> None:
        """Answers as the gateway does."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def test_an_etcd_with_an_authority_of_its_own(tmp_path: Path) -> None:
    """A store whose certificate the system does not know is believed with its authority's file, and not without."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl on the path: apt-get install --no-install-recommends openssl")
    key, certificate = tmp_path / "tls.key", tmp_path / "tls.pem"
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    files = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    run(["openssl", *words.split(), *files])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Empty) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            store = ("--store", f"etcd:https://localhost:{server.server_port}")

            with pytest.raises(StoreUnavailable, match="certificate"):
                entry(*store)
            assert entry(*store, "--store-ca", str(certificate)) is None
        finally:
            server.shutdown()
            thread.join()


ETCD = ("--store", "etcd:http://10.0.0.9:2379", "--job", "launch-1", "--nodes", "2")


@pytest.mark.parametrize("endpoint", ["tcp://127.0.1.1:5600", "tcp://[::1]:5600", "ipc:///dev/shm/far.sock"])
def test_an_address_of_this_host_alone(endpoint: str) -> None:
    """A relay that other nodes are to reach may not listen where they cannot, as a name of this host may mean."""
    with pytest.raises(InvalidValue, match=r"--listen .* --advertise"):
        check_reach(parsed(*ETCD), endpoint)


@pytest.mark.parametrize(
    ("words", "endpoint"),
    [
        (ETCD, "tcp://10.0.0.1:5600"),
        (ETCD, None),
        ((*ETCD, "--advertise", "gateway"), "tcp://127.0.0.1:5600"),
        (("--store", "local:/x", "--job", "launch-1", "--nodes", "2"), "tcp://127.0.0.1:5600"),
        (("--store", "etcd:http://10.0.0.9:2379", "--job", "launch-1"), "tcp://127.0.0.1:5600"),
    ],
)
def test_addresses_that_may_be_meant(words: tuple[str, ...], endpoint: str | None) -> None:
    """A standby, a way of one's own, nodes of one host and a node alone are left in peace."""
    check_reach(parsed(*words), endpoint)


@pytest.mark.usefixtures("ring_dir")
def test_a_host_name_of_loopback() -> None:
    """Before it says anything a relay that listens on loopback is refused, where nodes meet in etcd."""
    with etcd() as url:
        where = ("--listen", "tcp://localhost:0", "--insecure")
        args = parsed("--store", f"etcd:{url}", "--job", "launch-1", "--nodes", "2", *where)

        with pytest.raises(InvalidValue, match=r"other nodes cannot reach tcp://127\.0\.0\.1:\d+;"):
            args.run(args)


@pytest.mark.usefixtures("ring_dir")
def test_errors_are_told_once_a_source(capsys: pytest.CaptureFixture[str]) -> None:
    """Of the relay and of the store an error is told when it is new, however they take turns."""
    with snapring.Relay("far", ranks=1) as relay:
        service = Service(parsed(), relay, None)

        for _ in range(3):
            service.complain("relay", "no descriptors")
            service.complain("store", "no answer")
        service.complain("store", "refused")

    told = ["no descriptors", "no answer", "refused"]
    assert capsys.readouterr().err.splitlines() == [f"snapring: {text}" for text in told]
