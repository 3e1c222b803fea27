"""Whom the page lets in, and whom it leaves out: keyboards and screen readers in, scripts of others out."""

import base64
import hashlib
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Error, expect

from browsing import Visit, chromium, visit
from served import Site, served
from snapring import LoadSnapshot, Reader, Writer, serve

FOREVER_S = 3600.0
RANKS = 3

# Roles of what a person can act on; each needs a name, or a screen reader can only say "button".
INTERACTIVE = {"button", "combobox", "dialog", "link", "listbox", "menuitem", "option", "textbox"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for all tests of this file."""
    with chromium() as browser:
        yield browser


@pytest.fixture
def writers(ring_dir: Path) -> Iterator[list[Writer[LoadSnapshot]]]:
    """The ranks of ring ``live``; each has published its number."""
    with ExitStack() as stack:
        writers = [stack.enter_context(Writer("live", rank, RANKS)) for rank in range(RANKS)]
        for rank, writer in enumerate(writers):
            writer.publish(LoadSnapshot(num_running_reqs=rank, token_usage=0.5))
        yield writers


@pytest.fixture
def site(writers: list[Writer[LoadSnapshot]]) -> Iterator[Site]:
    """Its server."""
    with Reader("live", max_age=FOREVER_S) as reader, served(serve.app(reader)) as site:
        yield site


@pytest.fixture
def here(browser: Browser, site: Site) -> Iterator[Visit]:
    """The page, with a tile for each rank."""
    with visit(browser, url(site), color_scheme="light") as here:
        here.shows(RANKS - 1, "LIVE")
        yield here


def url(site: Site) -> str:
    """Where the page is."""
    return f"http://127.0.0.1:{site.port}/"


def unnamed(here: Visit) -> list[Any]:
    """Nodes of the accessibility tree that can be acted on, or reached by keyboard, and have no name."""
    tree = here.page.context.new_cdp_session(here.page).send("Accessibility.getFullAXTree")
    nodes = [
        (node["role"]["value"], node.get("name", {}).get("value"), {item["name"] for item in node["properties"]})
        for node in tree["nodes"]
        if not node["ignored"]
    ]
    assert {"button", "combobox"} & {role for role, _, _ in nodes}
    return [node for node in nodes if not node[1] and (node[0] in INTERACTIVE or "focusable" in node[2])]


def test_the_keyboard_does_everything(here: Visit) -> None:
    """Tab reaches the tiles, which are one stop; arrows go on from there, Enter opens all fields, Escape goes back."""
    page = here.page
    focused = page.locator(":focus")
    for _ in range(20):
        page.keyboard.press("Tab")
        if re.search("Rank 0", focused.inner_text()):
            break
    page.keyboard.press("ArrowRight")
    page.keyboard.press("End")
    page.keyboard.press("ArrowLeft")

    page.keyboard.press("Enter")

    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    expect(dialog.get_by_role("heading")).to_have_text("Rank 1")
    expect(dialog.get_by_role("row", name="num_running_reqs")).to_contain_text("1")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(focused).to_contain_text("Rank 1")
    assert here.problems == []


def test_focus_is_visible(here: Visit) -> None:
    """What has the keyboard has an outline."""
    here.page.keyboard.press("Tab")

    outline = here.page.evaluate(
        "(({ outlineStyle, outlineWidth }) => [outlineStyle, outlineWidth])(getComputedStyle(document.activeElement))"
    )

    assert outline[0] != "none"
    assert outline[1] != "0px"


def test_fields_follow_while_they_are_open(here: Visit, writers: list[Writer[LoadSnapshot]]) -> None:
    """The details of a rank are live, nested ones included."""
    here.tile(1).get_by_role("button").click()
    row = here.page.get_by_role("dialog").get_by_role("row", name="num_running_reqs")
    expect(row).to_contain_text("1")

    writers[1].publish(LoadSnapshot(num_running_reqs=1234))

    expect(row).to_contain_text(re.compile("1,?234"))


def test_whatever_acts_has_a_name(here: Visit) -> None:
    """Buttons, choices, tiles and dialogs have names for screen readers, and the page its landmarks."""
    outside = unnamed(here)
    here.tile(0).get_by_role("button").click()
    expect(here.page.get_by_role("dialog")).to_be_visible()

    inside = unnamed(here)

    assert (outside, inside) == ([], [])
    here.page.keyboard.press("Escape")
    for landmark in ("banner", "main"):
        expect(here.page.locator({"banner": "body > header", "main": "body > main"}[landmark])).to_have_count(1)
    assert here.page.locator("html").get_attribute("lang") == "en"


def test_numbers_are_not_announced(here: Visit, writers: list[Writer[LoadSnapshot]]) -> None:
    """The live region says who died, and nothing of loads, which change without end."""
    spoken = here.page.locator("[aria-live=polite]")
    for count in range(50, 54):
        writers[0].publish(LoadSnapshot(num_running_reqs=count))
        here.shows(0, rf"{count}\s*running")
    before = spoken.inner_text()

    writers[2].close()

    expect(spoken).to_have_text("Rank 2 is dead.")
    assert before == ""


def test_dark_and_light(browser: Browser, site: Site, here: Visit) -> None:
    """The page follows the system's scheme; the choice of its button overrules that, and is kept."""
    ground = "getComputedStyle(document.body).backgroundColor"
    light = here.page.evaluate(ground)
    here.page.emulate_media(color_scheme="dark")
    dark = here.page.evaluate(ground)
    toggle = here.page.get_by_role("button", name="Theme")
    toggle.click()
    expect(toggle).to_contain_text("light")
    chosen = here.page.evaluate(ground)

    here.page.reload()

    expect(toggle).to_contain_text("light")
    assert (chosen, here.page.evaluate(ground)) == (light, light)
    assert dark != light


def test_less_motion_where_asked_for(browser: Browser, site: Site) -> None:
    """Nothing glides or blinks for who does not want that."""
    moving = """[...document.querySelectorAll("*")].filter((element) => {
        const { transitionDuration, animationName } = getComputedStyle(element);
        return transitionDuration !== "0s" || animationName !== "none";
    }).length"""
    with visit(browser, url(site), reduced_motion="no-preference") as here:
        here.shows(0, "LIVE")
        usual = here.page.evaluate(moving)
    with visit(browser, url(site), reduced_motion="reduce") as here:
        here.shows(0, "LIVE")
        assert here.page.evaluate(moving) == 0

    assert usual > 0


def test_the_policy_admits_the_page_alone(site: Site) -> None:
    """The headers let the page's own script and style run, let it ask its own server, and nothing else."""
    reply = site.get("/")

    policy = dict(rule.split(" ", 1) for rule in reply.headers["content-security-policy"].split("; "))
    for kind in ("script", "style"):
        (text,) = re.findall(rb"<%b>(.*?)</%b>" % (kind.encode(), kind.encode()), reply.body, re.DOTALL)
        hashed = base64.b64encode(hashlib.sha256(text).digest()).decode()
        assert policy.pop(f"{kind}-src") == f"'sha256-{hashed}'"
    assert policy == {
        "default-src": "'none'",
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["referrer-policy"] == "no-referrer"


def test_text_cannot_become_markup(here: Visit) -> None:
    """Even a mistake in the page's own script could not make markup of what a ring holds."""
    with pytest.raises(Error, match="TrustedHTML"):
        here.page.evaluate("() => { document.querySelector('h1').innerHTML = '<b>'; }")


def test_it_is_sent_once(site: Site) -> None:
    """A browser that has the page gets 304, by its tag; HEAD gets the headers alone."""
    first = site.get("/")
    again = site.get("/", if_none_match=first.headers["etag"])
    other = site.get("/", if_none_match='"other"')
    head = site.get("/", method="HEAD")

    assert (again.status, again.body, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert (other.status, other.body) == (200, first.body)
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(first.body)))
    assert head.headers["content-security-policy"] == first.headers["content-security-policy"]
    assert site.get("/", method="POST").status == 405
