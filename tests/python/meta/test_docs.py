"""Every example runs: README's blocks and the docstrings of the installed package.

A ``python`` block runs as a script; the blocks of a page run in order, in one process. In a ``sh`` block the lines that
call ``snapring`` run, each as typed; the others (installing, starting a server) are the reader's. A block that cannot
run carries the reason in a comment right above it: ``<!-- not run: needs two machines -->``.
"""

import doctest
import importlib
import io
import os
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from meta.tree import ROOT
from support import run

README = ROOT / "README.md"
FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
NOT_RUN = re.compile(r"<!-- not run: .+ -->\s*\Z")
CALLS = ("snapring ", "python -m snapring ")
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Block(NamedTuple):
    """One fenced block: its language, its text, and the line in the page where the text starts."""

    language: str
    text: str
    line: int


def blocks(page: str) -> Iterator[Block]:
    """The blocks of a page that are to run."""
    for found in FENCE.finditer(page):
        if not NOT_RUN.search(page[: found.start()]):
            yield Block(found["language"], found["text"], page.count("\n", 0, found.start("text")) + 1)


def script(page: str) -> str:
    """The page's Python blocks as one script whose line numbers are the page's."""
    lines: list[str] = []
    for block in blocks(page):
        if block.language == "python":
            lines += [""] * (block.line - 1 - len(lines))
            lines += block.text.splitlines()
    return "\n".join(lines) + "\n"


def commands(page: str) -> list[str]:
    """The page's calls of the command line, one shell line each, without prompt; a backslash joins lines."""
    text = "\n".join(block.text for block in blocks(page) if block.language == "sh").replace("\\\n", " ")
    lines = (line.strip().removeprefix("$ ") for line in text.splitlines())
    return [line for line in lines if f"{line} ".startswith(CALLS)]


def test_runner_finds_what_is_there() -> None:
    """Python and shell blocks are found with their lines; other languages and blocks marked as not run are left out."""
    page = (
        "a\n```python\nx = 1\n```\n\n```sh\npip install .\n$ snapring ls \\\n  --json\n```\n"
        "<!-- not run: needs two machines -->\n```python\n1 / 0\n```\n"
        "```text\nsnapring gone\n```\n```python\nprint(x)\n```\n"
    )

    assert commands(page) == ["snapring ls    --json"]
    assert script(page).split("\n") == ["", "", "x = 1", *[""] * 15, "print(x)", ""]


def test_readme_has_examples() -> None:
    """README shows both faces of the package, Python and the command line."""
    page = README.read_text()

    assert script(page).strip()
    assert commands(page)


def test_readme_python(ring_dir: Path, tmp_path: Path) -> None:
    """README's Python blocks run in order, without a warning, and leave no ring behind."""
    file = tmp_path / "readme.py"
    file.write_text(script(README.read_text()))

    run([sys.executable, "-P", "-W", "error", str(file)])

    assert list(ring_dir.glob("*.ring")) == []


@pytest.mark.usefixtures("ring_dir")
@pytest.mark.parametrize("command", commands(README.read_text()))
def test_readme_commands(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call of the command line in README succeeds as typed, with no terminal and no input."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")

    run(["bash", "-euc", command])


def packaged_modules() -> list[str]:
    """Every module of the installed package, the native one too; importing ``__main__`` would run it."""
    package = importlib.import_module("snapring")
    found = [module.name for module in pkgutil.walk_packages(package.__path__, "snapring.")]
    return ["snapring", *(name for name in found if not name.endswith("__main__"))]


@pytest.mark.usefixtures("ring_dir")
def test_docstring_examples() -> None:
    """Every example in a docstring prints what it says; there are some."""
    finder, runner, output = doctest.DocTestFinder(), doctest.DocTestRunner(optionflags=OPTIONS), io.StringIO()
    for name in packaged_modules():
        module = importlib.import_module(name)
        for test in finder.find(module, name):
            runner.run(test, out=output.write)

    assert runner.failures == 0, output.getvalue()
    assert runner.tries > 0, "no docstring has an example"
