"""Whether a store is what its model predicts: the rule, and what to do where it is not.

What the store's numbers differ by from the live model may come from rounding, whose size is known, and from the order
of the model's own sums, whose size the control tells: the same model on the same text, alone and in a batch. More than
`ROOM` times the first with `SAFETY` times the second is neither. A store is judged by

- the root mean square of the differences of log-probabilities, of kept tokens and of those that really follow, which
  many values a little off raise (another precision, another version of the model);
- the largest of them that rounding cannot explain, which one damaged value raises;
- the mean divergence, which sees the mass outside the kept tokens too;
- how often the best token, the set of kept ones and the rank of the token that follows are other ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from logitfuse.tasks.audit.measures import Differences, Measures

ROOM = 1.25  # over what rounding gives on average
SAFETY = 4.0  # over the control: another batch plan or processor sums in yet another order
OUTLIER = 16.0  # over the control's largest difference: the sample's largest is itself a matter of chance
SHARE = 0.01  # of positions, beside the control's: near ties fall either way
KL_FLOOR = 2e-6


@dataclass(frozen=True)
class Allowance:
    """What is allowed beside rounding and control: `floor`, the nats by which capture itself may be off."""

    floor: float

    def rms(self, stored: Differences, control: Differences) -> float:
        """Return the largest root mean square that rounding and the control explain."""
        return ROOM * stored.rounding_rms + SAFETY * control.rms + self.floor

    def beyond(self, control: Differences) -> float:
        """Return the largest single difference, beyond rounding, that the control explains."""
        return OUTLIER * control.highest + 4 * self.floor

    def kl(self, stored: Measures, control: Measures) -> float:
        """Return the largest mean divergence that rounding and the control explain."""
        noise = control.kl / max(control.positions, 1)
        return 2 * stored.kl_of_rounding / max(stored.positions, 1) + SAFETY**2 * noise + KL_FLOOR + self.floor**2

    def reasons(self, stored: Measures, control: Measures) -> Iterator[str]:
        """Yield what is not explained, in words; nothing where the store is as captured."""
        for what, mine, noise in (
            ("kept tokens", stored.kept, control.kept),
            ("tokens that follow", stored.gold, control.gold),
        ):
            if mine.rms > (allowed := self.rms(mine, noise)):
                yield (
                    f"log-probabilities of {what} differ by {mine.rms:.2g} nats (root mean square; {allowed:.2g} "
                    "allowed)"
                )
            elif mine.beyond > (allowed := self.beyond(noise)):
                yield (
                    f"log-probabilities of {what} differ by up to {mine.beyond:.2g} nats beyond rounding "
                    f"({allowed:.2g} allowed)"
                )
        found = stored.kl / max(stored.positions, 1)
        if found > (allowed := self.kl(stored, control)):
            yield f"distributions diverge by {found:.2g} nats a position ({allowed:.2g} allowed)"
        yield from _disagreements(stored, control)

    def odd(self, stored: Measures, control: Measures) -> bool:
        """Say whether a part of the sample, such as a shard, has differences that the whole control cannot explain."""
        return any(
            mine.rms > self.rms(mine, noise) or mine.beyond > self.beyond(noise)
            for mine, noise in ((stored.kept, control.kept), (stored.gold, control.gold))
        )


def _disagreements(stored: Measures, control: Measures) -> Iterator[str]:
    for what, same, again, of in (
        ("best token is", stored.same_best, control.same_best, stored.positions),
        ("set of kept tokens is", stored.same_set, control.same_set, stored.positions),
        ("rank of the token that follows is", stored.same_rank, control.same_rank, stored.gold.count),
    ):
        other, allowed = 1 - same / max(of, 1), SAFETY * (1 - again / max(of, 1)) + SHARE
        if of and other > allowed:
            yield f"the {what} another at {other:.2%} of the positions ({allowed:.2%} allowed)"
