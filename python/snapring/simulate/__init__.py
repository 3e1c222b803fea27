"""Simulated ranks without a GPU: arrivals, a rank that batches continuously, and what a run came to.

No process, no clock and no ring in here: the same pieces serve the demo, tests and offline comparisons.
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
