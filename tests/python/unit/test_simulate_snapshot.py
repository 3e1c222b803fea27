"""What a modelled rank publishes says what the model holds."""

from snapring.load import LoadSnapshot
from snapring.simulate import RankConfig, RankModel, Request, snapshot_of


def test_snapshot_says_what_the_state_says() -> None:
    """Every number of the state arrives under the name that readers know, ratios rounded to four digits."""
    rank = RankModel(RankConfig(chunk_tokens=100, kv_capacity_tokens=300, max_running=2))
    for number in range(3):
        rank.submit(Request(0.0, 70, 5, number), 0.0)
    step = rank.step(0.0)

    snapshot = snapshot_of(rank.state())

    assert isinstance(snapshot, LoadSnapshot)
    expected = {
        "num_running_reqs": 2,
        "num_waiting_reqs": 1,
        "num_waiting_uncached_tokens": 40 + 70,
        "num_used_tokens": 140,
        "num_total_tokens": 210,
        "num_active_tokens": 210,
        "max_total_num_tokens": 300,
        "max_running_requests": 2,
        "token_usage": 0.4667,
        "total_prefill_uncached_tokens": 100,
        "total_prefill_busy_us": round(step.duration_s * 1e6),
        "total_received_reqs": 3,
        "queues": {"waiting": 1, "grammar": None, "paused": None, "retracted": None, "prealloc_ready": None},
    }
    told = {name: value for name, value in snapshot.to_dict().items() if value is not None}
    assert told == expected


def test_unmeasured_is_not_zero() -> None:
    """Before the first decode step and the first window there are no moments and no throughput; later there are."""
    rank = RankModel()
    fresh = snapshot_of(rank.state())
    assert fresh.decode_moments is None
    assert fresh.gen_throughput is None
    assert fresh.cache_hit_rate is None

    rank.submit(Request(0.0, 10, 500, 0), 0.0)
    for _ in range(500):
        rank.step(0.0)
    later = snapshot_of(rank.state())

    assert later.decode_moments is not None
    assert later.decode_moments[0] == 499.0
    assert all(type(moment) is float for moment in later.decode_moments)
    assert later.gen_throughput is not None
    assert later.gen_throughput > 0
