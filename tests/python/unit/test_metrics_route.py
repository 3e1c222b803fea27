import pytest

from snapring.serve.metrics_route import wants_openmetrics

PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;"
    "version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)


@pytest.mark.parametrize(
    ("accept", "openmetrics"),
    [
        (PROMETHEUS, True),
        ("application/openmetrics-text", True),
        ('Application/OpenMetrics-Text; version="1.0.0"', True),
        ("application/openmetrics-text;version=abc", False),
        ("application/openmetrics-text;version=2.0.0", False),
        ("application/openmetrics-text;q=0,text/plain;q=1", False),
        ("application/openmetrics-text;q=0.2,text/plain;q=0.9", False),
        ("application/openmetrics-text;q=high", False),
        ("text/plain; version=x.y", False),
        ("text/html,*/*;q=0.8", False),
        ("", False),
        (";;;,,q=", False),
    ],
)
def test_negotiation(accept: str, openmetrics: bool) -> None:
    """OpenMetrics for who ranks a version that there is above the older format, which all others get."""
    assert wants_openmetrics(accept) is openmetrics
