"""Gets what the bench needs but the project does not contain, into a cache directory outside the tree."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

from model import Absent

DOWNLOAD_TIMEOUT_S = 300
COMPILE_TIMEOUT_S = 120


def cache_dir() -> Path:
    """Return (and make) the cache: ``$XDG_CACHE_HOME/snapring-bench``, else ``~/.cache/snapring-bench``."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(base) / "snapring-bench"
    path.mkdir(parents=True, exist_ok=True)
    return path


def module_from_wheel(package: str, version: str, member: str) -> Path:
    """Return the path of one module file out of a wheel, downloading the wheel (without what it depends on) once.

    Only the module is kept. Raises `Absent` when pip cannot get the wheel or the wheel lacks the file.
    """
    target = cache_dir() / f"{package}-{version}" / Path(member).name
    if target.exists():
        return target
    with tempfile.TemporaryDirectory() as scratch:
        wanted = f"{package}=={version}"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        _run([*command, "--dest", scratch, wanted], f"pip could not download {wanted}", DOWNLOAD_TIMEOUT_S)
        wheel = next(Path(scratch).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            try:
                content = archive.read(member)
            except KeyError:
                raise Absent(f"{wheel.name} has no {member}") from None
    target.parent.mkdir(exist_ok=True)
    _store(target, content)
    return target


def compiled_extension(source: Path) -> Path:
    """Return the path of a CPython extension compiled from one C file, compiling once per text and interpreter.

    Raises `Absent` when there is no C compiler or Python's headers are missing.
    """
    compiler = os.environ.get("CC") or shutil.which("cc")
    include = Path(sysconfig.get_path("include"))
    if compiler is None:
        raise Absent("no C compiler (cc) on this machine")
    if not (include / "Python.h").exists():
        raise Absent(f"no Python headers in {include}")
    suffix = str(sysconfig.get_config_var("EXT_SUFFIX"))
    digest = hashlib.blake2b(source.read_bytes() + sys.version.encode(), digest_size=6).hexdigest()
    target = cache_dir() / f"{source.stem}-{digest}" / f"{source.stem}{suffix}"
    if not target.exists():
        with tempfile.TemporaryDirectory() as scratch:
            built = Path(scratch) / target.name
            command = [compiler, "-O3", "-march=native", "-std=gnu11", "-shared", "-fPIC", f"-I{include}"]
            _run([*command, str(source), "-o", str(built)], f"{compiler} failed", COMPILE_TIMEOUT_S)
            target.parent.mkdir(exist_ok=True)
            _store(target, built.read_bytes())
    return target


def _store(target: Path, content: bytes) -> None:
    """Write whole files only: two benches may fill the cache at once."""
    partial = target.with_name(f"{target.name}.{os.getpid()}")
    partial.write_bytes(content)
    partial.replace(target)


def _run(command: list[str], failure: str, timeout_s: float) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Absent(f"{failure}: {error}") from error
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise Absent(f"{failure}: {last}")
