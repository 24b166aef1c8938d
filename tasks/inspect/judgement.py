"""Who counts how much at each position, worked out again by the rule: the store keeps only who counts most."""

# legend: S sources, T positions of a document

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from logitfuse.kernels.fusion.distributions import Distributions
from logitfuse.kernels.fusion.shares import winners
from logitfuse.tasks.fuse import Fuser, reading
from logitfuse.tasks.unit import Unit

if TYPE_CHECKING:
    from logitfuse.tasks.fuse_documents import Documents
    from logitfuse.tasks.run import Run


@dataclass(frozen=True, eq=False)
class Judgement:
    """What the rule decides at the positions of one document."""

    targets: Distributions
    winner_T: NDArray[np.int32]
    weights_ST: NDArray[np.float64]
    scores_ST: NDArray[np.float64]  # what the rule compares there: +inf where a source has no score
    held_back_T: NDArray[np.bool_]


def judged(run: Run, shard: int, document: Documents) -> Judgement | None:
    """Return what stage fuse decides for a document, None where it decides by more than the document.

    That is so for packed blocks, whose scores are those of all their documents, and for shuffled sources.
    """
    if run.recipe.fuse.granularity == "block" or run.recipe.fuse.shuffled:
        return None
    fuser = Fuser(run.recipe.fuse, reading(run, Unit("fuse", None, shard)))
    evidence = fuser.evidence(document, fuser.scores(document))
    targets, weights_ST, held_T = fuser.fused(document.sources, evidence)
    return Judgement(targets, winners(document.sources, weights_ST), weights_ST, evidence.scores, held_T)


def shares_of(weights_S: NDArray, served_S: NDArray[np.bool_], rule: str) -> NDArray[np.float64]:
    """Return what each source's prediction really counts at a position: those that serve it share what all would have.

    By `min_ce` nobody takes the place of a winner that does not serve.
    """
    used_S = np.where(served_S, np.nan_to_num(np.asarray(weights_S, np.float64)), 0.0)
    whole = used_S.sum()
    return used_S / whole if whole > 0 and rule != "min_ce" else used_S


def reason(rule: str, settings: str, winner: str | None, served: bool, held_back: bool, stronger: str | None) -> str:
    """Say in a sentence why a position is taught what it is. `settings`: what the rule goes by, in words.

    `stronger`: a source that would count more and does not serve the position.
    """
    if held_back:
        return "Held back: no other source predicts this text better than the target model by fuse.min_advantage."
    if winner is None and not served:
        return "Nothing is taught: no source serves this position, so the student learns from the text alone."
    if winner is None:
        who = f"{stronger}, whom {rule} chose, does" if stronger else "those who count do"
        return f"Nothing is taught: {who} not serve this position."
    if rule == "min_ce":
        return f"{winner} {settings}, and min_ce takes its prediction as it is."
    most = f"{stronger} would count more, but does not serve this position. " if stronger else ""
    return f"{most}{winner} counts most: {settings}."
