"""What a modelled rank knows about its own load, and how that becomes the snapshot it publishes."""

import msgspec

__all__ = ["DecodeMoments", "RankState", "Throughput"]

_MAX_DECODE_STEP_S = 2.0  # a longer step was a pause, not work, and would spoil a fit
_THROUGHPUT_WINDOW_S = 1.0


class RankState(msgspec.Struct, frozen=True):
    """The load of one rank at one moment. Counts are requests, tokens are tokens, all 0 or more.

    ``running``: admitted, the one whose prompt is in progress included. ``waiting``: not admitted.
    ``waiting_uncached_tokens``: tokens still to prefill, the rest of a prompt in progress included. ``used_tokens``:
    KV slots taken, at most ``capacity_tokens``. ``total_tokens``: used plus the lengths of what waits; the quantity to
    balance by. ``max_running``: cap on admitted requests. ``received``: requests ever submitted, refused ones included.
    ``retracted``: times that a request lost its KV memory. ``throughput_tps``: answered tokens per second, None
    before the first window of `Throughput` has passed. ``prefill_tokens``, ``prefill_busy_us``: prompt tokens ever
    computed and microseconds of the steps that did it. ``decode_moments``: see `DecodeMoments`.
    """

    running: int
    waiting: int
    waiting_uncached_tokens: int
    used_tokens: int
    total_tokens: int
    capacity_tokens: int
    max_running: int
    received: int
    retracted: int
    throughput_tps: float | None
    prefill_tokens: int
    prefill_busy_us: int
    decode_moments: tuple[float, float, float, float, float, float] | None


class DecodeMoments:
    """Six running sums over decode steps: enough to fit step time = a + b * batch by least squares.

    Steps of 2 s and longer are left out. Belongs to one thread.
    """

    def __init__(self) -> None:
        """Start with no step."""
        self._steps = self._batch = self._batch_squared = self._tokens = 0
        self._us = self._batch_us = 0.0

    def add(self, batch: int, duration_s: float) -> None:
        """Count a decode step of ``duration_s`` seconds in which each of ``batch`` requests got one token."""
        if duration_s >= _MAX_DECODE_STEP_S:
            return
        self._steps += 1
        self._batch += batch
        self._us += duration_s * 1e6
        self._batch_squared += batch * batch
        self._batch_us += batch * duration_s * 1e6
        self._tokens += batch

    def sums(self) -> tuple[float, float, float, float, float, float] | None:
        """Return (steps, sum of batch, of microseconds, of batch^2, of batch * microseconds, of tokens), or None."""
        if not self._steps:
            return None
        return (self._steps, self._batch, self._us, self._batch_squared, self._batch_us, self._tokens)


class Throughput:
    """Answered tokens per second over windows of at least one second, each closed by the step that fills it.

    Belongs to one thread; time comes with each call.
    """

    def __init__(self) -> None:
        """Start with no window; the first call of `add` opens one."""
        self.tokens_per_s: float | None = None
        self._tokens = 0
        self._since_s: float | None = None

    def add(self, tokens: int, start_s: float, end_s: float) -> None:
        """Count the tokens of a step from ``start_s`` to ``end_s`` (seconds, never going back); 0 tokens when idle."""
        if self._since_s is None:
            self._since_s = start_s
        self._tokens += tokens
        elapsed_s = end_s - self._since_s
        if elapsed_s >= _THROUGHPUT_WINDOW_S:
            self.tokens_per_s = self._tokens / elapsed_s
            self._since_s, self._tokens = end_s, 0
