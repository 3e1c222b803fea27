"""A full file system is an error at the start, never a signal later. Each script has a small tmpfs to itself."""

import json
import os
import subprocess
from typing import Any

import pytest

from support import python, run

PAGE = 4096

PRELUDE = """
import errno, json, os, sys
import snapring
place = os.environ["SNAPRING_DIR"]
ballast = os.path.join(place, "ballast")

def free():
    stat = os.statvfs(place)
    return stat.f_bavail * stat.f_frsize

def leave_free(pages):
    '''Fills the file system until so many pages are free.'''
    if os.path.exists(ballast): os.unlink(ballast)
    with open(ballast, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, free() - pages * 4096)
    assert free() == pages * 4096, (free(), pages)

def others():
    return sorted(set(os.listdir(place)) - {"ballast"})

def writer(**options):
    return snapring.Writer("main", rank=0, ranks=2, schema=bytes, payload=256, **options)
"""


def on_tmpfs(script: str, size: int, options: str = "") -> Any:  # noqa: ANN401  whatever the script prints as JSON
    """What the script prints, run with SNAPRING_DIR on a tmpfs of ``size`` bytes that nobody else sees."""
    probe = ["unshare", "--mount", "true"]
    if os.geteuid() != 0 or subprocess.run(probe, check=False, capture_output=True).returncode != 0:
        pytest.skip("only root can mount a file system")
    mount = f"mount -t tmpfs -o size={size},mode=0700{options} tmpfs /mnt && exec env SNAPRING_DIR=/mnt " + '"$@"'
    return json.loads(run(["unshare", "--mount", "sh", "-ec", mount, "sh", *python(PRELUDE + script)]))


def test_every_fill_level() -> None:
    """Page by page: with too little room RingFull names needed and free bytes, and nothing is left behind.

    With room for the ring it works and never faults, if need be without its bell.
    """
    found = on_tmpfs(
        """
found = []
with writer() as first:
    needed = os.stat(place + "/main.ring").st_size
for pages in range(needed // 4096 + 4):
    leave_free(pages)
    try:
        with writer() as one:
            for number in range(200):
                one.publish(bytes([number]) * 256)
            value = snapring.Reader("main", schema=bytes).read(0).value
            found.append(["works", pages, value == bytes([199]) * 256])
    except snapring.RingFull as error:
        text = str(error)
        found.append(["full", error.errno == errno.ENOSPC, str(pages * 4096) in text and str(needed) in text, others()])
print(json.dumps([needed, found]))
""",
        size=1 << 20,
    )

    needed, levels = found
    pages = needed // PAGE
    assert levels[:pages] == [["full", True, True, []]] * pages
    assert [level[0] for level in levels[pages:]] == ["works"] * 4
    assert all(whole for _, _, whole in levels[pages:])


def test_a_full_file_system_does_not_stop_a_running_ring() -> None:
    """Space is reserved at creation: publishing, reading, waiting and restarting a writer need none."""
    found = on_tmpfs(
        """
first, second = writer(), snapring.Writer("main", rank=1, ranks=2, schema=bytes, payload=256)
leave_free(0)
reader = snapring.Reader("main", schema=bytes)
for number in range(500):
    first.publish(bytes([number % 256]) * 256)
    assert reader.wait(30) and reader.poll()
second.close()
with snapring.Writer("main", rank=1, ranks=2, schema=bytes, payload=256) as again:
    print(json.dumps([again.epoch, again.publish(b"x"), reader.read(0).version, free()]))
""",
        size=1 << 20,
    )

    assert found == [2, 1, 500, 0]


def test_a_failed_replacement_keeps_the_old_ring() -> None:
    """A newcomer of another shape that finds no room leaves the dead writers' ring readable and claimable."""
    found = on_tmpfs(
        """
with writer(keep=True) as one:
    one.publish(b"kept")
leave_free(3)
try:
    snapring.Writer("main", rank=0, ranks=50, schema=bytes, payload=256)
    full = False
except snapring.RingFull:
    full = True
value = snapring.Reader("main", schema=bytes).read(0).value.decode()
with writer(keep=True) as one:
    print(json.dumps([full, value, others(), one.publish(b"next")]))
""",
        size=1 << 20,
    )

    assert found == [True, "kept", ["main.bell", "main.ring"], 2]


def test_without_inodes_the_error_is_the_same() -> None:
    """A file system can also be full of files; with one left there is a ring, though no bell."""
    found = on_tmpfs(
        """
def leave_inodes(count):
    for name in others(): os.unlink(f"{place}/{name}")
    for number in range(os.statvfs(place).f_favail - count): open(f"{place}/{number}", "w").close()
found = []
for spare in range(3):
    leave_inodes(spare)
    before = others()
    try:
        with writer() as one:
            found.append([one.publish(b"x"), sorted(set(others()) - set(before))])
    except snapring.RingFull as error:
        found.append(["full", sorted(set(others()) - set(before))])
print(json.dumps(found))
""",
        size=1 << 20,
        options=",nr_inodes=9",
    )

    assert found == [["full", []], [1, ["main.ring"]], [1, ["main.bell", "main.ring"]]]


def test_ranks_that_start_together_need_room_for_one_ring() -> None:
    """Every rank may try to make the ring at the same moment; where it fits once, all of them start."""
    found = on_tmpfs(
        """
import subprocess
script = '''
import sys, snapring
print("up", flush=True)
sys.stdin.readline()
try:
    writer = snapring.Writer("main", rank=int(sys.argv[1]), ranks=6, schema=bytes, payload=65536, cells=4)
    print("open", flush=True)
except Exception as error:
    print(type(error).__name__, flush=True)
sys.stdin.readline()
'''
found = []
for _ in range(3):
    pipe = subprocess.PIPE
    ranks = [subprocess.Popen([sys.executable, "-P", "-c", script, str(rank)], stdin=pipe, stdout=pipe, text=True)
             for rank in range(6)]
    for rank in ranks: rank.stdout.readline()
    for rank in ranks: rank.stdin.write("go\\\\n"); rank.stdin.flush()
    found += [rank.stdout.readline().strip() for rank in ranks]
    for rank in ranks: rank.communicate("done\\\\n")
print(json.dumps(sorted(set(found))))
""".replace("\\\\n", "\\n"),
        size=2 << 20,
    )

    assert found == ["open"]


DOCTOR = """
import contextlib, io
from snapring.cli import main

def doctor():
    with contextlib.redirect_stdout(io.StringIO()) as output:
        code = main(["doctor", "--json"])
    found = {finding["check"]: [finding["level"], finding["text"], finding.get("fix", "")]
             for finding in json.loads(output.getvalue())}
    return [code, found.get("space"), found.get("inodes"), found.get("rehearsal")]
"""


def test_doctor_says_how_full_it_is() -> None:
    """Without room for an ordinary ring doctor fails and tries none; what containers get by default is a warning."""
    found = on_tmpfs(
        DOCTOR
        + """
found = [doctor()]
leave_free(20)
print(json.dumps([*found, doctor()]))
""",
        size=64 << 20,
    )

    (small_code, small, _, tried), (full_code, full, _, untried) = found
    assert (small_code, small[0], tried[0]) == (0, "warn", "ok")
    assert "of 64.0 MiB" in small[1]
    assert "--shm-size" in small[2]
    assert (full_code, full[0], untried) == (1, "fail", None)
    assert "80.0 KiB free" in full[1]
    assert "snapring gc" in full[2]


def test_doctor_counts_inodes() -> None:
    """A large file system is in order; few files that can still be made are a warning."""
    found = on_tmpfs(
        DOCTOR
        + """
found = [doctor()]
for number in range(os.statvfs(place).f_favail - 63): open(f"{place}/{number}", "w").close()
print(json.dumps([*found, doctor()]))
""",
        size=65 << 20,
        options=",nr_inodes=100",
    )

    (_, space, enough, _), (code, _, few, _) = found
    assert (space[0], enough) == ("ok", None)
    assert (code, few[0]) == (0, "warn")
    assert few[1] == "only 63 more files can be made"
    assert "nr_inodes" in few[2]
