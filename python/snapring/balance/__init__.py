"""Which rank gets the next request. Pure decisions: values in, a rank out; no I/O, no clock, no environment."""

from snapring.balance.in_flight import InFlight
from snapring.balance.least_tokens import LeastTokens, RankLoad

__all__ = ["InFlight", "LeastTokens", "RankLoad"]
