"""How much of everything a run will have: documents, bytes, tokens and positions, by what they are for."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from logitfuse.kernels.positions import positions
from logitfuse.tasks.models.vocabulary import encode_texts
from logitfuse.tasks.plan.estimates import Estimate, exact, independent, ratio_total
from logitfuse.tasks.plan.recorded import recorded
from logitfuse.tasks.plan.sample import Sample, Text
from logitfuse.tasks.training.shares import of_share

if TYPE_CHECKING:
    from logitfuse.tasks.models.source import Source
    from logitfuse.tasks.run import Run

AT_ONCE = 64  # documents tokenised together
Numbers = dict[str, float]


@dataclass
class Amounts:
    """Totals by name, and the seconds that tokenising took here per token of each tokenizer.

    Names: documents, chunks, bytes; documents/SPLIT; tokens/TOKENIZER; positions/MODEL (what it captures),
    squares/MODEL, beyond/MODEL (what it has no room for); target/positions (what align and fuse make), beyond/target;
    train/positions, train/sequences, train/squares; adapt/MODEL (positions it is continued on); evaluate/MODEL;
    validation/positions.
    """

    totals: dict[str, Estimate]
    per_token: dict[str, float] = field(default_factory=dict)

    def of(self, name: str) -> Estimate:
        return self.totals.get(name, exact(0))


def count(run: Run, sample: Sample) -> Amounts:
    """Tokenise a sample with every tokenizer of a run and estimate what the whole has."""
    counting = _Counting(run)
    parts: dict[str, list[Estimate]] = defaultdict(list)
    for stratum in sample.strata:
        blocks = counting.blocks(stratum.blocks)
        sizes_B = np.array(stratum.sizes, np.float64)
        for name in {name for block in blocks for name in block}:
            amounts_B = np.array([block.get(name, 0.0) for block in blocks], np.float64)
            parts[name].append(ratio_total(amounts_B, sizes_B, stratum.total))
    totals = {name: independent(found) for name, found in parts.items()}
    totals |= {name: exact(value) for name, value in sample.known.items()}
    per_token = {label: seconds / max(tokens, 1) for label, (seconds, tokens) in counting.spent.items()}
    return Amounts(totals | recorded(run), per_token)


class _Counting:
    """Counts documents by what each stage will make of them."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.spent: dict[str, tuple[float, int]] = {}
        self._scored: dict[str, int] = defaultdict(int)  # documents of each domain that stage evaluate takes

    def blocks(self, blocks: list[list[Text]]) -> list[Numbers]:
        """Return what each block has."""
        flat = [text for block in blocks for text in block]
        found = [one for i in range(0, len(flat), AT_ONCE) for one in self._several(flat[i : i + AT_ONCE])]
        each = iter(found)
        return [_added([next(each) for _ in block]) for block in blocks]

    def _several(self, texts: list[Text]) -> list[Numbers]:
        lengths = {label: self._lengths(label, source, texts) for label, source in self._run.tokenizers.items()}
        return [self._one(text, {label: of[at] for label, of in lengths.items()}) for at, text in enumerate(texts)]

    def _lengths(self, label: str, source: Source, texts: list[Text]) -> list[list[int]]:
        specials = self._run.recipe.encode.special_tokens == "special"
        chunks = [chunk for text in texts for chunk in text.chunks]
        began = time.perf_counter()
        encoded = encode_texts(source.tokenizer, source.vocabulary, chunks, specials=specials)
        seconds, tokens = self.spent.get(label, (0.0, 0))
        made = sum(len(ids) for ids, _ in encoded)
        self.spent[label] = (seconds + time.perf_counter() - began, tokens + made)
        each = iter(len(ids) for ids, _ in encoded)
        return [[next(each) for _ in text.chunks] for text in texts]

    def _one(self, text: Text, lengths: dict[str, list[int]]) -> Numbers:
        """Count one document; `lengths`: the tokens of each chunk, by tokenizer."""
        run, recipe, document = self._run, self._run.recipe, text.document
        found: Numbers = {"documents": 1, "chunks": len(text.chunks), f"documents/{document.split}": 1}
        found["bytes"] = sum(len(chunk.encode()) for chunk in text.chunks)
        found |= {f"tokens/{label}": sum(of) for label, of in lengths.items()}
        past_end = recipe.capture.past_end
        for label, model in run.teachers.items():
            longest = min(model.context, recipe.capture.max_length or model.context)
            whole = _positions(model, lengths[model.tokenizer_label], past_end)
            read = [min(n, longest) for n in whole]
            found |= {f"positions/{label}": sum(read), f"squares/{label}": sum(n * n for n in read)}
            found[f"beyond/{label}"] = sum(whole) - sum(read)
        mine = _positions(run.target, lengths[run.target.tokenizer_label], past_end)
        found["target/positions"] = sum(mine)
        found["beyond/target"] = sum(max(0, n - run.target.context) for n in mine)
        if document.split == "validation":
            found["validation/positions"] = sum(mine)
        if document.split == "train":
            found |= self._learnt(text, lengths, mine)
        if document.split == recipe.evaluate.split:
            found |= self._evaluated(text, lengths)
        return found

    def _learnt(self, text: Text, lengths: dict[str, list[int]], mine: list[int]) -> Numbers:
        train, document, found = self._run.recipe.train, text.document, Numbers()
        if of_share([document.doc_id], train.documents)[0]:
            cut = [piece for length in mine for piece in _windows(length, train.sequence_length)]
            found = {"train/positions": sum(cut), "train/sequences": len(cut), "train/squares": sum(n * n for n in cut)}
        for label, model in self._run.given.items():
            how = model.home.settings.adapt
            in_it = how is not None and of_share([document.doc_id], how.documents)[0]
            if how is None or not in_it or (how.domains and document.domain not in how.domains):
                continue
            read = _positions(model, lengths[model.tokenizer_label], False)
            longest = min(how.sequence_length, model.context)
            cut = [piece for length in read for piece in _windows(length, longest)]
            found |= {f"adapt/{label}": sum(cut), f"adapt-sequences/{label}": len(cut)}
        return found

    def _evaluated(self, text: Text, lengths: dict[str, list[int]]) -> Numbers:
        settings, domain = self._run.recipe.evaluate, text.document.domain
        self._scored[domain] += 1
        if settings.documents_per_domain is not None and self._scored[domain] > settings.documents_per_domain:
            return {}
        found = Numbers()
        for label, model in self._run.given.items():
            chunks = lengths[model.tokenizer_label][: settings.chunks_per_document]
            read = [positions(n, start=model.start_id is not None, end=False)[1] for n in chunks]
            found[f"evaluate/{label}"] = sum(min(n, model.context) for n in read)
        return found


def _positions(model: Source, lengths: list[int], past_end: bool) -> list[int]:
    """Return the positions of a document's chunks: the last one may have an end token."""
    start, end, last = model.start_id is not None, model.end_id is not None, len(lengths) - 1
    return [
        positions(length, start=start, end=end and at == last, past_end=past_end)[1]
        for at, length in enumerate(lengths)
    ]


def _windows(length: int, longest: int) -> list[int]:
    """Cut a sequence as training does."""
    return [min(longest, length - start) for start in range(0, length, longest)]


def _added(parts: list[Numbers]) -> Numbers:
    total: dict[str, float] = defaultdict(float)
    for part in parts:
        for name, value in part.items():
            total[name] += value
    return dict(total)
