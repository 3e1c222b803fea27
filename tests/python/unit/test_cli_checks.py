from pathlib import Path

import pytest

from snapring.cli import checks
from snapring.cli.rings import Kernel

INODE = 4026531834


def findings(
    monkeypatch: pytest.MonkeyPatch, *, membarrier: bool = True, futex: bool = True, time_namespace: int = INODE
) -> dict[str, checks.Finding]:
    """What doctor finds where the kernel offers so much, by what it looked at."""
    monkeypatch.setattr(checks, "kernel", lambda: Kernel(membarrier, futex, time_namespace))
    return {finding.check: finding for finding in checks.check_kernel()}


def test_a_kernel_that_offers_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is missing all is ok, and no fix is named."""
    found = findings(monkeypatch, time_namespace=0)

    assert {name: (each.level, each.fix) for name, each in found.items()} == dict.fromkeys(
        ["membarrier", "futex", "time"], ("ok", "")
    )


def test_no_membarrier(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused membarrier is a warning that says what it costs and what to allow."""
    found = findings(monkeypatch, membarrier=False)

    assert (found["membarrier"].level, found["futex"].level) == ("warn", "ok")
    assert "fence" in found["membarrier"].text
    assert found["membarrier"].fix == "allow the system call membarrier"


def test_no_futex(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused futex is a warning that says how readers wait then and what to allow."""
    found = findings(monkeypatch, futex=False)

    assert (found["membarrier"].level, found["futex"].level) == ("ok", "warn")
    assert "100 ms" in found["futex"].text
    assert found["futex"].fix == "allow the system call futex"


@pytest.mark.parametrize(
    ("offsets", "level"),
    [
        ("monotonic           0         0\nboottime            0         0\n", "ok"),
        ("monotonic     1000000         0\nboottime            0         0\n", "warn"),
        ("monotonic        -500         0\nboottime            0         0\n", "warn"),
        (None, "ok"),
    ],
)
def test_time_namespaces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, offsets: str | None, level: str) -> None:
    """A namespace that shifts the monotonic clock is a warning that says how ages are counted."""
    file = tmp_path / "timens_offsets"
    if offsets is not None:
        file.write_text(offsets)
    monkeypatch.setattr(checks, "Path", lambda _: file)

    found = findings(monkeypatch)["time"]

    assert (found.level, bool(found.fix)) == (level, level == "warn")
    assert f"time namespace {INODE}" in found.text
    assert ("from when a reader saw them" in found.text) == (level == "warn")
