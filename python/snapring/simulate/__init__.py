"""Simulated ranks without a GPU: arrivals, a rank that batches continuously, and what a run came to.

What this module gives starts no process, reads no clock and touches no ring, so it serves the demo, tests and offline
comparisons alike. The parts that do are imported by name: ``rank_process`` runs a rank as a process, ``channel``
carries what is said to it, ``cluster`` keeps one such process per rank, ``controller`` sends them requests by the ring.
"""

from snapring.simulate.arrivals import CHAT_ANSWERS, CHAT_PROMPTS, Lengths, Request, bursty, read_trace
from snapring.simulate.cost import RankConfig, StepCost
from snapring.simulate.model import Milestone, RankModel, StepResult
from snapring.simulate.snapshot import SimulatedLoad, snapshot_of
from snapring.simulate.state import RankState
from snapring.simulate.summary import FirstTokenTimes, RankTotals, Summary, Tally

__all__ = [
    "CHAT_ANSWERS",
    "CHAT_PROMPTS",
    "FirstTokenTimes",
    "Lengths",
    "Milestone",
    "RankConfig",
    "RankModel",
    "RankState",
    "RankTotals",
    "Request",
    "SimulatedLoad",
    "StepCost",
    "StepResult",
    "Summary",
    "Tally",
    "bursty",
    "read_trace",
    "snapshot_of",
]
