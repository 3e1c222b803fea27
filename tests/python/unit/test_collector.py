import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from msgspec import Struct
from prometheus_client import CollectorRegistry, Counter, Histogram

from expositions import FULL, collected, comparable, native, parsed, snapshots
from snapring import InvalidValue, LoadSnapshot, Reader, Relay, State, Writer
from snapring.formats.profiles import PROFILES
from snapring.load import DisaggregationSection
from snapring.loads import Loads
from snapring.serve.collector import DROP_REASONS, PROCESS_FAMILIES, LoadCollector
from support import eventually

# No search for a smaller case: it would take minutes, and the failure names the family that differs anyway.
QUICK = (Phase.explicit, Phase.reuse, Phase.generate)


def samples(text: str) -> dict[str, float]:
    """The samples of a text by their name and labels as written."""
    return {
        name: float(value) for name, _, value in (line.rpartition(" ") for line in text.splitlines() if line[0] != "#")
    }


@pytest.mark.parametrize("openmetrics", [False, True])
def test_both_renderers_agree(ring_dir: Path, openmetrics: bool) -> None:
    """Whatever ranks report, our own text and prometheus_client's hold equal families, help, units and samples."""
    with (
        Writer("main", rank=0, ranks=3) as zero,
        Writer("main", rank=2, ranks=3) as two,
        Reader("main", max_age=1e6) as reader,
    ):

        @settings(phases=QUICK)
        @given(snapshots(), snapshots(), st.dictionaries(st.sampled_from(["model", "job"]), st.text(max_size=5)))
        def check(first: LoadSnapshot, second: LoadSnapshot, labels: Mapping[str, str]) -> None:
            zero.publish(first)
            two.publish(second)

            ours = native(reader.view(), "snapring", openmetrics=openmetrics, labels=labels)
            theirs = collected(LoadCollector(reader, labels=labels), openmetrics=openmetrics)

            expected = comparable(parsed(ours, openmetrics=openmetrics))
            assert comparable(parsed(theirs, openmetrics=openmetrics)) == expected

        check()


@pytest.mark.parametrize(
    ("profile", "openmetrics"),
    [(profile, False) for profile in PROFILES] + [(profile, True) for profile in ("snapring", "sglang", "orca")],
)
def test_both_renderers_agree_on_profiles(ring_dir: Path, profile: str, openmetrics: bool) -> None:
    """So they do under the names of every profile; those with colons fit the older format only."""
    with Writer("main", rank=0, ranks=2) as writer, Reader("main", max_age=1e6) as reader:
        writer.publish(FULL)
        ours = native(reader.view(), profile, openmetrics=openmetrics)
        theirs = collected(LoadCollector(reader, profile=profile), openmetrics=openmetrics)

    expected = comparable(parsed(ours, openmetrics=openmetrics))
    assert len(expected) == len(PROFILES[profile])
    assert comparable(parsed(theirs, openmetrics=openmetrics)) == expected


def test_states_and_epochs(ring_dir: Path) -> None:
    """Writers that follow each other and ranks that are dead or never published look the same in both."""
    with Reader("main", max_age=1e6) as reader:
        for _ in range(3):
            with Writer("main", rank=1, ranks=3, keep=True) as writer:
                writer.publish(FULL)
        eventually(lambda: reader.view().states[1] == State.DEAD)
        ours, theirs = native(reader.view(), "snapring"), collected(LoadCollector(reader))

    assert comparable(parsed(ours)) == comparable(parsed(theirs))
    found = samples(theirs)
    assert found['snapring_writer_epochs_total{dp_rank="1"}'] == 3
    assert found['snapring_publishes_total{dp_rank="1"}'] == 3
    assert found['snapring_state{dp_rank="1",snapring_state="DEAD"}'] == 1
    assert found['snapring_state{dp_rank="0",snapring_state="NEVER"}'] == 1
    assert (found['snapring_up{dp_rank="0"}'], found['snapring_up{dp_rank="1"}']) == (0, 0)


class Own(Struct):
    """A schema that shares three names with a load snapshot, one of them for something else."""

    num_running_reqs: float = 0.5
    token_usage: bool = True
    disaggregation: DisaggregationSection | None = None


def test_another_schema(ring_dir: Path) -> None:
    """Of a ring of another schema both show the fields that they can, and what the ring tells by itself."""
    with Writer("main", rank=0, ranks=1, schema=Own) as writer, Reader("main", schema=None, max_age=1e6) as reader:
        writer.publish(Own(disaggregation=DisaggregationSection()))
        ours, theirs = native(reader.view(), "snapring"), collected(LoadCollector(reader))

    assert comparable(parsed(ours)) == comparable(parsed(theirs))
    found = samples(theirs)
    assert found['llm_requests_running{dp_rank="0"}'] == 0.5
    assert found['llm_disaggregation_info{dp_rank="0",mode="null"}'] == 1
    assert 'llm_kv_usage_ratio{dp_rank="0"}' not in found


def test_a_damaged_rank(ring_dir: Path) -> None:
    """A slot that no writer would have left so is dead in both, and takes no other rank along."""
    with (
        Writer("main", rank=0, ranks=2) as zero,
        Writer("main", rank=1, ranks=2) as one,
        Reader("main", max_age=1e6) as reader,
    ):
        zero.publish(LoadSnapshot(timestamp=1764359139.5))
        one.publish(FULL)
        rank_0 = (ring_dir / "main.ring").read_bytes().index(struct.pack("<qd", 0, 1764359139.5))
        with (ring_dir / "main.ring").open("r+b") as file:
            file.seek(rank_0)
            file.write(struct.pack("<q", 1))
        ours, theirs = native(reader.view(), "snapring"), collected(LoadCollector(reader))

    assert comparable(parsed(ours)) == comparable(parsed(theirs))
    found = samples(theirs)
    assert found['llm_requests_running{dp_rank="1"}'] == 12
    assert 'llm_requests_running{dp_rank="0"}' not in found
    assert found['snapring_up{dp_rank="0"}'] == 0


def test_registering_reads_nothing() -> None:
    """A collector can be registered before there is a ring, and even beside a reader that is closed."""
    reader = Reader("nowhere")
    reader.close()
    registry = CollectorRegistry()

    registry.register(LoadCollector(reader))

    assert LoadCollector(reader).describe() == []


def test_no_ring(ring_dir: Path) -> None:
    """Without a ring there are no ranks, and nothing failed."""
    with Reader("nowhere") as reader:
        found = samples(collected(LoadCollector(reader)))

    assert found == {"snapring_contended_reads_total": 0, "snapring_failed_reads_total": 0}


def test_a_ring_that_cannot_be_read(ring_dir: Path) -> None:
    """The host's other metrics survive it, and each scrape that had no ranks is counted."""
    reader = Reader("main")
    reader.close()
    registry = CollectorRegistry()
    registry.register(collector := LoadCollector(reader))
    Counter("host_requests", "Of the host.", registry=registry).inc()

    first, second = samples(collected(collector)), samples(collected(collector))

    assert (first["snapring_failed_reads_total"], second["snapring_failed_reads_total"]) == (1, 2)
    assert registry.get_sample_value("host_requests_total") == 1


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"profile": "sgl"}, "valid names: snapring"),
        ({"labels": {"dp_rank": "1"}}, "another name"),
        ({"labels": {"a-b": "1"}}, "letters"),
    ],
)
def test_bad_options(ring_dir: Path, options: dict[str, Any], reason: str) -> None:
    """A profile that does not exist and a label that is taken or no label are refused at once."""
    with Reader("main") as reader, pytest.raises(InvalidValue, match=reason):
        LoadCollector(reader, **options)


def test_relay(ring_dir: Path) -> None:
    """What the relay dropped stands there by reason, and how many owners it has had, also once it is closed."""
    with Reader("main") as reader:
        with Relay("main", ranks=1) as relay:
            collector = LoadCollector(reader, relay=relay)
            found = samples(collected(collector))
        closed = samples(collected(collector))

    drops = {name: value for name, value in found.items() if name.startswith("snapring_relay_drops_total")}
    assert drops == {f'snapring_relay_drops_total{{reason="{reason}"}}': 0 for reason in DROP_REASONS}
    assert found["snapring_relay_takeovers_total"] == 1
    assert closed.keys() == found.keys()


def test_dropped_frames(ring_dir: Path) -> None:
    """A frame that is none is counted under its reason."""
    import zmq

    with Reader("main") as reader, Relay("main", ranks=1) as relay, zmq.Context() as context:
        collector = LoadCollector(reader, relay=relay)
        with context.socket(zmq.PUSH) as socket:
            assert relay.endpoint is not None
            socket.connect(relay.endpoint)
            socket.send(b"no frame")
            name = 'snapring_relay_drops_total{reason="undecodable"}'
            eventually(lambda: samples(collected(collector))[name] == 1)


def test_every_drop_has_a_reason(ring_dir: Path) -> None:
    """The reasons are all counters of a relay but those of frames that did what they should, and of connections."""
    with Relay("main", ranks=1) as relay:
        counts = set(relay.stats())

    good = {"received", "published", "repeated", "beats", "goodbyes", "takes"}
    connections = {"refused_key", "refused_address", "too_many_peers", "handshakes_failed", "endless", "disconnects"}
    assert set(DROP_REASONS) == counts - good - connections


def test_durations(ring_dir: Path) -> None:
    """What else is to be exposed comes along, under its own names."""
    histogram = Histogram("snapring_request_seconds", "Of requests.", buckets=[0.1], registry=None)
    histogram.observe(0.05)
    with Reader("main") as reader:
        found = samples(collected(LoadCollector(reader, durations=histogram)))

    assert found['snapring_request_seconds_bucket{le="0.1"}'] == 1


def test_contended_reads(ring_dir: Path) -> None:
    """Rows that others in the process read under contention are counted with its own."""
    with Reader("main") as reader:
        loads = Loads(reader)
        loads._contended, loads._failed = 3, 2
        found = samples(collected(LoadCollector(reader, loads=loads)))

    assert (found["snapring_contended_reads_total"], found["snapring_failed_reads_total"]) == (3, 2)


def test_names_of_the_process(ring_dir: Path) -> None:
    """Families of the process are told apart from those of ranks by not having a rank."""
    with Writer("main", rank=0, ranks=1) as writer, Reader("main") as reader, Relay("other", ranks=1) as relay:
        writer.publish(FULL)
        families = parsed(collected(LoadCollector(reader, relay=relay), openmetrics=True), openmetrics=True)

    without = {name for name, (*_, found) in families.items() if not all("dp_rank" in dict(key) for _, key in found)}
    assert without == PROCESS_FAMILIES


def test_in_a_child(ring_dir: Path) -> None:
    """After a fork the collector reads anew, and leaves out the relay, which is the parent's."""
    with Writer("main", rank=0, ranks=1) as writer, Reader("main") as reader, Relay("other", ranks=1) as relay:
        writer.publish(FULL)
        collector = LoadCollector(reader, relay=relay)
        read, write = os.pipe()
        if (child := os.fork()) == 0:
            found = samples(collected(collector))
            ok = found['llm_requests_running{dp_rank="0"}'] == 12 and "snapring_relay_takeovers_total" not in found
            os.write(write, b"y" if ok else b"n")
            os._exit(0)
        answer = os.read(read, 1)
        os.waitpid(child, 0)
        os.close(read)
        os.close(write)

    assert answer == b"y"


def test_nan(ring_dir: Path) -> None:
    """A gauge that is not a number is one in the text, and breaks no scrape."""
    with Writer("main", rank=0, ranks=1) as writer, Reader("main") as reader:
        writer.publish(LoadSnapshot(token_usage=math.nan, gen_throughput=math.inf))
        found = samples(collected(LoadCollector(reader)))

    assert math.isnan(found['llm_kv_usage_ratio{dp_rank="0"}'])
    assert found['llm_generation_tokens_per_second{dp_rank="0"}'] == math.inf
