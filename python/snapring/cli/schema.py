"""``snapring schema``: where each field of a ring's records stands."""

import argparse
import importlib
import os
import sys

import msgspec

from snapring.cli import options, output
from snapring.cli.rings import Geometry, geometry, inspect
from snapring.errors import InvalidValue
from snapring.layout import FieldText, Kind, SchemaText
from snapring.schema import compile_schema

__all__ = ["add_parser", "run"]

EPILOG = """\
Offsets and sizes are in bytes, words have 64 bits and are little-endian. A
record begins with its presence bits: bit b is bit b % 64 of word b / 64.
Texts, bytes and lists begin with a word that holds their length in bytes or
items. Rank r's slot starts at header_bytes + r * slot_stride + (r % skews) *
64, its cell c cells_offset + c * cell_stride later, and the cell's payload
payload_offset after that. Version n stands in cell n % cells, and is complete
while the cell's seq is 2 * n, before and after the copy.

examples:
  snapring schema llama
  snapring schema --class my_server.state:Load --json
"""


def add_parser(verbs: options.Verbs) -> None:
    """Add the verb's parser."""
    parser = options.verb(verbs, "schema", run, "Print the layout of a ring's records.", epilog=EPILOG)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("name", nargs="?", metavar="NAME", help="ring")
    text = "a msgspec.Struct class, imported as from the current directory"
    which.add_argument("--class", dest="class_path", metavar="MODULE:CLASS", help=text)


def run(args: argparse.Namespace) -> int:
    """Print the layout of the records, and of the file when it is that of a ring."""
    if args.name is not None:
        ring = inspect(args.name, args.dir, max_age=0)
        text, sizes = ring.schema_text, ring.geometry
    else:
        text = compile_schema(load_class(args.class_path)).text
        sizes = geometry(text, ranks=1)
    schema = msgspec.json.decode(text, type=SchemaText)
    if args.json:
        parts = {} if args.name is None else {"ring": args.name, "file": sizes}
        output.print_json({**parts, **msgspec.to_builtins(schema)})
    else:
        print_layout(schema, sizes, whole=args.name is not None)
    return options.Exit.OK


def load_class(path: str) -> type[msgspec.Struct]:
    """The Struct class that ``module:Class`` names.

    Raises:
        InvalidValue: there is none.
    """
    module_name, _, attribute = path.partition(":")
    sys.path.insert(0, os.getcwd())  # noqa: PTH109  as `python -m` would: the class is usually the caller's own
    try:
        found: object = importlib.import_module(module_name)
        for name in attribute.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidValue(f"{path!r} names no class: {error}; write package.module:Class") from error
    except (Exception, SystemExit) as error:  # a module may raise anything while it is imported
        what = f"{type(error).__name__}: {error}"
        raise InvalidValue(f"importing {module_name!r} raised {what}; mend it, or name another module") from error
    finally:
        sys.path.pop(0)
    if not (isinstance(found, type) and issubclass(found, msgspec.Struct)):
        raise InvalidValue(f"{path!r} is {found!r}; a schema is a msgspec.Struct class")
    return found


def print_layout(schema: SchemaText, sizes: Geometry, *, whole: bool) -> None:
    """The head line, the file's sizes when there is a file, and a table of fields."""
    if schema.codec == "record":
        print(f"{schema.name}: {len(schema.fields)} fields, {schema.bytes} bytes a record, {sizes.cell_stride} a cell")
    else:
        print(f"{schema.name}: {schema.codec}, up to {sizes.payload_bytes} bytes a payload")
    if whole:
        for name, value in msgspec.structs.asdict(sizes).items():
            print(f"{name:>15} {pairs(value) if isinstance(value, dict) else value}")
    if schema.fields:
        print()
        columns = ["field", "kind", "offset", "words", "bit", "max", "unit", "notes"]
        output.table(columns, map(row, schema.fields), right=["offset", "words", "bit", "max"])


def pairs(offsets: dict[str, int]) -> str:
    """Names and offsets on one line."""
    return ", ".join(f"{name} {offset}" for name, offset in offsets.items())


def row(field: FieldText) -> list[object]:
    """A field's cells in the table."""
    notes = [f"filled with the {field.fill}"] if field.fill else []
    notes += ["one of " + ", ".join(map(str, field.choices))] if field.choices else []
    notes += [field.doc] if field.doc else []
    words = "" if field.kind is Kind.STRUCT else field.words
    return [field.name, field.kind, field.offset, words, field.bit, field.max or "", field.unit, "; ".join(notes)]
