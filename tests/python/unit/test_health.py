import pytest

from snapring.errors import InvalidValue
from snapring.serve.health import Ready, check_ready, is_ready


@pytest.mark.parametrize(
    ("rule", "live", "ranks", "ready"),
    [
        ("any", 0, 8, False),
        ("any", 1, 8, True),
        ("all", 7, 8, False),
        ("all", 8, 8, True),
        ("all", 0, 0, False),
        (3, 2, 8, False),
        (3, 3, 8, True),
        (9, 8, 8, False),
    ],
)
def test_rules(rule: Ready, live: int, ranks: int, ready: bool) -> None:
    """Any, all or a number of LIVE ranks; without a LIVE rank a server is never ready."""
    assert is_ready(rule, live, ranks) is ready


@pytest.mark.parametrize("rule", ["some", 0, -1, True, None, 1.5])
def test_bad_rules(rule: object) -> None:
    """What is no rule is refused at the start, with those there are."""
    with pytest.raises(InvalidValue, match='"any", "all" or a number'):
        check_ready(rule)  # type: ignore[arg-type]
