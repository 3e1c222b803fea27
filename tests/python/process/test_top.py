import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import snapring
from pseudo_terminal import COMMAND, PseudoTerminal


@pytest.fixture
def ring(ring_dir: Path) -> Iterator["snapring.Writer[snapring.LoadSnapshot]"]:
    """The writer of rank 1 of the ring ``box``, which has three ranks and one snapshot."""
    with snapring.Writer("box", rank=1, ranks=3) as writer:
        writer.publish(snapring.LoadSnapshot(num_running_reqs=12, num_used_tokens=500, max_total_num_tokens=1000))
        yield writer


def top(*arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    """``snapring top`` into a pipe."""
    return subprocess.run(
        [*COMMAND, "top", *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **env},
        timeout=120,
        check=False,
    )


def test_piped_is_one_plain_table(ring: object) -> None:
    """Into a pipe goes one table of all ranks, without colours and without being cut."""
    done = top("box", "-d", "0")

    header, *lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert header.split()[:4] == ["rank", "state", "run", "wait"]
    assert [line.split()[:3] for line in lines] == [["0", "NEVER", "-"], ["1", "LIVE", "12"], ["2", "NEVER", "-"]]
    assert "50%" in lines[1]


def test_json(ring: object) -> None:
    """--json gives every rank that was asked for, with its state, its age in seconds and all of its numbers."""
    done = top("box", "--json", "--rank", "1-2", "-d", "0")

    answer = json.loads(done.stdout)
    one, two = answer["ranks"]
    assert (answer["ring"], one["rank"], one["state"], one["version"], one["epoch"]) == ("box", 1, "LIVE", 1, 1)
    assert one["fields"]["num_running_reqs"] == 12
    assert one["fields"]["cache_hit_rate"] is None
    assert one["age"] > 0
    assert (two["rank"], two["state"], two["age"]) == (2, "NEVER", None)


def test_sorting_puts_the_largest_first(ring: object) -> None:
    """--sort takes a field of the records; ranks without it follow."""
    with snapring.Writer("box", rank=2, ranks=3) as other:
        other.publish(snapring.LoadSnapshot(num_running_reqs=99))

        done = top("box", "--sort", "num_running_reqs", "-d", "0")

    assert [line.split()[0] for line in done.stdout.splitlines()[1:]] == ["2", "1", "0"]


def test_colours_can_be_forced_into_a_pipe(ring: object) -> None:
    """FORCE_COLOR and COLUMNS make a picture of the table; --no-color and NO_COLOR undo the colours."""
    forced = top("box", "-d", "0", FORCE_COLOR="1", COLUMNS="60")
    refused = top("box", "-d", "0", "--no-color", FORCE_COLOR="1")

    assert "\x1b[32mLIVE" in forced.stdout
    assert "epoch" not in forced.stdout
    assert "\x1b[32m" not in refused.stdout


def test_no_ring_is_an_error_only_when_piped(ring_dir: Path) -> None:
    """A single table of a ring that is not there says so, with the exit code for that."""
    done = top("nothing")

    assert done.returncode == 4
    assert "no ring 'nothing'" in done.stderr


def test_live_attaches_when_the_ring_comes(ring_dir: Path) -> None:
    """On a terminal, top waits for its ring, shows it once it is there, and q ends it with the terminal as before."""
    with PseudoTerminal("top", "late", "-d", "0.05") as screen:
        screen.expect("waiting for ring late")
        with snapring.Writer("late", rank=0, ranks=1) as writer:
            writer.publish(snapring.LoadSnapshot(num_running_reqs=7))
            assert "\x1b[32mLIVE" in screen.expect(r"LIVE +7 ")
            screen.press("q")

            assert screen.wait() == 0
            assert screen.mode() == screen.mode_before


def test_keys_sort(ring: object) -> None:
    """The key s sorts by the next column, r turns the order round."""
    with PseudoTerminal("top", "box", "-d", "0.05") as screen:
        screen.expect(r"(?s)0 +NEVER.*1 +LIVE.*2 +NEVER")
        screen.press("r")
        screen.expect(r"(?s)2 +NEVER[^0]*1 +LIVE[^\n]*\n[^L]*0 +NEVER")
        screen.press("q")

        assert screen.wait() == 0


@pytest.mark.parametrize(("columns", "lines"), [(14, 4), (1, 1), (30, 3)])
def test_tiny_terminals(ring: object, columns: int, lines: int) -> None:
    """However small the terminal, top runs on it, and ends on q."""
    with PseudoTerminal("top", "box", "-d", "0.05", columns=columns, lines=lines) as screen:
        screen.expect(".")
        screen.press("s")
        screen.expect(".")
        screen.press("q")

        assert screen.wait() == 0
        assert "Traceback" not in screen.text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_put_the_terminal_back(ring: object, number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM end a live top at once, with their exit code, the cursor shown and the terminal as before."""
    with PseudoTerminal("top", "box", "-d", "1h") as screen:
        screen.expect("LIVE")
        screen.process.send_signal(number)

        assert screen.wait() == 128 + number
        assert screen.mode() == screen.mode_before
        assert "\x1b[?1049l" in screen.output
        assert screen.output.rfind("\x1b[?25h") > screen.output.rfind("\x1b[?25l")


def test_no_color(ring: object) -> None:
    """NO_COLOR takes the colours from a live table."""
    with PseudoTerminal("top", "box", "-d", "0.05", NO_COLOR="1") as screen:
        assert "\x1b[32m" not in screen.expect("LIVE")
        screen.press("q")

        assert screen.wait() == 0
