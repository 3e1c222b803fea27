"""What is known of a rank's writer."""

import enum

__all__ = ["State"]


class State(enum.IntEnum):
    """State of a rank; the numbers are those of ``View.states``.

    ``NEVER``  nothing was published yet.
    ``LIVE``   a living process claims the rank and its newest snapshot is no older than the reader's ``max_age``.
    ``STALE``  claimed, but the newest snapshot is older, or from an earlier writer.
    ``DEAD``   nobody claims the rank: its writer was closed or died. The last snapshot stays readable.
    """

    NEVER = 0
    LIVE = 1
    STALE = 2
    DEAD = 3
