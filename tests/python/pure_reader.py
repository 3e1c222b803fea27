"""Reads a ring with nothing but the standard library: proof that the ring's own description suffices.

Knows the fixed header, slot and cell words of format 1, takes the rest from the schema text in the header. Reads one
quiet slot; a real reader would also retry while a writer is busy.
"""

import json
import mmap
import struct
from pathlib import Path


def words(ring: bytes, offset: int, count: int = 1) -> tuple[int, ...]:
    """Little-endian 64-bit words."""
    return struct.unpack_from(f"<{count}Q", ring, offset)


def read(path: Path, rank: int) -> dict[str, object] | None:
    """The newest value of ``rank``: ``version``, ``epoch`` and the record as nested dictionaries; None when NEVER."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as ring:
        magic, version, header_bytes, _, ranks, cells, slot_stride, cell_stride = words(ring, 0, 8)
        schema_offset, schema_len = words(ring, 24 * 8, 2)
        if (magic, version) != (int.from_bytes(b"SNAPRING", "little"), 1) or rank >= ranks:
            raise ValueError(path)
        schema = json.loads(ring[schema_offset : schema_offset + schema_len])
        (skews,) = words(ring, 26 * 8)
        slot = header_bytes + rank * slot_stride + rank % skews * 64
        (head,) = words(ring, slot)
        if head == 0:
            return None
        cell = slot + 16 * 8 + head % cells * cell_stride
        sequence, number, epoch = words(ring, cell, 3)
        if (sequence, number) != (2 * head, head):
            raise ValueError(path)
        record = ring[cell + 9 * 8 : cell + 9 * 8 + schema["bytes"]]
    return {"version": number, "epoch": epoch, "value": decode(schema["fields"], record)}


def decode(fields: list[dict[str, object]], record: bytes) -> dict[str, object]:
    """The record as nested dictionaries; None where not reported."""
    value: dict[str, object] = {}
    for field in fields:
        *path, name = str(field["name"]).split(".")
        section: object = value
        for part in path:
            section = section[part] if isinstance(section, dict) else None
        if isinstance(section, dict):  # else its section is absent
            section[name] = decode_field(field, record)
    return value


def decode_field(field: dict[str, object], record: bytes) -> object:
    """One field: its presence bit, then its words."""
    bit, offset = int(str(field["bit"])), int(str(field["offset"]))
    if not words(record, bit // 64 * 8)[0] >> bit % 64 & 1:
        return None
    (number,) = struct.unpack_from("<q", record, offset)
    rest, choices = offset + 8, field.get("choices")
    decoders = {
        "struct": dict,
        "int": lambda: number,
        "float": lambda: struct.unpack_from("<d", record, offset)[0],
        "bool": lambda: number != 0,
        "enum": lambda: choices[number] if isinstance(choices, list) else None,
        "str": lambda: str(record[rest : rest + number], "utf-8"),
        "bytes": lambda: record[rest : rest + number],
        "list_int": lambda: list(struct.unpack_from(f"<{number}q", record, rest)),
        "list_float": lambda: list(struct.unpack_from(f"<{number}d", record, rest)),
    }
    return decoders[str(field["kind"])]()
