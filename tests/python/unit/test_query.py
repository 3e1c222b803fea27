import pytest

from snapring.load import Section
from snapring.serve.query import LONGEST_WAIT_S, BadQuery, parse_query

EVERYTHING = frozenset(Section)


@pytest.mark.parametrize(
    ("text", "include"),
    [
        (b"", EVERYTHING),
        (b"include=", EVERYTHING),
        (b"include=all", EVERYTHING),
        (b"include=memory", {Section.CORE, Section.MEMORY}),
        (b"include=%20memory%20,+spec", {Section.CORE, Section.MEMORY, Section.SPEC}),
        (b"include=core", {Section.CORE}),
        (b"include=core&include=lora", {Section.CORE, Section.LORA}),
    ],
)
def test_include(text: bytes, include: set[Section]) -> None:
    """A comma list, blanks trimmed, empty means all, core is always there, the last one counts."""
    assert parse_query(text).include == include


@pytest.mark.parametrize("text", [b"include=memry", b"include=memory,", b"include=,"])
def test_bad_include(text: bytes) -> None:
    """A name that does not exist is 400 and lists those that do."""
    with pytest.raises(BadQuery) as caught:
        parse_query(text)

    assert caught.value.code == 400
    assert caught.value.valid == ("all", "core", "memory", "spec", "lora", "disagg", "queues")


def test_bad_format() -> None:
    """An unknown format is 400 and lists those there are."""
    with pytest.raises(BadQuery, match="xml") as caught:
        parse_query(b"format=xml")

    assert (caught.value.code, caught.value.valid) == (400, ("json", "prometheus", "openmetrics", "orca"))


@pytest.mark.parametrize(
    "text", [b"dp_rank=x", b"dp_rank=1.5", b"max_age=old", b"max_age=-1", b"wait=nan", b"wait=inf"]
)
def test_what_should_be_a_number(text: bytes) -> None:
    """Text for a number, and a number that cannot be, is 422."""
    with pytest.raises(BadQuery) as caught:
        parse_query(text)

    assert caught.value.code == 422


@pytest.mark.parametrize(
    ("text", "ranks"),
    [(b"", None), (b"dp_rank=", None), (b"dp_rank=3", [3]), (b"dp_rank=-1", []), (b"dp_rank=99999999999", [])],
)
def test_rank(text: bytes, ranks: list[int] | None) -> None:
    """One rank, or all; one that no ring can have chooses nothing."""
    assert parse_query(text).ranks == ranks


def test_waits_are_bounded() -> None:
    """Nobody waits longer than proxies keep a silent connection."""
    assert parse_query(b"wait=1e9").wait == LONGEST_WAIT_S
    assert parse_query(b"wait=2.5").wait == 2.5


def test_other_parameters_are_passed_over() -> None:
    """A parameter of somebody else, or bytes that are no text, are no error."""
    assert parse_query(b"foo=1&%ff=%fe&bar") == parse_query(b"")
