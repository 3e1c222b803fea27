"""The load of all ranks as text, for whoever asks: :class:`Loads` reads a ring and says what it holds.

What is compiled for a ring's schema is kept, and so is the JSON of the newest snapshots: while no rank changes, a
request costs one read and the writing of ages.
"""

import time
import zlib
from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

from snapring._core import Document, Exposition, Snapshot, View, __version__
from snapring.errors import InvalidValue, LayoutMismatch, SnapringError
from snapring.formats.as_json import check_extra, items, middle
from snapring.formats.as_prometheus import ending, plan
from snapring.formats.metrics import Metric, families_of, split_source
from snapring.formats.profiles import profile_named
from snapring.load import SECTION_FIELDS, Section
from snapring.ring import Reader

__all__ = ["ALL_SECTIONS", "Body", "Loads", "check_reader"]

ALL_SECTIONS: Final = frozenset(Section)
"""What ``include`` means by default."""

NO_RING: Final = "0" * 16
"""What stands for the ranks in the tag while there is no ring."""

MOST_DOCUMENTS: Final = 4
"""Sets of sections whose text is kept; each costs as much memory as the text of all ranks."""


class Body(Struct, frozen=True, gc=False):
    """A document and its tag.

    ``tag`` is 24 hex digits that differ where the ring's generation, a shown rank's epoch, version or state, or the
    envelope does. Ages alone do not change it.
    """

    content: bytes
    tag: str


class Loads:
    """What a ring's ranks report, as JSON and as Prometheus reads it.

    ``labels`` are added to every metric, ``extra`` to the envelope of the JSON: values that JSON has, under other names
    than its own, or InvalidValue is raised. Threads may share it, and a child of a fork may use it; it opens nothing
    beyond what the reader does. Every method raises what ``Reader.view`` raises, and InvalidValue for a ring whose
    payload is no record.

    Examples
    --------
    >>> import snapring
    >>> from snapring.loads import Loads
    >>> with snapring.Writer("loads", rank=0, ranks=1) as writer, snapring.Reader("loads") as reader:
    ...     _ = writer.publish(snapring.LoadSnapshot(num_running_reqs=12))
    ...     b'"num_running_reqs":12' in Loads(reader).json().content
    True
    """

    def __init__(
        self,
        reader: Reader[Any],
        *,
        labels: Mapping[str, str] | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        """Read nothing yet."""
        self.reader = check_reader(reader)
        self.labels = dict(labels or {})
        self._extra = check_extra(extra or {})
        self._documents: dict[frozenset[Section], Document] = {}
        self._expositions: dict[tuple[str, bool, frozenset[Section]], Exposition] = {}
        self._middle = middle(reader.name, self._extra)
        self._salt = f"{zlib.crc32(self._middle + __version__.encode()):08x}"
        self._head_ms, self._head = 0, b""
        self._contended = 0
        self._failed = 0

    @property
    def failed(self) -> int:
        """Reads of the ring that raised, for :meth:`json`, :meth:`text` and :meth:`view`."""
        return self._failed

    @property
    def contended(self) -> int:
        """Ranks whose newest snapshot could not be had for a writer that never paused, over all documents so far."""
        texts: list[Document | Exposition] = [*self._documents.values(), *self._expositions.values()]
        return self._contended + sum(text.contended for text in texts)

    def view(self) -> View:
        """All ranks, as ``Reader.view``."""
        try:
            return self.reader.view()
        except SnapringError:
            self._failed += 1
            raise

    def snapshots(self) -> list[Snapshot[Any]]:
        """All ranks that have published, as ``Reader.read_all``."""
        return self.reader.read_all()

    def json(
        self,
        *,
        include: frozenset[Section] = ALL_SECTIONS,
        ranks: list[int] | None = None,
        max_age: float | None = None,
        more: bytes = b"",
    ) -> Body:
        """The document of ``/v1/loads``: ``{"timestamp", "version", "ranks", "ring", "loads": [...]}``.

        Parameters
        ----------
        include
            Sections to show.
        ranks
            Only these, each 0 to 65,535; None means all. Those that do not exist, or never published, are not there.
        max_age
            Seconds after which a living rank is STALE here, 0 or more; by default the reader's.
        more
            Further members of the envelope, encoded, with commas between them.
        """
        now_ms = time.time_ns() // 1_000_000
        head = self._head if now_ms == self._head_ms else self._new_head(now_ms)
        rest = b"," + more + self._middle if more else self._middle
        try:
            try:
                document = self._documents[include]
                content, tag = document.render(self.reader, head, rest, self._salt, ranks=ranks, max_age=max_age)
            except (KeyError, LayoutMismatch):  # not compiled yet, or for another schema
                compiled = self._compile(include)
                if compiled is None:
                    return Body(head + b"0" + rest + b"]}", NO_RING + self._salt)
                content, tag = compiled.render(self.reader, head, rest, self._salt, ranks=ranks, max_age=max_age)
        except SnapringError:
            self._failed += 1
            raise
        return Body(content, tag)

    def over(self, reader: Reader[Any]) -> "Loads":
        """The same over another reader."""
        return Loads(reader, labels=self.labels, extra=self._extra)

    def empty(self) -> bytes:
        """What :meth:`json` gives of a ring that is not there."""
        return self._new_head(time.time_ns() // 1_000_000) + b"0" + self._middle + b"]}"

    def text(
        self,
        profile: str = "sglang",
        *,
        openmetrics: bool = False,
        include: frozenset[Section] = ALL_SECTIONS,
        ranks: list[int] | None = None,
        max_age: float | None = None,
    ) -> bytes:
        """The metrics of ``profile`` in Prometheus' text format 0.0.4, or in OpenMetrics 1.0, its last line included.

        ``include``, ``ranks`` and ``max_age`` are as for :meth:`json`. Raises InvalidValue for an unknown profile; the
        message names all.
        """
        view = self.view()
        key = (profile, openmetrics, include)
        exposition = self._expositions.get(key)
        if exposition is None or not exposition.fits(view):
            metrics = _chosen(profile_named(profile), include)
            schema_text = view.schema_text
            if schema_text is None:
                return ending(openmetrics)
            self._contended += 0 if exposition is None else exposition.contended
            exposition = Exposition(schema_text, plan(families_of(metrics, schema_text), self.labels, openmetrics))
            self._expositions[key] = exposition
        return exposition.render(view, ranks=ranks, max_age=max_age) + ending(openmetrics)

    def _compile(self, include: frozenset[Section]) -> Document | None:
        """What writes the ring that there is now; None while there is none. Keeps few sets of sections at a time."""
        schema_text = self.reader.schema_text
        if schema_text is None:
            return None
        document = Document(schema_text, items(schema_text, include))
        if include not in self._documents and len(self._documents) >= MOST_DOCUMENTS:
            oldest = next((key for key in self._documents if key != ALL_SECTIONS), include)
        else:
            oldest = include
        if (old := self._documents.pop(oldest, None)) is not None:
            self._contended += old.contended
        self._documents[include] = document
        return document

    def _new_head(self, now_ms: int) -> bytes:
        """The envelope up to the number of ranks. It is the same for a millisecond, in which many may ask."""
        second, milli = divmod(now_ms, 1_000)
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        head = f'{{"timestamp":"{text}.{milli:03}+00:00","version":"{__version__}","ranks":'.encode()
        self._head, self._head_ms = head, now_ms
        return head


def check_reader(reader: Reader[Any]) -> Reader[Any]:
    """The reader, if it is one: a name in its place would be noticed at the first request only, if at all."""
    if not isinstance(reader, Reader):
        raise InvalidValue(f"the reader is {reader!r}; open one: snapring.Reader({str(reader)!r})")
    return reader


def _chosen(metrics: tuple[Metric, ...], include: frozenset[Section]) -> tuple[Metric, ...]:
    """The metrics that show nothing of a section that was not asked for."""
    hidden = {field for section, field in SECTION_FIELDS.items() if section not in include}
    return tuple(metric for metric in metrics if split_source(metric.source)[0].partition(".")[0] not in hidden)
