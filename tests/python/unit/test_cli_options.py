import argparse

import pytest

from snapring.cli import options, output


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("200ms", 0.2),
        ("2s", 2),
        ("2", 2),
        ("1.5m", 90),
        ("1h", 3600),
        ("1d", 86400),
        (".5s", 0.5),
        ("3 us", 3e-6),
        ("0", 0),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    """A duration is a number with a unit, or plain seconds."""
    assert options.duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "-1s", "1x", "1e3", "nan", "inf", "1 2", "9" * 400])
def test_no_durations(text: str) -> None:
    """What is no duration is an error of usage that shows how to write one."""
    with pytest.raises(argparse.ArgumentTypeError, match="200ms"):
        options.duration(text)


def test_intervals() -> None:
    """An interval is a duration of more than nothing."""
    assert options.interval("200ms") == pytest.approx(0.2)
    for text in ("0", "0s", "soon"):
        with pytest.raises(argparse.ArgumentTypeError, match="200ms"):
            options.interval(text)


@pytest.mark.parametrize(
    ("text", "ranks"),
    [("3", [3]), ("2,0", [0, 2]), ("0-3,2,7", [0, 1, 2, 3, 7]), (" 1 , 2 ", [1, 2]), ("65535", [65535])],
)
def test_ranks(text: str, ranks: list[int]) -> None:
    """Ranks are numbers and ranges, each rank once and in order."""
    assert options.ranks(text) == ranks


@pytest.mark.parametrize("text", ["", "a", "1,", "3-1", "-1", "1--2", "65536", "0-99999", "0-1-2"])
def test_no_ranks(text: str) -> None:
    """What names no ranks is an error of usage, and never a huge list."""
    with pytest.raises(argparse.ArgumentTypeError, match="names no ranks"):
        options.ranks(text)


def test_fields() -> None:
    """Fields keep their order; one named twice is shown once."""
    assert options.fields("b, a.c,b") == ["b", "a.c"]
    with pytest.raises(argparse.ArgumentTypeError, match="names no fields"):
        options.fields("a,,b")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.0003, "0.3ms"),
        (0.99999, "1.00s"),
        (1.239, "1.24s"),
        (59.999, "1m00s"),
        (190, "3m10s"),
        (7500.9, "2h05m"),
        (356_400, "4d03h"),
    ],
)
def test_seconds_for_people(seconds: float | None, text: str) -> None:
    """A duration is shown in the unit that fits it, never as 60 of the smaller one."""
    assert output.seconds_text(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (139_264, "136.0 KiB"),
        (8 << 20, "8.0 MiB"),
        (3 << 50, "3072.0 TiB"),
    ],
)
def test_bytes_for_people(count: int, text: str) -> None:
    """A size is shown in powers of 1024."""
    assert output.bytes_text(count) == text


def test_terminals_get_no_orders() -> None:
    """Text out of a ring cannot move the cursor, change colours or break a line."""
    assert output.printable("job\x1b[31m\n\r\x07ü") == "job?[31m???ü"
