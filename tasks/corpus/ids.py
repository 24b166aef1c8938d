"""Refuse ids that occur twice, without keeping the ids: eight bytes of hash for each."""

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from logitfuse.storage.errors import BadInput
from logitfuse.tasks.corpus.documents import Row
from logitfuse.tasks.corpus.settings import CorpusSettings


class Readable(Protocol):
    """Anything whose rows can be read again from the start."""

    @property
    def rows(self) -> Callable[[], Iterator[Row]]: ...


class HashSet:
    """A set of 64-bit hashes in 16 to 32 bytes each; Python's own takes about 90, which a large corpus feels."""

    def __init__(self) -> None:
        self._slots = array("Q", bytes(8 * 1024))  # open addressing; 0 is an empty slot
        self._count = 0

    def add(self, key: int) -> bool:
        """Add a key; return whether it was new."""
        if 2 * self._count >= len(self._slots):
            self._grow()
        return self._put(key or 1)

    def _put(self, key: int) -> bool:
        mask = len(self._slots) - 1
        slot = key & mask
        while found := self._slots[slot]:
            if found == key:
                return False
            slot = (slot + 1) & mask
        self._slots[slot] = key
        self._count += 1
        return True

    def _grow(self) -> None:
        old, self._count = self._slots, 0
        self._slots = array("Q", bytes(2 * old.itemsize * len(old)))
        for key in filter(None, old):
            self._put(key)


class DuplicateIds:
    """Checks the ids of an id column as they pass; ids made of file names and row numbers never repeat."""

    def __init__(self, parts: Iterable[Readable], settings: CorpusSettings):
        self._parts = list(parts)
        self._column = settings.id_column
        self._seen = HashSet()

    def check(self, doc_id: str, where: str) -> None:
        """Raise BadInput, naming both places, if the id passed before."""
        if self._column is None:
            return
        key = int.from_bytes(hashlib.blake2b(doc_id.encode(), digest_size=8).digest())
        if not self._seen.add(key) and (first := self._first_place(doc_id, self._column)) != where:
            raise BadInput(
                f"{where}: the id '{doc_id}' stands at {first} already, and ids tie the stages together. "
                f"Make them differ, or leave id_column empty to name documents by file and row."
            )

    def _first_place(self, doc_id: str, column: str) -> str:
        """Read again up to the id: only equal hashes lead here, so at most once in practice."""
        rows = (row for part in self._parts for row in part.rows())
        return next(row.where for row in rows if column in row.values and str(row.values[column]) == doc_id)
