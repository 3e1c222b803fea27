"""Every check by name. `nox` runs the default ones; `nox -l` lists all; `nox -s NAME` runs one.

The sessions share one cargo target directory, and the wheel under test is built once per Python: cold, the default set
takes 25 minutes on two cores, most of it compiling.
"""

import os
import shutil
import sys
from pathlib import Path

import nox

ROOT = Path(__file__).parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
WHEELS = TARGET / "wheels"
MAKES_THE_WHEEL = ("Cargo.toml", "Cargo.lock", "pyproject.toml", "README.md", "LICENSE", "rust", "python")
PYPROJECT = nox.project.load_toml(ROOT / "pyproject.toml")

# Optimised code without the minutes that whole-program optimisation takes.
QUICK_RELEASE = {"CARGO_PROFILE_RELEASE_LTO": "off", "CARGO_PROFILE_RELEASE_CODEGEN_UNITS": "16"}
LOOM = {**QUICK_RELEASE, "RUSTFLAGS": "--cfg loom", "CARGO_TARGET_DIR": str(TARGET / "loom")}

# Tests sleep more than they compute. Two workers are as many as the tests were tried with.
WORKERS = ("-n", "2", "--dist", "worksteal")

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_venv = "yes"
nox.options.error_on_external_run = True
nox.options.sessions = ["fmt", "lint", "types", "stubs", "rust", "loom", "tests", "sdist", "docs", "bench"]


def cargo(session: nox.Session, *arguments: str, **env: str) -> None:
    """Runs cargo on the locked dependencies in the shared target directory."""
    session.run("cargo", *arguments, env={"CARGO_TARGET_DIR": str(TARGET), **env}, external=True)


def newest_source() -> float:
    """When a file that the wheel is made of last changed, in seconds since the epoch."""
    tops = [ROOT / name for name in MAKES_THE_WHEEL]
    files = [path for top in tops for path in (top.rglob("*") if top.is_dir() else [top])]
    return max(path.stat().st_mtime for path in files if path.is_file() and path.suffix not in {".pyc", ".so"})


def wheel(session: nox.Session) -> Path:
    """The wheel of this tree for the session's Python; built when there is none, or a source is newer."""
    tag = session.run("python", "-c", "import sys; print(sys.implementation.cache_tag)", silent=True)
    folder = WHEELS / str(tag).strip()
    built = [path for path in folder.glob("*.whl") if path.stat().st_mtime > newest_source()]
    if not built:
        shutil.rmtree(folder, ignore_errors=True)
        command = ("pip", "wheel", "--no-deps", "--wheel-dir", str(folder), str(ROOT))
        session.run("python", "-m", *command, env={"CARGO_TARGET_DIR": str(TARGET)})
        built = list(folder.glob("*.whl"))
    return built[0]


def install_wheel(session: nox.Session, *extras: str) -> None:
    """Installs the wheel and its extras into the session's environment, and proves that it is not the source tree."""
    path = wheel(session)
    session.install(f"{path}[{','.join(extras)}]" if extras else str(path))
    session.install("--force-reinstall", "--no-deps", str(path))  # pip keeps an older build of the same version
    check = "import snapring, sys; sys.exit(snapring.__file__.startswith(sys.argv[1]) and 'runs from the source tree')"
    session.run("python", "-P", "-c", check, str(ROOT / "python"))


def pytest(session: nox.Session, *arguments: str) -> None:
    """Runs pytest in a few processes, with neither the tree nor the current directory on the import path."""
    session.run("python", "-P", "-m", "pytest", *WORKERS, *arguments, *session.posargs)


@nox.session
def fmt(session: nox.Session) -> None:
    """Formatting of Rust and Python; `nox -s fmt -- fix` repairs it."""
    fix = "fix" in session.posargs
    session.install(*nox.project.dependency_groups(PYPROJECT, "lint"))
    cargo(session, "fmt", "--all", *([] if fix else ["--check"]))
    session.run("ruff", "format", *([] if fix else ["--check"]), ".")


@nox.session
def lint(session: nox.Session) -> None:
    """Clippy over the workspace with its tests and benches, ruff over everything."""
    session.install(*nox.project.dependency_groups(PYPROJECT, "lint"))
    cargo(session, "clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings")
    session.run("ruff", "check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Mypy, strict, over the package and over ordinary calls of it."""
    project = PYPROJECT["project"]
    libraries = (*project["dependencies"], *project["optional-dependencies"]["serve"])
    session.install(*nox.project.dependency_groups(PYPROJECT, "types"), *libraries)
    session.run("mypy")


@nox.session
def stubs(session: nox.Session) -> None:
    """The stub of the native module says what the compiled module does."""
    session.install(*nox.project.dependency_groups(PYPROJECT, "types"))
    install_wheel(session)
    if not (ROOT / "python/snapring/_core.pyi").exists():
        session.error("no stub of the native module")  # the check would find nothing to compare, and pass
    session.run("python", "-P", "-m", "mypy.stubtest", "snapring._core", env={"MYPYPATH": ""})


@nox.session(venv_backend="none")
def rust(session: nox.Session) -> None:
    """Tests of the core and the relay crate, and the examples of their documentation."""
    cargo(session, "test", "--locked", "--package", "snapring-core", "--package", "snapring-relay")


@nox.session(venv_backend="none")
def loom(session: nox.Session) -> None:
    """The seqlock, the slot and the bell under the model checker: every interleaving within its bounds."""
    cargo(session, "test", "--locked", "--release", "--test", "loom", **LOOM)


@nox.session
def tests(session: nox.Session) -> None:
    """The Python tests against the built wheel; arguments after `--` go to pytest."""
    install_wheel(session, "serve", "test")
    pytest(session)


@nox.session
def sdist(session: nox.Session) -> None:
    """The source distribution builds and installs by itself, and what it installs passes the unit tests."""
    folder = Path(session.create_tmp()) / "sdist"
    shutil.rmtree(folder, ignore_errors=True)
    session.install(*PYPROJECT["build-system"]["requires"])
    session.run("maturin", "sdist", "--out", str(folder))
    (archive,) = folder.glob("*.tar.gz")
    extras = PYPROJECT["project"]["optional-dependencies"]
    session.install(*PYPROJECT["project"]["dependencies"], *extras["serve"], *extras["test"])
    tree = folder / "tree"
    session.run("python", "-m", "tarfile", "-e", str(archive), str(tree))
    (source,) = tree.iterdir()
    for path in source.rglob("*"):
        path.touch()  # cargo goes by dates, and archives have old ones: it would take what it built before
    fresh = ("--no-cache-dir", "--no-deps", "--force-reinstall")  # pip keeps wheels by path
    session.install(*fresh, str(source), env={"CARGO_TARGET_DIR": str(TARGET)})
    pytest(session, "tests/python/unit")


@nox.session(venv_backend="none")
def docs(session: nox.Session) -> None:
    """Rust documentation without a warning. Examples in Rust run in `rust`, all others in `tests`."""
    cargo(session, "doc", "--locked", "--workspace", "--no-deps", RUSTDOCFLAGS="-D warnings")


@nox.session
def bench(session: nox.Session) -> None:
    """Every benchmark once, as a test of itself: each asserts its answer before it is timed."""
    install_wheel(session, "bench", "serve")
    session.run("python", "-P", "benches/python/compare.py", "--quick")
    cargo(session, "bench", "--locked", "--package", "snapring-core", "--package", "snapring-relay", "--", "--test")


@nox.session(venv_backend="none")
def mutants(session: nox.Session) -> None:
    """Each marked memory ordering, weakened in turn, makes the model checker fail."""
    target = str(TARGET / "mutants")  # cargo goes by dates, so that a mutant could pass for the tree it came from
    session.run(sys.executable, "tests/mutants.py", *session.posargs, env={**LOOM, "CARGO_TARGET_DIR": target})


@nox.session(venv_backend="none")
def kills(session: nox.Session) -> None:
    """Writers killed at random instructions, 1,000,000 or as many as given after `--`; some hours."""
    count = session.posargs[0] if session.posargs else "1000000"
    arguments = ("test", "--locked", "--release", "--package", "snapring-core", "--test", "kill", "--", "--nocapture")
    cargo(session, *arguments, SNAPRING_KILLS=count)


@nox.session(venv_backend="none")
def mutated(session: nox.Session) -> None:
    """Mutated and replayed frames against the relay, 10,000,000 or as many as given after `--`; some minutes."""
    count = session.posargs[0] if session.posargs else "10000000"
    arguments = ("test", "--locked", "--release", "--package", "snapring-relay", "--test", "mutated")
    cargo(session, *arguments, "--", "--nocapture", SNAPRING_FRAMES=count)


@nox.session
def figure(session: nox.Session) -> None:
    """Draws the pictures of `snapring top` and of the page that README shows; the second needs chromium."""
    install_wheel(session, "serve", "test")
    session.run("python", "-P", "benches/figures/top.py", "benches/figures/top.svg")
    session.run("python", "-P", "benches/figures/page.py", "benches/figures/page.png")


@nox.session(python=["3.12", "3.13", "3.14"])
def wheels(session: nox.Session) -> None:
    """A wheel for another Python passes the tests, where the path has that Python."""
    install_wheel(session, "serve", "test")
    pytest(session)
