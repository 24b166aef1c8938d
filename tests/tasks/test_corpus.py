"""Every form of corpus gives the same documents, in one order, under unambiguous ids, each in one split."""

import gzip
import random
import tracemalloc
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_corpora import TEXTS, documents, refusal, rows, settings, write_jsonl, write_parquet

from logitfuse.storage.errors import BadInput
from logitfuse.storage.settings import changed_settings
from logitfuse.tasks.corpus.documents import assigned_split
from logitfuse.tasks.corpus.fingerprint import corpus_fingerprint
from logitfuse.tasks.corpus.ids import HashSet
from logitfuse.tasks.corpus.readers import read_documents
from logitfuse.tasks.corpus.settings import CorpusSettings


class TestFormats:
    def test_jsonl_gives_its_texts_byte_for_byte(self, tmp_path: Path) -> None:
        file = write_jsonl(tmp_path / "corpus.jsonl", rows(TEXTS))
        read = documents(file)
        assert [document.text for document in read] == TEXTS
        assert [document.doc_id for document in read] == [f"corpus-{i:08d}" for i in range(len(TEXTS))]
        assert {(document.domain, document.split) for document in read} == {("all", "train")}

    def test_every_format_gives_the_same_documents(self, tmp_path: Path) -> None:
        content = rows(TEXTS, domain=["a", "b", "a", "b", "c"])
        file = write_jsonl(tmp_path / "1" / "corpus.jsonl", content)
        (tmp_path / "2").mkdir()
        (tmp_path / "2" / "corpus.jsonl.gz").write_bytes(gzip.compress(file.read_bytes()))
        write_parquet(tmp_path / "3" / "corpus.parquet", content)
        datasets.Dataset.from_list(content).save_to_disk(str(tmp_path / "4" / "corpus"))
        first = documents(file)
        assert [document.domain for document in first] == ["a", "b", "a", "b", "c"]
        assert documents(tmp_path / "2") == first
        assert documents(tmp_path / "3" / "*.parquet") == first
        assert documents(tmp_path / "4" / "corpus") == first

    def test_a_byte_order_mark_is_no_text(self, tmp_path: Path) -> None:
        file = write_jsonl(tmp_path / "corpus.jsonl", rows(["a"]))
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
        (tmp_path / "note.txt").write_bytes(b"\xef\xbb\xbfa\r\n")
        assert documents(file)[0].text == "a"
        assert documents(tmp_path / "note.txt")[0].text == "a\r\n"

    def test_blank_lines_are_passed_over(self, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").write_text('\n{"text": "a"}\r\n  \n{"text": "b"}')
        read = documents(tmp_path / "a.jsonl")
        assert [(d.doc_id, d.text) for d in read] == [("a-00000000", "a"), ("a-00000001", "b")]

    def test_a_text_file_is_one_document(self, tmp_path: Path) -> None:
        for name in ("b/z.txt", "a.txt", "b/test-flight.txt", ".hidden/x.txt"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(f"text of {name}")
        assert [d.doc_id for d in documents(tmp_path)] == ["a", "b/test-flight", "b/z"]

    def test_large_strings_and_dictionaries_are_text(self, tmp_path: Path) -> None:
        for kind in (pa.large_string(), pa.dictionary(pa.int32(), pa.string())):
            pq.write_table(pa.table({"text": pa.array(["a", "b"]).cast(kind)}), tmp_path / "a.parquet")
            assert [d.text for d in documents(tmp_path / "a.parquet")] == ["a", "b"]

    def test_an_ending_may_be_overruled(self, tmp_path: Path) -> None:
        write_jsonl(tmp_path / "corpus.json", rows(["a"]))
        assert documents(tmp_path / "corpus.json", format="jsonl")[0].doc_id == "corpus.json-00000000"
        assert "Set format" in refusal(tmp_path / "corpus.json")

    def test_memory_does_not_grow_with_the_file(self, tmp_path: Path) -> None:
        peaks = []
        for count in (500, 5000):
            file = write_jsonl(tmp_path / "a.jsonl", [{"text": "x" * 1000, "id": i} for i in range(count)])
            tracemalloc.start()
            assert sum(1 for _ in read_documents(settings(file))) == count
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert peaks[1] < 1.05 * peaks[0] + 50_000


class TestOrderAndIds:
    def test_files_are_read_in_the_order_of_their_names(self, tmp_path: Path) -> None:
        for name in ("b/0", "a/1", "c"):
            write_jsonl(tmp_path / f"{name}.jsonl", rows([name]))
        read = documents(tmp_path)
        assert [d.text for d in read] == ["a/1", "b/0", "c"]
        assert [d.doc_id for d in read] == ["a/1-00000000", "b/0-00000000", "c-00000000"]
        assert documents(f"{tmp_path}/*/*.jsonl") == read[:2]

    def test_appending_changes_no_document(self, tmp_path: Path) -> None:
        before = [f"text number {i}" for i in range(50)]
        write_jsonl(tmp_path / "a.jsonl", rows(before))
        old = documents(tmp_path, held_out_share=0.3)
        write_jsonl(tmp_path / "a.jsonl", rows([*before, "more", "text number 3"]))
        write_jsonl(tmp_path / "b.jsonl", rows(["even more"]))
        assert documents(tmp_path, held_out_share=0.3)[:50] == old

    def test_files_that_would_share_ids_are_refused(self, tmp_path: Path) -> None:
        write_jsonl(tmp_path / "a.jsonl", rows(["a"]))
        (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "b"}\n'))
        assert "same ids" in refusal(tmp_path)

    def test_an_id_column_names_the_documents(self, tmp_path: Path) -> None:
        write_jsonl(tmp_path / "a.jsonl", rows(["a", "b"], key=["x", 7]))
        assert [d.doc_id for d in documents(tmp_path, id_column="key")] == ["x", "7"]

    def test_an_id_that_occurs_twice_is_refused_with_both_places(self, tmp_path: Path) -> None:
        write_jsonl(tmp_path / "a.jsonl", rows(["a", "b"], key=["x", "y"]))
        write_parquet(tmp_path / "sub" / "b.parquet", rows(["c", "d"], key=["z", "y"]))
        write_jsonl(tmp_path / "b.jsonl", rows(["c", "d"], key=["z", "y"]))
        message = refusal(f"{tmp_path}/*.jsonl", id_column="key")
        assert "'y'" in message and "a.jsonl, line 2" in message and "b.jsonl, line 2" in message

    @given(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 5000).map(lambda i: i << 20), max_size=2000))
    def test_the_set_of_hashes_is_a_set(self, keys: list[int]) -> None:
        hashes, seen = HashSet(), set[int]()
        for key in keys:
            assert hashes.add(key) == ((key or 1) not in seen)
            seen.add(key or 1)

    def test_the_set_of_hashes_grows(self) -> None:
        hashes = HashSet()
        assert all(hashes.add(key * 977) for key in range(1, 5000))
        assert not any(hashes.add(key * 977) for key in range(1, 5000))

    @pytest.mark.parametrize("value", [None, True, 1.5, ["a"]])
    def test_an_id_must_be_text_or_a_number(self, tmp_path: Path, value: Any) -> None:
        write_jsonl(tmp_path / "a.jsonl", rows(["a"], key=[value]))
        assert "id column 'key'" in refusal(tmp_path, id_column="key")

    def test_max_documents_takes_the_first(self, tmp_path: Path) -> None:
        write_jsonl(tmp_path / "a.jsonl", rows(list("abcdef")))
        assert [d.text for d in documents(tmp_path, max_documents=3)] == ["a", "b", "c"]


class TestSplits:
    def test_wording_and_seed_decide(self) -> None:
        texts = [f"text number {i} of many".encode() for i in range(2000)]
        chosen = [assigned_split(text, 0.1, 0) for text in texts]
        assert 150 < chosen.count("validation") < 250
        assert chosen == [assigned_split(text.upper().replace(b" ", b",  "), 0.1, 0) for text in texts]
        assert chosen != [assigned_split(text, 0.1, 1) for text in texts]
        assert {assigned_split(text, 0.0, 0) for text in texts} == {"train"}

    @given(st.binary(max_size=30), st.integers(), st.floats(0, 0.5), st.floats(0, 0.4))
    def test_a_larger_share_only_adds(self, text: bytes, seed: int, share: float, more: float) -> None:
        if assigned_split(text, share, seed) == "validation":
            assert assigned_split(text, share + more, seed) == "validation"

    def test_order_does_not_matter(self, tmp_path: Path) -> None:
        texts = [f"text number {i}" for i in range(200)]
        split = {d.text: d.split for d in documents(write_jsonl(tmp_path / "a.jsonl", rows(texts)), held_out_share=0.2)}
        random.Random(0).shuffle(texts)
        again = {d.text: d.split for d in documents(write_jsonl(tmp_path / "b.jsonl", rows(texts)), held_out_share=0.2)}
        assert split == again and set(split.values()) == {"train", "validation"}

    def test_files_named_by_their_split_are_read_held_out_first(self, tmp_path: Path) -> None:
        for name in ("data/train-00000-of-00002", "data/train-00001-of-00002", "data/test-00000-of-00001", "data/val"):
            write_parquet(tmp_path / f"{name}.parquet", rows([name]))
        read = documents(tmp_path)
        assert [d.split for d in read] == ["validation", "test", "train", "train"]
        assert read[0].doc_id == "data/val-00000000"
        assert {d.split for d in documents(tmp_path, test_split=None)} == {"validation", "train"}
        only_train = documents(tmp_path, test_split=None, validation_split=None, held_out_share=0.99)
        assert {d.text[5:10] for d in only_train} == {"train"} and "validation" in {d.split for d in only_train}

    def test_splits_may_be_folders(self, tmp_path: Path) -> None:
        for name in ("train/a", "train/b", "validation/a"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / f"{name}.txt").write_text(name)
        assert next((d.doc_id, d.split) for d in documents(tmp_path)) == ("validation/a", "validation")

    def test_names_without_training_text_mean_nothing(self, tmp_path: Path) -> None:
        for name in ("test-of-time", "novels"):
            write_jsonl(tmp_path / f"{name}.jsonl", rows([name]))
        assert [d.split for d in documents(tmp_path)] == ["train", "train"]

    @pytest.mark.parametrize("name", ["other", "train-test"])
    def test_a_name_that_tells_no_single_split_is_refused(self, tmp_path: Path, name: str) -> None:
        for each in ("train", "test", name):
            write_jsonl(tmp_path / f"{each}.jsonl", rows([each]))
        assert f"{name}.jsonl" in refusal(tmp_path)

    def test_limits_hold_for_each_split(self, tmp_path: Path) -> None:
        for name in ("train", "validation", "test"):
            write_jsonl(tmp_path / f"{name}.jsonl", rows(list("abcdef")))
        read = documents(tmp_path, max_documents=4, held_out_documents=2)
        assert [d.split for d in read] == ["validation"] * 2 + ["test"] * 2 + ["train"] * 4

    def test_held_out_documents_beyond_the_limit_do_not_become_training_text(self, tmp_path: Path) -> None:
        write_jsonl(tmp_path / "a.jsonl", rows([f"text number {i}" for i in range(100)]))
        every = documents(tmp_path, held_out_share=0.5)
        some = documents(tmp_path, held_out_share=0.5, held_out_documents=5)
        assert [d for d in some if d.split == "train"] == [d for d in every if d.split == "train"]
        assert [d for d in some if d.split != "train"] == [d for d in every if d.split != "train"][:5]

    def test_as_many_documents_of_each_domain(self, tmp_path: Path) -> None:
        content = [{"text": f"text number {i}", "domain": "rare" if i % 10 == 9 else "common"} for i in range(100)]
        write_jsonl(tmp_path / "a.jsonl", content)
        every, some = documents(tmp_path), documents(tmp_path, documents_per_domain=8)
        for domain in ("rare", "common"):
            assert [d for d in some if d.domain == domain] == [d for d in every if d.domain == domain][:8]
        rare = documents(tmp_path, domains=("rare",), max_documents=50)
        assert rare == [d for d in every if d.domain == "rare"][:5]
        with pytest.raises(BadInput, match=r"'rar'. Did you mean 'rare'\? Known: common, rare"):
            documents(tmp_path, domains=("common", "rar"))

    def test_the_beginning_of_a_document_keeps_the_split_of_the_whole(self, tmp_path: Path) -> None:
        write_jsonl(tmp_path / "a.jsonl", rows([f"The same words. {'and more ' * i}" for i in range(100)]))
        whole = {d.doc_id: d for d in documents(tmp_path, held_out_share=0.5)}
        parts = documents(tmp_path, held_out_share=0.5, max_document_bytes=64)
        assert len(parts) == len(whole)
        for part in parts:
            document = whole[part.doc_id]
            assert part.split == document.split
            assert document.text.startswith(part.text)
            assert part.text == document.text or 32 < len(part.text.encode()) <= 64


class TestFingerprint:
    def test_it_is_of_contents_and_names(self, tmp_path: Path) -> None:
        first = corpus_fingerprint(settings(write_jsonl(tmp_path / "1" / "a.jsonl", rows(["a"]))))
        assert first == corpus_fingerprint(settings(write_jsonl(tmp_path / "2" / "a.jsonl", rows(["a"]))))
        assert first == corpus_fingerprint(settings(tmp_path / "2"))
        assert first != corpus_fingerprint(settings(write_jsonl(tmp_path / "3" / "b.jsonl", rows(["a"]))))
        assert first != corpus_fingerprint(settings(write_jsonl(tmp_path / "4" / "a.jsonl", rows(["b"]))))

    def test_saving_again_does_not_change_it(self, tmp_path: Path) -> None:
        for name in ("1", "2"):
            datasets.Dataset.from_list(rows(["a"])).save_to_disk(str(tmp_path / name))
        assert corpus_fingerprint(settings(tmp_path / "1")) == corpus_fingerprint(settings(tmp_path / "2"))

    def test_new_settings_leave_defaults_alone(self) -> None:
        assert changed_settings(CorpusSettings()) == {}
        assert all(field.title and field.description for field in CorpusSettings.model_fields.values())
