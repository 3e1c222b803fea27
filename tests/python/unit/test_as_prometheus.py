import math
from collections.abc import Mapping
from pathlib import Path

import pytest

from expositions import FULL, native, parsed
from snapring import InvalidValue, LoadSnapshot, Reader, State, Writer
from snapring.formats.as_prometheus import check_labels, content_type, ending, plan
from snapring.formats.metrics import METRICS, Metric
from snapring.load import DisaggregationSection
from support import eventually

GAUGE = Metric("llm_g_tokens", 'A "g" of C:\\ and\nmore.', "gauge", "num_g", "tokens", 2.0)
COUNTER = Metric("llm_c", "C.", "counter", "decode_moments[5]")
INFO = Metric("llm_i", "I.", "info", "a.mode", label="mode")
STATESET = Metric("llm_s", "S.", "stateset", "$state", label="llm_s")
TABLE = (GAUGE, COUNTER, INFO, STATESET)
LABELS = {"model": 'a"b\\c\nd', "job": "j"}
CONSTANT = rb',job="j",model="a\"b\\c\nd"'


def test_plan_of_text() -> None:
    """Version 0.0.4: no unit, a counter named as its samples, info and stateset as gauges; a quote in help stays."""
    families = plan(TABLE, {}, openmetrics=False)

    assert [header for header, *_ in families] == [
        b'# HELP llm_g_tokens A "g" of C:\\\\ and\\nmore.\n# TYPE llm_g_tokens gauge\n',
        b"# HELP llm_c_total C.\n# TYPE llm_c_total counter\n",
        b"# HELP llm_i_info I.\n# TYPE llm_i_info gauge\n",
        b"# HELP llm_s S.\n# TYPE llm_s gauge\n",
    ]


def test_plan_of_openmetrics() -> None:
    """OpenMetrics: units, types of their own, and no suffixes in the headers; a quote in help is escaped."""
    families = plan(TABLE, {}, openmetrics=True)

    assert [header for header, *_ in families] == [
        b'# HELP llm_g_tokens A \\"g\\" of C:\\\\ and\\nmore.\n# TYPE llm_g_tokens gauge\n# UNIT llm_g_tokens tokens\n',
        b"# HELP llm_c C.\n# TYPE llm_c counter\n",
        b"# HELP llm_i I.\n# TYPE llm_i info\n",
        b"# HELP llm_s S.\n# TYPE llm_s stateset\n",
    ]


@pytest.mark.parametrize("openmetrics", [False, True])
@pytest.mark.parametrize(("labels", "constant"), [({}, b""), (LABELS, CONSTANT)])
def test_plan_of_samples(openmetrics: bool, labels: Mapping[str, str], constant: bytes) -> None:
    """Samples are the same in both formats: the rank, constant labels sorted and escaped, the metric's own label."""
    families = plan(TABLE, labels, openmetrics)

    assert [flags for _, *flags, _ in families] == [[False, True], [True, False], [False, False], [False, False]]
    assert [samples for *_, samples in families] == [
        [(b'llm_g_tokens{dp_rank="', b'"' + constant + b"} ", "num_g", 2.0)],
        [(b'llm_c_total{dp_rank="', b'"' + constant + b"} ", "decode_moments[5]", 1.0)],
        [(b'llm_i_info{dp_rank="', b'"' + constant + b',mode="', "a.mode=", 1.0)],
        [
            (b'llm_s{dp_rank="', b'"' + constant + b',llm_s="' + state + b'"} ', f"$state={state.decode()}", 1.0)
            for state in (b"NEVER", b"LIVE", b"STALE", b"DEAD")
        ],
    ]


@pytest.mark.parametrize("name", ["", "1a", "a-b", "a:b", "modèle", "__name__", "a b", 'a"'])
def test_names_of_labels(name: str) -> None:
    """What is no name of a label, or is reserved, is refused with what is one."""
    with pytest.raises(InvalidValue, match="letters, digits and _"):
        plan(METRICS, {name: "x"}, openmetrics=False)


@pytest.mark.parametrize("name", ["dp_rank", "mode", "snapring_state"])
def test_labels_of_our_own(name: str) -> None:
    """A label that a metric has of its own cannot be set."""
    with pytest.raises(InvalidValue, match="choose another name"):
        check_labels({name: "x"}, METRICS)


def test_values_of_labels() -> None:
    """The value of a label is a text."""
    with pytest.raises(InvalidValue, match="give a text"):
        check_labels({"model": 3}, METRICS)  # type: ignore[dict-item]


def test_content_types() -> None:
    """Each format has its media type, and only OpenMetrics says where it ends."""
    assert content_type(openmetrics=False) == "text/plain; version=0.0.4; charset=utf-8"
    assert content_type(openmetrics=True) == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert (ending(openmetrics=False), ending(openmetrics=True)) == (b"", b"# EOF\n")


@pytest.mark.parametrize("openmetrics", [False, True])
def test_labels_survive_the_way(ring_dir: Path, openmetrics: bool) -> None:
    """Quotes, backslashes, line ends and letters of any script in a label's value are read back as they were."""
    labels = {"model": 'q"\\ \n日本', "job": ""}
    with Writer("main", rank=0, ranks=1) as writer, Reader("main") as reader:
        writer.publish(FULL)
        families = parsed(
            native(reader.view(), "snapring", openmetrics=openmetrics, labels=labels), openmetrics=openmetrics
        )

    seen = {tuple(pair for pair in key if pair[0] in labels) for *_, samples in families.values() for _, key in samples}
    assert seen == {(("job", ""), ("model", 'q"\\ \n日本'))}


@pytest.mark.parametrize("openmetrics", [False, True])
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 5e-324, 1.7976931348623157e308])
def test_numbers_that_json_lacks(ring_dir: Path, number: float, openmetrics: bool) -> None:
    """NaN and infinities of a gauge are legal, and arrive as what they are."""
    with Writer("main", rank=0, ranks=1) as writer, Reader("main") as reader:
        writer.publish(LoadSnapshot(gen_throughput=number))
        families = parsed(native(reader.view(), "snapring", openmetrics=openmetrics), openmetrics=openmetrics)

    (found,) = families["llm_generation_tokens_per_second"][3].values()
    assert found == number or (math.isnan(found) and math.isnan(number))


@pytest.mark.parametrize("openmetrics", [False, True])
def test_absent_is_absent(ring_dir: Path, openmetrics: bool) -> None:
    """What one rank does not report has no sample of it, and what no rank reports is not mentioned at all."""
    with Writer("main", rank=0, ranks=2) as zero, Writer("main", rank=1, ranks=2) as one, Reader("main") as reader:
        zero.publish(LoadSnapshot(token_usage=0.0, decode_moments=[1.0, 2.0]))
        one.publish(LoadSnapshot(disaggregation=DisaggregationSection(mode="prefill")))
        text = native(reader.view(), "snapring", openmetrics=openmetrics)

    families = parsed(text, openmetrics=openmetrics)
    ranks = {name: [dict(key)["dp_rank"] for _, key in samples] for name, (*_, samples) in families.items()}
    assert ranks["llm_kv_usage_ratio"] == ["0"]
    assert ranks["llm_requests_running"] == ["0", "1"]
    assert ranks["llm_decode_batched_requests"] == ["0"]
    assert ranks["llm_prefill_inflight_queue_requests"] == ["1"]
    for absent in ("llm_cache_hit_ratio", "llm_decode_step_seconds", "llm_memory", "llm_lora"):
        assert absent not in text


@pytest.mark.parametrize("openmetrics", [False, True])
def test_the_role_is_a_label(ring_dir: Path, openmetrics: bool) -> None:
    """The mode of a disaggregated rank is the label of a sample that is 1."""
    with Writer("main", rank=0, ranks=1) as writer, Reader("main") as reader:
        writer.publish(LoadSnapshot(disaggregation=DisaggregationSection(mode="prefill")))
        text = native(reader.view(), "snapring", openmetrics=openmetrics, labels={"job": "j"})

    assert '\nllm_disaggregation_info{dp_rank="0",job="j",mode="prefill"} 1\n' in text


@pytest.mark.parametrize("openmetrics", [False, True])
def test_ranks_without_a_snapshot(ring_dir: Path, openmetrics: bool) -> None:
    """A rank that never published has a state and is not up, and that is all; of one that is DEAD no load is told."""
    with Writer("main", rank=2, ranks=3) as writer, Reader("main", max_age=1e6) as reader:
        writer.publish(FULL)
        with Writer("main", rank=1, ranks=3) as closed:
            closed.publish(FULL)
        eventually(lambda: reader.view().states[1] == State.DEAD)
        families = parsed(native(reader.view(), "snapring", openmetrics=openmetrics), openmetrics=openmetrics)

    states = families["snapring_state"][3]
    assert {key: value for (_, key), value in states.items() if value} == {
        (("dp_rank", "0"), ("snapring_state", "NEVER")): 1,
        (("dp_rank", "1"), ("snapring_state", "DEAD")): 1,
        (("dp_rank", "2"), ("snapring_state", "LIVE")): 1,
    }
    assert len(states) == 3 * 4
    assert list(families["snapring_up"][3].values()) == [0, 0, 1]
    with_rank_0 = {
        name for name, (*_, samples) in families.items() for _, key in samples if dict(key)["dp_rank"] == "0"
    }
    assert with_rank_0 == {"snapring_state", "snapring_up"}
    assert [dict(key)["dp_rank"] for _, key in families["llm_requests_running"][3]] == ["2"]
    assert len(families["llm_generated_tokens"][3]) == 2
