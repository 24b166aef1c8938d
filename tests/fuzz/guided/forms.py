"""Changes that leave an input a JSON text, YAML or a Parquet file, so that fuzzing gets past the parser."""

from __future__ import annotations

import copy
import gzip
import io
import json
import random
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from mutations import HOSTILE, HOSTILE_TEXTS, places

Change = Callable[[bytes, random.Random], bytes]
TYPES = [pa.int8(), pa.int32(), pa.int64(), pa.float32(), pa.string(), pa.binary(), pa.bool_(), pa.list_(pa.int32()),
         pa.list_(pa.float32()), pa.list_(pa.string()), pa.dictionary(pa.int32(), pa.string())]  # fmt: skip

INTERESTING = [*(text.encode() for text in HOSTILE_TEXTS if len(text) < 400), b"[" * 2000, b"1" * 4400, b"&a ", b"*a",
               b"<<: ", b"\0", b"\xff", b"\xed\xa0\x80", b"\\ud800", b"NaN", b"1e999", b"-1", b"{}", b"[]", b"null",
               b"\n", *(struct.pack("<q", n)[:size] for n in (0, -1, 1, 2**31, 2**62) for size in (4, 8))]  # fmt: skip


def distorted(tree: Any, draw: random.Random) -> Any:
    """Return a copy of a tree of dictionaries and lists in which one to three places are other than they were."""
    tree = copy.deepcopy(tree)
    for _ in range(draw.randint(1, 3)):
        found = [place for place in places(tree) if place[0]]
        if not found:
            return draw.choice(HOSTILE)
        holder, key = draw.choice(found)
        _change(holder, key, found, draw)
    return tree


def _change(holder: Any, key: Any, found: list[tuple[Any, Any]], draw: random.Random) -> None:
    other, its_key = draw.choice(found)
    match draw.randrange(6):
        case 0:
            del holder[key]
        case 1:
            holder[key] = copy.deepcopy(other[its_key])
        case 2 if isinstance(holder, dict):
            holder[draw.choice([*HOSTILE_TEXTS, its_key])] = holder.pop(key)
        case 3:
            holder[key] = _nudged(holder[key], draw)
        case _:
            holder[key] = copy.deepcopy(draw.choice(HOSTILE))


def _nudged(value: Any, draw: random.Random) -> Any:
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int | float):
        return draw.choice([value + 1, value - 1, -value, value * 1000, str(value)])
    return draw.choice([[value], value * 2, value[: len(value) // 2]]) if isinstance(value, str | list) else [value]


def _json(data: bytes, draw: random.Random) -> bytes:
    return json.dumps(distorted(json.loads(data), draw)).encode()


def _yaml(data: bytes, draw: random.Random) -> bytes:
    """Change the text before the first NUL; the words after it are left to the fuzzer."""
    text, *words = data.split(b"\0")
    changed = yaml.safe_dump(distorted(yaml.safe_load(text), draw), allow_unicode=True).encode("utf-8", "replace")
    return b"\0".join([changed, *words])


def _lines(data: bytes, draw: random.Random) -> bytes:
    lines = data.split(b"\n")
    number = draw.randrange(len(lines))
    lines[number] = _json(lines[number], draw)
    return b"\n".join(lines)


def _compressed(data: bytes, draw: random.Random) -> bytes:
    return gzip.compress(_lines(gzip.decompress(data), draw), 1)


def _parquet(data: bytes, draw: random.Random) -> bytes:
    table = pq.read_table(io.BytesIO(data))
    for _ in range(draw.randint(1, 2)):
        table = _other_table(table, draw)
    stream = io.BytesIO()
    pq.write_table(table, stream, row_group_size=draw.choice([1, 3, 64]))
    return stream.getvalue()


def _other_table(table: pa.Table, draw: random.Random) -> pa.Table:
    number = draw.randrange(table.num_columns)
    name, column = table.column_names[number], table.column(number)
    match draw.randrange(8):
        case 0:
            return table.drop_columns([name])
        case 1:
            rows = [draw.randrange(table.num_rows) for _ in range(draw.randint(0, table.num_rows + 1))]
            return table.take(rows)
        case 2:
            said = dict(table.schema.metadata or {b"logitfuse.stage": b"encode"})
            said[draw.choice(list(said))] = draw.choice([*HOSTILE_TEXTS, "-1", "1000000000"]).encode()
            return table.replace_schema_metadata(said)
        case 3:
            return table.set_column(number, name, column.cast(draw.choice(TYPES), safe=False))
        case 4:
            return table.set_column(number, name, pa.nulls(table.num_rows, draw.choice([column.type, *TYPES])))
        case _:
            values = distorted(column.to_pylist(), draw)
            return table.set_column(number, name, pa.array(values, draw.choice([column.type, None])))


CHANGES: dict[str, Change | None] = {
    "bytes": None, "json": _json, "yaml": _yaml, "lines": _lines, "gz": _compressed, "parquet": _parquet,
}  # fmt: skip


def by_bytes(data: bytes, draw: random.Random) -> bytes:
    """Flip, cut, repeat, overwrite or insert in one to four places; what is inserted is often a hostile text."""
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(data) + 1)
        to = min(len(data), at + draw.choice([1, 1, 2, 4, 8, 64, 1 << 30]))
        other = draw.randrange(len(data) + 1)
        match draw.randrange(7):
            case 0 if at < len(data):
                data = data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :]
            case 1:
                data = data[:at] + data[to:]
            case 2:
                data = data[:at] + data[at:to] * draw.choice([2, 3, 50]) + data[to:]
            case 3:
                data = data[:at] + data[other : other + to - at] + data[to:]
            case 4:
                data = data[:at] + draw.choice(INTERESTING) + data[to:]
            case 5:
                data = data[:at] + draw.randbytes(to - at if to - at < 9 else 1) + data[to:]
            case _:
                data = data[:at] + draw.choice(INTERESTING) + data[at:]
    return data


def mutator(form: str) -> Callable[[bytes, int, int], bytes]:
    """Return how inputs of a form are changed: half of the time as what they are, else by their bytes.

    atheris 3.0's own Mutate cannot be called from a mutator, so both are made here; the same seed gives the same.
    """
    change = CHANGES[form]

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        draw = random.Random(seed)
        if change and draw.random() < 0.5:
            with suppress(Exception):  # it is no such text, or the change makes none: any other change does
                changed = change(data, draw)
                if len(changed) <= most:
                    return changed
        return by_bytes(data, draw)[:most]

    return mutate
