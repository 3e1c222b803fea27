"""Weakens each marked memory ordering in turn and expects the model checker to notice.

A line of the core that carries ``// order: NAME`` holds one ordering or one fence (rustfmt may move the comment to a
line of its own; it then speaks of the line above). On a copy of the crate, one at a time, that ordering becomes
``Relaxed``, or that fence goes. The untouched copy must pass ``cargo test --test loom``; every mutant must compile and
fail it. What survives is either tested too little or stronger than it needs to be.

    python tests/mutants.py [NAME ...]      exit code 0: all noticed; 1: not; 2: a marker that cannot be used
"""

import enum
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
COPIED = ("Cargo.toml", "Cargo.lock", "README.md", "rust", "tests", "benches", "examples", "clippy.toml")
NOT_COPIED = shutil.ignore_patterns("__pycache__", "*.so", "python")

MARKER = re.compile(r"//\s*order:\s*([\w-]+)\s*$")
ORDERING = re.compile(r"\bOrdering::(Acquire|Release|AcqRel|SeqCst)\b")
FENCE = re.compile(r"\b(?:\w+::)*\w*fence\([^()]*\)")

TEST = ("cargo", "test", "--locked", "--release", "--package", "snapring-core", "--test", "loom")
LIMIT_SECONDS = "1200"
TIMED_OUT = {124, 137}  # as `timeout` reports a term and a kill


class BadMarkerError(Exception):
    """A marker stands where nothing, or more than one thing, can be weakened; or its name is taken."""


class Outcome(enum.Enum):
    """What became of a mutant."""

    NOTICED = "noticed"
    SURVIVED = "SURVIVED"
    BROKEN = "DOES NOT COMPILE"
    HUNG = "HUNG"


class Mutant(NamedTuple):
    """One weakened line: the marker's name, the file below the root, the line's index, the line before and after."""

    name: str
    file: Path
    line: int
    before: str
    after: str


def weakened(line: str) -> str:
    """The code of a line with its one fence gone or its one ordering relaxed; BadMarkerError unless it is one."""
    for pattern, weak in ((FENCE, "()"), (ORDERING, "Ordering::Relaxed")):
        found = pattern.findall(line)
        if len(found) == 1:
            return pattern.sub(weak, line)
        if found:
            break
    message = f"one fence or one ordering stronger than Relaxed is wanted in: {line.strip()}"
    raise BadMarkerError(message)


def mutants(text: str, file: Path) -> Iterator[Mutant]:
    """The mutants of one file, in order."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if marker := MARKER.search(line):
            at = number if line[: marker.start()].strip() else number - 1
            code, slashes, comment = lines[at].partition("//")
            yield Mutant(marker[1], file, at, lines[at], f"{weakened(code)}{slashes}{comment}")


def all_mutants(root: Path) -> dict[str, Mutant]:
    """Every mutant of the core, by name; BadMarkerError when there are none or two share a name."""
    found: dict[str, Mutant] = {}
    for path in sorted((root / "rust" / "core" / "src").rglob("*.rs")):
        for mutant in mutants(path.read_text(), path.relative_to(root)):
            if mutant.name in found:
                message = f"two markers are called {mutant.name}"
                raise BadMarkerError(message)
            found[mutant.name] = mutant
    if not found:
        message = "no line carries an order marker"
        raise BadMarkerError(message)
    return found


def outcome_in(crate: Path) -> tuple[Outcome, str]:
    """Compiles the loom tests of a copy, then runs them; the outcome and all output."""
    build = subprocess.run([*TEST, "--no-run"], cwd=crate, capture_output=True, text=True, check=False)
    if build.returncode != 0:
        return Outcome.BROKEN, build.stderr
    limited = ("timeout", "--kill-after=10", LIMIT_SECONDS, *TEST)  # ends the tests too, not cargo alone
    done = subprocess.run(limited, cwd=crate, capture_output=True, text=True, check=False)
    if done.returncode in TIMED_OUT:
        return Outcome.HUNG, f"no end after {LIMIT_SECONDS} s"
    return (Outcome.NOTICED if done.returncode else Outcome.SURVIVED), done.stdout + done.stderr


def copy_crate(root: Path, to: Path) -> None:
    """Copies what cargo needs for the core and its tests, dated now: cargo rebuilds what is newer, not what differs."""
    for name in COPIED:
        if (root / name).is_dir():
            ignored = NOT_COPIED if name != "rust" else None
            shutil.copytree(root / name, to / name, ignore=ignored, copy_function=shutil.copy)
        elif (root / name).exists():
            shutil.copy(root / name, to / name)


def try_out(crate: Path, mutant: Mutant) -> Outcome:
    """Applies one mutant to the copy, sees what becomes of it, and takes it back."""
    path = crate / mutant.file
    original = path.read_text()
    lines = original.splitlines()
    lines[mutant.line] = mutant.after
    path.write_text("\n".join(lines) + "\n")
    try:
        outcome, output = outcome_in(crate)
    finally:
        path.write_text(original)
    if outcome is Outcome.BROKEN:
        print(output)
    return outcome


def main(names: list[str]) -> int:
    """Runs the named mutants, or all; the exit code."""
    os.environ.setdefault("RUSTFLAGS", "--cfg loom")
    os.environ.setdefault("CARGO_TARGET_DIR", str(ROOT / "target" / "mutants"))
    try:
        found = all_mutants(ROOT)
        chosen = {name: found[name] for name in names} if names else found
    except (BadMarkerError, KeyError) as error:
        print(f"marker: {error}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="snapring-mutants-") as folder:
        crate = Path(folder)
        copy_crate(ROOT, crate)
        outcome, output = outcome_in(crate)
        if outcome is not Outcome.SURVIVED:
            print(f"the untouched core does not pass:\n{output}", file=sys.stderr)
            return 1
        outcomes = {}
        for name, mutant in chosen.items():
            outcomes[name] = try_out(crate, mutant)
            print(f"{name:<24} {outcomes[name].value:<16} {mutant.file}:{mutant.line + 1}", flush=True)
    noticed = sum(outcome is Outcome.NOTICED for outcome in outcomes.values())
    print(f"{noticed} of {len(outcomes)} noticed")
    return 0 if noticed == len(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
