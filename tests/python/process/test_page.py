"""The page in a real browser: what ranks do is what it shows."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
import pytest
from fastapi import FastAPI
from playwright.sync_api import Browser, expect
from starlette.responses import PlainTextResponse

from asgi_server import unreadable
from browsing import Visit, chromium, visit
from conftest import Spawn
from served import served
from serving import serving
from snapring import LoadSnapshot, Reader, Writer, serve
from snapring.serve.asgi import App, Receive, Scope, Send
from support import eventually

FOREVER_S = 3600.0
HOSTILE = "<img src=x onerror=\"document.title='owned'\">"

CHILD = """
import time
import snapring
writer = snapring.Writer("live", rank=1, ranks=2)
while True:
    writer.publish(snapring.LoadSnapshot(num_running_reqs=7))
    time.sleep(0.1)
"""


class Noted(LoadSnapshot, frozen=True, gc=False):
    """A load with a text of its own."""

    note: Annotated[str, msgspec.Meta(max_length=64)] | None = None


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for all tests of this file."""
    with chromium() as browser:
        yield browser


@pytest.fixture
def writer(ring_dir: Path) -> Iterator[Writer[LoadSnapshot]]:
    """Rank 0 of two of ring ``live``, which has published."""
    with Writer("live", rank=0, ranks=2) as writer:
        writer.publish(LoadSnapshot(num_running_reqs=12, num_total_tokens=100))
        yield writer


@pytest.fixture
def here(browser: Browser, writer: Writer[LoadSnapshot]) -> Iterator[Visit]:
    """The page over that ring; nothing may go wrong in it."""
    with opened(browser) as here:
        yield here


@contextmanager
def opened(browser: Browser) -> Iterator[Visit]:
    """The page over ring ``live``, which need not exist; nothing may go wrong in it."""
    with (
        Reader("live", max_age=FOREVER_S, schema=None) as reader,
        served(serve.app(reader)) as site,
        visit(browser, f"http://127.0.0.1:{site.port}/") as here,
    ):
        yield here
        assert here.problems == []


def listen(here: Visit) -> None:
    """Opens another stream inside the page, and waits for its first event; `running` tells what it got."""
    here.page.evaluate(
        """() => {
            window.seen = [];
            const source = new EventSource("/v1/loads/stream");
            source.addEventListener("loads", (event) => seen.push(JSON.parse(event.data)));
        }"""
    )
    eventually(lambda: here.page.evaluate("seen.length"))


def running(here: Visit) -> list[int]:
    """Running requests in the events of that stream."""
    found: list[int] = here.page.evaluate("seen.flatMap((event) => event.loads.map((load) => load.num_running_reqs))")
    return found


def test_tiles_follow_the_ranks(here: Visit, writer: Writer[LoadSnapshot]) -> None:
    """A tile shows what its rank publishes, what is not reported as a dash, and a rank without a publish as NEVER."""
    here.shows(0, r"12\s*running.*\u2013\s*tokens/s")
    here.shows(1, "NEVER")

    writer.publish(LoadSnapshot(num_running_reqs=34, num_waiting_reqs=5, token_usage=0.62, gen_throughput=777.0))

    here.shows(0, r"LIVE.*34\s*running.*5\s*waiting.*62 %.*777\s*tokens/s")
    with Writer("live", rank=1, ranks=2) as second:
        second.publish(LoadSnapshot(num_running_reqs=56))
        here.shows(1, r"LIVE.*56\s*running")
        expect(here.page.get_by_role("region", name="Totals")).to_contain_text(re.compile(r"Running\s*90"))


def test_the_fullest_rank_stands_out(here: Visit, writer: Writer[LoadSnapshot]) -> None:
    """The imbalance is the most tokens over the mean of live ranks; who has them is marked, and can be first."""
    tiles = here.page.get_by_role("listitem")
    with Writer("live", rank=1, ranks=2) as second:
        writer.publish(LoadSnapshot(num_total_tokens=500, token_usage=0.5))
        second.publish(LoadSnapshot(num_total_tokens=500, token_usage=0.5))
        expect(here.page.get_by_role("figure")).to_contain_text("1.00")
        expect(tiles.get_by_text("hot", exact=True).filter(visible=True)).to_have_count(0)

        second.publish(LoadSnapshot(num_total_tokens=1500, token_usage=0.5))

        expect(here.page.get_by_role("figure")).to_contain_text("1.50")
        expect(here.tile(1).get_by_text("hot", exact=True)).to_be_visible()
        expect(here.tile(0).get_by_text("hot", exact=True)).to_be_hidden()
        here.page.get_by_label("Order").select_option("most tokens")
        expect(tiles.first).to_contain_text("Rank 1")


def test_a_killed_rank_turns_dead(here: Visit, spawn: Spawn) -> None:
    """SIGKILL of a writer is seen and announced, and its last numbers stay."""
    child = spawn(CHILD)
    here.shows(1, r"LIVE.*7\s*running")

    child.kill()
    killed = time.monotonic()
    here.shows(1, r"DEAD.*7\s*running")

    print(f"DEAD on the page {time.monotonic() - killed:.3f} s after SIGKILL")
    expect(here.page.locator("[aria-live=polite]")).to_have_text(re.compile("rank 1 is dead", re.IGNORECASE))
    here.shows(0, "LIVE")


def test_ages_move_and_states_do_not(here: Visit) -> None:
    """Between events the page counts a rank's age on, but concludes no state from it."""
    before = int(here.page.evaluate("performance.now()"))
    ages = here.tile(0).get_by_text(re.compile(r"[0-9] s ago"))
    first = ages.inner_text()

    expect(ages).not_to_have_text(first)

    assert here.page.evaluate("performance.now()") > before
    here.shows(0, "LIVE")


def test_a_page_that_nobody_sees_draws_nothing(here: Visit, writer: Writer[LoadSnapshot]) -> None:
    """In a hidden tab events are taken in and nothing is drawn; shown again, the tab is up to date."""
    here.shows(0, r"12\s*running")
    here.page.evaluate("() => Object.defineProperty(document, 'hidden', { configurable: true, value: true })")
    listen(here)

    writer.publish(LoadSnapshot(num_running_reqs=99))
    eventually(lambda: 99 in running(here))
    here.page.wait_for_timeout(600)

    assert re.search(r"12\s*running", here.tile(0).text_content() or "")
    here.page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    here.shows(0, r"99\s*running")


def test_an_event_source_gets_a_full_event_and_then_deltas(here: Visit, writer: Writer[LoadSnapshot]) -> None:
    """A browser reads the stream as it is: the first event is full, later ones have what changed."""
    listen(here)

    writer.publish(LoadSnapshot(num_running_reqs=77))
    eventually(lambda: 77 in running(here))

    seen = here.page.evaluate("seen")
    assert [event["full"] for event in seen] == [True] + [False] * (len(seen) - 1)
    assert len(seen) > 1


def test_curves_begin_with_the_past(browser: Browser, writer: Writer[LoadSnapshot]) -> None:
    """What was published before the page was opened is in its curves."""
    for count in (300, 200, 100):
        time.sleep(0.7)  # a curve has a point for each half second
        writer.publish(LoadSnapshot(num_total_tokens=count))

    with opened(browser) as here:
        curve = here.tile(0).locator("svg path").last

        expect(curve).to_have_attribute("d", re.compile(r"M.*(L.*){3}"))


def test_a_past_that_is_cut_off_is_no_error(browser: Browser, writer: Writer[LoadSnapshot]) -> None:
    """A server that ends amid the answer that holds the past leaves curves that begin now, and no error."""
    with opened(browser) as here:
        here.page.route("**/v1/loads/history*", lambda route: route.fulfill(body='{"ranks":['))
        with here.page.expect_response("**/v1/loads/history*"):
            here.page.reload()
        writer.publish(LoadSnapshot(num_running_reqs=88))
        here.shows(0, r"88\s*running")

        assert here.problems == []


def test_a_ring_that_comes_and_is_replaced(browser: Browser, ring_dir: Path) -> None:
    """Tiles come with the ring, and are then as many as the next ring has ranks, whether they published or not."""
    with opened(browser) as here:
        tiles = here.page.get_by_role("listitem")
        expect(here.page.get_by_text("Waiting for")).to_be_visible()
        with Writer("live", rank=0, ranks=4) as writer:
            writer.publish(LoadSnapshot())
            expect(tiles).to_have_count(4)
        with Writer("live", rank=1, ranks=2) as writer:
            eventually(lambda: writer.publish(LoadSnapshot(num_running_reqs=41)) and tiles.count() == 2)
            here.shows(0, "NEVER")
            here.shows(1, r"LIVE.*41\s*running")


def test_a_ring_that_cannot_be_read_says_why(browser: Browser, ring_dir: Path) -> None:
    """The reason of an event ``unreadable`` stands on the page."""
    with Writer("main", rank=0, ranks=1, job="one") as writer, served(serve.app(unreadable())) as site:
        writer.publish(LoadSnapshot())
        with visit(browser, f"http://127.0.0.1:{site.port}/") as here:
            expect(here.page.get_by_role("main").get_by_text(re.compile("cannot be read: .*one"))).to_be_visible()


def test_hostile_text_is_shown_as_text(browser: Browser, ring_dir: Path) -> None:
    """Fields that only a subclass has are shown, and markup in them stays text."""
    with Writer("live", rank=0, ranks=1, schema=Noted) as writer, opened(browser) as here:
        writer.publish(Noted(note=HOSTILE))

        here.tile(0).click()

        expect(here.page.get_by_role("dialog").get_by_role("row", name="note")).to_contain_text(HOSTILE)
        assert here.page.title() == "snapring"
        assert here.page.locator("img").count() == 0


def test_comes_back_after_a_restart(browser: Browser, writer: Writer[LoadSnapshot]) -> None:
    """The page says that its server is gone, finds the next one at the same address, and shows new values."""
    with serving("live") as first, visit(browser, first.url) as here:
        here.shows(0, r"12\s*running")
        first.child.kill()
        first.child.wait()
        expect(here.page.get_by_text("reconnecting", exact=True)).to_be_visible()
        writer.publish(LoadSnapshot(num_running_reqs=88))
        with serving("live", bind=("--bind", first.url.removeprefix("http://").rstrip("/"))):
            here.shows(0, r"88\s*running")
            expect(here.page.get_by_text("live", exact=True)).to_be_visible()

    assert [problem for problem in here.problems if "net::ERR" not in problem] == []


def test_an_answer_that_is_no_stream_is_asked_again(browser: Browser, writer: Writer[LoadSnapshot]) -> None:
    """A browser gives up where a stream is refused, as by a proxy; the page opens another."""
    refusals = threading.Semaphore(2)

    def refusing(app: App) -> App:
        async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
            refused = scope.get("path") == "/v1/loads/stream" and refusals.acquire(blocking=False)
            await (PlainTextResponse("no", 502) if refused else app)(scope, receive, send)

        return wrapped

    with (
        Reader("live") as reader,
        served(refusing(serve.app(reader))) as site,
        visit(browser, f"http://127.0.0.1:{site.port}/") as here,
    ):
        here.shows(0, r"12\s*running")

    assert not refusals.acquire(blocking=False)


@pytest.mark.parametrize("path", ["/deep/loads", "/deep/loads/"])
def test_works_below_a_path(browser: Browser, writer: Writer[LoadSnapshot], path: str) -> None:
    """Mounted in another application the page finds its data, asked for with the slash at the end or without."""
    with Reader("live") as reader:
        host = FastAPI()
        host.mount("/deep/loads", serve.app(reader))
        with served(host) as site, visit(browser, f"http://127.0.0.1:{site.port}{path}") as here:
            here.shows(0, r"12\s*running")

    assert here.problems == []


@pytest.mark.parametrize("ranks", [1, 64, 256])
def test_fits_any_number_of_ranks_and_any_screen(browser: Browser, ring_dir: Path, ranks: int) -> None:
    """Each rank has a tile that tells its state, and neither a wide nor a narrow screen scrolls sideways."""
    with ExitStack() as writers, opened(browser) as here:
        for rank in range(ranks):
            writers.enter_context(Writer("live", rank, ranks)).publish(LoadSnapshot(num_running_reqs=rank))

        expect(here.page.get_by_role("listitem").filter(has_text="LIVE")).to_have_count(ranks)

        for width in (1280, 360):
            here.page.set_viewport_size({"width": width, "height": 800})
            assert here.page.evaluate("document.documentElement.scrollWidth") <= width
