"""Draws the page over a running demo as a PNG: ``python benches/figures/page.py benches/figures/page.png``.

Needs the extras ``serve`` and ``test``, and Debian's ``chromium``, which it starts without a window.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

WIDTH, HEIGHT = 1060, 640
REQUESTS_PER_SECOND = "30"
SEED = "2"  # of arrivals that neither leave ranks idle nor fill them
WARM_UP_SECONDS = 15.0
SETTLE_SECONDS = 4.0
DEAD_RANK, STALE_RANK = 5, 2
SNAPRING = (sys.executable, "-P", "-m", "snapring")


@contextmanager
def running(env: dict[str, str], *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """A command of snapring in the background, until the block ends."""
    with subprocess.Popen([*SNAPRING, *arguments], env=env, stdout=subprocess.PIPE, text=True) as child:
        try:
            yield child
        finally:
            child.terminate()


def rank_process(demo: "subprocess.Popen[str]", rank: int) -> int:
    """The process of one of the demo's ranks."""
    children = Path(f"/proc/{demo.pid}/task/{demo.pid}/children").read_text().split()
    return next(int(pid) for pid in children if f'"rank":{rank},' in Path(f"/proc/{pid}/cmdline").read_text())


def capture(url: str, demo: "subprocess.Popen[str]", target: Path) -> None:
    """Writes what the page looks like some seconds after it was opened; one rank is killed then, one hangs."""
    chromium = shutil.which("chromium")
    if chromium is None:
        raise SystemExit("there is no chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        page.goto(url)
        expect(page.locator("body")).to_have_attribute("data-link", "live")
        time.sleep(WARM_UP_SECONDS)
        os.kill(rank_process(demo, STALE_RANK), signal.SIGSTOP)
        os.kill(rank_process(demo, DEAD_RANK), signal.SIGKILL)
        for rank, state in ((STALE_RANK, "STALE"), (DEAD_RANK, "DEAD")):
            expect(page.get_by_role("button", name=f"Rank {rank}")).to_contain_text(state)
        time.sleep(SETTLE_SECONDS)
        page.screenshot(path=target)
        browser.close()


def main(target: Path) -> None:
    """Writes the picture."""
    with tempfile.TemporaryDirectory(prefix="snapring-figure-", dir="/dev/shm") as folder:
        env = {**os.environ, "SNAPRING_DIR": folder}
        demo = running(env, "demo", "--headless", "--seconds", "5m", "--rate", REQUESTS_PER_SECOND, "--seed", SEED)
        with demo as ranks, running(env, "serve", "demo", "--bind", "127.0.0.1:0", "--json") as server:
            assert server.stdout is not None
            capture(json.loads(server.stdout.readline())["url"], ranks, target)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
