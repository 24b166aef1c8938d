"""The published packing, collator and choice of source, written out densely and slowly (method of FuseLLM's code).

One document: its token ids (end token last), each source's mean cross-entropy, and for each token and source a row
of kept (ids, logits), the target's own source first.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

BF16 = torch.bfloat16
Row = tuple[list[int], list[float]]


@dataclass
class Document:
    """Also a packed block: then `metrics` are those of the block."""

    tokens: list[int]
    metrics: list[float]
    rows: list[list[Row]]  # [source][token]


def metric(cross_entropies: list[float]) -> float:
    """Mean cross-entropy per own token in fp16; NaN where nothing is predicted."""
    half = [float(torch.tensor(value, dtype=torch.float16)) for value in cross_entropies]
    total = torch.tensor(math.fsum(half), dtype=torch.float32).to(torch.float16)
    return float(total / torch.tensor(len(half)))


def packed(documents: list[Document], size: int) -> list[Document]:
    """Documents without a NaN after one another, cut every `size` tokens; the shorter last block is kept."""
    kept = [document for document in documents if not any(math.isnan(value) for value in document.metrics)]
    tokens = [token for document in kept for token in document.tokens]
    sources = len(documents[0].metrics)
    metrics = [[d.metrics[s] for d in kept for _ in d.tokens] for s in range(sources)]
    rows = [[row for d in kept for row in d.rows[s]] for s in range(sources)]
    blocks = []
    for start in range(0, len(tokens), size):
        part = slice(start, start + size)
        means = [sum(column[part]) / len(column[part]) for column in metrics]
        blocks.append(Document(tokens[part], means, [column[part] for column in rows]))
    return blocks


def distributions(block: Document, vocabulary: int, temperature: float) -> list[Tensor]:
    """One dense bfloat16 [T, V] per source; a source's empty row is the target's own."""
    dense: list[Tensor] = []
    for rows in block.rows:
        found_TV = torch.zeros(len(rows), vocabulary, dtype=BF16)
        for t, (ids, logits) in enumerate(rows):
            if ids:
                probs = torch.softmax(torch.tensor(logits, dtype=BF16) / temperature, -1)
                found_TV[t].scatter_(-1, torch.tensor(ids), probs)
            elif dense:  # the target's own row is always there in the published data; here it may be without
                found_TV[t] = dense[0][t]
        dense.append(found_TV)
    return dense


def rewards(metrics: list[float]) -> list[Tensor]:
    """1 / exp(cross-entropy), in bfloat16."""
    return [1 / torch.exp(torch.tensor(value, dtype=BF16)) for value in metrics]


def min_ce(dense: list[Tensor], metrics: list[float], with_target: bool) -> tuple[Tensor, int]:
    """The distributions of the source with the most reward; the first of equals, without the target's the last."""
    reward = [float(value) for value in rewards(metrics)]
    best = max(reward)
    ties = [s for s, value in enumerate(reward) if value == best]
    chosen = ties[0] if with_target else ties[-1]
    return dense[chosen], chosen


def avg_ce(dense: list[Tensor], metrics: list[float]) -> tuple[Tensor, Tensor]:
    """The sum of all distributions, weighted by the softmax of the rewards; every step in bfloat16."""
    weights_S = torch.softmax(torch.stack(rewards(metrics)), 0)
    total_TV = weights_S[0] * dense[0]
    for weight, source_TV in zip(weights_S[1:], dense[1:], strict=True):
        total_TV = total_TV + weight * source_TV
    return total_TV, weights_S
