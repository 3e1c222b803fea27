"""Rules about the source that no linter knows."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import snapring
from meta.tree import python_files, rust_files, shown
from support import python, run

# Each would let bytes that somebody else wrote run as code here.
CODE_FROM_BYTES = {"cPickle", "cloudpickle", "dill", "marshal", "pickle", "shelve", "yaml"}
CODE_FROM_TEXT = {"eval", "exec"}
# Methods of pyzmq, numpy and others that unpickle.
CODE_FROM_METHODS = {"eval", "exec", "recv_pyobj", "recv_serialized", "read_pickle"}

# Unsafe code has few addresses; each block there names the fact that it rests on.
UNSAFE_FILES = {
    "rust/core/src/claim.rs",
    "rust/core/src/fork.rs",
    "rust/core/src/mapping.rs",
    "rust/core/src/wake.rs",
    "rust/python/src/buffer.rs",
    "rust/python/src/slots.rs",
    "rust/relay/build.rs",
    "rust/relay/src/ffi.rs",
    "rust/relay/src/quota.rs",
    "rust/relay/src/zmq.rs",
    "rust/relay/src/zmq/library.rs",
    "rust/relay/src/zmq/message.rs",
    "rust/relay/tests/process.rs",
    "rust/relay/tests/sender/fork.rs",
    "rust/relay/tests/support/mod.rs",
}

# What an import may do to the process that hosts an engine: nothing. Printed before and after, and compared.
FOOTPRINT = """
import os, signal, sys
import msgspec, numpy
def footprint():
    with open("/proc/self/status") as lines:
        status = dict(line.split(":", 1) for line in lines)
    return {
        "descriptors": sorted(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "signals caught": status["SigCgt"],
        "signals ignored": status["SigIgn"],
        "handlers": [str(signal.getsignal(number)) for number in sorted(signal.valid_signals())],
        "environment": dict(os.environ),
    }
footprint()
before, known = footprint(), set(sys.modules)
import snapring
after = footprint()
print({name: (before[name], after[name]) for name in before if before[name] != after[name]})
print(sorted({name.partition(".")[0] for name in set(sys.modules) - known}))
"""

# Too slow to load, or not there on a server: imported by the commands and calls that need them.
LATE_IMPORTS = {"asyncio", "concurrent", "multiprocessing", "rich", "starlette", "uvicorn", "prometheus_client", "zmq"}


def nodes() -> Iterator[tuple[Path, ast.AST]]:
    """Every syntax node of the package, as it stands in the tree and as it is installed."""
    for path in sorted({*python_files(), *Path(snapring.__file__).parent.rglob("*.py")}):
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            yield path, node


def test_bytes_never_become_code() -> None:
    """Nothing in the package can turn what it reads into code."""
    found = [
        f"{shown(path)}:{node.lineno}: {name}"
        for path, node in nodes()
        if isinstance(node, (ast.Import, ast.ImportFrom, ast.Call))
        for name in named(node)
        if name in CODE_FROM_BYTES | CODE_FROM_TEXT | CODE_FROM_METHODS or name == "allow_pickle"
    ]

    assert found == []


def named(node: ast.Import | ast.ImportFrom | ast.Call) -> list[str]:
    """Top-level modules that an import names, or the function or method that a call names, and its keywords."""
    if isinstance(node, ast.Import):
        return [alias.name.partition(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [(node.module or "").partition(".")[0]]
    keywords = [keyword.arg for keyword in node.keywords if keyword.arg]
    called = {ast.Name: "id", ast.Attribute: "attr"}.get(type(node.func))
    return [getattr(node.func, called), *keywords] if called else keywords


def test_no_assert_statements() -> None:
    """A check that optimisation removes is no check."""
    assert [f"{shown(path)}:{node.lineno}" for path, node in nodes() if isinstance(node, ast.Assert)] == []


def test_import_leaves_no_footprint() -> None:
    """Importing snapring opens no descriptor, starts no thread, sets no signal handler and loads nothing heavy."""
    changes, loaded = map(ast.literal_eval, run(python(FOOTPRINT)).splitlines())

    assert changes == {}
    assert LATE_IMPORTS & set(loaded) == set()


def code(path: Path) -> list[str]:
    """Lines of a Rust file without comments and the insides of strings; as many as the file has."""
    text = re.sub(r'"(?:\\.|[^"\\])*"', lambda found: '"' + "\n" * found[0].count("\n") + '"', path.read_text())
    return [line.partition("//")[0] for line in text.splitlines()]


@pytest.mark.parametrize("path", rust_files(), ids=shown)
def test_unsafe_has_an_address(path: Path) -> None:
    """Unsafe code stands only in the files for it, and each use says right above what it rests on."""
    uses = [number for number, line in enumerate(code(path)) if re.search(r"\bunsafe\b", line)]
    lines = path.read_text().splitlines()

    assert not uses or shown(path) in UNSAFE_FILES, f"unsafe at line {uses[0] + 1}"
    assert [
        number + 1 for number in uses if "SAFETY:" not in (above := notes(lines, number)) and "# Safety" not in above
    ] == []


def notes(lines: list[str], number: int) -> str:
    """The comment above the statement that line ``number`` is part of."""
    at = number
    while at > 0 and not lines[at - 1].rstrip().endswith((";", "{", "}", ",")) and not is_comment(lines[at - 1]):
        at -= 1
    while at > 0 and (is_comment(lines[at - 1]) or lines[at - 1].lstrip().startswith("#[")):
        at -= 1
    return "\n".join(lines[at : number + 1])


def is_comment(line: str) -> bool:
    """Whether the line holds a comment and nothing else."""
    return line.lstrip().startswith("//")


def test_atomics_have_one_source() -> None:
    """The core takes its atomics from sync.rs, so that the model checker runs the very code that ships."""
    raw = re.compile(r"\b(core|std)::sync::atomic\b")
    core = [path for path in rust_files() if "core" in path.parts and path.name != "sync.rs"]

    assert [shown(path) for path in core if any(raw.search(line) for line in code(path))] == []


def test_rings_never_shrink() -> None:
    """No code can cut a file that others have mapped: their next access would be a bus error."""
    cuts = {
        ".rs": re.compile(r"ftruncate|\bset_len\b|\btruncate\(true\)"),
        ".py": re.compile(r"ftruncate|\.truncate\("),
    }

    found = [
        f"{shown(path)}:{number}"
        for path in [*rust_files(), *python_files()]
        for number, line in enumerate(code(path) if path.suffix == ".rs" else path.read_text().splitlines(), 1)
        if cuts[path.suffix].search(line)
    ]

    assert found == []
