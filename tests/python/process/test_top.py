import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import snapring
from command import LONG
from command import snapring as command
from pseudo_terminal import PseudoTerminal


@pytest.fixture
def ring(ring_dir: Path) -> Iterator["snapring.Writer[snapring.LoadSnapshot]"]:
    """The writer of rank 1 of the ring ``box``, which has three ranks and one snapshot."""
    with snapring.Writer("box", rank=1, ranks=3) as writer:
        writer.publish(snapring.LoadSnapshot(num_running_reqs=12, num_used_tokens=500, max_total_num_tokens=1000))
        yield writer


def top(*arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    """``snapring top`` into a pipe; a rank stays LIVE however slow the machine."""
    return command("top", *LONG, *arguments, **env)


def ranks(done: "subprocess.CompletedProcess[str]") -> list[str]:
    """The ranks of a printed table, from its first line on."""
    return [line.split()[0] for line in done.stdout.splitlines()[1:]]


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
    """--json gives every rank that was asked for with its state, times in seconds and all numbers, null for none."""
    done = top("box", "--json", "--rank", "1-2", "-d", "0")

    answer = json.loads(done.stdout)
    one, two = answer["ranks"]
    assert (answer["ring"], one["rank"], one["state"], one["version"], one["epoch"]) == ("box", 1, "LIVE", 1, 1)
    assert one["fields"]["num_running_reqs"] == 12
    assert one["fields"]["cache_hit_rate"] is None
    assert answer["max_age"] == 86_400.0
    assert 0 < one["age"] < one["timestamp"]
    assert two == {"rank": 2, "state": "NEVER", "fields": {}} | dict.fromkeys(
        ["version", "epoch", "age", "beat_age", "timestamp", "remote", "rate"]
    )


def test_sorting_puts_the_largest_first(ring: object) -> None:
    """--sort takes a field of the records; ranks without it follow."""
    with snapring.Writer("box", rank=2, ranks=3) as other:
        other.publish(snapring.LoadSnapshot(num_running_reqs=99))

        done = top("box", "--sort", "num_running_reqs", "-d", "0")
        column = top("box", "--sort", "running", "-d", "0")

    assert ranks(done) == ranks(column) == ["2", "1", "0"]


def test_reverse_turns_the_order_round(ring: object) -> None:
    """--reverse puts the last rank first."""
    done = top("box", "--reverse", "-d", "0")

    assert ranks(done) == ["2", "1", "0"]


def test_max_age_says_what_is_stale(ring: object) -> None:
    """A rank whose age is beyond --max-age shows as STALE, one below it as LIVE."""
    old = top("box", "--rank", "1", "--max-age", "1us", "-d", "0")
    young = top("box", "--rank", "1", "--max-age", "1d", "-d", "0")

    assert old.stdout.splitlines()[1].split()[:2] == ["1", "STALE"]
    assert young.stdout.splitlines()[1].split()[:2] == ["1", "LIVE"]


def test_a_rank_that_the_ring_does_not_have(ring: object) -> None:
    """A single table of a rank beyond the ring's is refused, and the ranks that there are are named."""
    done = top("box", "--rank", "0,9", "-d", "0")

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "snapring: rank 9 is out of range: the ring has ranks 0 to 2\n"


def test_an_unknown_order_is_refused(ring: object) -> None:
    """--sort by a name that neither the table nor the records know is an error that says which was meant."""
    close = top("box", "--sort", "num_runing_reqs", "-d", "0")
    far = top("box", "--sort", "zzz", "-d", "0")
    with PseudoTerminal("top", "box", "--sort", "zzz") as screen:
        live = screen.wait()

    assert (close.returncode, far.returncode, live) == (2, 2, 2)
    assert "cannot be sorted by 'num_runing_reqs'; did you mean num_running_reqs" in close.stderr
    assert "it has rank, state, age" in far.stderr


@pytest.mark.parametrize("name", ["rank", "state", "age", "beat", "epoch", "version", "rate", "running", "capacity"])
def test_every_column_is_an_order(ring: object, name: str) -> None:
    """--sort takes the name of every column; ranks that have nothing there come last."""
    done = top("box", "--sort", name, "-d", "0")

    assert (done.returncode, done.stderr) == (0, "")
    assert ranks(done) == (["0", "1", "2"] if name == "rank" else ["1", "0", "2"])


def test_a_ring_on_disk(tmp_path: Path) -> None:
    """A ring in a directory that is not in memory shows as it does for the other verbs."""
    tmp_path.chmod(0o700)
    with snapring.Writer("box", rank=0, ranks=1, directory=tmp_path, allow_disk=True) as writer:
        writer.publish(snapring.LoadSnapshot(num_running_reqs=12))

        done = top("box", "--dir", str(tmp_path), "-d", "0")

    assert (done.returncode, done.stderr) == (0, "")
    assert ranks(done) == ["0"]


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
    with PseudoTerminal("top", "late", *LONG, "-d", "0.05") as screen:
        screen.expect("waiting for ring late")
        with snapring.Writer("late", rank=0, ranks=1) as writer:
            writer.publish(snapring.LoadSnapshot(num_running_reqs=7))
            assert "\x1b[32mLIVE" in screen.expect(r"LIVE +7 ")
            screen.press("q")

            assert screen.wait() == 0
            assert screen.mode() == screen.mode_before


def test_the_key_r_reverses(ring: object) -> None:
    """The key r turns the order round."""
    with PseudoTerminal("top", "box", *LONG, "-d", "0.05") as screen:
        screen.expect(r"(?s)0 +NEVER.*1 +LIVE.*2 +NEVER")
        screen.press("r")
        screen.expect(r"(?s)2 +NEVER[^0]*1 +LIVE[^\n]*\n[^L]*0 +NEVER")
        screen.press("q")

        assert screen.wait() == 0


def test_the_key_s_sorts_by_the_next_column(ring: object) -> None:
    """The key s goes from the rank to the state, to running requests and on, and from the last column to the first."""
    with (
        snapring.Writer("box", rank=2, ranks=3) as other,
        PseudoTerminal("top", "box", *LONG, "-d", "0.05", lines=3) as screen,  # has room for one rank
    ):
        other.publish(snapring.LoadSnapshot(num_running_reqs=99))
        screen.expect(r"0 +NEVER")
        screen.press("s")
        screen.expect(r"1 +LIVE +12 ")
        screen.press("s")
        screen.expect(r"2 +LIVE +99 ")
        screen.press("ssssss")
        screen.expect(r"0 +NEVER")
        screen.press("q")

        assert screen.wait() == 0


def test_arrows_scroll(ring_dir: Path) -> None:
    """The arrow keys move the ranks that a small terminal has no room for into sight, and back."""
    with snapring.Writer("tall", rank=0, ranks=30), PseudoTerminal("top", "tall", "-d", "0.05", lines=8) as screen:
        screen.expect(r"\b0 +NEVER")
        assert not re.search(r"\b29 +NEVER", screen.text)
        screen.press("\x1b[B" * 40)
        screen.expect(r"\b29 +NEVER")
        screen.press("\x1b[A" * 40)
        screen.expect(r"\b0 +NEVER")
        screen.press("q")

        assert screen.wait() == 0


@pytest.mark.parametrize(("columns", "lines"), [(14, 4), (1, 1), (30, 3)])
def test_tiny_terminals(ring: object, columns: int, lines: int) -> None:
    """However small the terminal, top runs on it, and ends on q."""
    with PseudoTerminal("top", "box", *LONG, "-d", "0.05", columns=columns, lines=lines) as screen:
        screen.expect(".")
        screen.press("s")
        screen.expect(".")
        screen.press("q")

        assert screen.wait() == 0
        assert "Traceback" not in screen.text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_put_the_terminal_back(ring: object, number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM end a live top at once, with their exit code, the cursor shown and the terminal as before."""
    with PseudoTerminal("top", "box", *LONG, "-d", "1h") as screen:
        screen.expect("LIVE")
        screen.process.send_signal(number)

        assert screen.wait() == 128 + number
        assert screen.mode() == screen.mode_before
        assert "\x1b[?1049l" in screen.output
        assert screen.output.rfind("\x1b[?25h") > screen.output.rfind("\x1b[?25l")


def test_no_color(ring: object) -> None:
    """NO_COLOR takes the colours from a live table."""
    with PseudoTerminal("top", "box", *LONG, "-d", "0.05", NO_COLOR="1") as screen:
        assert "\x1b[32m" not in screen.expect("LIVE")
        screen.press("q")

        assert screen.wait() == 0
