"""What every test may ask for: a ring directory of its own, children that always end, a seed that is printed."""

import os
import random
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import hypothesis
import pytest

from support import python

Spawn = Callable[..., "subprocess.Popen[str]"]

SEED = int(os.environ.get("SNAPRING_TEST_SEED") or secrets.randbits(32))
os.environ["SNAPRING_TEST_SEED"] = str(SEED)  # of the workers too, where pytest-xdist starts some

# No deadline: a slow machine is not a failure. The blob that a failure prints repeats it exactly.
hypothesis.settings.register_profile("snapring", deadline=None, print_blob=True)
hypothesis.settings.load_profile("snapring")


def pytest_configure() -> None:
    """Hears Ctrl-C and a hang-up, and so do the children: who starts tests in the background may have both ignored."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_report_header() -> str:
    """Names the seed, so that a randomised failure can be repeated."""
    return f"seed: {SEED} (repeat with SNAPRING_TEST_SEED={SEED})"


@pytest.fixture
def rng() -> random.Random:
    """A generator that starts from the printed seed in every test, whatever ran before."""
    return random.Random(SEED)


@pytest.fixture
def ring_dir(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A fresh directory on tmpfs, mode 0700, as SNAPRING_DIR of this process and its children; removed afterwards."""
    path = Path(tempfile.mkdtemp(prefix="snapring-test-", dir="/dev/shm"))
    monkeypatch.setenv("SNAPRING_DIR", str(path))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """``spawn(code, *arguments)`` starts a Python child with text pipes; its whole session is killed at the end."""
    children: list[subprocess.Popen[str]] = []

    def start(code: str, *arguments: str) -> "subprocess.Popen[str]":
        pipe = subprocess.PIPE
        child = subprocess.Popen(python(code, *arguments), stdin=pipe, stdout=pipe, text=True, start_new_session=True)
        children.append(child)
        return child

    yield start
    for child in children:
        end(child)


def end(child: "subprocess.Popen[str]") -> None:
    """Kills the child's whole session, stopped processes too, and closes its pipes."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        child.poll()  # it and all of its children have ended
    child.wait()
    for pipe in (child.stdin, child.stdout, child.stderr):
        if pipe is not None:
            pipe.close()


# A skipped test proves nothing, and nobody reads a log to learn that. Where CI is set, a skip is a failure.
CI = os.environ.get("CI", "").lower() not in {"", "0", "false"}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turns the skip of a test into a failure under CI; an expected failure stays one."""
    report = yield
    if CI and report.skipped and not hasattr(report, "wasxfail"):
        fail(report, item.nodeid)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turns the skip of a whole file into a failure under CI."""
    report = yield
    if CI and report.skipped:
        fail(report, collector.nodeid)
    return report


def fail(report: pytest.TestReport | pytest.CollectReport, name: str) -> None:
    """Changes the report to a failure that shows the reason of the skip."""
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
    report.outcome = "failed"
    report.longrepr = f"{name} was skipped, and under CI nothing may be: {reason}"
