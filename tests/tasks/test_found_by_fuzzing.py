"""Inputs that fuzzing found to end in a traceback, each kind once: they are refused in words, or passed over."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from logitfuse.storage.compact import most_kept
from logitfuse.storage.errors import BadInput, ModelRefused, ShardCorrupt
from logitfuse.storage.fetched import STAMPS, _stamps
from logitfuse.storage.locks import only_one
from logitfuse.storage.newest import NewestFolder
from logitfuse.storage.row_spans import read_span
from logitfuse.storage.shards import read_batches
from logitfuse.tasks.corpus.readers import corpus_parts
from logitfuse.tasks.corpus.settings import CorpusSettings
from logitfuse.tasks.models.folder import read_object
from logitfuse.tasks.plan.blocks import sampled
from logitfuse.tasks.study.looks import read_looks
from logitfuse.tasks.study.page import write_page
from logitfuse.tasks.study.reading import apply_settings, read_study
from logitfuse.tasks.study.results_file import FORMAT
from logitfuse.tasks.training.checkpoint import latest_checkpoint
from logitfuse.tasks.training.fused_file import opened
from logitfuse.tasks.training.metrics import last_line, read_metrics

ALIKE = "{" + ", ".join(f"v{n}: {{like: v{n + 1}}}" for n in range(2000)) + ", v2000: {}}"
DEEP = b"[" * 100_000


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl.gz"])
def test_a_plan_refuses_a_file_that_it_cannot_read(tmp_path: Path, name: str) -> None:
    whole = gzip.compress(b'{"text": "a"}\n' * 500) if name.endswith("gz") else b"PAR1"
    (tmp_path / name).write_bytes(whole[:40])
    settings = CorpusSettings(source=str(tmp_path / name))
    with pytest.raises(BadInput, match="cannot be read"):
        sampled(corpus_parts(settings), settings, 4096)


def test_a_plan_leaves_lines_that_prepare_refuses_to_prepare(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\n' + DEEP + b'\n{"text": "b"}\n')
    settings = CorpusSettings(source=str(tmp_path / "a.jsonl"))
    (part,) = sampled(corpus_parts(settings), settings, 1 << 20) or []
    assert [row.values["text"] for block in part.blocks for row in block.rows] == ["a", "b"]


@pytest.mark.parametrize("line", [b"\xff", b"x", b"[]", b'{"tokens": 1}', b'{"step": 1, "loss": "x"}', DEEP])
def test_what_is_no_line_of_metrics(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line + b"\n")
    with pytest.raises(ShardCorrupt, match=r"line 2: training wrote no such line.*Remove the file"):
        read_metrics(path)
    assert last_line(path) is None


def test_a_lock_that_holds_anything_is_taken(tmp_path: Path) -> None:
    (tmp_path / "x.lock").write_bytes(DEEP)
    with only_one(tmp_path / "x.lock", lambda line: None):
        pass


@pytest.mark.parametrize("look", [b"{}", b"[]", b"1", b'{"time": 1, "fingerprint": "a"}', DEEP])
def test_a_damaged_look_is_refused(tmp_path: Path, look: bytes) -> None:
    (tmp_path / "looks").mkdir()
    (tmp_path / "looks" / "a.json").write_bytes(look)
    with pytest.raises(ShardCorrupt, match="do not delete it"):
        read_looks(tmp_path)


class Remote:
    """An object store of which the pointer alone is of interest; every other object is of one byte."""

    def __init__(self, pointer: bytes) -> None:
        self.pointer = pointer

    def get(self, name: str) -> bytes:
        return self.pointer

    def download(self, name: str, path: Path) -> None:
        path.write_bytes(b"x")


SUM = "sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"  # of one x


@pytest.mark.parametrize("folder, file", [("../out", "state"), ("checkpoint-1", "../../out"), ("/tmp/out", "state")])
def test_the_pointer_in_a_store_cannot_name_files_outside(tmp_path: Path, folder: str, file: str) -> None:
    files = [{"name": file, "bytes": 1, "checksum": SUM}]
    pointer: dict[str, Any] = {"folder": folder, "place": "train/checkpoint-1.k", "files": files}
    (tmp_path / "in").mkdir()
    assert NewestFolder(Remote(json.dumps(pointer).encode()), "train").fetch(tmp_path / "in") is None  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.rglob("*")] == ["in"]
    good = pointer | {"folder": "checkpoint-1", "files": [{"name": "state", "bytes": 1, "checksum": SUM}]}
    fetched = NewestFolder(Remote(json.dumps(good).encode()), "train").fetch(tmp_path / "in")  # type: ignore[arg-type]
    assert fetched and (fetched / "state").read_bytes() == b"x"


@pytest.mark.parametrize("data", [b"[]", b"1", b"{}", b'{"folder": 1}', DEEP])
def test_what_is_no_pointer_and_no_list_of_copies(tmp_path: Path, data: bytes) -> None:
    assert NewestFolder(Remote(data), "train").newest() is None  # type: ignore[arg-type]
    (tmp_path / STAMPS).write_bytes(data)
    assert _stamps(tmp_path) == {}


def test_a_checkpoint_nested_too_deeply_is_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-00000001"
    folder.mkdir()
    (folder / "state.json").write_bytes(DEEP)
    said: list[str] = []
    assert latest_checkpoint(tmp_path, "k", said.append) is None and "cannot be read" in said[0]


def test_a_shard_without_a_column_or_without_form_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"doc_id": ["a"]}), path)
    with pytest.raises(ShardCorrupt, match="has no column ids"):
        list(read_batches(path, ["doc_id", "ids"]))
    pq.write_table(pa.table({"doc_id": pa.array([b"\xc3"]).view(pa.string())}), path)
    with pytest.raises(ShardCorrupt, match="cannot be read as Parquet"):
        list(read_batches(path, ["doc_id"]))
    with pytest.raises(ShardCorrupt, match="cannot be read"), opened(path, columns=()) as file:
        file.read().column("doc_id").to_pylist()
    path.write_bytes(b"PAR1")
    with pytest.raises(ShardCorrupt, match="cannot be read as Parquet"):
        read_span({"a": (path, [])}, 0, 1)
    for k in (b"x", b"", b"9" * 5000):
        said = {b"logitfuse.codec": b"compact-1", b"logitfuse.k": k}
        with pytest.raises(ShardCorrupt, match="how many tokens"):
            most_kept(pa.schema([], metadata=said), "a.parquet")


@pytest.mark.parametrize(
    "studies", [[], {"a": []}, {"a": {"study": "b"}}, {"../a": {"study": "../a"}}, {"a": {"study": "a"}}]
)
def test_results_that_no_study_wrote_are_refused(tmp_path: Path, studies: Any) -> None:
    content = {"format": FORMAT, "primary": None, "studies": studies or [1]}
    (tmp_path / "results.json").write_text(json.dumps(content))
    with pytest.raises(BadInput, match=r"logitfuse study --json"):
        write_page(tmp_path / "results.json", tmp_path / "page.md")


def test_variants_that_are_none_are_refused(tmp_path: Path) -> None:
    for variants in ("{a: x}", "{target: x}", "{a: {like: [b]}}", "{a: {like: b}, b: x}", ALIKE):
        (tmp_path / "study.yaml").write_text(f"extends: main\nvariants: {variants}\n")
        with pytest.raises(BadInput, match="variant"):
            read_study(str(tmp_path / "study.yaml"))


def test_a_configuration_in_no_utf_8_is_refused(tmp_path: Path) -> None:
    """Python's own JSON takes half a surrogate pair in bytes, and a byte order mark; nobody else does."""
    for data in (b'{"a": "\xed\xa0\x80"}', b"\xef\xbb\xbf{}"):
        (tmp_path / "config.json").write_bytes(data)
        with pytest.raises(ModelRefused, match="is not JSON"):
            read_object(tmp_path / "config.json", "model 'm'")


def test_an_entry_of_a_list_has_a_number_of_few_digits() -> None:
    with pytest.raises(BadInput, match="is no number of an entry"):
        apply_settings({"sources": [{}]}, {f"sources.{'1' * 5000}.model": "x"}, "study")
    content: dict[str, Any] = {"sources": [{}]}
    apply_settings(content, {"sources.0": 3}, "study")
    assert content == {"sources": [3]}
