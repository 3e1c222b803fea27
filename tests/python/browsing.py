"""A headless Chromium before a real server, and what its page did wrong: ``from browsing import chromium, visit``."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

__all__ = ["Visit", "chromium", "visit"]

DEADLINE_MS = 60_000
"""Ends a hang."""


class Visit(NamedTuple):
    """A page that is open; `problems` are errors and warnings of its console, `requests` all URLs that it asked for."""

    page: Page
    problems: list[str]
    requests: list[str]

    def tile(self, rank: int) -> Locator:
        """The tile of a rank, while they are in the order of ranks."""
        return self.page.get_by_role("list", name="Ranks").get_by_role("listitem").nth(rank)

    def shows(self, rank: int, pattern: str) -> None:
        """Waits until the text of a rank's tile has the pattern."""
        expect(self.tile(rank)).to_contain_text(re.compile(pattern))


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser of the distribution; skips where there is none."""
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("no chromium to show the page; apt-get install chromium")
    expect.set_options(timeout=DEADLINE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def visit(browser: Browser, url: str, **options: Any) -> Iterator[Visit]:  # noqa: ANN401  any option of a context
    """The page at ``url`` in a profile of its own; at the block's end nothing may have been asked of another origin."""
    context = browser.new_context(**options)
    context.set_default_timeout(DEADLINE_MS)
    page = context.new_page()
    here = Visit(page, [], [])
    page.on("console", lambda said: here.problems.append(said.text) if said.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: here.problems.append(str(error)))
    page.on("request", lambda request: here.requests.append(request.url))
    try:
        page.goto(url)
        yield here
        origin = page.evaluate("location.origin")
        assert [asked for asked in here.requests if not asked.startswith((f"{origin}/", "data:"))] == []
    finally:
        context.close()
