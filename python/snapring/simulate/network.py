"""Several hosts on one machine: a network namespace each, joined by a virtual switch.

A namespace here has no name and is no file: it is held by a process that only waits for the end of its input, so it is
gone when its maker is, however that ended. Needs ``ip`` (Debian's ``iproute2``), and root or unprivileged user
namespaces.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from typing import Final, Self

from snapring.errors import InvalidValue, SystemRefused

__all__ = ["MOST_HOSTS", "Network"]

MOST_HOSTS: Final = 250
"""Hosts that one network has addresses for."""

_PATIENCE_S: Final = 60.0  # for a tool that takes milliseconds; only ends a hang
_HINT: Final = "install iproute2, and run as root or allow unprivileged user namespaces"


class _Namespace:
    """A network namespace, for as long as this process lives and has not closed it."""

    def __init__(self, make: Sequence[str]) -> None:
        pipe = subprocess.PIPE
        # The shell tells that it is inside; then it waits for the end of its input, which comes with our end.
        self._holder = subprocess.Popen(
            [*make, "sh", "-c", "echo inside; exec cat"], stdin=pipe, stdout=pipe, stderr=pipe, process_group=0
        )
        if self._holder.stdout is None or not self._holder.stdout.readline():
            _, errors = self._holder.communicate()
            raise _refused(errors.decode(errors="replace"))

    @property
    def pid(self) -> int:
        return self._holder.pid

    def close(self) -> None:
        if self._holder.returncode is None:
            self._holder.kill()
            self._holder.communicate()


class Network:
    """``hosts`` hosts on one switch, 0 to ``hosts`` - 1; host n has the address 10.77.0.(n+1) on its ``eth0``.

    They reach each other and nothing else. Files, pids and Unix sockets are not divided. A context manager; belongs to
    one thread.

    Raises:
        InvalidValue: ``hosts`` is not 1 to `MOST_HOSTS`.
        SystemRefused: namespaces are not allowed here, or ``ip`` is missing.
    """

    def __init__(self, hosts: int) -> None:
        """Make the namespaces and their links; takes some tens of milliseconds."""
        if not 1 <= hosts <= MOST_HOSTS:
            raise InvalidValue(f"a network has 1 to {MOST_HOSTS} hosts, not {hosts}")
        self.hosts = hosts
        self._namespaces: list[_Namespace] = []
        # Root needs no user namespace. Others are root of one, in which they may do all this.
        self._as_user = os.geteuid() != 0
        try:
            self._make()
        except BaseException:
            self.close()
            raise

    def _make(self) -> None:
        for tool in ("ip", "nsenter", "unshare"):
            if shutil.which(tool) is None:
                raise _refused(f"there is no command {tool!r}")
        user = ["--user", "--map-root-user"] if self._as_user else []
        self._namespaces.append(_Namespace(["unshare", *user, "--net"]))
        for _ in range(self.hosts):
            self._namespaces.append(
                _Namespace([*self._inside(0, ["user"] if self._as_user else []), "unshare", "--net"])
            )
        # Without the multicast snooping, a switch that hears nobody ask would keep IPv6's neighbour questions.
        self.ip(None, "link add switch type bridge mcast_snooping 0", "link set switch up")
        for host in range(self.hosts):
            pid = self._namespaces[host + 1].pid
            self.ip(
                None,
                f"link add port{host} type veth peer name eth0 netns {pid}",
                f"link set port{host} master switch up",
            )
            self.ip(host, "link set lo up", "link set eth0 up", f"addr add {self.address(host)}/24 dev eth0")

    def address(self, host: int) -> str:
        """Return the address of ``host``."""
        return f"10.77.0.{host + 1}"

    def command(self, host: int, command: Sequence[str]) -> list[str]:
        """Return the command line that runs ``command`` on ``host``, as the same process and for the same user.

        Unprivileged, the user looks like root there and owns the same files.
        """
        return [*self._inside(host + 1, ["user", "net"] if self._as_user else ["net"]), *command]

    def ip(self, host: int | None, *lines: str) -> None:
        """Run lines of ``ip`` on ``host``, or on the switch, whose port to host n is ``port<n>``; all or an error.

        Raises:
            SystemRefused: ``ip`` said no, or waits for what does not come.
        """
        index = 0 if host is None else host + 1
        kinds = ["user", "net"] if self._as_user else ["net"]
        command = [*self._inside(index, kinds), "ip", "-batch", "-"]
        try:
            text = "\n".join(lines)
            done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise _refused(str(error)) from error
        if done.returncode:
            raise _refused(done.stderr)

    def close(self) -> None:
        """Give the namespaces up; each goes with its last process. Closing twice is harmless."""
        for namespace in self._namespaces:
            namespace.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _inside(self, index: int, kinds: Sequence[str]) -> list[str]:
        """Give the command that runs another in the namespaces of these ``kinds`` of a holder."""
        if not kinds:
            return []
        pid = self._namespaces[index].pid
        same_user = ["--preserve-credentials"] if "user" in kinds else []
        return ["nsenter", *(f"--{kind}=/proc/{pid}/ns/{kind}" for kind in kinds), *same_user, "--"]


def _refused(why: str) -> SystemRefused:
    lines = why.strip().splitlines() or ["no reason given"]
    return SystemRefused(f"no hosts of its own on this machine ({lines[0]}); {_HINT}")
