"""The metrics under the names that other tools expect.

A profile is a renaming table and nothing more: each entry is a field under another name. A number that a tool wants and
no field holds is left out rather than guessed.

``snapring``
    The canonical names, and what the ring tells by itself.
``sglang``
    The names of SGLang's ``/v1/loads?format=prometheus``: ``sglang_`` and the field's name, ``spec`` and ``disagg``
    short for their sections, everything a gauge in its own unit, no texts and no lists.
``vllm``
    The gauges and counters of vLLM that a snapshot can fill, for dashboards and autoscaling rules made for vLLM. Its
    ``cache_config_info`` is not among them, since a ring does not know the size of a block.
``llmd``
    What the endpoint picker of llm-d and of the Gateway API inference extension reads from a server whose pod carries
    no label of its engine. It takes one series of each name, so give it an address per rank, or name the rank in its
    configuration, as in ``vllm:num_requests_waiting{dp_rank=0}``.
``orca``
    The ``named_metrics`` of an ORCA load report: vLLM's two, then the canonical gauges that weigh a rank.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from msgspec.structs import replace

from snapring.errors import InvalidValue
from snapring.formats.metrics import METRICS, Metric
from snapring.load import SECTION_FIELDS

__all__ = ["PROFILES", "profile_named"]

_CANONICAL: Final = {metric.source: metric for metric in METRICS}


def _renamed(source: str, name: str, text: str = "") -> Metric:
    """The canonical metric of ``source`` under another name, its type, scale and (by default) explanation kept."""
    metric = _CANONICAL[source]
    return replace(metric, name=name, help=text or metric.help, unit="")


_SECTIONS: Final = {field: str(section) for section, field in SECTION_FIELDS.items()}


def _sglang(metric: Metric) -> Metric:
    section, _, field = metric.source.rpartition(".")
    name = f"sglang_{_SECTIONS[section]}_{field}" if section else f"sglang_{field}"
    return Metric(name, metric.help, "gauge", metric.source)


_SGLANG: Final = tuple(
    _sglang(metric) for metric in METRICS if metric.type != "info" and not {"$", "["} & set(metric.source)
)

_LLMD: Final = (
    _renamed("num_running_reqs", "vllm:num_requests_running"),
    _renamed("num_waiting_reqs", "vllm:num_requests_waiting"),
    _renamed("token_usage", "vllm:kv_cache_usage_perc", "Used part of the KV cache, 0 to 1 whatever the name says."),
    _renamed("lora.slots_total", "vllm:max_gpu_lora_adapters"),
)

_VLLM: Final = (
    *_LLMD,
    _renamed("total_prefill_uncached_tokens", "vllm:prompt_tokens", "Prompt tokens computed, without those cached."),
    _renamed("decode_moments[5]", "vllm:generation_tokens"),
)

_WEIGHING: Final = (
    "num_running_reqs",
    "num_waiting_reqs",
    "num_waiting_uncached_tokens",
    "num_used_tokens",
    "num_total_tokens",
    "token_usage",
    "gen_throughput",
    "utilization",
)

_ORCA: Final = (
    _renamed("token_usage", "kv_cache_usage_perc", "Used part of the KV cache, 0 to 1 whatever the name says."),
    _renamed("num_waiting_reqs", "num_requests_waiting"),
    *(_CANONICAL[source] for source in _WEIGHING),
)

PROFILES: Final[Mapping[str, tuple[Metric, ...]]] = MappingProxyType(
    {"snapring": METRICS, "sglang": _SGLANG, "vllm": _VLLM, "llmd": _LLMD, "orca": _ORCA}
)
"""The tables by name."""


def profile_named(name: str) -> tuple[Metric, ...]:
    """The table of a profile.

    Raises:
        InvalidValue: there is none of that name; the message lists those there are.
    """
    if name not in PROFILES:
        raise InvalidValue(f"unknown profile {name!r}; valid names: {', '.join(PROFILES)}")
    return PROFILES[name]
