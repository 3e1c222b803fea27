"""A publisher on the bench: its clock set by hand, its writer a fake, everything around it able to fail."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from snapring.publisher import Publisher


@dataclass
class FakeWriter:
    """Keeps what it is given, and fails on request."""

    values: list[object] = field(default_factory=list)
    error: BaseException | None = None
    beat_error: Exception | None = None
    beats: list[float] = field(default_factory=list)
    closes: int = 0

    def publish(self, snapshot: object) -> int:
        if self.error is not None:
            raise self.error
        self.values.append(snapshot)
        return len(self.values)

    def start_heartbeat(self, interval: float) -> None:
        if self.beat_error is not None:
            raise self.beat_error
        self.beats.append(interval)

    def close(self) -> None:
        self.closes += 1
        if self.error is not None:
            raise self.error


class Bench:
    """A publisher whose surroundings fail on request; ``interval`` is 1 unless given."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401  whatever Publisher takes
        self.now = 0.0
        self.writer = FakeWriter()
        self.start_error: BaseException | None = None
        self.collect_error: BaseException | None = None
        self.starts: list[float] = []
        self.collects: list[float] = []
        options.setdefault("interval", 1)
        self.publisher: Publisher[object] = Publisher(self.start, clock=lambda: self.now, **options)

    def start(self) -> FakeWriter:
        self.starts.append(self.now)
        if self.start_error is not None:
            raise self.start_error
        return self.writer

    def collect(self) -> object:
        self.collects.append(self.now)
        if self.collect_error is not None:
            raise self.collect_error
        return len(self.collects)

    def tick(self, at: float, **options: Any) -> bool:  # noqa: ANN401  whatever tick takes
        self.now = at
        return self.publisher.tick(self.collect, **options)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the publisher logged."""
    return [record.getMessage() for record in caplog.records if record.name == "snapring.publisher"]
