import os
import signal
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

import snapring as package
from command import COMMAND, LONG, snapring, start
from meta.tree import ROOT
from pseudo_terminal import PseudoTerminal
from snapring import cli

VERBS = [verb.__name__.rpartition(".")[2] for verb in cli.VERBS]
DATA = ROOT / "tests" / "data"


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help(verb: str) -> None:
    """The help of each verb is the stored one: a change of the interface shows in review."""
    done = snapring(*filter(None, [verb]), "--help", COLUMNS="80")

    file = DATA / f"cli_{verb or 'snapring'}.txt"
    if os.environ.get("SNAPRING_TEST_WRITE"):  # after a wanted change
        file.write_text(done.stdout)
    assert done.stdout == file.read_text()
    assert (done.returncode, done.stderr) == (0, "")


def test_version() -> None:
    """--version names the program and the version of the installed package."""
    done = snapring("--version")

    assert done.stdout == f"snapring {version('snapring')}\n"
    assert package.__version__ == version("snapring")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], 2),
        (["nonsense"], 2),
        (["get"], 2),
        (["get", "a b"], 2),
        (["get", "x", "--rank", "minus"], 2),
        (["get", "x", "--max-age", "soon"], 2),
        (["get", "x", "--jso"], 2),
        (["schema"], 2),
        (["schema", "x", "--class", "a:B"], 2),
        (["watch", "x", "--until", "a=1"], 2),
        (["watch", "x", "--count", "0"], 2),
        (["watch", "x", "--interval", "0"], 2),
        (["get", "x", "--csv", "--json"], 2),
        (["get", "x"], 4),
        (["watch", "x"], 4),
        (["watch", "x", "--wait", "--timeout", "10ms"], 4),
        (["schema", "x"], 4),
        (["ls"], 0),
        (["gc"], 0),
        (["ls", "--dir", "/proc"], 1),
    ],
)
def test_exit_codes(arguments: list[str], code: int, ring_dir: Path) -> None:
    """2 for what was typed, 4 for a ring that is not there, 1 for the rest; with a message, and never a traceback."""
    done = snapring(*arguments)

    assert done.returncode == code
    assert done.stdout == ""
    assert done.stderr.strip()
    assert "Traceback" not in done.stderr


def test_errors_are_one_line_with_the_fix(ring_dir: Path) -> None:
    """An error is one line that begins with the program's name and ends with what to do; the traceback on request."""
    done = snapring("get", "nowhere")

    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"snapring: no ring 'nowhere' in {ring_dir}; ")
    assert "SNAPRING_DIR" in done.stderr
    assert "Traceback" in snapring("get", "nowhere", SNAPRING_DEBUG="1").stderr


def test_dir_goes_before_the_environment(ring_dir: Path) -> None:
    """--dir says where rings live, whatever SNAPRING_DIR says."""
    with package.Writer("here", rank=0, ranks=1):
        found = snapring("ls", "--dir", str(ring_dir), SNAPRING_DIR="/nowhere")
        missed = snapring("ls", SNAPRING_DIR="/nowhere")

    assert "here" in found.stdout
    assert missed.stdout == ""


def test_a_reader_that_leaves_is_no_error(ring_dir: Path) -> None:
    """Output into a pipe that nobody reads any more ends the command quietly."""
    with package.Writer("box", rank=0, ranks=1) as writer, start("watch", "box", "--json") as watch:
        writer.publish(package.LoadSnapshot())
        assert watch.stdout is not None
        assert watch.stderr is not None
        watch.stdout.readline()
        watch.stdout.close()
        while watch.poll() is None:  # the next lines find the pipe closed
            writer.publish(package.LoadSnapshot())

        assert watch.stderr.read() == ""
        assert watch.returncode == 141


def test_a_full_disk_is_an_error(ring_dir: Path) -> None:
    """Output that cannot be written is an error, not silence."""
    with package.Writer("box", rank=0, ranks=1), Path("/dev/full").open("w") as full:
        done = subprocess.run([*COMMAND, "ls"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)

    assert done.returncode == 1
    assert "No space left" in done.stderr


@pytest.mark.parametrize(("closing", "code"), [(">&-", 0), ("2>&-", 4), (">&- 2>&-", 4)])
def test_closed_streams(closing: str, code: int, ring_dir: Path) -> None:
    """Without standard output or standard error the command does its work, and prints on no other stream instead."""
    name = "box" if code == 0 else "nowhere"
    with package.Writer("box", rank=0, ranks=1):
        command = ["sh", "-c", f'exec "$@" {closing}', "sh", *COMMAND, "get", name, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


@pytest.mark.parametrize(("arguments", "code"), [((), 0), (("--until", "rank==9"), 130), (("--count", "99"), 130)])
def test_interrupt(arguments: tuple[str, ...], code: int, ring_dir: Path) -> None:
    """Ctrl-C ends a watch cleanly: with 0 where that is the only end, with 130 where another was asked for."""
    with package.Writer("box", rank=0, ranks=1) as writer, start("watch", "box", *LONG, *arguments) as watch:
        writer.publish(package.LoadSnapshot())
        assert watch.stdout is not None
        assert watch.stderr is not None
        assert "rank 0 LIVE version 1" in watch.stdout.readline()  # it runs

        watch.send_signal(signal.SIGINT)

        assert watch.wait(timeout=60) == code
        assert watch.stderr.read() == ""


def test_colours_only_on_a_terminal(ring_dir: Path) -> None:
    """A terminal gets colours unless NO_COLOR says no; a pipe gets none."""
    with package.Writer("box", rank=0, ranks=1) as writer:
        writer.publish(package.LoadSnapshot())
        shown = ("get", "box", *LONG)
        with PseudoTerminal(*shown) as coloured, PseudoTerminal(*shown, NO_COLOR="1") as plain:
            assert (coloured.wait(), plain.wait()) == (0, 0)
        piped = snapring(*shown)

    green = "\x1b[32m"
    assert green in coloured.output
    assert green not in plain.output
    assert "\x1b" not in piped.stdout


@pytest.mark.parametrize("columns", [10, 30, 200])
def test_terminals_of_any_width(columns: int, ring_dir: Path) -> None:
    """However narrow the terminal, every number of a table is there in full."""
    wide = {"name": "a-ring-with-a-long-name", "ranks": 12_345, "cells": 4, "schema": bytes, "payload": 8}
    with package.Writer(rank=0, **wide), PseudoTerminal("ls", columns=columns) as terminal:
        assert terminal.wait() == 0

    assert "a-ring-with-a-long-name" in terminal.text
    assert "12345" in terminal.text


def test_start_is_light(ring_dir: Path) -> None:
    """A verb loads rich only to draw a table, and asyncio never: a script that polls with --json pays for neither."""
    code = (
        "import sys; from snapring.cli import main; main(sys.argv[1:]); "
        "sys.exit(str({'rich', 'asyncio', 'multiprocessing'} & set(sys.modules)))"
    )
    with package.Writer("box", rank=0, ranks=1):
        done = subprocess.run(
            [*COMMAND[:-2], "-c", code, "get", "box", "--json"], capture_output=True, text=True, check=False
        )

    assert done.stderr == "set()\n"
