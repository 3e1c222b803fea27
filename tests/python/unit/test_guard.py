import asyncio
import base64
import json
from collections.abc import Iterable
from typing import NamedTuple

import pytest

from snapring.errors import InvalidValue
from snapring.serve.asgi import Message, Receive, Scope, Send
from snapring.serve.guard import Guard

TOKEN = "s3cret-Üml"
Headers = Iterable[tuple[bytes, bytes]]
HERE = (b"host", b"localhost:9400")


class Answer(NamedTuple):
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers everything with 200."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"the loads"})


def ask(guard: Guard, headers: Headers, path: str = "/v1/loads", **scope: str) -> Answer:
    """What a request gets."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    whole = {"type": "http", "method": "GET", "path": path, "headers": list(headers), **scope}
    asyncio.run(guard(whole, receive, send))
    return Answer(sent[0]["status"], sent[0]["headers"], sent[1]["body"])


def basic(credentials: str) -> bytes:
    """The header of HTTP Basic."""
    return b"Basic " + base64.b64encode(credentials.encode())


@pytest.mark.parametrize(
    "header",
    [
        b"Bearer " + TOKEN.encode(),
        b"bearer   " + TOKEN.encode() + b" ",
        basic(f":{TOKEN}"),
        basic(f"anybody:{TOKEN}"),
        basic(f"anybody:{TOKEN}").replace(b"Basic", b"bAsIc"),
    ],
)
def test_the_token_opens(header: bytes) -> None:
    """The token lets a request through as a bearer token or as the password of any user."""
    answer = ask(Guard(app, token=TOKEN, hosts=None), [(b"authorization", header)])

    assert (answer.status, answer.body) == (200, b"the loads")


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [b""],
        [b"Bearer"],
        [b"Bearer "],
        [b"Bearer wrong"],
        [b"Bearer " + TOKEN.encode()[:-1]],
        [b"Bearer " + TOKEN.encode("latin-1")],
        [b"Bearer \xff\xfe\x00"],
        [b"\xff\xfe " + TOKEN.encode()],
        [TOKEN.encode()],
        [b"Digest " + TOKEN.encode()],
        [b"Basic " + TOKEN.encode()],
        [b"Basic !!!"],
        [b"Basic \xff"],
        [basic(TOKEN)],
        [basic(f"{TOKEN}:")],
        [basic(f"user:{TOKEN}x")],
        [b"Bearer " + TOKEN.encode(), b"Bearer " + TOKEN.encode()],
    ],
)
def test_nothing_else_opens(headers: list[bytes]) -> None:
    """Any other header, however odd, and two of them get 401, a message, and nothing of what is behind."""
    answer = ask(Guard(app, token=TOKEN, hosts=None), [(b"authorization", header) for header in headers])

    assert answer.status == 401
    error = json.loads(answer.body)["error"]
    assert (error["code"], error["valid"]) == (401, [])
    assert TOKEN not in error["message"]


def test_a_refusal_says_how_to_ask() -> None:
    """401 names both ways in, Basic first so that a browser asks its user, and is kept by no cache."""
    answer = ask(Guard(app, token=TOKEN, hosts=None), [])

    challenges = [value for name, value in answer.headers if name == b"www-authenticate"]
    assert challenges == [b'Basic realm="snapring", charset="UTF-8"', b'Bearer realm="snapring"']
    assert (b"content-type", b"application/json") in answer.headers
    assert (b"content-length", str(len(answer.body)).encode()) in answer.headers
    assert (b"cache-control", b"no-store") in answer.headers


@pytest.mark.parametrize(
    ("path", "root", "status"),
    [
        ("/healthz", "", 200),
        ("/readyz", "", 200),
        ("/ring/healthz", "/ring", 200),
        ("/healthz/", "", 401),
        ("/healthz/../v1/loads", "", 401),
        ("//healthz", "", 401),
        ("/v1/healthz", "", 401),
        ("/metrics", "", 401),
        ("/", "", 401),
    ],
)
def test_health_needs_no_token(path: str, root: str, status: int) -> None:
    """The two health routes, by exactly their paths, answer without the token, and no other does."""
    answer = ask(Guard(app, token=TOKEN, hosts=None), [], path, root_path=root)

    assert answer.status == status


@pytest.mark.parametrize(
    "host",
    [b"localhost", b"LocalHost:9400", b"127.0.0.1", b"127.0.0.1:1", b"[::1]:9400", b"[::1]", b"127.0.0.7:80", b"box:"],
)
def test_names_of_this_host(host: bytes) -> None:
    """The loopback interface's names and those that were bound are answered, with any port and in any case."""
    guard = Guard(app, token=None, hosts=frozenset({"127.0.0.7", "box"}))

    assert ask(guard, [(b"host", host)]).status == 200


@pytest.mark.parametrize(
    ("hosts", "status"),
    [
        ([b"evil.example"], 421),
        ([b"evil.example:9400"], 421),
        ([b"localhost.evil.example"], 421),
        ([b"localhost:9400.evil.example"], 421),
        ([b"localhost@evil.example"], 421),
        ([b"evil.example#localhost"], 421),
        ([b"127.0.0.2"], 421),
        ([b"[::1"], 421),
        ([b"[::1]evil"], 421),
        ([b"::1"], 421),
        ([b""], 421),
        ([b"\xff\xfe"], 421),
        ([b"localhost:\xb2"], 421),
        ([], 400),
        ([b"localhost", b"localhost"], 400),
        ([b"localhost", b"evil.example"], 400),
    ],
)
@pytest.mark.parametrize("path", ["/v1/loads", "/healthz"])
def test_any_other_host_is_refused(hosts: list[bytes], status: int, path: str) -> None:
    """A page whose name was bound anew to this host gets nothing on any route, nor who sends no Host or several."""
    answer = ask(Guard(app, token=None, hosts=frozenset()), [(b"host", host) for host in hosts], path)

    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (status, status)
    assert b"the loads" not in answer.body


def test_the_host_is_looked_at_first() -> None:
    """A wrong Host is told as such even with the token, so that nobody is asked for it under another name."""
    guard = Guard(app, token=TOKEN, hosts=frozenset())
    known = (b"authorization", b"Bearer " + TOKEN.encode())

    statuses = [ask(guard, headers).status for headers in ([known, (b"host", b"evil")], [HERE], [known, HERE])]

    assert statuses == [421, 401, 200]


def test_without_a_list_any_host_will_do() -> None:
    """Where other hosts may connect, the server has names that it does not know."""
    guard = Guard(app, token=None, hosts=None)

    assert [ask(guard, headers).status for headers in ([(b"host", b"gpu7.example")], [])] == [200, 200]


@pytest.mark.parametrize("token", ["", " "])
def test_an_empty_token_is_none(token: str) -> None:
    """A token that anybody knows is refused before it could let anybody in."""
    with pytest.raises(InvalidValue, match="empty token"):
        Guard(app, token=token, hosts=None)


def test_lifespan_passes_and_websockets_do_not() -> None:
    """The application hears of start and end; a websocket is closed before it opens."""
    seen: list[str] = []
    sent: list[Message] = []

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    guard = Guard(inner, token=TOKEN, hosts=frozenset())

    for kind in ("lifespan", "websocket"):
        asyncio.run(guard({"type": kind, "path": "/healthz", "headers": [HERE]}, receive, send))

    assert seen == ["lifespan"]
    assert [message["type"] for message in sent] == ["websocket.close"]
