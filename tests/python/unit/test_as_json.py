import json
import math
from functools import partial
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from msgspec import Meta, Struct

from expositions import FULL, snapshots
from snapring import LoadSnapshot, Reader, Writer, serve
from snapring.errors import InvalidValue
from snapring.load import SECTION_FIELDS, Section, parse_include
from snapring.loads import Loads
from snapring.schema import compile_schema
from support import eventually

FACTS = ["age", "state", "version"]


class Queue(Struct, frozen=True):
    """A schema that is no load."""

    depth: int
    note: Annotated[str, Meta(max_length=32)] | None = None
    blob: Annotated[bytes, Meta(max_length=8)] | None = None


class OlderLoad(Struct, frozen=True):
    """A load as a ring had it before most fields were there."""

    num_running_reqs: int = 0
    token_usage: float | None = None


class NewerLoad(LoadSnapshot, frozen=True):
    """A load with more in it, of which some hides behind what is told of the rank."""

    extra_reqs: int = 7
    age: int = -1
    nested: OlderLoad | None = None


def document(value: Struct, include: str = "") -> dict[str, Any]:
    """The document for a ring of one rank that has published ``value``."""
    with Writer("json", rank=0, ranks=1, schema=type(value)) as writer, Reader("json", schema=None) as reader:
        writer.publish(value)
        found: dict[str, Any] = json.loads(Loads(reader).json(include=parse_include(include)).content)
        return found


def finite(value: Any) -> Any:  # noqa: ANN401  any JSON
    """The value with null for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@pytest.mark.usefixtures("ring_dir")
@given(value=snapshots())
def test_equals_the_plain_way(value: LoadSnapshot) -> None:
    """What the native renderer writes of any snapshot is what ``to_dict`` and a JSON library would."""
    (shown,) = document(value)["loads"]

    expected = finite(value.to_dict())
    assert {key: shown[key] for key in expected if key not in {"dp_rank", "timestamp"}} == {
        key: inner for key, inner in expected.items() if key not in {"dp_rank", "timestamp"}
    }
    assert list(shown) == [*expected, *FACTS]


@pytest.mark.usefixtures("ring_dir")
def test_envelope_and_facts() -> None:
    """The envelope has time, version and number of ranks; each rank its publish's time, its age, state and version."""
    found = document(FULL)

    assert list(found) == ["timestamp", "version", "ranks", "ring", "loads"]
    assert (found["ranks"], found["ring"]) == (1, "json")
    assert found["timestamp"].endswith("+00:00")
    (rank,) = found["loads"]
    assert (rank["dp_rank"], rank["timestamp"], rank["state"], rank["version"]) == (0, FULL.timestamp, "LIVE", 1)
    assert rank["age"] >= 0


@pytest.mark.usefixtures("ring_dir")
@pytest.mark.parametrize("section", [section for section in Section if section is not Section.CORE])
def test_include_chooses_sections(section: Section) -> None:
    """A section stands there exactly when it was asked for; the core always does."""
    (shown,) = document(FULL, include=section)["loads"]

    assert [name for name in SECTION_FIELDS.values() if name in shown] == [SECTION_FIELDS[section]]
    assert shown["num_running_reqs"] == FULL.num_running_reqs


@pytest.mark.usefixtures("ring_dir")
def test_absent_differs_from_zero() -> None:
    """What was not reported is null, a section that was not reported is not there, and zero is zero."""
    (shown,) = document(LoadSnapshot(num_running_reqs=0, gen_throughput=None, token_usage=0.0))["loads"]

    assert (shown["num_running_reqs"], shown["gen_throughput"], shown["token_usage"]) == (0, None, 0.0)
    assert not set(SECTION_FIELDS.values()) & set(shown)


@pytest.mark.usefixtures("ring_dir")
def test_older_ring_has_every_key() -> None:
    """A load's keys do not depend on how old the ring's class is: what it lacks is null."""
    (shown,) = document(OlderLoad(num_running_reqs=3))["loads"]

    core = [field for field in LoadSnapshot.__struct_fields__ if field not in SECTION_FIELDS.values()]
    assert list(shown) == [*core, *FACTS]
    assert (shown["num_running_reqs"], shown["num_waiting_reqs"]) == (3, None)


@pytest.mark.usefixtures("ring_dir")
def test_newer_ring_shows_what_it_has_more() -> None:
    """Fields and sections that a subclass adds are shown; one that is called as a fact of the rank gives way to it."""
    (shown,) = document(NewerLoad(nested=OlderLoad(num_running_reqs=4)))["loads"]

    assert shown["extra_reqs"] == 7
    assert shown["nested"] == {"num_running_reqs": 4, "token_usage": None}
    assert shown["age"] >= 0


@pytest.mark.usefixtures("ring_dir")
def test_other_schemas_show_their_own_fields() -> None:
    """A ring of another class shows its fields, whatever text they hold; bytes, which JSON lacks, are left out."""
    (shown,) = document(Queue(depth=2, note='"<é\\', blob=b"x"))["loads"]

    assert list(shown) == ["dp_rank", "timestamp", "depth", "note", *FACTS]
    assert (shown["depth"], shown["note"]) == (2, '"<é\\')


class Nested(Struct, frozen=True):
    """Structs that begin with structs, any of which may be absent."""

    first: OlderLoad | None = None
    second: OlderLoad | None = None
    number: int = 0


class Deep(Struct, frozen=True):
    """And one around them."""

    nested: Nested | None = None
    last: int = 0


@pytest.mark.usefixtures("ring_dir")
@pytest.mark.parametrize("first", [None, OlderLoad(1)])
@pytest.mark.parametrize("second", [None, OlderLoad(2)])
def test_absent_structs_in_structs(first: OlderLoad | None, second: OlderLoad | None) -> None:
    """Wherever a struct is absent the text stays JSON, and the others stand in it."""
    (shown,) = document(Deep(Nested(first, second, 3), 4))["loads"]

    expected = {name: msgspec.to_builtins(value) for name, value in (("first", first), ("second", second)) if value}
    assert shown["nested"] == {**expected, "number": 3}
    assert shown["last"] == 4


@pytest.mark.parametrize("extra", [{"loads": []}, {"timestamp": 1}, {"a": object()}, {"a": 1j}])
def test_bad_extras(extra: dict[str, object]) -> None:
    """What would hide the envelope's own members, or is no JSON, is refused before the first request."""
    with pytest.raises(InvalidValue, match="envelope"):
        Loads(Reader("extra"), extra=extra)


def test_not_a_reader() -> None:
    """A name where a reader is due is refused at once, with what to write."""
    for make in (Loads, serve.app, partial(serve.OrcaMiddleware, print), partial(serve.OverloadMiddleware, print)):
        with pytest.raises(InvalidValue, match=r"snapring.Reader\('llama'\)"):
            make("llama")


@pytest.mark.usefixtures("ring_dir")
def test_extras_and_tags() -> None:
    """What is added to the envelope stands there, and the tag of another envelope is another one."""
    with Writer("extra", rank=0, ranks=1) as writer, Reader("extra") as reader:
        writer.publish(FULL)
        plain, more = Loads(reader).json(), Loads(reader, extra={"accelerator": "H100"}).json()

    assert json.loads(more.content)["accelerator"] == "H100"
    assert plain.tag[:16] == more.tag[:16]
    assert plain.tag != more.tag


@pytest.mark.usefixtures("ring_dir")
def test_texts_are_kept_for_few_choices() -> None:
    """Whatever sections clients ask for, the memory for them is bounded."""
    with Writer("many", rank=0, ranks=1) as writer, Reader("many") as reader:
        writer.publish(FULL)
        loads = Loads(reader)
        for chosen in range(32):
            names = [section for bit, section in enumerate(list(Section)[1:]) if chosen >> bit & 1]
            assert loads.json(include=parse_include(["core", *names])).content

    assert len(loads._documents) <= 4


@pytest.mark.usefixtures("ring_dir")
def test_only_records() -> None:
    """A ring of bytes is refused with the reason, not shown as an empty one."""
    with Writer("bytes", rank=0, ranks=1, schema=bytes) as writer, Reader("bytes", schema=bytes) as reader:
        writer.publish(b"x")

        with pytest.raises(InvalidValue, match="records"):
            Loads(reader).json()


@pytest.mark.usefixtures("ring_dir")
def test_follows_a_replaced_ring() -> None:
    """A document compiled for one schema is compiled anew when the ring is replaced by one of another."""
    with Reader("turns", schema=None) as reader:
        loads = Loads(reader)
        empty = json.loads(loads.json().content)
        with Writer("turns", rank=0, ranks=1, schema=Queue) as writer:
            writer.publish(Queue(depth=5))
            first = json.loads(loads.json().content)
        with Writer("turns", rank=1, ranks=2) as writer:
            writer.publish(LoadSnapshot(num_running_reqs=6))
            # A reader looks for another file once a second.
            second = eventually(lambda: (found := json.loads(loads.json().content))["ranks"] == 2 and found)

    assert (empty["ranks"], empty["loads"]) == (0, [])
    assert first["loads"][0]["depth"] == 5
    assert [rank["num_running_reqs"] for rank in second["loads"]] == [6]


def test_schema_of_loads_is_records_only() -> None:
    """The keys are made from the ring's own text, so a text of free bytes is refused."""
    from snapring.formats.as_json import items

    text = msgspec.json.decode(compile_schema(LoadSnapshot).text)
    text["codec"] = "bytes"

    with pytest.raises(InvalidValue, match="holds bytes"):
        items(msgspec.json.encode(text).decode(), frozenset(Section))
