"""A run whose processes are killed again and again publishes what an undisturbed one does: `make chaos` in short."""

import random
from pathlib import Path

import pytest
from runs_under_fire import Disturbed, Forks, undisturbed

SEED, KILLS = 20, 8


@pytest.mark.timeout(900)
def test_two_processes_killed_at_random_leave_what_one_undisturbed_leaves(tmp_path: Path) -> None:
    with Forks(tmp_path) as forks:
        fire = Disturbed(forks, undisturbed(forks, tmp_path), random.Random(SEED), KILLS)
        fire.run("two at once")
    assert not fire.faults
    assert fire.kills >= KILLS
