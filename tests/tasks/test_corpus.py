"""Every form of corpus gives the same documents; what cannot be read is refused with its place and a way out."""

import gzip
import json
import os
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
from pydantic import ValidationError

from logitfuse.storage.errors import BadInput
from logitfuse.storage.settings import changed_settings
from logitfuse.tasks.corpus import hub
from logitfuse.tasks.corpus.documents import Document, assigned_split
from logitfuse.tasks.corpus.fingerprint import corpus_fingerprint
from logitfuse.tasks.corpus.held_out import HeldOutIndex, Verdict, judged_documents
from logitfuse.tasks.corpus.ids import HashSet
from logitfuse.tasks.corpus.readers import check_corpus, read_documents
from logitfuse.tasks.corpus.settings import CorpusSettings

TEXTS = ["first\r\ntext", "", "zweiter Text: größer, 漢字 😀", "nul \x00 and \u2028 line", " spaces \n\n"]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def settings(source: Path | str, **changes: Any) -> CorpusSettings:
    return CorpusSettings(source=str(source), **{"held_out_share": 0.0, **changes})


def documents(source: Path | str, **changes: Any) -> list[Document]:
    return list(read_documents(settings(source, **changes)))


def rows(texts: list[str], **columns: list[Any]) -> list[dict[str, Any]]:
    return [{"text": text, **{name: column[i] for name, column in columns.items()}} for i, text in enumerate(texts)]


def write_jsonl(file: Path, content: list[dict[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in content))
    return file


def write_parquet(file: Path, content: list[dict[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(content), file)
    return file


def refusal(source: Path | str, **changes: Any) -> str:
    with pytest.raises(BadInput) as caught:
        documents(source, **changes)
    return str(caught.value)


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


class TestRefusals:
    def test_a_missing_column_is_named_with_those_there_are(self, tmp_path: Path) -> None:
        write_jsonl(tmp_path / "a.jsonl", [{"text": "a"}, {"content": "b", "meta": {}}])
        write_parquet(tmp_path / "b.parquet", [{"content": "b", "url": "c"}])
        message = refusal(tmp_path / "a.jsonl")
        assert "a.jsonl, line 2" in message and "'content', 'meta'" in message and "text_column" in message
        assert "'content', 'url'" in refusal(tmp_path / "b.parquet")
        assert "domain_column" in refusal(tmp_path / "a.jsonl", domain_column="topic")
        assert "id_column" in refusal(tmp_path / "b.parquet", text_column="content", id_column="key")

    @pytest.mark.parametrize("value", [None, 3, ["a"], {"a": 1}, False])
    def test_what_is_not_text_is_refused(self, tmp_path: Path, value: Any) -> None:
        write_jsonl(tmp_path / "a.jsonl", [{"text": "a"}, {"text": value}])
        assert "a.jsonl, line 2" in refusal(tmp_path)

    def test_a_parquet_text_column_must_hold_text(self, tmp_path: Path) -> None:
        write_parquet(tmp_path / "a.parquet", [{"text": 1}])
        assert "int64" in refusal(tmp_path)
        write_parquet(tmp_path / "a.parquet", [{"text": "a"}, {"text": None}])
        assert "row 1" in refusal(tmp_path)

    @pytest.mark.parametrize("line", [b'{"text": "a"', b"text", b'["a"]', b"[" * 100_000, b"1" * 5000])
    def test_broken_json_is_refused_with_its_line(self, tmp_path: Path, line: bytes) -> None:
        (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\n' + line + b"\n")
        assert "a.jsonl, line 2" in refusal(tmp_path)

    @pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
    def test_invalid_utf8_is_refused_with_its_byte(self, tmp_path: Path, mark: bytes) -> None:
        content = mark + b'{"text": "a"}\n{"text": "caf\xe9"}\n'
        (tmp_path / "a.jsonl").write_bytes(content)
        (tmp_path / "b.txt").write_bytes(mark + b"caf\xe9")
        message = refusal(tmp_path / "a.jsonl")
        assert "line 2" in message and f"byte {content.index(bytes([0xE9]))} " in message
        assert f"byte {len(mark) + 3} " in refusal(tmp_path / "b.txt")
        (tmp_path / "c.jsonl").write_text('{"text": "a"}', "utf-16")
        assert "byte 0 " in refusal(tmp_path / "c.jsonl")

    def test_invalid_utf8_in_parquet_is_refused_with_its_row(self, tmp_path: Path) -> None:
        wrong = pa.array([b"ok", b"caf\xe9"], pa.binary()).view(pa.string())
        pq.write_table(pa.table({"text": wrong}), tmp_path / "a.parquet")
        assert "row 1" in refusal(tmp_path)

    def test_half_a_surrogate_pair_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").write_text('{"text": "whole \\ud83d\\ude00"}\n{"text": "half \\ud83d"}\n')
        message = refusal(tmp_path)
        assert "line 2" in message and "character 5" in message

    def test_a_truncated_archive_is_refused(self, tmp_path: Path) -> None:
        whole = gzip.compress(b"".join(b'{"text": "%d"}\n' % i for i in range(1000)))
        (tmp_path / "a.jsonl.gz").write_bytes(whole[:-100])
        (tmp_path / "b.jsonl.gz").write_bytes(b'{"text": "not compressed"}\n')
        assert "a.jsonl.gz" in refusal(tmp_path / "a.jsonl.gz")
        assert "b.jsonl.gz" in refusal(tmp_path / "b.jsonl.gz")

    def test_a_file_that_is_no_parquet_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "a.parquet").write_text("no")
        assert "Parquet" in refusal(tmp_path)

    def test_mixed_formats_ask_for_a_choice(self, tmp_path: Path) -> None:
        write_jsonl(tmp_path / "a.jsonl", rows(["a"]))
        (tmp_path / "notes.txt").write_text("notes")
        assert "mixes formats" in refusal(tmp_path)
        assert len(documents(tmp_path, format="jsonl")) == 1

    @pytest.mark.parametrize("name", ["missing.jsonl", "*.jsonl", "", "/nowhere/at/all"])
    def test_what_is_not_there_is_refused(self, tmp_path: Path, name: str) -> None:
        source = tmp_path / name
        for check in (lambda: check_corpus(settings(source)), lambda: corpus_fingerprint(settings(source))):
            with pytest.raises(BadInput, match="Check source"):
                check()

    def test_settings_out_of_range_are_refused(self) -> None:
        for wrong in ({"held_out_share": 1.0}, {"max_chunk_bytes": 3}, {"format": "csv"}, {"sauce": "x"}):
            with pytest.raises(ValidationError):
                CorpusSettings.model_validate(wrong)


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


class TestHub:
    CONTENT = {
        name: rows([f"{name} {i}" for i in range(3)], extra=[1, 2, 3]) for name in ("train", "validation", "test")
    }

    def folder(self, path: Path) -> Path:
        for name, content in self.CONTENT.items():
            write_parquet(path / "data" / f"{name}-00000-of-00001.parquet", content)
        return path

    def test_a_saved_dictionary_of_splits(self, tmp_path: Path) -> None:
        saved = datasets.DatasetDict({name: datasets.Dataset.from_list(rows) for name, rows in self.CONTENT.items()})
        saved.save_to_disk(str(tmp_path / "saved"))
        read = documents(tmp_path / "saved")
        assert [d.doc_id for d in read[::3]] == ["validation-00000000", "test-00000000", "train-00000000"]
        assert [d.split for d in read[::3]] == ["validation", "test", "train"]
        assert [d.split for d in documents(tmp_path / "saved", test_split=None)[::3]] == ["validation", "train"]
        check_corpus(settings(tmp_path / "saved"))
        assert "it has: train, validation, test" in refusal(tmp_path / "saved", train_split="training")
        assert "there is no column 'content'" in refusal(tmp_path / "saved", text_column="content")

    def test_a_dictionary_with_training_text_only_is_split_by_wording(self, tmp_path: Path) -> None:
        datasets.DatasetDict({"train": datasets.Dataset.from_list(rows([str(i) for i in range(99)]))}).save_to_disk(
            str(tmp_path / "s")
        )
        assert {d.split for d in documents(tmp_path / "s", held_out_share=0.5)} == {"train", "validation"}

    def test_a_broken_saved_folder_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "dataset_dict.json").write_text("{")
        assert "save_to_disk" in refusal(tmp_path)

    def test_a_hub_data_set_is_streamed_at_one_commit(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        local = str(self.folder(tmp_path))
        asked: list[Any] = []
        load, names = datasets.load_dataset, datasets.get_dataset_split_names

        def load_local(source: str, subset: str | None, *, revision: str, **options: Any) -> Any:
            asked.append((source, subset, revision, options["streaming"]))
            assert "trust_remote_code" not in options
            return load(local, **options)

        monkeypatch.setattr(hub, "_commit", lambda settings: COMMIT)
        monkeypatch.setattr(datasets, "load_dataset", load_local)
        monkeypatch.setattr(datasets, "get_dataset_split_names", lambda *_, **__: names(local))
        read = documents("owner/name", subset="small", revision="main")
        assert set(asked) == {("owner/name", "small", COMMIT, True)}
        assert [(d.doc_id, d.text) for d in read[::3]] == [
            ("validation-00000000", "validation 0"),
            ("test-00000000", "test 0"),
            ("train-00000000", "train 0"),
        ]
        check_corpus(settings("owner/name"))
        fingerprint = corpus_fingerprint(settings("owner/name"))
        assert fingerprint == corpus_fingerprint(settings("owner/name", revision=COMMIT))
        assert fingerprint != corpus_fingerprint(settings("owner/name", subset="small"))

    def test_an_unreachable_hub_says_what_to_do(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from huggingface_hub import HfApi

        def refuse(*_: Any, **__: Any) -> None:
            raise ConnectionError("no route to host")

        monkeypatch.setattr(HfApi, "dataset_info", refuse)
        for check in (check_corpus, corpus_fingerprint):
            with pytest.raises(BadInput, match=r"no route to host.*save_to_disk"):
                check(settings("JeanKaddour/minipile"))

    def test_a_local_folder_wins_over_the_hub(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder(tmp_path / "owner" / "name")
        monkeypatch.chdir(tmp_path)
        assert [d.split for d in documents("owner/name")[::3]] == ["validation", "test", "train"]


class TestCheck:
    def test_a_good_corpus_passes(self, tmp_path: Path) -> None:
        check_corpus(settings(write_jsonl(tmp_path / "a.jsonl", rows(TEXTS))))
        check_corpus(CorpusSettings())

    def test_an_empty_corpus_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").write_text("\n")
        with pytest.raises(BadInput, match="no document"):
            check_corpus(settings(tmp_path))

    def test_an_empty_split_is_refused(self, tmp_path: Path) -> None:
        write_jsonl(tmp_path / "validation.jsonl", rows(["a"]))
        (tmp_path / "train.jsonl").write_text("")
        with pytest.raises(BadInput, match="split 'train'"):
            check_corpus(settings(tmp_path))

    def test_a_wrong_column_is_found(self, tmp_path: Path) -> None:
        write_jsonl(tmp_path / "a.jsonl", [{"content": "a"}])
        with pytest.raises(BadInput, match="'content'"):
            check_corpus(settings(tmp_path))

    def test_an_unknown_packaged_text_is_refused_with_the_closest(self) -> None:
        with pytest.raises(BadInput, match="Did you mean 'demo'"):
            check_corpus(settings("package:dmo"))

    @pytest.mark.skipif(os.geteuid() == 0, reason="the administrator may read everything")
    def test_a_file_that_may_not_be_read_is_refused(self, tmp_path: Path) -> None:
        file = write_jsonl(tmp_path / "a.jsonl", rows(["a"]))
        file.chmod(0)
        with pytest.raises(BadInput, match="permissions"):
            check_corpus(settings(file))


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


class TestHeldOut:
    WORDS = [f"word{i}" for i in range(200)]

    def document(self, text: str, split: Any = "train", doc_id: str = "d") -> Document:
        return Document(doc_id, text, "all", split)

    def index(self, overlap: float | None, *texts: str) -> HeldOutIndex:
        held = [self.document(text, "validation", str(i)) for i, text in enumerate(texts)]
        return HeldOutIndex.build([self.document("training text"), *held], overlap)

    def test_the_same_wording_is_an_exact_duplicate(self) -> None:
        verdict = self.index(None, "Held out: text").judge(self.document("held OUT text!"))
        assert verdict == Verdict(False, "exact duplicate", 1.0)
        assert self.index(None, "Held out: text").judge(self.document("training text")).keep

    def test_long_shared_passages_are_near_duplicates(self) -> None:
        mostly = " ".join([*self.WORDS[:100], *(f"other{i}" for i in range(30))])
        barely = " ".join([*self.WORDS[:20], *(f"other{i}" for i in range(100))])
        index = self.index(0.2, " ".join(self.WORDS))
        assert index.judge(self.document(mostly)) == Verdict(False, "near duplicate", 88 / 118)
        assert index.judge(self.document(barely)) == Verdict(True, None, 8 / 108)
        assert self.index(None, " ".join(self.WORDS)).judge(self.document(mostly)).keep
        assert self.index(1.0, " ".join(self.WORDS)).judge(self.document(mostly)).keep

    def test_of_repeated_held_out_text_the_first_stays(self) -> None:
        index = self.index(0.2, "same text", "Same text.", "other")
        verdicts = [
            index.judge(self.document(t, "test", i))
            for i, t in [("0", "same text"), ("1", "Same text."), ("2", "other")]
        ]
        assert [verdict.keep for verdict in verdicts] == [True, False, True]
        assert verdicts[1].reason == "repeated in held-out text"

    def test_punctuation_alone_is_not_one_wording(self) -> None:
        assert self.index(0.2, "***").judge(self.document("---")).keep

    def test_a_corpus_is_kept_free_of_its_held_out_text(self, tmp_path: Path) -> None:
        text = " ".join(self.WORDS)
        write_jsonl(tmp_path / "test.jsonl", rows([text, "unique", text]))
        write_jsonl(tmp_path / "train.jsonl", rows(["clean", text.upper(), text + " and a little more", ""]))
        assert [(d.split, d.text[:7], v.reason) for d, v in judged_documents(settings(tmp_path))] == [
            ("test", "word0 w", None),
            ("test", "unique", None),
            ("test", "word0 w", "repeated in held-out text"),
            ("train", "clean", None),
            ("train", "WORD0 W", "exact duplicate"),
            ("train", "word0 w", "near duplicate"),
            ("train", "", None),
        ]

    def test_a_test_share_takes_from_training_alone_and_is_cleaned_like_validation(self, tmp_path: Path) -> None:
        random.seed(3)
        texts = [" ".join(random.choices("abcdefghij", k=30)) + f" {n}" for n in range(300)]
        texts += [text + " and a few more words" for text in texts[:300]]  # near duplicates of all, held-out ones too
        file = write_jsonl(tmp_path / "c.jsonl", rows(texts))
        shares = {"held_out_share": 0.1, "near_duplicate_overlap": 0.2}
        without = {d.doc_id: d.split for d in documents(file, **shares)}
        split = {d.doc_id: d.split for d in documents(file, test_share=0.2, **shares)}
        assert split == {d.doc_id: d.split for d in documents(file, test_share=0.2, **shares)}
        assert all(split[name] == "validation" for name in without if without[name] == "validation")
        assert 0.15 < sum(s == "test" for s in split.values()) / len(split) < 0.25
        judged = list(judged_documents(settings(file, test_share=0.2, **shares)))
        held_out = {d.text.split(" and")[0] for d, _ in judged if d.split != "train"}
        kept = [d for d, verdict in judged if verdict.keep and d.split == "train"]
        assert kept and not any(d.text.split(" and")[0] in held_out for d in kept)
        assert changed_settings(CorpusSettings(test_share=0.0)) == {}

    def test_a_test_share_is_for_corpora_without_test(self, tmp_path: Path) -> None:
        texts = [f"document number {n}" for n in range(200)]
        write_jsonl(tmp_path / "a/train.jsonl", rows(texts[:150]))
        write_jsonl(tmp_path / "a/validation.jsonl", rows(texts[150:]))
        found = documents(tmp_path / "a", test_share=0.3, held_out_share=0.5)
        counts = {split: sum(d.split == split for d in found) for split in ("validation", "test", "train")}
        assert counts["validation"] == 50 and 25 < counts["test"] < 65 and sum(counts.values()) == 200
        write_jsonl(tmp_path / "a/test.jsonl", rows(texts[:7]))
        assert sum(d.split == "test" for d in documents(tmp_path / "a", test_share=0.3)) == 7
        with pytest.raises(ValidationError, match="nothing to train on"):
            CorpusSettings(held_out_share=0.6, test_share=0.4)

    def test_duplicates_never_straddle_assigned_splits(self, tmp_path: Path) -> None:
        texts = [f"text number {i % 50}" for i in range(200)]
        write_jsonl(tmp_path / "a.jsonl", rows(texts))
        reasons = {verdict.reason for _, verdict in judged_documents(settings(tmp_path, held_out_share=0.4))}
        assert reasons == {None, "repeated in held-out text"}
