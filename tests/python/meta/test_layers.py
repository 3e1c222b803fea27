"""Imports inside the package run downward only, and files stay small enough to hold in the head."""

from graphlib import CycleError, TopologicalSorter

import pytest

from meta.tree import ROOT, imports, modules, python_files, rust_files, shown, top_level_imports

# Lowest first. A package stands for everything in it, unless a longer name says otherwise.
LAYERS = {
    "native": ("_core",),
    "vocabulary": ("errors", "choice", "schema", "layout", "load", "state", "config"),
    "decisions": ("ownership", "publishing", "balance", "formats"),
    "adapters": ("ring", "feed", "relay", "rendezvous", "fanout", "dispatch.worker"),
    "services": ("publisher", "ring_feed", "loads", "owner", "address", "meeting", "dispatch", "simulate"),
    "edges": ("serve", "cli", "compat", "__main__", ""),
}
HEIGHT = {name: (height, layer) for height, (layer, names) in enumerate(LAYERS.items()) for name in names}

# What a decision may not import: it gets values and gives values, so it has no clock, no files and no environment.
IMPURE = {"asyncio", "io", "os", "pathlib", "select", "shutil", "signal", "socket", "subprocess", "threading", "time"}

LONGEST_FILE = 400
AIM = 300


def layer_of(module: str) -> tuple[int, str]:
    """Height and name of the layer that a module belongs to; KeyError when the table does not name it."""
    parts = module.split(".")
    for count in range(len(parts), 0, -1):
        if (name := ".".join(parts[:count])) in HEIGHT:
            return HEIGHT[name]
    raise KeyError(module)


def test_every_module_has_a_layer() -> None:
    """A new module is placed in the table of layers before anything else."""
    unplaced = [name for name in modules() if name.partition(".")[0] not in {key.partition(".")[0] for key in HEIGHT}]

    assert unplaced == [], "add these to LAYERS"


def test_imports_run_downward() -> None:
    """A module imports from its own layer or a lower one, never from a higher one."""
    upward = [
        f"{module} ({layer_of(module)[1]}) imports {target or 'the package itself'} ({layer_of(target)[1]})"
        for module, targets in imports().items()
        for target in targets
        if layer_of(target)[0] > layer_of(module)[0]
    ]

    assert upward == []


def test_no_circles() -> None:
    """No module imports itself by way of others."""
    try:
        TopologicalSorter(imports()).prepare()
    except CycleError as error:
        pytest.fail("imports go in a circle: " + " <- ".join(error.args[1]))


def test_privates_stay_at_home() -> None:
    """A private module is imported only from inside the package that holds it."""
    reaching = [
        f"{module} imports {target}"
        for module, targets in imports().items()
        for target in targets
        for owner, _, leaf in [target.rpartition(".")]
        if leaf.startswith("_") and not f"{module}.".startswith(f"{owner}." if owner else "")
    ]

    assert reaching == []


def test_decisions_are_pure() -> None:
    """Decisions import nothing by which they could wait, look at a clock or touch the system."""
    impure = [
        f"{shown(path)} imports {name}"
        for module, path in modules().items()
        if layer_of(module)[1] == "decisions"
        for name in sorted(IMPURE & top_level_imports(path))
    ]

    assert impure == []


def test_files_are_short() -> None:
    """No file is longer than 400 lines; those over 300 are listed in the output."""
    own = [
        path for folder in ("tests", "benches") for path in (ROOT / folder).rglob("*") if path.suffix in {".py", ".rs"}
    ]
    lengths = {path: len(path.read_text().splitlines()) for path in [*python_files(), *rust_files(), *own]}
    for path, lines in lengths.items():
        if lines > AIM:
            print(f"{shown(path)}: {lines} lines, aim at {AIM}")

    assert {shown(path): lines for path, lines in lengths.items() if lines > LONGEST_FILE} == {}
