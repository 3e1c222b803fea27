"""Load reports in the headers of real servers, before real rings: FastAPI and bare ASGI."""

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from asgi_server import Client, fastapi_app, hello, served, unreadable
from contract.model import Spawn, line
from snapring import InvalidValue, LoadSnapshot, Reader, Writer
from snapring.serve import OrcaMiddleware, OverloadMiddleware
from snapring.serve.asgi import App, Message, Receive, Scope, Send
from support import eventually

FULL = LoadSnapshot(token_usage=0.99)
ROOM = LoadSnapshot(token_usage=0.5, num_running_reqs=3)

# A rank that publishes what it is told, once, and then lives on.
RANK = """
import sys, time, snapring
writer = snapring.Writer("main", rank=0, ranks=1)
writer.start_heartbeat(0.02)
writer.publish(snapring.LoadSnapshot(token_usage=float(sys.argv[1])))
print("up", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("kind", ["bare", "fastapi"])
def test_a_report_for_who_asks(ring_dir: Path, kind: str) -> None:
    """Each format comes to those who ask for it, in any case; others, and unknown formats, change nothing."""
    with Writer("main", rank=0, ranks=1) as writer, Reader("main", max_age=1e6) as reader:
        writer.publish(ROOM)
        app = OrcaMiddleware(hello, reader) if kind == "bare" else fastapi_app(OrcaMiddleware, reader=reader)
        with served(app) as client:
            text, small, document, binary = (client.report(form) for form in ("TEXT", "text", "JSON", "BIN"))
            plain, unknown = client.ask(), client.report("XML")

    assert text.report == small.report
    assert (text.report or "").startswith("TEXT application_utilization=0.5,named_metrics.kv_cache_usage_perc=0.5,")
    assert json.loads((document.report or "").removeprefix("JSON "))["named_metrics"]["llm_requests_running"] == 3.0
    assert "endpoint-load-metrics-bin" in binary.headers
    assert binary.report is None
    for response in (text, document, binary, plain, unknown):
        assert response.status == 200
        assert b"hello" in response.body
    for response in (plain, unknown):
        assert not any("load-metrics" in name for name in response.headers)


def test_a_report_for_everybody(ring_dir: Path) -> None:
    """With ``always`` every response has one, in the format that the request prefers, unless it has its own."""
    with Writer("main", rank=0, ranks=1) as writer, Reader("main", max_age=1e6) as reader:
        writer.publish(ROOM)
        with served(OrcaMiddleware(hello, reader, always="text", formats=["JSON"])) as client:
            always, asked, not_offered, own = (
                client.ask(),
                client.report("JSON"),
                client.report("BIN"),
                client.ask("/own"),
            )

    assert (always.report or "").startswith("TEXT ")
    assert (asked.report or "").startswith("JSON ")
    assert (not_offered.report or "").startswith("TEXT ")
    assert own.report == "TEXT named_metrics.mine=1"


def test_a_report_is_used_again_for_a_moment(ring_dir: Path) -> None:
    """Responses within ``keep`` share one encoded report; after it they have the load of now."""
    with Writer("main", rank=0, ranks=1) as writer, Reader("main", max_age=1e6) as reader:
        writer.publish(ROOM)
        with served(OrcaMiddleware(hello, reader, keep=3600)) as kept, served(OrcaMiddleware(hello, reader)) as fresh:
            before = kept.report("TEXT").report
            writer.publish(LoadSnapshot(token_usage=0.75))
            after = kept.report("TEXT").report

            eventually(lambda: "application_utilization=0.75," in (fresh.report("TEXT").report or ""))
            assert before == after
            assert "application_utilization=0.5," in (before or "")


def rates(report: str | None) -> dict[str, float]:
    """The rates in a TEXT report."""
    entries = (entry.partition("=") for entry in (report or "").removeprefix("TEXT ").split(","))
    return {name: float(value) for name, _, value in entries if name in {"rps_fractional", "eps"}}


def test_rates(ring_dir: Path) -> None:
    """Requests per second are counted over a second, and errors, where every response shows."""

    def asked(client: Client) -> dict[str, float]:
        client.ask("/broken")
        return rates(client.report("TEXT").report)

    def both(client: Client) -> bool:
        found = asked(client)
        return 0 < found.get("eps", 0) < found.get("rps_fractional", 0)

    with Writer("main", rank=0, ranks=1) as writer, Reader("main", max_age=1e6) as reader:
        writer.publish(ROOM)
        with served(OrcaMiddleware(hello, reader, always="TEXT")) as client:
            eventually(lambda: both(client))
        with served(OrcaMiddleware(hello, reader)) as client:
            assert eventually(lambda: asked(client)).keys() == {"rps_fractional"}
        with served(OrcaMiddleware(hello, reader, rates=False)) as client:
            assert asked(client) == {}


def test_streams_pass_unbuffered(ring_dir: Path) -> None:
    """Each piece reaches the client before the next is made, through both middlewares."""
    go = asyncio.Event()

    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/stream":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for piece in (b"one", b"two"):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                await go.wait()
            await send({"type": "http.response.body", "body": b"end"})
            return
        go.set()
        await hello(scope, receive, send)

    with Writer("main", rank=0, ranks=1) as writer, Reader("main", max_age=1e6) as reader:
        writer.publish(ROOM)
        app = OverloadMiddleware(OrcaMiddleware(stream, reader, always="TEXT"), reader)
        with served(app) as client:
            go.clear()  # the lifespan passed through
            with client.open("/stream", "POST") as response:
                first = response.read(3)
                client.ask("/go")
                rest = response.read()

    assert (first, rest) == (b"one", b"twoend")
    assert (response.getheader("endpoint-load-metrics") or "").startswith("TEXT ")


def test_nothing_but_the_first_message_is_touched(ring_dir: Path) -> None:
    """Bodies and trailers come out as the very objects that went in, and so does everything where nobody asks."""
    messages: list[Message] = [
        {"type": "http.response.start", "status": 200, "headers": [], "trailers": True},
        {"type": "http.response.body", "body": b"x", "more_body": False},
        {"type": "http.response.trailers", "headers": [(b"a", b"b")], "more_trailers": False},
    ]
    got: list[Message] = []

    async def with_trailers(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    async def receive() -> Message:
        raise AssertionError

    async def keep(message: Message) -> None:
        got.append(message)

    with Writer("main", rank=0, ranks=1) as writer, Reader("main", max_age=1e6) as reader:
        writer.publish(ROOM)
        app = OrcaMiddleware(with_trailers, reader)
        for headers in ([], [(b"endpoint-load-metrics-format", b"TEXT")]):
            asyncio.run(app({"type": "http", "path": "/", "method": "GET", "headers": headers}, receive, keep))

    assert all(before is after for before, after in zip(messages, got[:3], strict=True))
    assert all(before is after for before, after in zip(messages[1:], got[4:], strict=True))
    assert {**got[3], "headers": []} == messages[0]
    assert [name for name, _ in got[3]["headers"]] == [b"endpoint-load-metrics"]


def test_a_dead_rank_is_not_reported(ring_dir: Path, spawn: Spawn) -> None:
    """When the last rank is killed, its load disappears from responses, and it no longer makes the server full."""
    rank = spawn(RANK, "0.99")
    assert line(rank) == "up"
    with Reader("main", max_age=1e6) as reader:
        app = OverloadMiddleware(OrcaMiddleware(hello, reader, always="TEXT"), reader)
        refusing = OverloadMiddleware(hello, reader, when_unknown="refuse")
        with served(app) as client, served(refusing) as strict:
            eventually(lambda: client.ask(method="POST").status == 503)
            assert client.ask().report is not None

            rank.kill()

            eventually(lambda: client.ask(method="POST").status == 200)
            eventually(lambda: client.ask().report is None)
            assert strict.ask(method="POST").status == 503
            assert b"no rank is live" in strict.ask(method="POST").body


def test_an_unreadable_ring_breaks_no_response(ring_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Responses go out without a report, requests as ``when_unknown`` says, and the log has it once each."""
    with Writer("main", rank=0, ranks=1, job="one") as writer, caplog.at_level(logging.WARNING, "snapring"):
        writer.publish(FULL)
        app = OverloadMiddleware(OrcaMiddleware(hello, unreadable(), always="TEXT", keep=0), unreadable(), keep=0)
        refusing = OverloadMiddleware(hello, unreadable(), when_unknown="refuse", keep=0)
        with served(app) as client, served(refusing) as strict:
            answers = [client.ask(method="POST") for _ in range(5)]
            refusals = [strict.ask(method="POST") for _ in range(5)]

    assert [(response.status, response.report) for response in answers] == [(200, None)] * 5
    assert [response.status for response in refusals] == [503] * 5
    noted = [record.getMessage() for record in caplog.records if record.name.startswith("snapring")]
    assert len(noted) == 3
    assert sum("without a load report" in text for text in noted) == 1
    assert all("LayoutMismatch" in text for text in noted)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda reader: OrcaMiddleware(hello, reader, always="xml"), "TEXT, JSON, BIN"),
        (lambda reader: OrcaMiddleware(hello, reader, formats=["xml"]), "TEXT, JSON, BIN"),
        (lambda reader: OrcaMiddleware(hello, reader, keep=-1), "keep"),
        (lambda reader: OverloadMiddleware(hello, reader, limit=2), "limit"),
        (lambda reader: OverloadMiddleware(hello, reader, when_unknown="maybe"), "pass, refuse"),
        (lambda reader: OverloadMiddleware(hello, reader, paths="/a"), "list of paths"),
        (lambda reader: OverloadMiddleware(hello, reader, paths=[], predicate=bool), "one of them"),
    ],
)
def test_options_are_checked(ring_dir: Path, make: "Callable[[Reader[LoadSnapshot]], App]", message: str) -> None:
    """A wrong option is refused when the server is built, and the message says what is right."""
    with pytest.raises(InvalidValue, match=message):
        make(Reader("main"))
