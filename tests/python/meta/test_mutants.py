"""The mutation script weakens what a marker names, and refuses a marker that names nothing."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from meta.tree import ROOT


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("mutants", ROOT / "tests" / "mutants.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("line", "weak"),
    [
        ("seq.store(2 * n, Ordering::Release);", "seq.store(2 * n, Ordering::Relaxed);"),
        ("if seq.load(Ordering::Acquire) != n {", "if seq.load(Ordering::Relaxed) != n {"),
        (
            "w.swap(0, Ordering::AcqRel); x.load(Ordering::Relaxed);",
            "w.swap(0, Ordering::Relaxed); x.load(Ordering::Relaxed);",
        ),
        ("    fence(Ordering::SeqCst);", "    ();"),
        ("    sync::full_fence();", "    ();"),
    ],
)
def test_weakens_one_thing(script: ModuleType, line: str, weak: str) -> None:
    """A fence goes, an ordering becomes relaxed, and nothing else on the line changes."""
    assert script.weakened(line) == weak


@pytest.mark.parametrize(
    "line",
    [
        "let x = 1;",
        "seq.load(Ordering::Relaxed);",
        "w.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Acquire);",
        "fence(Ordering::SeqCst); fence(Ordering::SeqCst);",
    ],
)
def test_refuses_what_it_cannot_weaken(script: ModuleType, line: str) -> None:
    """A marker on a line with nothing, or with more than one thing, to weaken is an error."""
    with pytest.raises(script.BadMarkerError):
        script.weakened(line)


def test_marker_below_its_line(script: ModuleType) -> None:
    """A comment that rustfmt moved to a line of its own speaks of the line above."""
    text = "if seq.load(Ordering::Acquire) != n {\n    // order: first\n    return;\n}\n"

    (mutant,) = script.mutants(text, Path("x.rs"))

    assert (mutant.name, mutant.line) == ("first", 0)
    assert mutant.after == "if seq.load(Ordering::Relaxed) != n {"


def test_markers_of_the_core(script: ModuleType) -> None:
    """The core carries markers, each name once, each on a line that can be weakened."""
    assert script.all_mutants(ROOT)


def test_names_are_unique(script: ModuleType, tmp_path: Path) -> None:
    """Two markers of one name, or none at all, are an error: something would go untested."""
    source = tmp_path / "rust" / "core" / "src"
    source.mkdir(parents=True)
    with pytest.raises(script.BadMarkerError, match="no line"):
        script.all_mutants(tmp_path)

    for name in ("a.rs", "b.rs"):
        (source / name).write_text("x.load(Ordering::Acquire); // order: same\n")

    with pytest.raises(script.BadMarkerError, match="two markers"):
        script.all_mutants(tmp_path)
