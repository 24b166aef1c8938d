"""Saved data sets and those on the hub."""

from pathlib import Path
from typing import Any

import datasets
import pytest
from small_corpora import documents, refusal, rows, settings, write_parquet

from logitfuse.storage.errors import BadInput
from logitfuse.tasks.corpus import hub
from logitfuse.tasks.corpus.fingerprint import corpus_fingerprint
from logitfuse.tasks.corpus.readers import check_corpus

COMMIT = "0123456789abcdef0123456789abcdef01234567"


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
