import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

import snapring
from conftest import Spawn
from pseudo_terminal import COMMAND, PseudoTerminal
from support import eventually, stop

DEMO = "import sys; from snapring.cli import main; sys.exit(main(['demo', *sys.argv[1:]]))"

TRACE = """TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-10 00:00:00.00,400,3
2024-05-10 00:00:00.10,300,5
2024-05-10 00:00:10.00,200,2
"""


def demo(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """``snapring demo`` without a terminal."""
    command = [*COMMAND, "demo", *arguments]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=240, check=False)


def children(pid: int) -> list[int]:
    """Process ids of the children of ``pid``."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def state(pid: int) -> str:
    """The letter for what a process is doing; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def is_running(pid: int) -> bool:
    """Whether a process is there; one that has ended but was not waited for by its new parent is not."""
    return state(pid) not in {"", "Z", "X"}


def started(spawn: Spawn, *arguments: str) -> tuple["subprocess.Popen[str]", list[int]]:
    """A demo of two ranks that has begun, and the processes of its ranks."""
    child = spawn(DEMO, "--headless", "--ranks", "2", "--json", *arguments)
    with snapring.Reader("demo") as reader:
        eventually(lambda: len(reader.view().ok) == 2 and reader.view().ok.all())
    return child, children(child.pid)


def test_headless_says_what_was_done(ring_dir: Path) -> None:
    """The summary adds up, repeats its seed, and nothing is left behind."""
    done = demo("--ranks", "2", "--rate", "20", "--seconds", "3", "--seed", "7", "--json")

    report = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert (report["seed"], report["rate"], report["trace"]) == (7, 20.0, None)
    assert report["requests_done"] == sum(rank["requests"] for rank in report["ranks"])
    assert report["publishes"] == sum(rank["publishes"] for rank in report["ranks"])
    assert all(rank["publishes"] > 0 for rank in report["ranks"])
    assert [(rank["rank"], rank["starts"]) for rank in report["ranks"]] == [(0, 1), (1, 1)]
    assert list(ring_dir.iterdir()) == []


def test_a_trace_is_served_to_its_end(ring_dir: Path, tmp_path: Path) -> None:
    """A replayed trace ends by itself, every request answered, its arrivals as many times as fast as asked."""
    trace = tmp_path / "trace.csv"
    trace.write_text(TRACE)

    done = demo("--ranks", "2", "--trace", str(trace), "--speed", "10", "--json")

    report = json.loads(done.stdout)
    assert (report["requests_done"], report["requests_unfinished"], report["first_token"]["count"]) == (3, 0, 3)
    assert 0 < report["first_token"]["mean_s"] <= report["first_token"]["p99_s"]
    assert sum(rank["prompt_tokens"] for rank in report["ranks"]) == 900
    assert sum(rank["answer_tokens"] for rank in report["ranks"]) == 10
    assert report["reads"] > 0
    assert report["seconds"] >= 1.0
    assert (report["trace"], report["seed"], report["speed"]) == (str(trace), None, 10.0)


def test_text_summary(ring_dir: Path) -> None:
    """Without --json the summary is text with a line per rank."""
    done = demo("--ranks", "2", "--seconds", "1")

    assert re.search(r"requests: \d+ done, 0 sent again, 0 refused", done.stdout)
    assert [line.split()[0] for line in done.stdout.splitlines()[-2:]] == ["0", "1"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--trace", "bad.csv"], 1, ["bad.csv, row 3, column ContextTokens", "'x'"]),
        (["--trace", "no-such-file.csv"], 1, ["no-such-file.csv"]),
        (["--trace", "bad.csv", "--rate", "3"], 2, ["not allowed with"]),
        (["--ranks", "0"], 2, ["1 to 256"]),
        (["--speed", "-1"], 2, ["above 0"]),
        (["--name", "a b"], 2, ["a b", "is no ring name"]),
    ],
)
def test_bad_input(
    ring_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    words: list[str],
) -> None:
    """Bad input ends in one line and an exit code; an unreadable row is named by file, row and column."""
    monkeypatch.chdir(tmp_path)
    Path("bad.csv").write_text(TRACE.replace("300", "x"))

    done = demo(*arguments)

    assert done.returncode == code
    assert [word for word in words if word not in done.stderr] == []
    assert "Traceback" not in done.stderr


def test_a_ring_in_use_is_left_alone(ring_dir: Path) -> None:
    """A demo refuses the name of a ring that somebody writes to, says so, and writes nothing into it."""
    with snapring.Writer("demo", rank=0, ranks=2) as writer, snapring.Reader("demo") as reader:
        writer.publish(snapring.LoadSnapshot(num_running_reqs=5))

        done = demo("--ranks", "2", "--seconds", "1")

        assert done.returncode == 1
        assert done.stderr == "snapring: ring 'demo' is in use by another server; choose another name\n"
        assert reader.view().versions.tolist() == [1, 0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_leave_nothing_behind(ring_dir: Path, spawn: Spawn, number: signal.Signals) -> None:
    """Told to end, the demo ends its ranks, removes its ring, and still says what was done."""
    child, ranks = started(spawn)

    child.send_signal(number)
    text, _ = child.communicate(timeout=60)

    assert child.returncode == 128 + number
    assert len(json.loads(text)["ranks"]) == 2
    assert [rank for rank in ranks if is_running(rank)] == []
    assert list(ring_dir.iterdir()) == []


def test_ranks_do_not_outlive_a_killed_demo(ring_dir: Path, spawn: Spawn) -> None:
    """When the demo itself is killed, its ranks end by themselves, a stopped one too, and remove the ring."""
    child, ranks = started(spawn)
    stop(ranks[0])

    child.kill()
    child.wait()

    assert len(ranks) == 2
    eventually(lambda: not any(map(is_running, ranks)))
    assert list(ring_dir.iterdir()) == []


def test_killed_ranks_die_and_their_requests_go_on(ring_dir: Path, spawn: Spawn) -> None:
    """A killed rank turns DEAD; its requests are sent to the others; even with all ranks killed no file stays."""
    child, ranks = started(spawn, "--rate", "20", "--seconds", "600")
    with snapring.Reader("demo") as reader:
        eventually(lambda: all(snapshot.value.num_running_reqs for snapshot in reader.read_all()))

        os.kill(ranks[0], signal.SIGKILL)
        eventually(lambda: reader.check(0) == snapring.State.DEAD)
        served_before = reader.read(1).version
        eventually(lambda: reader.read(1).version > served_before + 10)
        os.kill(ranks[1], signal.SIGKILL)
        eventually(lambda: reader.check(1) == snapring.State.DEAD)

    child.terminate()
    text, _ = child.communicate(timeout=60)
    assert json.loads(text)["requests_resent"] > 0
    assert list(ring_dir.iterdir()) == []


def test_keys_kill_and_restart(ring_dir: Path) -> None:
    """On a terminal k kills the selected rank, which turns DEAD in red; r brings it back LIVE, an epoch further on."""
    with PseudoTerminal("demo", "--ranks", "3", "--rate", "12") as screen, snapring.Reader("demo") as reader:
        screen.expect(r"2 +LIVE")
        before = reader.read(1)
        screen.press("1k")
        assert re.search(r"\x1b\[[0-9;]*31[0-9;]*mDEAD", screen.expect(r"1 +DEAD"))
        last = reader.read(1)
        screen.press("r")
        screen.expect(r"rank 1 is back")
        screen.expect(r"1 +LIVE")
        back = reader.read(1)
        screen.press("q")
        code = screen.wait()
        assert screen.mode() == screen.mode_before

    assert (code, last.epoch, back.epoch) == (0, before.epoch, before.epoch + 1)
    assert before.version <= last.version < back.version
    assert re.search(r"requests: \d+ done", screen.text)
    assert list(ring_dir.iterdir()) == []


def test_a_trace_has_a_progress_bar(ring_dir: Path, tmp_path: Path) -> None:
    """On a terminal a trace shows how much of it is served, and the demo ends with it."""
    trace = tmp_path / "trace.csv"
    trace.write_text(TRACE)

    with PseudoTerminal("demo", "--ranks", "2", "--trace", str(trace), "--speed", "4") as screen:
        screen.expect(r"[━╸]+.* \d/3")

        assert screen.wait() == 0
        assert "3 done" in screen.text


def test_a_headless_trace_has_a_progress_bar(ring_dir: Path, tmp_path: Path) -> None:
    """Also without the table, a terminal shows how much of a trace is served, up to all of it."""
    trace = tmp_path / "trace.csv"
    trace.write_text(TRACE)

    with PseudoTerminal("demo", "--headless", "--ranks", "2", "--trace", str(trace), "--speed", "4") as screen:
        screen.expect(r"requests [━╸]+.* 3/3")

        assert screen.wait() == 0
        assert "3 done" in screen.text


def test_a_directory_may_be_given(ring_dir: Path, spawn: Spawn) -> None:
    """With --dir the ring lives there, its ranks find it, and it is removed there."""
    other = ring_dir / "other"
    other.mkdir(mode=0o700)
    child = spawn(DEMO, "--headless", "--ranks", "2", "--json", "--dir", str(other))
    with snapring.Reader("demo", directory=str(other)) as reader:
        eventually(lambda: len(reader.view().ok) == 2 and reader.view().ok.all())
        found = [path.name for path in ring_dir.iterdir()]

    child.terminate()
    text, _ = child.communicate(timeout=60)

    assert found == ["other"]
    assert len(json.loads(text)["ranks"]) == 2
    assert list(other.iterdir()) == []


def test_ctrl_c_on_a_terminal(ring_dir: Path) -> None:
    """Ctrl-C ends a live demo with the terminal as before and no process left."""
    with PseudoTerminal("demo", "--ranks", "2") as screen:
        screen.expect(r"1 +LIVE")
        ranks = children(screen.process.pid)
        screen.press("\x03")

        assert screen.wait() == 130
        assert screen.mode() == screen.mode_before
        assert [rank for rank in ranks if is_running(rank)] == []
    assert list(ring_dir.iterdir()) == []
