"""Bad documents are left out only where the settings say so, and then each is counted and listed."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_corpora import documents, refusal, settings

from logitfuse.storage.errors import BadInput, ShardMissing
from logitfuse.storage.store import LocalStore
from logitfuse.tasks.corpus import rows
from logitfuse.tasks.corpus.readers import check_corpus, read_documents
from logitfuse.tasks.prepare import listing_path, listing_work, prepare_corpus, prepared_shards
from logitfuse.tasks.quarantine import quarantine_work

BAD_LINES = {
    "no JSON": b'{"text": "cut o',
    "no object": b'["a"]',
    "no text": b'{"text": null, "id": "x"}',
    "no column": b'{"body": "a", "id": "x"}',
    "Latin-1": b'{"text": "caf\xe9", "id": "x"}',
    "UTF-16": '{"text": "a", "id": "x"}'.encode("utf-16"),
    "half a surrogate pair": b'{"text": "\\ud83d", "id": "x"}',
    "duplicate id": b'{"text": "again", "id": "good-0"}',
    "an id of no kind": b'{"text": "a", "id": [1]}',
}


def quarantining(source: Path, **changes: Any) -> Any:
    return settings(source, on_bad_document="quarantine", **changes)


def noted(source: Path, **changes: Any) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the ids of the documents that are read, and the notes on what is left out."""
    notes: list[tuple[str, str]] = []
    found = read_documents(quarantining(source, **changes), note=lambda where, why: notes.append((where, why)))
    return [document.doc_id for document in found], notes


def good(number: int) -> bytes:
    return b'{"text": "good text %d", "id": "good-%d"}' % (number, number)


@pytest.mark.parametrize("case", BAD_LINES)
def test_a_bad_line_is_refused_or_listed_with_the_same_reason(tmp_path: Path, case: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b"\n".join([good(0), BAD_LINES[case], good(1), b""]))
    said = refusal(file, id_column="id")
    assert "a.jsonl, line 2" in said and "on_bad_document" in said
    ids, notes = noted(file, id_column="id")
    assert [ids[0], ids[-1]] == ["good-0", "good-1"] and len(ids) == 2
    assert notes[0][0].endswith("a.jsonl, line 2") and said.startswith(notes[0][1]), notes


def test_documents_keep_their_names_when_a_bad_one_is_mended(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"text": "a"}\n{"text": \n{"text": "c"}\n')
    ids, notes = noted(file)
    file.write_bytes(b'{"text": "a"}\n{"text": "b"}\n{"text": "c"}\n')
    assert ids == [d.doc_id for d in documents(file)][::2] and len(notes) == 1


def test_parquet_rows_and_text_files(tmp_path: Path) -> None:
    wrong = pa.array([b"ok", b"caf\xe9", b"fine"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": wrong}), tmp_path / "a.parquet")
    ids, notes = noted(tmp_path / "a.parquet")
    assert len(ids) == 2 and "row 1" in notes[0][0] and "not UTF-8" in notes[0][1]
    texts = tmp_path / "texts"
    texts.mkdir()
    for name, data in (("a", b"good"), ("b", b"caf\xe9"), ("c", "sixteen".encode("utf-16-le"))):
        (texts / f"{name}.txt").write_bytes(data)
    ids, notes = noted(texts)
    assert ids == ["a"] and ["not UTF-8" in notes[0][1], "UTF-16 without" in notes[1][1]] == [True, True]
    assert "iconv" in refusal(texts / "c.txt")


def test_a_line_too_long_is_passed_over_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "LONGEST_LINE", 1000)
    monkeypatch.setattr(rows, "LONGEST_PIECE", 64)
    file = tmp_path / "a.jsonl"
    file.write_bytes(good(0) + b"\n" + b'{"text": "' + b"x" * 50_000 + b'"}\n' + good(1) + b"\n\xe9\n")
    assert "more than" in refusal(file)
    ids, notes = noted(file, id_column="id")
    assert ids == ["good-0", "good-1"] and [where[-6:] for where, _ in notes] == ["line 2", "line 4"]
    assert f"byte {file.stat().st_size - 2} " in notes[1][1]  # bytes are counted through the long line
    (tmp_path / "long.txt").write_bytes(b"x" * 2000)
    assert "one document" in refusal(tmp_path / "long.txt")


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.parquet"])
def test_a_file_that_ends_too_early_is_refused_all_the_same(tmp_path: Path, name: str) -> None:
    whole = gzip.compress(b"".join(good(n) + b"\n" for n in range(3000)))
    if name.endswith("parquet"):
        pq.write_table(pa.table({"text": ["some text"] * 3000}), tmp_path / name)
        whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[:-100])
    with pytest.raises(BadInput, match="cannot be read"):
        noted(tmp_path / name)


def test_the_check_before_a_run_looks_for_one_good_document(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"bad\n" + good(0))
    check_corpus(quarantining(tmp_path))
    with pytest.raises(BadInput, match="line 1"):
        check_corpus(settings(tmp_path))
    (tmp_path / "a.jsonl").write_bytes(b"bad\nworse\n")
    with pytest.raises(BadInput, match="line 1"):
        check_corpus(quarantining(tmp_path))


def test_prepare_writes_the_list_beside_the_shards(tmp_path: Path) -> None:
    corpus, store = tmp_path / "a.jsonl", LocalStore(tmp_path / "run")
    corpus.write_bytes(b"\n".join([good(0), b"bad", good(1), b'{"text": 3, "id": "q"}', b""]))
    wanted = quarantining(corpus, id_column="id", held_out_share=0.5)  # read twice, listed once
    prepare_corpus(wanted, store)
    listing = json.loads(store.read(listing_path(wanted)))["record"]
    work = quarantine_work(listing_work(wanted, None))
    lines = [json.loads(line) for line in store.read(f"{work.place}/{work.file_name}").splitlines()]
    assert listing["counts"]["quarantined"] == len(lines) == 2
    assert [line["where"][-6:] for line in lines] == ["line 2", "line 4"] and "not text" in lines[1]["why"]
    assert {outcome.state for outcome in prepare_corpus(wanted, store)} == {"kept"}
    store.remove(f"{work.place}/{work.file_name}")
    with pytest.raises(ShardMissing):  # what was left out must be known
        prepared_shards(wanted, store)
    assert {outcome.state for outcome in prepare_corpus(wanted, store)} == {"kept"}  # no shard is made again
    with pytest.raises(BadInput, match="line 2"):  # what was allowed once is not allowed for good
        prepare_corpus(wanted.model_copy(update={"on_bad_document": "refuse"}), store)


def test_a_sound_corpus_has_the_same_shards_either_way(tmp_path: Path) -> None:
    corpus, store = tmp_path / "a.jsonl", LocalStore(tmp_path / "run")
    corpus.write_bytes(b"\n".join([good(0), good(1)]))
    prepare_corpus(settings(corpus), store)
    assert [outcome.state for outcome in prepare_corpus(quarantining(corpus), store)] == ["kept"]


def test_nothing_but_bad_documents_is_refused_with_the_first_reason(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"bad\nworse\n")
    with pytest.raises(BadInput, match=r"no document.*2 rows were quarantined, the first: .*line 1"):
        prepare_corpus(quarantining(tmp_path), LocalStore(tmp_path / "run"))


def test_a_corpus_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from logitfuse.tasks import prepare as module

    corpus, store = tmp_path / "a.jsonl", LocalStore(tmp_path / "run")
    corpus.write_bytes(good(0) + b"\n")
    performed = module.perform

    def written_to_meanwhile(*arguments: Any, **options: Any) -> Any:
        corpus.write_bytes(good(0) + b"\n" + good(1) + b"\n")
        return performed(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(module, "perform", written_to_meanwhile)
        with pytest.raises(BadInput, match="changed while it was read"):
            prepare_corpus(settings(corpus), store)
    with pytest.raises(ShardMissing):
        prepared_shards(settings(corpus), store)
    assert sum(o.record.counts["documents"] for o in prepare_corpus(settings(corpus), store)) == 2
