"""What cannot be read is refused with its place and a way out, and found before anything is done."""

import gzip
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from small_corpora import TEXTS, documents, refusal, rows, settings, write_jsonl, write_parquet

from logitfuse.storage.errors import BadInput
from logitfuse.tasks.corpus.fingerprint import corpus_fingerprint
from logitfuse.tasks.corpus.readers import check_corpus
from logitfuse.tasks.corpus.settings import CorpusSettings


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

    def test_a_parquet_file_must_not_have_a_column_twice(self, tmp_path: Path) -> None:
        pq.write_table(pa.table([["a"], ["b"]], names=["text", "text"]), tmp_path / "a.parquet")
        assert "several columns 'text'" in refusal(tmp_path / "a.parquet")

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
