import os
import re
from pathlib import Path

import pytest

from expositions import FULL, native, parsed
from snapring import InvalidValue, Reader, Writer
from snapring.formats.metrics import METRICS
from snapring.formats.profiles import PROFILES, profile_named

DATA = Path(__file__).parents[2] / "data"

# What `/v1/loads?format=prometheus` of SGLang calls the numbers, in its order, by what stands before them.
SGLANG = {
    "sglang": [
        "timestamp",
        "num_running_reqs",
        "num_waiting_reqs",
        "num_waiting_uncached_tokens",
        "num_used_tokens",
        "num_total_tokens",
        "max_total_num_tokens",
        "max_running_requests",
        "token_usage",
        "gen_throughput",
        "cache_hit_rate",
        "utilization",
        "num_active_tokens",
        "num_prealloc_ready_tokens",
        "total_prefill_uncached_tokens",
        "total_prefill_busy_us",
    ],
    "sglang_memory": ["weight_gb", "kv_cache_gb", "graph_gb", "token_capacity"],
    "sglang_spec": ["accept_length", "accept_rate"],
    "sglang_lora": ["slots_used", "slots_total", "utilization"],
    "sglang_disagg": [
        "prefill_bootstrap_queue_reqs",
        "prefill_inflight_queue_reqs",
        "decode_prealloc_queue_reqs",
        "decode_transfer_queue_reqs",
        "decode_retracted_queue_reqs",
        "kv_transfer_speed_gb_s",
        "kv_transfer_latency_ms",
    ],
    "sglang_queues": ["waiting", "grammar", "paused", "retracted", "prealloc_ready"],
}


@pytest.mark.parametrize("profile", PROFILES)
def test_golden_text(ring_dir: Path, profile: str) -> None:
    """The text of a full snapshot and of a rank without one is the stored one: a change of a name shows in review."""
    with Writer("main", rank=0, ranks=2) as writer, Reader("main", max_age=1e6) as reader:
        writer.publish(FULL)
        text = re.sub(r"(?m)^(snapring_age_seconds\S+) \S+$", r"\1 (age)", native(reader.view(), profile))

    file = DATA / f"metrics_{profile}.txt"
    if os.environ.get("SNAPRING_TEST_WRITE"):  # after a wanted change
        file.write_text(text)
    assert text == file.read_text()


def test_sglang(ring_dir: Path) -> None:
    """Names are SGLang's in its order, all are gauges in its units, and the rank is the only label."""
    with Writer("main", rank=0, ranks=1) as writer, Reader("main") as reader:
        writer.publish(FULL)
        families = parsed(native(reader.view(), "sglang"))

    assert list(families) == [f"{prefix}_{name}" for prefix, names in SGLANG.items() for name in names]
    assert {kind for kind, _, _, _ in families.values()} == {"gauge"}
    assert {labels for _, _, _, samples in families.values() for _, labels in samples} == {(("dp_rank", "0"),)}
    assert families["sglang_memory_weight_gb"][3] == {("sglang_memory_weight_gb", (("dp_rank", "0"),)): 14.5}
    assert families["sglang_total_prefill_busy_us"][3] == {
        ("sglang_total_prefill_busy_us", (("dp_rank", "0"),)): 2_500_000
    }


def test_what_the_endpoint_picker_reads(ring_dir: Path) -> None:
    """Queued and running requests and the KV ratio have the names that a picker looks for, and are gauges."""
    with Writer("main", rank=0, ranks=1) as writer, Reader("main") as reader:
        writer.publish(FULL)
        families = parsed(native(reader.view(), "llmd"))

    values = {name: (kind, *samples.values()) for name, (kind, _, _, samples) in families.items()}
    assert values == {
        "vllm:num_requests_running": ("gauge", 12),
        "vllm:num_requests_waiting": ("gauge", 5),
        "vllm:kv_cache_usage_perc": ("gauge", 0.45776),
        "vllm:max_gpu_lora_adapters": ("gauge", 8),
    }


def test_vllm(ring_dir: Path) -> None:
    """It has all that the picker reads, and vLLM's running totals as counters."""
    with Writer("main", rank=0, ranks=1) as writer, Reader("main") as reader:
        writer.publish(FULL)
        families = parsed(native(reader.view(), "vllm"))

    assert PROFILES["vllm"][: len(PROFILES["llmd"])] == PROFILES["llmd"]
    counters = {name: samples for name, (kind, _, _, samples) in families.items() if kind == "counter"}
    assert {name for samples in counters.values() for name, _ in samples} == {
        "vllm:prompt_tokens_total",
        "vllm:generation_tokens_total",
    }


def test_orca() -> None:
    """A load report has vLLM's two names, then canonical gauges."""
    names = [metric.name for metric in PROFILES["orca"]]

    assert names[:2] == ["kv_cache_usage_perc", "num_requests_waiting"]
    assert set(PROFILES["orca"][2:]) < set(METRICS)
    assert {metric.type for metric in PROFILES["orca"]} == {"gauge"}


def test_profiles_only_rename() -> None:
    """No profile has a number that the canonical table lacks, and none has a name twice."""
    sources = {metric.source for metric in METRICS}

    for profile, metrics in PROFILES.items():
        assert {metric.source for metric in metrics} <= sources, profile
        assert len({metric.name for metric in metrics}) == len(metrics), profile


def test_unknown_profile() -> None:
    """A profile that does not exist is refused with the names of those that do."""
    with pytest.raises(InvalidValue, match=r"'sgl'; valid names: snapring, sglang, vllm, llmd, orca"):
        profile_named("sgl")


def test_known_profile() -> None:
    """By default names are canonical."""
    assert profile_named("snapring") is METRICS
