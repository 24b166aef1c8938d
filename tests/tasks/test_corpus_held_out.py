"""Training text is kept free of held-out text, and test text of both."""

import random
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from small_corpora import documents, rows, settings, write_jsonl

from logitfuse.storage.settings import changed_settings
from logitfuse.tasks.corpus.documents import Document
from logitfuse.tasks.corpus.held_out import HeldOutIndex, Verdict, judged_documents
from logitfuse.tasks.corpus.settings import CorpusSettings


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
