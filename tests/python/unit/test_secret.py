import os
from pathlib import Path

import pytest

from snapring.errors import InvalidValue, RingUntrusted
from snapring.serve.secret import MAX_TOKEN_BYTES, read_token


def written(path: Path, content: bytes, mode: int = 0o600) -> Path:
    """A file with this content and mode."""
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("content", "token"),
    [
        (b"s3cret", "s3cret"),
        (b"  s3cret \r\n", "s3cret"),
        ("schlüssel\n".encode(), "schlüssel"),
        (b"x" * MAX_TOKEN_BYTES + b"\n", "x" * MAX_TOKEN_BYTES),
    ],
)
@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_the_line_is_the_token(content: bytes, token: str, mode: int, tmp_path: Path) -> None:
    """The token is the file's one line without the blanks around it."""
    assert read_token(written(tmp_path / "token", content, mode)) == token


@pytest.mark.parametrize(
    "content", [b"", b" \n", b"two\nlines\n", b"a\x00b", b"\xff\xfe", b"tab\tinside", b"x" * (MAX_TOKEN_BYTES + 1)]
)
def test_what_is_no_token(content: bytes, tmp_path: Path) -> None:
    """Nothing, several lines, bytes that are no text, and too much are refused, and the message shows none of it."""
    path = written(tmp_path / "token", content)

    with pytest.raises(InvalidValue, match="one line") as refused:
        read_token(path)

    assert not content.strip() or content.decode("latin-1").strip() not in str(refused.value)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602, 0o700, 0o4600])
def test_others_may_not_read_it(mode: int, tmp_path: Path) -> None:
    """A file that anybody else may read or write, or with an odd mode, is refused with the command that mends it."""
    path = written(tmp_path / "token", b"s3cret", mode)

    with pytest.raises(RingUntrusted, match=f"mode {mode:04o}.*chmod 600") as refused:
        read_token(path)

    assert "s3cret" not in str(refused.value)


def test_only_a_file_of_ones_own(tmp_path: Path) -> None:
    """A link, a second name, a directory and a pipe are refused, and the pipe does not hang the reader."""
    path = written(tmp_path / "token", b"s3cret")
    (tmp_path / "link").symlink_to(path)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe", 0o600)

    with pytest.raises(InvalidValue, match="no link"):
        read_token(tmp_path / "link")
    for name in ("folder", "pipe"):
        with pytest.raises(RingUntrusted, match="no regular file"):
            read_token(tmp_path / name)
    (tmp_path / "second").hardlink_to(path)
    with pytest.raises(RingUntrusted, match="2 names"):
        read_token(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_not_of_another_user(tmp_path: Path) -> None:
    """A file of somebody else could have been replaced by him."""
    path = written(tmp_path / "token", b"s3cret")
    os.chown(path, 65_534, -1)

    with pytest.raises(RingUntrusted, match="belongs to uid 65534"):
        read_token(path)


def test_a_token_in_place_of_its_file() -> None:
    """Who gives the token itself where its file belongs does not find it in the message."""
    with pytest.raises(InvalidValue, match=r"No such file.*openssl rand") as refused:
        read_token("s3cret-token")

    assert "s3cret" not in str(refused.value)
    with pytest.raises(InvalidValue, match="NUL"):
        read_token("a\0b")
