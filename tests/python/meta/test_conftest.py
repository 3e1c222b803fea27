"""The rules that the other tests are run by."""

import os
import random
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from support import eventually

HERE = Path(__file__).parent.parent

SKIPS = """
import pytest

@pytest.mark.skip(reason="by mark")
def test_mark():
    pass

def test_call():
    pytest.skip("by call")

@pytest.mark.xfail(reason="known", strict=True)
def test_known():
    assert False
"""

SKIPS_ALL = """
import pytest

pytest.importorskip("no_such_module_here")
"""


def pytest_in(folder: Path, *arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    """Runs pytest on a folder that has our conftest and nothing else of ours."""
    for name in ("conftest.py", "support.py"):
        (folder / name).write_text((HERE / name).read_text())
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-rA",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        ".",
        "-c",
        "/dev/null",
        *arguments,
        ".",
    ]
    ours = ("CI", "SNAPRING_TEST_SEED")
    clean = {name: value for name, value in os.environ.items() if name not in ours and not name.startswith("PYTEST_")}
    return subprocess.run(
        command, cwd=folder, env={**clean, **env}, capture_output=True, text=True, timeout=120, check=False
    )


def test_skips_fail_under_ci(tmp_path: Path) -> None:
    """With CI set a skip is a failure that shows its reason, and an expected failure stays one."""
    (tmp_path / "test_it.py").write_text(SKIPS)

    done = pytest_in(tmp_path, CI="true")

    assert "1 failed, 1 xfailed, 1 error" in done.stdout, done.stdout
    assert "nothing may be: Skipped: by call" in done.stdout
    assert "by mark" in done.stdout


def test_skipped_files_fail_under_ci(tmp_path: Path) -> None:
    """With CI set a file that skips itself as a whole is an error that shows its reason."""
    (tmp_path / "test_it.py").write_text(SKIPS_ALL)

    done = pytest_in(tmp_path, CI="true")

    assert done.returncode == pytest.ExitCode.INTERRUPTED, done.stdout
    assert "no_such_module_here" in done.stdout


def test_skips_are_skips_elsewhere(tmp_path: Path) -> None:
    """Without CI a skip is a skip, on a developer's machine that lacks something."""
    (tmp_path / "test_it.py").write_text(SKIPS)

    done = pytest_in(tmp_path)

    assert "2 skipped, 1 xfailed" in done.stdout, done.stdout


def test_seed_is_printed(tmp_path: Path) -> None:
    """Every run names its seed, and the seed can be given."""
    (tmp_path / "test_it.py").write_text(
        "def test_it(rng): assert rng.random() == __import__('random').Random(7).random()"
    )

    done = pytest_in(tmp_path, SNAPRING_TEST_SEED="7")

    assert "seed: 7" in done.stdout
    assert "1 passed" in done.stdout, done.stdout


def test_workers_share_the_seed(tmp_path: Path) -> None:
    """Whichever process runs a test, it starts from the one seed that was printed."""
    (tmp_path / "test_it.py").write_text(
        "import os, pytest\n"
        "@pytest.mark.parametrize('number', range(6))\n"
        "def test_it(rng, number):\n"
        "    open(f'{number}.drawn', 'w').write(f'{os.getpid()} {rng.random()}')\n"
    )

    done = pytest_in(tmp_path, "-n", "2")

    (seed,) = re.findall(r"^seed: (\d+) ", done.stdout, re.MULTILINE)
    drawn = [path.read_text().split() for path in tmp_path.glob("*.drawn")]
    assert len(drawn) == 6, done.stdout
    assert len({pid for pid, _ in drawn}) == 2, "two workers"
    assert {number for _, number in drawn} == {str(random.Random(int(seed)).random())}


def test_ring_dir_is_private(ring_dir: Path) -> None:
    """A test's ring directory is its own, on tmpfs, readable by nobody else, and the one that snapring will use."""
    assert stat.S_IMODE(ring_dir.stat().st_mode) == 0o700
    assert ring_dir.parent == Path("/dev/shm")
    assert os.environ["SNAPRING_DIR"] == str(ring_dir)


def test_children_end(tmp_path: Path) -> None:
    """A spawned child and its own child end with the test, even stopped ones."""
    (tmp_path / "test_it.py").write_text(
        "import os, signal\n"
        "def test_it(spawn):\n"
        "    code = 'import os, time; os.write(1, b\"%d\\\\n\" % (os.fork() or os.getpid())); time.sleep(60)'\n"
        "    child = spawn(code)\n"
        "    pids = [child.stdout.readline() for _ in range(2)]\n"
        "    os.kill(child.pid, signal.SIGSTOP)\n"
        "    open('pids', 'w').writelines(pids)\n"
    )

    done = pytest_in(tmp_path)

    assert "1 passed" in done.stdout, done.stdout
    for pid in map(int, (tmp_path / "pids").read_text().split()):
        eventually(lambda pid=pid: not alive(pid))


def alive(pid: int) -> bool:
    """Whether the process runs; one that ended and that nobody waited for does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_eventually_gives_up() -> None:
    """A predicate that stays false ends in a failure that shows its last value."""
    with pytest.raises(AssertionError, match="last value: 0"):
        eventually(lambda: 0, deadline=0.01)
