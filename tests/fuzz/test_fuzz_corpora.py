"""Text from anywhere: every file is read or refused with its place, in bounded memory, and nothing is left behind."""

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from command_line import answer, check_answer, refused
from hypothesis import given
from hypothesis import strategies as st
from mutations import HOSTILE, HOSTILE_TEXTS, damaged, fuzzing

ROWS = [{"id": f"d{n}", "text": f"text number {n} of some words", "domain": "news"} for n in range(20)]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
VALUES = st.sampled_from(HOSTILE) | st.text(max_size=30) | st.floats() | st.none()


def parquet(table: pa.Table, **options: Any) -> bytes:
    stream = io.BytesIO()
    pq.write_table(table, stream, **options)
    return stream.getvalue()


FILES = {
    "corpus.jsonl": JSONL,
    "corpus.jsonl.gz": gzip.compress(JSONL),
    "corpus.txt": b"A text.\n\nAnd another one.",
    "corpus.parquet": parquet(pa.Table.from_pylist(ROWS)),
    "plain.parquet": parquet(pa.Table.from_pylist(ROWS), compression="none", use_dictionary=False),
}


def prepared(home: Any, name: str, data: bytes, *options: str) -> int:
    """Prepare a corpus of one file in a run of its own; return the exit code."""
    file = home.root / "scratch" / name
    file.write_bytes(data)
    change = ["--set", f"corpus.source={json.dumps(str(file))}", "--set", "name=corpus", *options]
    found = answer("run", str(home.recipe), "--plain", "--stop-after", "prepare", *change)
    file.unlink()
    check_answer(found)
    run = home.root / "runs" / "corpus"
    if run.exists():
        import shutil

        shutil.rmtree(run)
    return found.code


@fuzzing(8)
@given(st.data())
def test_damaged_files(home: Any, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(FILES)))
    prepared(home, name, data.draw(damaged(FILES[name])))


@fuzzing(5)
@given(st.lists(st.dictionaries(st.sampled_from(["text", "id", "domain", ""]), VALUES, max_size=4), max_size=5))
def test_strange_values(home: Any, rows: list[dict[str, Any]]) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    prepared(home, "corpus.jsonl", lines.encode(), "--set", "corpus.id_column=id")


@fuzzing(5)
@given(st.sampled_from(HOSTILE_TEXTS))
def test_names_in_a_corpus_lead_nowhere(home: Any, text: str) -> None:
    rows = [{"id": f"{text}{n}", "text": f"some words {n} {text}", "domain": text} for n in range(6)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    assert prepared(home, "corpus.jsonl", lines.encode(), "--set", "corpus.id_column=id") == 0


class Evil(pa.ExtensionType):
    """A type whose reader would have to come from the file's maker."""

    def __init__(self) -> None:
        super().__init__(pa.string(), "evil.type")

    def __arrow_ext_serialize__(self) -> bytes:
        return b"cos\nsystem\n(S'touch owned'\ntR."

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: pa.DataType, data: bytes) -> "Evil":
        return cls()


def test_metadata_of_parquet_files_is_never_run(home: Any) -> None:
    texts = pa.array([f"some words {n}" for n in range(9)])
    pickled = {b"pandas": b"\x80\x04cos\nsystem\n", b"PANDAS_ATTRS": b"{", b"huggingface": b'{"info": {"features": 1}}'}
    plain = pa.table({"text": texts}).replace_schema_metadata(pickled)
    assert prepared(home, "corpus.parquet", parquet(plain)) == 0
    typed = pa.table({"text": pa.ExtensionArray.from_storage(Evil(), texts)})
    assert prepared(home, "corpus.parquet", parquet(typed)) in (0, 2)
    assert not Path("owned").exists()


def test_a_decompression_bomb_of_text_is_refused_without_taking_memory(home: Any) -> None:
    """Half a gigabyte of one line in half a megabyte; three hundred would be no more trouble."""
    stream = io.BytesIO()
    with gzip.GzipFile(fileobj=stream, mode="wb", compresslevel=1) as file:
        for _ in range(8):
            file.write(b"a" * (1 << 26))
    assert prepared(home, "corpus.jsonl.gz", stream.getvalue()) == 2


def test_a_corpus_that_is_a_device_or_a_loop_is_refused(home: Any) -> None:
    loop = home.root / "scratch" / "loop"
    loop.mkdir(exist_ok=True)
    (loop / "again").symlink_to(loop)
    (loop / "corpus.jsonl").symlink_to("/dev/zero")
    for source in ("/dev/zero", "/proc/self/mem", str(loop), "/dev/null"):
        refused("run", str(home.recipe), "--plain", "--set", f"corpus.source={source}", "--set", "name=corpus")
