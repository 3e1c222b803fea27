"""The part of the table about ranks on other nodes."""

from __future__ import annotations

from functools import partial

from model import Row
from remote import distinct, drain, publish_call, publish_hot, visible
from remote_trouble import busy_owner, idle_wakes, lost, take_over

PUBLISH_GOALS_US = {"tick": 1.0, "wake": 10.0}
WAKE_GOALS_US = {"ipc": 60.0, "tcp": 65.0}
TICK_GOAL_US = 1100.0
DRAIN_GOALS_US = {1: None, 8: 1.2, 64: 0.5}
DISTINCT_GOAL_US = 4.0


def remote_rows() -> list[Row]:
    """Return the rows in the order of the table."""
    return [
        Row("remote-publish-hot", "remote publish, tick, 8 in a row", "us", publish_hot, PUBLISH_GOALS_US["tick"]),
        *(
            Row(
                f"remote-publish-{how}",
                f"remote publish, {how}",
                "us",
                partial(publish_call, at_once=how == "wake"),
                goal,
            )
            for how, goal in PUBLISH_GOALS_US.items()
        ),
        *(
            Row(
                f"remote-visible-{transport}-{how}",
                f"remote publish to visible, {transport}, {how}, p50",
                "us",
                partial(visible, transport=transport, at_once=how == "wake"),
                wake_goal if how == "wake" else TICK_GOAL_US,
            )
            for how in ("wake", "tick")
            for transport, wake_goal in WAKE_GOALS_US.items()
        ),
        *(
            Row(f"remote-drain-{n}", f"collect, per snapshot, {n} waiting", "us", partial(drain, pending=n), goal)
            for n, goal in DRAIN_GOALS_US.items()
        ),
        Row("remote-distinct", "per distinct snapshot collected, wake, no pause", "us", distinct, DISTINCT_GOAL_US),
        *(
            Row(f"remote-lost-{how}", f"last snapshots lost, {how}", "n", partial(lost, at_once=how == "wake"), 0.0)
            for how in ("tick", "wake")
        ),
        Row("remote-idle", "wake-ups of a collector of 4 idle senders", "1/s", idle_wakes),
        Row("remote-busy", "remote publish to visible, owner busy, p99", "ms", busy_owner, 5.0),
        Row("remote-takeover", "owner killed to fresh snapshot, p99", "ms", take_over, 100.0),
    ]
