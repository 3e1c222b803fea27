# The types of the native module. What its classes and methods do, in which units, what they raise and which threads may
# call them, stands in their own docstrings: `help(snapring.Reader)`.

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import GenericAlias
from typing import Any, Generic, Never, Self, TypeAlias, TypeVar, final, overload

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from typing_extensions import disjoint_base

from snapring.state import State

__all__ = [
    "Document",
    "Exposition",
    "Feed",
    "Reader",
    "Relay",
    "RemoteWriter",
    "Snapshot",
    "View",
    "Words",
    "Writer",
    "__version__",
    "directory",
    "geometry",
    "inspect",
    "kernel",
    "leftovers",
    "make_keys",
    "public_key",
    "remove",
    "ring_name",
    "rings",
]

_Path: TypeAlias = str | os.PathLike[str]

_T_co = TypeVar("_T_co", covariant=True)
_T_contra = TypeVar("_T_contra", contravariant=True)

__version__: str

def ring_name(instance: str) -> str: ...

# Looking after rings: the dictionaries of `inspect` and `kernel` have their classes in snapring.cli.rings.
def directory(dir: _Path | None = None) -> Path: ...  # noqa: A002
def geometry(schema: str, ranks: int, cells: int | None = None) -> dict[str, Any]: ...
def inspect(name: str, dir: _Path | None = None, *, max_age: float) -> dict[str, Any]: ...  # noqa: A002
def kernel() -> dict[str, int]: ...
def leftovers(dir: _Path | None = None, *, older_than: float, remove: bool = False) -> list[str]: ...  # noqa: A002
def remove(name: str, dir: _Path | None = None, *, force: bool = False) -> bool: ...  # noqa: A002
def make_keys(path: _Path) -> str: ...
def public_key(path: _Path) -> str: ...
def rings(dir: _Path | None = None) -> list[str]: ...  # noqa: A002

# Constructed by snapring.ring, which compiles schemas: `compiled` is a snapring.schema.CompiledSchema for records.
@disjoint_base
class Writer(Generic[_T_contra]):
    def __new__(
        cls,
        name: str,
        rank: int,
        ranks: int,
        schema: str,
        compiled: object,
        encode: Callable[[Any], bytes] | None,
        *,
        cells: int | None,
        payload: int | None,
        job: str,
        keep: bool,
        wake: bool,
        dir: _Path | None,  # noqa: A002  only snapring.ring sees it
        allow_disk: bool,
    ) -> Self: ...
    def __class_getitem__(cls, item: object) -> GenericAlias: ...
    @property
    def name(self) -> str: ...
    @property
    def rank(self) -> int: ...
    @property
    def ranks(self) -> int: ...
    @property
    def epoch(self) -> int: ...
    @property
    def version(self) -> int: ...
    def publish(self, value: _T_contra) -> int: ...
    def beat(self) -> None: ...
    def start_heartbeat(self, interval: float) -> None: ...
    def close(self) -> None: ...

# Constructed by snapring.relay, as Writer is by snapring.ring.
@disjoint_base
class RemoteWriter(Generic[_T_contra]):
    def __new__(
        cls,
        endpoint: str,
        rank: int,
        ranks: int,
        schema: str,
        compiled: object,
        encode: Callable[[Any], bytes] | None,
        *,
        payload: int | None,
        job: str,
        latency: str,
        key: _Path | None,
        server_key: _Path | None,
        insecure: bool,
    ) -> Self: ...
    def __class_getitem__(cls, item: object) -> GenericAlias: ...
    @property
    def endpoint(self) -> str: ...
    @property
    def rank(self) -> int: ...
    @property
    def ranks(self) -> int: ...
    @property
    def version(self) -> int: ...
    @property
    def is_connected(self) -> bool: ...
    @property
    def last_refusal(self) -> str | None: ...
    def publish(self, value: _T_contra) -> int: ...
    def stats(self) -> dict[str, int]: ...
    def beat(self) -> None: ...
    def start_heartbeat(self, interval: float) -> None: ...
    def close(self) -> None: ...

@disjoint_base
class Relay:
    def __new__(
        cls,
        name: str,
        endpoint: str | None,
        ranks: int,
        schema: str,
        *,
        cells: int | None,
        payload: int | None,
        job: str,
        drain: str,
        standby: bool,
        kill_hung: float | None,
        key: _Path | None,
        clients: list[str],
        allow: list[str] | None,
        insecure: bool,
        max_peers: int | None,
        keep: bool,
        dir: _Path | None,  # noqa: A002  only snapring.relay sees it
        allow_disk: bool,
    ) -> Self: ...
    @property
    def name(self) -> str: ...
    @property
    def is_owner(self) -> bool: ...
    @property
    def term(self) -> int: ...
    @property
    def endpoint(self) -> str | None: ...
    @property
    def public_key(self) -> str | None: ...
    @property
    def last_error(self) -> str | None: ...
    def stats(self) -> dict[str, int]: ...
    def admit(self, clients: list[str]) -> None: ...
    def fileno(self) -> int: ...
    def poll(self) -> None: ...
    def close(self) -> None: ...

# Constructed by snapring.feed.
@final
class Feed:
    def __new__(
        cls,
        endpoint: str,
        *,
        key: _Path | None,
        clients: list[str],
        insecure: bool,
        beside: Feed | None,
    ) -> Self: ...
    @property
    def endpoint(self) -> str: ...
    @property
    def sequence(self) -> int: ...
    def send(self, payload: bytes) -> int: ...
    def start_heartbeat(self, interval: float) -> None: ...
    def close(self) -> None: ...

# Constructed by snapring.ring: `source` gives the compiled schema and the decoder for a ring of a given schema text.
@disjoint_base
class Reader(Generic[_T_co]):
    def __new__(
        cls,
        name: str,
        schema: str | None,
        source: Callable[[str], tuple[object, Callable[[bytes], Any] | None]],
        *,
        max_age: float,
        job: str | None,
        dir: _Path | None,  # noqa: A002  only snapring.ring sees it
        allow_disk: bool,
    ) -> Self: ...
    def __class_getitem__(cls, item: object) -> GenericAlias: ...
    @property
    def name(self) -> str: ...
    @property
    def max_age(self) -> float: ...
    @property
    def ranks(self) -> int | None: ...
    @property
    def schema_text(self) -> str | None: ...
    def read(self, rank: int) -> Snapshot[_T_co] | None: ...
    def read_all(self) -> list[Snapshot[_T_co]]: ...
    def view(self) -> View: ...
    # The overloads overlap, since a Struct is an object too; the first that fits is the right one.
    @overload
    def history(  # type: ignore[overload-overlap]
        self: Reader[Struct], rank: int, last: int = 32
    ) -> NDArray[np.void]: ...
    @overload
    def history(self, rank: int, last: int = 32) -> list[_T_co]: ...
    def check(self, rank: int) -> State: ...
    def wait(self, timeout: float | None = None) -> bool: ...
    def fileno(self) -> int: ...
    def poll(self) -> list[int]: ...
    def close(self) -> None: ...

@final
class Snapshot(Generic[_T_co]):
    def __class_getitem__(cls, item: object) -> GenericAlias: ...
    @property
    def value(self) -> _T_co: ...
    @property
    def rank(self) -> int: ...
    @property
    def version(self) -> int: ...
    @property
    def epoch(self) -> int: ...
    @property
    def generation(self) -> str: ...
    @property
    def origin(self) -> tuple[int, int, int]: ...
    @property
    def timestamp(self) -> float: ...
    @property
    def age(self) -> float: ...
    @property
    def beat_age(self) -> float: ...
    @property
    def contended(self) -> bool: ...
    @property
    def state(self) -> State: ...
    def __getitem__(self, name: str, /) -> Any: ...  # noqa: ANN401  the type is that of the field
    def __reduce__(self) -> Never: ...

@final
class View:
    @property
    def records(self) -> NDArray[np.void]: ...
    @property
    def versions(self) -> NDArray[np.uint64]: ...
    @property
    def ages(self) -> NDArray[np.float64]: ...
    @property
    def states(self) -> NDArray[np.uint8]: ...
    @property
    def faults(self) -> NDArray[np.bool_]: ...
    @property
    def ok(self) -> NDArray[np.bool_]: ...
    @property
    def contended(self) -> NDArray[np.bool_]: ...
    @property
    def schema_text(self) -> str | None: ...
    def present(self, name: str) -> NDArray[np.bool_]: ...
    def __len__(self) -> int: ...

# Constructed by snapring.formats.as_json: an item is a literal and the source of the value behind it, or a literal, the
# items of a section and the section's name.
@final
class Document:
    def __new__(cls, schema_text: str, items: list[tuple[bytes, str] | tuple[bytes, list[Any], str]]) -> Self: ...
    @property
    def contended(self) -> int: ...
    def render(
        self,
        reader: Reader[Any],
        head: bytes,
        middle: bytes,
        salt: str,
        *,
        ranks: list[int] | None = None,
        max_age: float | None = None,
    ) -> tuple[bytes, str]: ...

# Constructed by snapring.formats.as_prometheus: a family is its header, whether it is a counter, whether it is a load,
# which dead ranks lack, and samples; a sample is what stands before and after the rank, the source, and a factor.
@final
class Exposition:
    def __new__(
        cls, schema_text: str, families: list[tuple[bytes, bool, bool, list[tuple[bytes, bytes, str, float]]]]
    ) -> Self: ...
    @property
    def contended(self) -> int: ...
    def fits(self, view: View) -> bool: ...
    def render(self, view: View, *, ranks: list[int] | None = None, max_age: float | None = None) -> bytes: ...

# The memory behind View.records: a buffer, which a class can only say of itself since Python 3.12.
@final
class Words:
    if sys.version_info >= (3, 12):
        def __buffer__(self, flags: int, /) -> memoryview: ...
