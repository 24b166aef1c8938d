"""Keep held-out text out of training: drop training documents that repeat it, whole or in long passages."""

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from logitfuse.kernels.near_duplicates import Hashes, ShingleIndex, build_index, overlap, shingles
from logitfuse.tasks.corpus.bad_documents import Note, unnoted
from logitfuse.tasks.corpus.documents import Document, text_key
from logitfuse.tasks.corpus.files import SPLIT_ORDER
from logitfuse.tasks.corpus.readers import read_documents
from logitfuse.tasks.corpus.settings import CorpusSettings

Reason = Literal["exact duplicate", "near duplicate", "repeated in held-out text"]


class Verdict(NamedTuple):
    """Whether a document stays, and if not, why; `overlap` is its share of 13-word runs that held-out text has."""

    keep: bool
    reason: Reason | None = None
    overlap: float = 0.0


class HeldOutIndex:
    """The wording of all held-out documents; judges any document by itself, so in any order or process."""

    def __init__(self, first_ids: dict[bytes, str], passages: ShingleIndex, threshold: float | None):
        self._first_ids = first_ids  # wording → the held-out document that had it first
        self._passages = passages
        self._threshold = 1.0 if threshold is None else threshold

    @classmethod
    def build(cls, documents: Iterable[Document], near_duplicate_overlap: float | None) -> "HeldOutIndex":
        """Read held-out documents (training ones are passed over) into an index.

        It takes 12 bytes a word. With an overlap of None or at least 1 only exact duplicates are looked for.
        """
        first_ids: dict[bytes, str] = {}
        with_passages = near_duplicate_overlap is not None and near_duplicate_overlap < 1

        def passages() -> Iterator[Hashes]:
            for document in documents:
                if document.split == "train":
                    continue
                text = document.text.encode()
                first_ids.setdefault(text_key(text), document.doc_id)
                if with_passages:
                    yield shingles(text)

        return cls(first_ids, build_index(passages()), near_duplicate_overlap)

    def judge(self, document: Document) -> Verdict:
        """Return whether the document stays; of held-out documents that repeat each other the first does."""
        text = document.text.encode()
        first = self._first_ids.get(text_key(text))
        if document.split != "train":
            repeated = first is not None and first != document.doc_id
            return Verdict(False, "repeated in held-out text", 1.0) if repeated else Verdict(True)
        if first is not None:
            return Verdict(False, "exact duplicate", 1.0)
        share = overlap(text, self._passages)
        return Verdict(False, "near duplicate", share) if share > self._threshold else Verdict(True, None, share)


def judged_documents(settings: CorpusSettings, note: Note = unnoted) -> Iterator[tuple[Document, Verdict]]:
    """Yield the documents of a corpus, each with whether it stays: training text that repeats held-out text does not.

    The corpus is read twice, the first time only for its held-out documents (all of a corpus that has no held-out
    split of its own; from the hub that means fetching it twice, so such a data set is better saved locally). `note` is
    told once of every row that is quarantined.
    """
    held_out = read_documents(settings, [split for split in SPLIT_ORDER if split != "train"])
    index = HeldOutIndex.build(held_out, settings.near_duplicate_overlap)
    for document in read_documents(settings, note=note):
        yield document, index.judge(document)
