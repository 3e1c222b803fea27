"""The token of a server, from a file that nobody else can read: it never stands in a command or the environment."""

import os
import stat
from typing import Final

from snapring.errors import InvalidValue, RingUntrusted

__all__ = ["MAX_TOKEN_BYTES", "read_token"]

MAX_TOKEN_BYTES: Final = 4096

HOW: Final = "make one: (umask 077; openssl rand -hex 32 > FILE)"


def read_token(path: str | os.PathLike[str]) -> str:
    """The one line of the file, without blanks around it, of at most `MAX_TOKEN_BYTES` bytes.

    The rules are those of key files: a regular file of the own user, not a link, with one name, closed to others. No
    message shows what is in the file, nor a path where nothing is: somebody may have given the token itself for it.

    Raises:
        RingUntrusted: others may have read or replaced it. InvalidValue: it cannot be read, or holds no token.
    """
    # NONBLOCK: a planted FIFO must not hang the open.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    try:
        descriptor = os.open(path, flags)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "a path has no NUL"
        raise InvalidValue(f"the token file cannot be opened ({reason}); name a file, no link, or {HOW}") from None
    try:
        _check(os.fstat(descriptor), os.fspath(path))
        content = os.read(descriptor, MAX_TOKEN_BYTES + 3)  # with the end of the line
    finally:
        os.close(descriptor)
    return _token_in(content, os.fspath(path))


def _check(found: os.stat_result, path: str) -> None:
    """Raise RingUntrusted unless the file has only ever been its owner's."""
    uid, mode = os.geteuid(), stat.S_IMODE(found.st_mode)
    if not stat.S_ISREG(found.st_mode):
        reason = "is no regular file"
    elif found.st_uid != uid:
        reason = f"belongs to uid {found.st_uid}; copy it to a file of the own uid {uid}"
    elif mode & ~(stat.S_IRUSR | stat.S_IWUSR):
        reason = f"has mode {mode:04o}; if nobody else has read it: chmod 600 {path}"
    elif found.st_nlink != 1:
        reason = f"has {found.st_nlink} names (hard links); leave it one"
    else:
        return
    raise RingUntrusted(f"the token file {path} {reason}")


def _token_in(content: bytes, path: str) -> str:
    try:
        text = content.decode().strip()
    except UnicodeDecodeError:
        text = ""
    if not text or not text.isprintable() or len(text.encode()) > MAX_TOKEN_BYTES:
        raise InvalidValue(
            f"the token file {path} does not hold one line of text of 1 to {MAX_TOKEN_BYTES} bytes; {HOW}"
        )
    return text
