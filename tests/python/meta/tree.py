"""The source tree as the meta tests see it: files, and the imports between the package's modules."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[3]
PACKAGE = ROOT / "python" / "snapring"


def python_files() -> list[Path]:
    """Every Python file of the package."""
    return sorted(PACKAGE.rglob("*.py"))


def rust_files() -> list[Path]:
    """Every Rust file that ships."""
    return sorted((ROOT / "rust").rglob("*.rs"))


def shown(path: Path) -> str:
    """The path as messages show it, from the root of the tree where it is in there."""
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def module_name(path: Path) -> str:
    """Dotted name of a file below the package's folder: ``cli/top.py`` is ``cli.top``, ``cli/__init__.py`` is ``cli``.

    The package's own ``__init__`` is the empty string.
    """
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules() -> dict[str, Path]:
    """The package's modules by name; the native one stands there by its stub."""
    return {module_name(path): path for path in [*python_files(), PACKAGE / "_core.pyi"]}


def imports() -> dict[str, set[str]]:
    """For every module of the package, the modules of the package that it imports anywhere in its code."""
    names = modules()
    return {name: set(_targets(path, name, names)) for name, path in names.items() if path.suffix == ".py"}


def top_level_imports(path: Path) -> set[str]:
    """First parts of the absolute names that a file imports anywhere: ``os`` for ``import os.path``."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.partition(".")[0])
    return found


def _targets(path: Path, name: str, names: dict[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == PACKAGE.name:
                    yield alias.name.partition(".")[2]
        elif isinstance(node, ast.ImportFrom) and (base := _base(node, path, name)) is not None:
            for alias in node.names:  # `from a import b` means the module a.b where there is one
                inner = f"{base}.{alias.name}".lstrip(".")
                yield inner if inner in names else base


def _base(node: ast.ImportFrom, path: Path, name: str) -> str | None:
    """The module after ``from``, seen from the package; None for another package's."""
    module = node.module or ""
    if not node.level:
        top, _, rest = module.partition(".")
        return rest if top == PACKAGE.name else None
    here = name.split(".") if name else []
    up = node.level - (path.stem == "__init__")
    return ".".join([*here[: len(here) - up], *filter(None, [module])])
