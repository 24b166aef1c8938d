"""The strategies printed in docs/extending.md are run as they stand there, through the registries."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from logitfuse.kernels.alignment import ALIGNMENTS, Spelling, VocabularyPair, read_side
from logitfuse.kernels.fusion import FUSIONS
from logitfuse.kernels.fusion.distributions import Distributions
from logitfuse.kernels.fusion.evidence import Evidence
from logitfuse.kernels.losses.residuals import RESIDUALS
from logitfuse.kernels.registry import BadOption, Registry
from logitfuse.kernels.vocabulary_map import VOCABULARY_MAPS, How, MapContext, VocabularyView

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "extending.md"
EXAMPLES = dict(re.findall(r"```python\n# (\S+)\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL))


@contextmanager
def example(file: str, registry: Registry[Any]) -> Iterator[str]:
    """Import a file of the document as if it lay where it says; yield its strategy's name, then forget it."""
    name = "logitfuse." + file.removesuffix(".py").replace("/", ".")
    before = set(registry.names())
    module = ModuleType(name)
    sys.modules[name] = module
    try:
        exec(compile(EXAMPLES[file], file, "exec"), module.__dict__)
        (added,) = set(registry.names()) - before
        yield added
    finally:
        del sys.modules[name]
        for added in set(registry.names()) - before:
            del registry._strategies[added]
    assert set(registry.names()) == before


def rows(*rows: dict[int, float]) -> Distributions:
    """Distributions given as token → probability."""
    offsets = np.cumsum([0, *(len(row) for row in rows)])
    ids = np.array([token for row in rows for token in row], np.int32)
    logprobs = np.log([p for row in rows for p in row.values()]).astype(np.float32)
    return Distributions(offsets.astype(np.int64), ids, logprobs, np.array([sum(row.values()) for row in rows]))


def test_every_example_is_run_here() -> None:
    folders = ["fusion", "vocabulary_map", "alignment", "losses"]
    assert [file.split("/")[1] for file in EXAMPLES] == folders
    assert all(Path(file).stem in source for file, source in EXAMPLES.items())


def test_the_fusion_rule() -> None:
    sources = [rows({1: 0.5, 2: 0.25}, {3: 1.0}), rows({2: 0.75}, {4: 1.0})]
    evidence = Evidence.equal(np.array([[1.0, 1.0], [1.01, 2.0]]))
    with example("kernels/fusion/close_ones.py", FUSIONS) as name:
        assert FUSIONS.check_options(name, {"margin": 0.02}) == {}
        with pytest.raises(BadOption, match="margin"):
            FUSIONS.check_options(name, {"margin": -1})
        fused, weights_ST = FUSIONS.get(name)(sources, evidence)
        sure, chosen_ST = FUSIONS.get(name)(sources, evidence, margin=0.0)
    np.testing.assert_allclose(weights_ST, [[0.5, 1.0], [0.5, 0.0]])
    assert fused.ids.tolist() == [2, 1, 3] and fused.mass.tolist() == [0.75, 1.0]
    np.testing.assert_allclose(np.exp(fused.logprobs), [0.5, 0.25, 1.0], rtol=1e-6)
    wanted, wanted_ST = FUSIONS.get("min_ce")(sources, evidence)
    np.testing.assert_array_equal(chosen_ST, wanted_ST)
    np.testing.assert_array_equal(sure.ids, wanted.ids)


def test_the_vocabulary_map() -> None:
    source = VocabularyView([b"the", b"these", b"xyz", None, b"\xe6\x97"], {"eos": 3})
    target = VocabularyView([b"the", b"\xe6", None], {"eos": 2})
    with example("kernels/vocabulary_map/longest_prefix.py", VOCABULARY_MAPS) as name:
        found = VOCABULARY_MAPS.get(name)(source, target, MapContext())
        options = VOCABULARY_MAPS.check_options(name, {"min_bytes": "3"})
        longer = VOCABULARY_MAPS.get(name)(source, target, MapContext(), **options)
    assert found.how.tolist() == [How.EXACT, How.FIRST_PIECE, How.UNMAPPED, How.ROLE, How.FIRST_PIECE]
    assert found.target_ids.tolist() == [0, 0, 2, 1]
    assert longer.target_ids.tolist() == [0, 0, 2]


def test_the_alignment() -> None:
    ends = np.arange(1, 7, dtype=np.int32)
    side = read_side(ends, ends, np.array([0, 6]), np.array([False]), start=False, end=None)
    empty = (np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    nothing = VocabularyPair(Spelling([], ""), Spelling([], ""), *empty)
    with example("kernels/alignment/settled.py", ALIGNMENTS) as name:
        assert ALIGNMENTS.get(name)(side, side, nothing, tokens=3).tolist() == [-1, -1, 2, 3, 4]
        assert (ALIGNMENTS.get(name)(side, side, nothing) == -1).all()


def test_the_residual_rule() -> None:
    with example("kernels/losses/sharpened.py", RESIDUALS) as name:
        found = RESIDUALS.get(name)(torch.tensor([[0.6, 0.2], [0.0, 0.0]]), torch.tensor([0.2, 0.0]))
    torch.testing.assert_close(found.kept_NK, torch.tensor([[0.72, 0.08], [0.0, 0.0]]))
    torch.testing.assert_close(found.rest_N, torch.tensor([0.2, 0.0]))
