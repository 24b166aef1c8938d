"""Packing as published: documents follow one another, end tokens included, and are cut every so many positions."""

# legend: S sources, T positions, D documents

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from logitfuse.kernels.fusion.distributions import Distributions, joined
from logitfuse.kernels.fusion.evidence import Steps
from logitfuse.kernels.positions import NO_LABEL
from logitfuse.tasks.fuse_documents import Documents

MIXED = "mixed"  # domain of a block with documents of several


@dataclass(frozen=True)
class Closed:
    """Documents in which every token has a position: the last one of a chunk that is not its document's last, too."""

    offsets: NDArray[np.int64]  # [D+1] positions of each document
    inputs: NDArray[np.int32]
    sources: list[Distributions]
    steps: Callable[[], Steps]


def closed(documents: Documents) -> Closed:
    """Give the last token of an inner chunk, after which nothing was captured, a position that no source serves."""
    text, passages = documents.text, documents.passages
    open_C = ~documents.last & (np.diff(text.offsets) > 0)
    at = passages.offsets[1:][open_C]
    tokens = documents.text_ids[text.offsets[1:][open_C] - 1]
    added = np.concatenate([[0], np.cumsum(open_C)])

    def steps() -> Steps:
        nats, sizes, begins = documents.steps
        return Steps(np.insert(nats, at, 0.0, axis=1), np.insert(sizes, at, 0), np.insert(begins, at, False))

    return Closed(
        (passages.offsets + added)[documents.documents],
        np.insert(passages.inputs, at, tokens),
        [
            Distributions(np.insert(s.offsets, at, s.offsets[at]), s.ids, s.logprobs, np.insert(s.mass, at, 0.0))
            for s in documents.sources
        ],
        steps,
    )


@dataclass(frozen=True)
class Piece:
    """Positions start to stop of one document."""

    of: Closed
    start: int
    stop: int
    scores: NDArray[np.float64]  # [S]
    domain: str
    hashes: bytes  # text hashes of the document's chunks

    def __len__(self) -> int:
        return self.stop - self.start

    def cut(self, size: int) -> tuple[Piece, Piece]:
        """Return the first `size` positions and the rest."""
        middle = self.start + size
        shared = (self.scores, self.domain, self.hashes)
        return Piece(self.of, self.start, middle, *shared), Piece(self.of, middle, self.stop, *shared)


@dataclass(frozen=True)
class Block:
    """One packed block of a split."""

    split: str
    number: int
    pieces: Sequence[Piece]

    @property
    def inputs(self) -> NDArray[np.int32]:
        return np.concatenate([piece.of.inputs[piece.start : piece.stop] for piece in self.pieces])

    @property
    def labels(self) -> NDArray[np.int32]:
        """What follows each token within the block; nothing after its last."""
        return np.append(self.inputs[1:], NO_LABEL).astype(np.int32)

    @property
    def sources(self) -> list[Distributions]:
        per_piece = [[s.take(piece.start, piece.stop) for s in piece.of.sources] for piece in self.pieces]
        return [joined(parts) for parts in zip(*per_piece, strict=True)]

    @property
    def scores(self) -> NDArray[np.float64]:
        """The documents' scores [S], each counted once per token it has in this block."""
        sizes = np.array([len(piece) for piece in self.pieces], np.float64)
        return np.stack([piece.scores for piece in self.pieces], axis=1) @ sizes / sizes.sum()

    @property
    def domain(self) -> str:
        domains = {piece.domain for piece in self.pieces}
        return domains.pop() if len(domains) == 1 else MIXED

    @property
    def text_hash(self) -> bytes:
        """16 bytes over the text hashes of all chunks of the documents that it has a part of."""
        return hashlib.blake2b(b"".join(piece.hashes for piece in self.pieces), digest_size=16).digest()

    def steps(self) -> Steps:
        """Return the causal steps; of a document that began in an earlier block only what is known since."""
        nats, sizes, begins = zip(
            *(piece.of.steps().take(piece.start, piece.stop) for piece in self.pieces), strict=True
        )
        begins_T = np.concatenate(begins)
        begins_T[0] = True
        return Steps(np.concatenate(nats, axis=1), np.concatenate(sizes), begins_T)


@dataclass
class Packer:
    """Packs the documents of each split in the order in which they come."""

    size: int
    left_out: int = 0
    _waiting: dict[str, list[Piece]] = field(default_factory=dict)
    _made: dict[str, int] = field(default_factory=dict)

    def add(self, documents: Documents, scores_SD: NDArray[np.float64]) -> Iterator[Block]:
        """Yield the blocks that these documents fill; one that a source has no score for is left out."""
        whole = closed(documents)
        hashes = documents.identity["text_hash"].to_pylist()
        for d, (start, stop) in enumerate(zip(whole.offsets[:-1], whole.offsets[1:], strict=True)):
            first, after = documents.documents[d], documents.documents[d + 1]
            if not np.isfinite(scores_SD[:, d]).all():
                self.left_out += 1
                continue
            piece = Piece(
                whole, int(start), int(stop), scores_SD[:, d], documents.domains[first], b"".join(hashes[first:after])
            )
            yield from self._append(documents.splits[first], piece)

    def rest(self) -> Iterator[Block]:
        """Yield the shorter last block of each split."""
        for split, pieces in self._waiting.items():
            if pieces:
                yield self._block(split, pieces)
        self._waiting.clear()

    def _append(self, split: str, piece: Piece) -> Iterator[Block]:
        pieces = self._waiting.setdefault(split, [])
        room = self.size - sum(map(len, pieces))
        while len(piece) >= room:
            head, piece = piece.cut(room)
            yield self._block(split, [*pieces, head])
            pieces.clear()
            room = self.size
        if len(piece):
            pieces.append(piece)

    def _block(self, split: str, pieces: Sequence[Piece]) -> Block:
        number = self._made.get(split, 0)
        self._made[split] = number + 1
        return Block(split, number, tuple(pieces))
