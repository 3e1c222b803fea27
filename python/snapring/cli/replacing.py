"""Files that others read while they are written: each version replaces the one before as a whole."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from snapring.errors import InvalidValue

__all__ = ["replace", "target"]

MODE: Final = 0o644
"""Whoever collects such files is another user."""


def target(text: str) -> Path:
    """The file to replace; of a link, what it leads to.

    Raises:
        InvalidValue: something stands there that is no regular file, or its directory is not there.
    """
    path = Path(text).resolve()
    if path.exists() and not path.is_file():
        raise InvalidValue(f"{text} is no regular file, and nothing else can be replaced; name a file")
    if not path.parent.is_dir():
        raise InvalidValue(f"{path.parent} is no directory; make it first: mkdir -p {path.parent}")
    return path


def replace(path: Path, content: bytes) -> None:
    """Give the file this content; who has it open keeps the old one, and nobody sees a part of either.

    It is not forced to the disk: after a power cut the next version matters, not this one. Raises ``OSError``.
    """
    import tempfile

    # Beside it, as a rename works only inside one file system, and hidden from who looks for *.prom.
    descriptor, made = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with open(descriptor, "wb") as stream:  # noqa: PTH123  a descriptor
            stream.write(content)
            os.fchmod(descriptor, MODE)
        Path(made).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(made).unlink()
        raise
