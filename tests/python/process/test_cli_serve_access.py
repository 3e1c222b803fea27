"""Who may ask ``snapring serve``: tokens, certificates, and names of the host."""

import json
import signal
import subprocess
from pathlib import Path

import pytest

from command import snapring as command
from serving import curl, serving
from snapring import LoadSnapshot, Writer

TOKEN = "s3cret-0f-the-test"
ALL = "0.0.0.0:0"
KEPT = ("v1/loads", "v1/loads/stream", "v1/loads/history", "get_load", "metrics", "v1/scale", "docs", "")

pytestmark = pytest.mark.usefixtures("ring_dir")


@pytest.fixture
def token_file(tmp_path: Path) -> str:
    """A file with the token, as it should be."""
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o600)
    return str(path)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A certificate for 127.0.0.1, signed by itself, and its key."""
    cert, key = (str(tmp_path_factory.mktemp("tls") / name) for name in ("cert.pem", "key.pem"))
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


def bearer(token: str) -> tuple[str, str]:
    """Options of curl that send a token."""
    return "--header", f"Authorization: Bearer {token}"


def test_a_token_is_asked_for(token_file: str) -> None:
    """Every route but health answers only with the token, as a bearer's or as a password; errors are JSON."""
    with Writer("llama", 0, 1) as writer, serving("llama", "--token-file", token_file) as server:
        writer.publish(LoadSnapshot(num_running_reqs=3))

        refused = [curl(f"{server.url}{path}") for path in KEPT]
        wrong = curl(f"{server.url}v1/loads", *bearer("s3cret-0f-another"))
        health = [curl(f"{server.url}{path}").status for path in ("healthz", "readyz")]
        known = [curl(f"{server.url}v1/loads", *options) for options in (bearer(TOKEN), ("--user", f"anybody:{TOKEN}"))]

    assert {answer.status for answer in (*refused, wrong)} == {401}
    assert {answer.json["error"]["code"] for answer in (*refused, wrong)} == {401}
    assert health == [200, 200]
    assert [answer.json["loads"][0]["num_running_reqs"] for answer in known] == [3, 3]


def test_a_token_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a file of mode 0600 cannot be had, as with the secrets of containers, the environment holds the token."""
    monkeypatch.setenv("SNAPRING_TOKEN", TOKEN)
    with Writer("llama", 0, 1) as writer, serving("llama", bind=("--bind", ALL)) as server:
        writer.publish(LoadSnapshot())
        url = server.url.replace(ALL.partition(":")[0], "127.0.0.1")

        statuses = [curl(f"{url}v1/loads").status, curl(f"{url}v1/loads", *bearer(TOKEN)).status]

    assert statuses == [401, 200]


def test_the_token_shows_nowhere(token_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in no argument, no environment, no output, no answer and no log, however much is logged."""
    monkeypatch.setenv("SNAPRING_DEBUG", "1")
    with serving("llama", "--token-file", token_file) as server:
        answers = [curl(f"{server.url}{path}", *bearer(TOKEN)).body for path in ("v1/loads", "nothing", "metrics")]
        answers += [curl(f"{server.url}v1/loads", *bearer(f"{TOKEN}x")).body]
        process = Path(f"/proc/{server.child.pid}")
        seen = [(process / name).read_bytes().decode() for name in ("cmdline", "environ")]
        code, noted = server.end(signal.SIGTERM)

    assert code == 0
    assert "Shutting down" in noted  # logs are on
    assert [text for text in (*seen, *answers, noted) if TOKEN in text] == []


@pytest.mark.parametrize(
    ("content", "mode", "code", "message"),
    [
        (f"{TOKEN}\n", 0o644, 1, "chmod 600"),
        (f"{TOKEN}\nmore\n", 0o600, 2, "one line"),
        ("\n", 0o600, 2, "one line"),
    ],
)
def test_a_file_that_keeps_no_secret(content: str, mode: int, code: int, message: str, token_file: str) -> None:
    """A token file that others may read, or that holds no token, is refused, and its content not shown."""
    path = Path(token_file)
    path.write_text(content)
    path.chmod(mode)

    done = command("serve", "llama", "--bind", "127.0.0.1:0", "--token-file", token_file)

    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert TOKEN not in done.stderr


def test_a_token_given_as_its_file() -> None:
    """Who gives the token itself for its file does not find it in the error."""
    done = command("serve", "llama", "--token-file", TOKEN)

    assert (done.returncode, done.stdout) == (2, "")
    assert "token file" in done.stderr
    assert TOKEN not in done.stderr


def test_other_names_are_refused() -> None:
    """On the loopback interface only its own names are answered: a page under a name bound anew reads nothing."""
    with serving("llama") as server:
        port = server.url.rstrip("/").rpartition(":")[2]
        answers = {
            host: curl(f"{server.url}v1/loads", "--header", f"Host: {host}".rstrip()).status
            for host in ("evil.example", f"evil.example:{port}", "", "localhost", f"127.0.0.1:{port}", "[::1]")
        }
        health = curl(f"{server.url}healthz", "--header", "Host: evil.example")

    assert answers == {
        "evil.example": 421,
        f"evil.example:{port}": 421,
        "": 400,
        "localhost": 200,
        f"127.0.0.1:{port}": 200,
        "[::1]": 200,
    }
    assert (health.status, health.json["error"]["code"]) == (421, 421)


@pytest.mark.parametrize("bind", ["0.0.0.0:0", "[::]:0"])  # all interfaces
def test_open_to_others_only_with_a_token(bind: str, token_file: str) -> None:
    """Where others can connect it wants a token or --insecure; a token that anybody on the way can read gets a note."""
    refused = command("serve", "llama", "--bind", bind)
    with serving("llama", "--token-file", token_file, bind=("--bind", bind)) as server:
        port = server.url.rstrip("/").rpartition(":")[2]
        asked = [curl(f"http://127.0.0.1:{port}/v1/loads", *options).status for options in ((), bearer(TOKEN))]
        _, noted = server.end(signal.SIGTERM)
    with serving("llama", "--insecure", bind=("--bind", bind)) as server:
        port = server.url.rstrip("/").rpartition(":")[2]
        anybody = curl(f"http://127.0.0.1:{port}/v1/loads", "--header", "Host: gpu7.example").status

    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--token-file" in refused.stderr
    assert "--insecure" in refused.stderr
    assert (asked, anybody) == ([401, 200], 200)
    assert "the token goes over the network in the clear" in noted


def test_over_tls(certificate: tuple[str, str], token_file: str) -> None:
    """With a certificate it speaks https alone, and a client that checks the certificate is content."""
    cert, key = certificate
    options = ("--cert", cert, "--key", key, "--token-file", token_file)
    with Writer("llama", 0, 1) as writer, serving("llama", *options) as server:
        writer.publish(LoadSnapshot(num_running_reqs=3))

        trusting = curl(f"{server.url}v1/loads", "--cacert", cert, *bearer(TOKEN))
        doubting = curl(f"{server.url}v1/loads", *bearer(TOKEN))
        old = curl(f"{server.url}v1/loads", "--cacert", cert, "--tls-max", "1.1", *bearer(TOKEN))
        plain = curl(server.url.replace("https", "http") + "v1/loads", *bearer(TOKEN))
        code, noted = server.end(signal.SIGTERM)

    assert server.url.startswith("https://127.0.0.1:")
    assert trusting.json["loads"][0]["num_running_reqs"] == 3
    assert (doubting.status, old.status, plain.status) == (0, 0, 0)
    assert (code, noted) == (0, "")


def test_certificates_that_are_none(certificate: tuple[str, str], tmp_path: Path) -> None:
    """One without the other, files that are not there or no PEM, pairs that do not fit and locked keys are refused."""
    cert, key = certificate
    (tmp_path / "text").write_text("no PEM")
    other, locked = str(tmp_path / "other.pem"), str(tmp_path / "locked.pem")
    ec = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-out"]
    subprocess.run(["openssl", "genpkey", *ec, other], check=True, capture_output=True)
    subprocess.run(
        ["openssl", "pkey", "-in", key, "-aes256", "-passout", "pass:x", "-out", locked],
        check=True,
        capture_output=True,
    )

    cases = {
        ("--cert", cert): "--cert and --key belong together",
        ("--key", key): "--cert and --key belong together",
        ("--cert", str(tmp_path / "gone"), "--key", key): "cannot be read: No such file",
        ("--cert", cert, "--key", str(tmp_path)): "cannot be read: Is a directory",
        ("--cert", str(tmp_path / "text"), "--key", key): "no certificate and its key",
        ("--cert", cert, "--key", other): "no certificate and its key",
        ("--cert", cert, "--key", locked): "is encrypted",
    }
    found = {case: command("serve", "llama", "--bind", "127.0.0.1:0", *case) for case in cases}

    assert {
        case: (done.returncode, done.stdout, cases[case] in done.stderr) for case, done in found.items()
    } == dict.fromkeys(cases, (2, "", True))


def test_errors_are_json(token_file: str) -> None:
    """A path that is not there is an error of the same form as a refusal."""
    with serving("llama", "--token-file", token_file) as server:
        answer = curl(f"{server.url}nothing", *bearer(TOKEN))

    assert answer.status == 404
    assert json.loads(answer.body)["error"]["code"] == 404
