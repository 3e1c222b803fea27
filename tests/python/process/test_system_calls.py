"""The kernel is not asked on the hot path."""

import platform
import signal
from pathlib import Path

import pytest

from contract.model import Spawn
from support import eventually

# Has the kernel kill this process at any further system call but those listed: the end of the process, and the clock
# for machines where it costs one. The look at the ring's path is not listed: a second may pass meanwhile, but need not.
# The filter is a program of struct sock_filter {u16 code; u8 if_true, if_false; u32 operand}; see seccomp(2).
FORBID = """
import ctypes, os, struct, sys
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, KILL = 0x7FFF0000, 0x80000000
steps = [(LOAD, 0, 0, 0)]
for number in map(int, sys.argv[2].split()):
    steps += [(JUMP_IF_EQUAL, 0, 1, number), (RETURN, 0, 0, ALLOW)]
steps.append((RETURN, 0, 0, KILL))
program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
header = ctypes.create_string_buffer(struct.pack("@HP", len(steps), ctypes.addressof(program)))
prctl, word = ctypes.CDLL(None).prctl, ctypes.c_ulong
def forbid_system_calls():
    if prctl(PR_SET_NO_NEW_PRIVS, word(1), word(0), word(0), word(0)):
        os._exit(2)
    if prctl(PR_SET_SECCOMP, word(SECCOMP_MODE_FILTER), header, word(0), word(0)):
        os._exit(3)
"""

HOT_PATH = (
    FORBID
    + """
import snapring
load = snapring.LoadSnapshot(num_running_reqs=3, num_waiting_reqs=1)
with snapring.Writer("main", rank=0, ranks=2) as writer, snapring.Reader("main") as reader:
    def turn():
        version = writer.publish(load)
        snap = reader.read(0)
        if snap.version != version or snap["num_running_reqs"] != 3:
            os._exit(4)
        if sys.argv[1] == "asks":
            os.getppid()
    for _ in range(100):
        turn()
    forbid_system_calls()
    for _ in range(10_000):
        turn()
    os._exit(0)
"""
)

# exit_group, clock_gettime and, for the interpreter's own memory, mmap, munmap and brk.
ALLOWED = {"x86_64": "231 228 9 11 12", "aarch64": "94 113 222 215 214"}


def end(spawn: Spawn, mode: str) -> int:
    """How a child ends that publishes and reads 10,000 times."""
    return spawn(HOT_PATH, mode, ALLOWED[platform.machine()]).wait()


@pytest.mark.skipif(platform.machine() not in ALLOWED, reason="the numbers of system calls are not known here")
def test_publishing_and_reading_make_no_system_call(ring_dir: Path, spawn: Spawn) -> None:
    """10,000 publishes and 10,000 reads pass without one, between two looks at the ring's path a second apart.

    A child that the kernel kills for a call may have met such a look; then another tries.
    """
    eventually(lambda: end(spawn, "plain") == 0)

    assert end(spawn, "asks") == -signal.SIGSYS
