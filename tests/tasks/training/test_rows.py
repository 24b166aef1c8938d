"""Rows that are not what training began with, or never were fused rows of these texts, are refused, not trained on."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from logitfuse.kernels.positions import NO_LABEL
from logitfuse.storage.errors import LogitfuseError, ShardCorrupt, ShardMismatch, ShardMissing
from logitfuse.storage.schemas import ALIGN, FUSE, PREPARE
from logitfuse.storage.shards import ShardWriter
from logitfuse.tasks.training.batch import collate
from logitfuse.tasks.training.data import FusedRows
from logitfuse.tasks.training.fused_file import check_texts
from logitfuse.tasks.training.objective import Objective
from logitfuse.tasks.training.plan import StepPlan
from logitfuse.tasks.training.settings import TrainSettings

PAPER = Path(__file__).parents[3] / "recipes" / "paper.yaml"


def text_hash(number: int) -> bytes:
    return bytes([number % 256]) * 16


@pytest.fixture
def rows(shard_writer) -> list[dict]:
    return [shard_writer.row(number, 5 + number) | {"text_hash": text_hash(number)} for number in range(9)]


@pytest.fixture
def write(tmp_path):
    """Writes rows as stage fuse does, three to a row group, with page checksums."""

    def make(rows: list[dict], name: str = "part-00000.parquet", schema=FUSE) -> Path:
        writer = ShardWriter(tmp_path / name, schema, {"stage": schema.stage, "version": str(schema.version)})
        for start in range(0, len(rows), 3):
            table = pa.Table.from_pylist(rows[start : start + 3], schema=schema.arrow)
            writer.write({column: table[column] for column in schema.arrow.names})
        writer.close()
        return tmp_path / name

    return make


def opened(*paths: Path, **options) -> FusedRows:
    return FusedRows(paths, 16, **{"vocabulary": 97, "cached_rows": 1, **options})


def read_all(rows: FusedRows) -> list:
    return rows.read(np.arange(len(rows.lengths)))


def test_what_was_written_is_read(rows, write):
    assert [example.doc_id for example in read_all(opened(write(rows)))][:2] == ["doc-0", "doc-1"]


@pytest.mark.parametrize(
    "change",
    [
        {"doc_id": "another"},
        {"chunk": 7},
        {"text_hash": bytes([9]) * 16},
        {"logprobs": [-3.0, -2.0], "ids": [5, 6], "counts": [2, 0, 0, 0, 0], "mass": [0.18, 0.0, 0.0, 0.0, 0.0]},
    ],
)
def test_a_shard_replaced_while_training_is_refused(rows, write, change):
    """The file is whole and a fused shard, but not the one whose rows the plan counts on."""
    found = opened(write(rows))
    read_all(found)
    write([rows[0] | change, *rows[1:]])
    with pytest.raises(ShardMismatch, match=r"part-00000\.parquet: row group 0 .* was replaced"):
        read_all(found)


def test_a_shard_that_lost_rows_while_training_is_refused(rows, write):
    found = opened(write(rows))
    write(rows[:6])
    with pytest.raises(ShardMismatch, match="row group 2"):
        read_all(found)


@pytest.mark.parametrize("place", [0.2, 0.4, 0.6])
def test_a_shard_damaged_while_training_is_refused(rows, write, place):
    """Each bit of a page is covered by the page's checksum; what covers none of them is unpacked the same."""
    path = write(rows)
    wanted, found = read_all(opened(path)), opened(path)
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 4
    path.write_bytes(content)
    try:
        for left, right in zip(read_all(found), wanted, strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(left[1:], right[1:], strict=True))
    except LogitfuseError as error:
        assert isinstance(error, ShardCorrupt | ShardMismatch) and path.name in str(error)


def test_every_damaged_byte_of_the_learnt_columns_is_found(rows, write):
    """Every byte of the pages of ids, labels and probabilities, one after another: never a silently other row."""
    path = write(rows[:3])
    content, wanted, found = path.read_bytes(), read_all(opened(path)), opened(path)
    group = pq.ParquetFile(path).metadata.row_group(0)
    refused = 0
    for column in (group.column(i) for i in range(group.num_columns)):
        if column.path_in_schema.split(".")[0] not in ("labels", "ids", "logprobs"):
            continue
        first = column.data_page_offset
        for place in range(first, first + column.total_compressed_size, 7):
            damaged = bytearray(content)
            damaged[place] ^= 255
            path.write_bytes(damaged)
            found._cache.clear()
            try:
                same = read_all(found)
            except (ShardCorrupt, ShardMismatch):
                refused += 1
            else:
                assert all(np.array_equal(a[i], b[i]) for a, b in zip(same, wanted, strict=True) for i in range(1, 7))
    assert refused > 20


def test_a_vanished_shard_is_refused(rows, write):
    path = write(rows)
    found = opened(path)
    path.unlink()
    with pytest.raises(ShardMissing, match=r"it went away while it was used\. Redo stage 'fuse'"):
        read_all(found)


def test_shards_of_another_stage_or_version_are_refused(rows, write, tmp_path):
    empty = write([], "align.parquet", ALIGN)
    with pytest.raises(ShardMismatch, match="shard of stage 'align'"):
        opened(empty)
    table = pq.read_table(write(rows))
    old = table.replace_schema_metadata({"logitfuse.stage": "fuse", "logitfuse.version": str(FUSE.version - 1)})
    pq.write_table(old, tmp_path / "old.parquet")
    with pytest.raises(ShardMismatch, match=f"version {FUSE.version - 1}; training reads version {FUSE.version}"):
        opened(tmp_path / "old.parquet")
    pq.write_table(table.drop_columns("mass").replace_schema_metadata(None), tmp_path / "less.parquet")
    with pytest.raises(ShardMismatch, match="column 'mass' is missing"):
        opened(tmp_path / "less.parquet")
    (tmp_path / "text.parquet").write_text("no Parquet")
    with pytest.raises(ShardCorrupt, match=r"text\.parquet: it cannot be read"):
        opened(tmp_path / "text.parquet")


def test_a_shard_given_twice_is_refused(rows, write):
    path, other = write(rows[:3]), write(rows[3:6], "part-00001.parquet")
    assert len(opened(path, other).lengths) >= 6
    with pytest.raises(ShardMismatch, match="once more"):
        opened(path, other, path)


def test_rows_of_another_vocabulary_are_refused(rows, write):
    with pytest.raises(ShardMismatch, match="made for another target"):
        read_all(opened(write(rows), vocabulary=50))


def prepared_rows(rows: list[dict]) -> list[dict]:
    text = {"text": "words", "byte_start": 0, "byte_end": 5, "last": True, "domain": "counting", "split": "train"}
    return [{name: row[name] for name in ("doc_id", "chunk", "text_hash")} | text for row in rows]


def test_rows_of_other_texts_than_those_prepared_are_refused(rows, write):
    fused, prepared = write(rows), write(prepared_rows(rows), "prepared.parquet", PREPARE)
    check_texts(prepared, fused)
    for change, message in (({"text_hash": bytes([1] * 16)}, "text_hash"), ({"doc_id": "other"}, "doc_id")):
        with pytest.raises(ShardMismatch, match=message):
            check_texts(prepared, write([*rows[:4], rows[4] | change, *rows[5:]]))
    with pytest.raises(ShardMismatch, match="not made from the same text"):
        check_texts(prepared, write(rows[:-1]))


def block(shard_writer, number: int, length: int) -> dict:
    """A packed block as stage fuse writes it: several documents, nothing follows its last token."""
    row = shard_writer.row(number, length)
    labels = np.append(row["labels"][:-1], NO_LABEL)
    return row | {"doc_id": f"part-00000/train/{number:05d}", "text_hash": text_hash(number), "labels": labels}


def test_the_paper_trains_on_its_blocks_as_they_are(shard_writer, write, tiny_model):
    """Each block is one sequence of one batch, whose documents see each other, as published."""
    recipe = yaml.safe_load(PAPER.read_text())
    train, tokens = recipe["train"], recipe["fuse"]["block_tokens"]
    assert train["sequence_length"] == train["micro_batch_tokens"] == tokens and "batching" not in train
    size = 24  # in place of 2048
    blocks = [block(shard_writer, number, size if number < 4 else 9) for number in range(5)]
    found = FusedRows([write(blocks)], size, vocabulary=97)
    assert found.lengths.tolist() == [size] * 4 + [9]
    for example, row in zip(read_all(found), blocks, strict=True):
        assert example.inputs.tolist() == list(row["inputs"]) and example.labels.tolist() == list(row["labels"])
    small = {"sequence_length": size, "micro_batch_tokens": size, "dtype": "fp32", "sequences_per_step": 5}
    settings = TrainSettings(**train | small)
    objective = Objective(AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32), settings).train()
    plan = StepPlan(found.lengths, found.groups, settings, packed=objective.batching.packed)
    batches = plan.micro_batches(0, 0, 1)
    assert objective.batching.packed and sorted(map(len, batches)) == [1] * 5
    for windows in batches:
        examples = found.read(windows)
        row, alone = collate(examples, packed=True), collate(examples)
        assert row.lengths == (len(examples[0].inputs),)
        loss = objective(*row[:4], 5.0, 0.9, row.lengths).loss.item()
        assert loss == pytest.approx(objective(*alone[:4], 5.0, 0.9).loss.item(), rel=1e-6)
        isolated = objective(*row[:4], 5.0, 0.9, (4, row.lengths[0] - 4)).loss.item()
        assert loss != pytest.approx(isolated, rel=1e-5)


def test_rows_of_other_sources_are_refused(rows, write):
    other = write([row | {"scores": [0.5, 0.6], "weights": [0.5, 0.5]} for row in rows[6:]], "part-00001.parquet")
    with pytest.raises(ShardMismatch, match="from 2 sources, others"):
        read_all(opened(write(rows[:6]), other, cached_rows=99))
    with pytest.raises(ShardCorrupt, match="scores of the same sources"):
        read_all(opened(write([rows[0] | {"scores": [0.5, 0.6]}, *rows[1:]])))
