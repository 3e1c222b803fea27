"""One data-parallel rank with continuous batching, as a pure state machine.

The caller owns the clock: it hands requests over with `RankModel.submit`, asks for one step at a time with
`RankModel.step`, and lets the step's duration pass as it likes (sleeping, or not at all). Same calls, same results.

The scheduler's rules, in the order they apply:

1. A step is a prefill step or a decode step, never both; prefill goes first whenever a request can be admitted.
2. Requests are admitted in order of arrival while the chunk budget lasts, the cap on admitted requests allows it, and
   KV memory has room. Memory for the whole context is taken at admission, so a prompt cut into chunks always ends.
3. Room means: headroom for every admitted request stays free. A rank that holds nothing admits any request.
4. The step that ends a prompt gives the first answer token; each decode step gives every running request one more.
5. When KV memory cannot take one more token for each running request, the newest is retracted: its memory is freed
   and it goes back to the head of the queue, to be computed again, tokens already answered included.
"""

import math
from collections import deque
from dataclasses import dataclass

import msgspec

from snapring.errors import InvalidValue
from snapring.publishing import Phase
from snapring.simulate.arrivals import Request
from snapring.simulate.cost import RankConfig
from snapring.simulate.state import DecodeMoments, RankState, Throughput

__all__ = ["Milestone", "RankModel", "StepResult"]


class Milestone(msgspec.Struct, frozen=True):
    """A request reached its first or its last answer token at ``at_s``; times are seconds on the caller's clock."""

    request: Request
    submitted_s: float
    at_s: float

    @property
    def since_arrival_s(self) -> float:
        """Seconds from the request's own arrival, time on the way to the rank included."""
        return self.at_s - self.request.arrival_s


class StepResult(msgspec.Struct, frozen=True, kw_only=True):
    """One step. Its tokens exist at ``end_s``; ``start_s`` is later than asked if the step before had not ended.

    ``phase`` is busy or idle, never stalled: a rank that runs nothing can always admit a request (rule 3).
    ``duration_s``: seconds, 0 when idle. ``prefill``: whether prompt tokens were computed. ``prefill_tokens``: prompt
    tokens computed in this step. ``batch``: requests in the step. ``answer_tokens``: tokens that it answered.
    """

    start_s: float
    duration_s: float
    phase: Phase
    prefill: bool = False
    prefill_tokens: int = 0
    batch: int = 0
    answer_tokens: int = 0
    first_tokens: tuple[Milestone, ...] = ()
    finished: tuple[Milestone, ...] = ()

    @property
    def end_s(self) -> float:
        """Seconds on the caller's clock at which the step ends."""
        return self.start_s + self.duration_s


@dataclass(slots=True)
class _Sequence:
    request: Request
    submitted_s: float
    generated: int = 0  # answer tokens so far; they survive a retraction
    held: int = 0  # KV slots taken
    todo: int = 0  # of these, not computed yet

    @property
    def context(self) -> int:
        return self.request.prompt_tokens + self.generated

    def milestone(self, at_s: float) -> Milestone:
        return Milestone(self.request, self.submitted_s, at_s)


class RankModel:
    """A rank that batches continuously; the module says by which rules. Belongs to one thread; knows no clock.

    A copied or forked model simply goes its own way: it holds no resources.
    """

    def __init__(self, config: RankConfig | None = None) -> None:
        """Start empty. ``config`` defaults to `RankConfig` with its own defaults."""
        self._config = config or RankConfig()
        self._waiting: deque[_Sequence] = deque()
        self._chunked: _Sequence | None = None  # admitted, prompt not finished
        self._running: list[_Sequence] = []  # oldest first
        self._used = 0
        self._waiting_tokens = 0
        self._busy_until_s = -math.inf
        self._received = 0
        self._retracted = 0
        self._prefill_tokens = 0
        self._prefill_s = 0.0
        self._moments = DecodeMoments()
        self._throughput = Throughput()

    def __repr__(self) -> str:
        state = self.state()
        return (
            f"<RankModel {state.running} running, {state.waiting} waiting, "
            f"{state.used_tokens} of {state.capacity_tokens} KV tokens>"
        )

    def submit(self, request: Request, now_s: float) -> None:
        """Queue ``request``. Any ``now_s`` goes; it is kept for the milestones only.

        Raises `InvalidValue` for a request whose tokens could never fit the KV memory. A refused request counts as
        received all the same, so that its sender's books close.
        """
        self._received += 1
        most = request.prompt_tokens + request.answer_tokens - 1  # the last token is answered, never stored
        if most > self._config.kv_capacity_tokens:
            raise InvalidValue(
                f"request {request.id} needs {most} KV tokens and the rank has {self._config.kv_capacity_tokens}; "
                "raise kv_capacity_tokens or shorten the request"
            )
        self._waiting.append(_Sequence(request, now_s))
        self._waiting_tokens += request.prompt_tokens

    def step(self, now_s: float) -> StepResult:
        """Do one step of work, or none when idle. ``now_s``: seconds on the caller's clock.

        A step asked for before the last one ended starts when that one ends, so simulated work never overlaps.
        """
        start_s = max(now_s, self._busy_until_s)
        batch = self._schedule_prefill()
        if batch:
            result = self._prefill(batch, start_s)
        elif self._running:
            result = self._decode(start_s)
        else:
            result = StepResult(start_s=start_s, duration_s=0.0, phase=Phase.IDLE)
        self._busy_until_s = result.end_s
        self._throughput.add(result.answer_tokens, result.start_s, result.end_s)
        return result

    def state(self) -> RankState:
        """Return the rank's load after the steps and submissions so far, in constant time."""
        chunked = self._chunked
        return RankState(
            running=len(self._running) + (chunked is not None),
            waiting=len(self._waiting),
            waiting_uncached_tokens=self._waiting_tokens + (chunked.todo if chunked else 0),
            used_tokens=self._used,
            total_tokens=self._used + self._waiting_tokens,
            capacity_tokens=self._config.kv_capacity_tokens,
            max_running=self._config.max_running,
            received=self._received,
            retracted=self._retracted,
            throughput_tps=self._throughput.tokens_per_s,
            prefill_tokens=self._prefill_tokens,
            prefill_busy_us=round(self._prefill_s * 1e6),
            decode_moments=self._moments.sums(),
        )

    def _schedule_prefill(self) -> list[tuple[_Sequence, int]]:
        """Return who computes how many prompt tokens in this step; admits requests (rules 2 and 3)."""
        budget = self._config.chunk_tokens
        batch: list[tuple[_Sequence, int]] = []
        if self._chunked:
            batch.append((self._chunked, min(budget, self._chunked.todo)))
            budget -= batch[0][1]
        while budget and self._waiting and self._has_room(self._waiting[0], len(self._running) + len(batch)):
            sequence = self._waiting.popleft()
            sequence.held = sequence.todo = sequence.context
            self._waiting_tokens -= sequence.context
            self._used += sequence.held
            batch.append((sequence, min(budget, sequence.todo)))
            budget -= batch[-1][1]
        return batch

    def _has_room(self, sequence: _Sequence, admitted: int) -> bool:
        if not admitted:
            return True  # submit() has made sure that it fits alone
        reserve = self._config.headroom_tokens * (admitted + 1)
        fits = self._used + sequence.context + reserve <= self._config.kv_capacity_tokens
        return fits and admitted < self._config.max_running

    def _prefill(self, batch: list[tuple[_Sequence, int]], start_s: float) -> StepResult:
        tokens = sum(count for _, count in batch)
        context = sum(sequence.held - sequence.todo for sequence, _ in batch)
        duration_s = self._config.cost.seconds(prefill_tokens=tokens, batch=len(batch), context_tokens=context)
        self._prefill_tokens += tokens
        self._prefill_s += duration_s
        self._chunked = None
        ready = []
        for sequence, count in batch:
            sequence.todo -= count
            if sequence.todo:
                self._chunked = sequence  # only the last of a batch can be cut: the budget is spent then
            else:
                ready.append(sequence)
        firsts = tuple(s.milestone(start_s + duration_s) for s in ready if not s.generated)
        self._running += ready
        finished = self._answer(ready, start_s + duration_s)
        return StepResult(
            start_s=start_s,
            duration_s=duration_s,
            phase=Phase.BUSY,
            prefill=True,
            prefill_tokens=tokens,
            batch=len(batch),
            answer_tokens=len(ready),
            first_tokens=firsts,
            finished=finished,
        )

    def _decode(self, start_s: float) -> StepResult:
        self._retract()
        batch = len(self._running)
        duration_s = self._config.cost.seconds(prefill_tokens=0, batch=batch, context_tokens=self._used)
        for sequence in self._running:
            sequence.held += 1
        self._used += batch
        self._moments.add(batch, duration_s)
        finished = self._answer(self._running, start_s + duration_s)
        return StepResult(
            start_s=start_s,
            duration_s=duration_s,
            phase=Phase.BUSY,
            batch=batch,
            answer_tokens=batch,
            finished=finished,
        )

    def _retract(self) -> None:
        """Free memory until every running request can take a token (rule 5); the oldest always stays."""
        while self._used + len(self._running) > self._config.kv_capacity_tokens:
            newest = self._running.pop()
            self._used -= newest.held
            newest.held = 0
            self._waiting.appendleft(newest)
            self._waiting_tokens += newest.context
            self._retracted += 1

    def _answer(self, sequences: list[_Sequence], at_s: float) -> tuple[Milestone, ...]:
        """Give each of ``sequences`` one answer token; drop from the running ones, and return, those that are done."""
        done = []
        for sequence in sequences:
            sequence.generated += 1
            if sequence.generated == sequence.request.answer_tokens:
                self._used -= sequence.held
                done.append(sequence.milestone(at_s))
        if done:
            self._running = [s for s in self._running if s.generated < s.request.answer_tokens]
        return tuple(done)
