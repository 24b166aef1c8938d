"""`make chaos` and `make corruption` in short: killed runs end as undisturbed ones, damage is found and repaired."""

import random
from pathlib import Path

import pytest
import yaml
from damaged_checkpoints import damage_checkpoints
from damaged_files import DamagedFiles
from runs_under_fire import Disturbed, Forks, Undisturbed

SEED, KILLS = 20, 3


@pytest.mark.timeout(900)
def test_two_processes_killed_at_random_leave_what_one_undisturbed_leaves(forks: Forks, wanted: Undisturbed) -> None:
    fire = Disturbed(forks, wanted, random.Random(SEED), KILLS)
    fire.run("two at once")
    assert not fire.faults
    assert fire.kills >= KILLS


@pytest.mark.timeout(900)
def test_damage_to_every_kind_of_file_is_found(wanted: Undisturbed) -> None:
    recipe = wanted.recipe("undisturbed")
    files = DamagedFiles(yaml.safe_load(recipe.read_text()), recipe, random.Random(SEED))
    assert {kind.split("/")[0] for kind in files.files} >= {"prepare", "capture", "map", "fuse", "train", "evaluate"}
    for kind in files.files:
        files.look(kind)
    for kind in ("encode/.parquet", "capture/.parquet", "map/.parquet", "fuse/record"):
        files.make_from(kind)
        files.repair(kind)
    assert not files.unnoticed


def test_damage_to_a_checkpoint_is_found(tmp_path: Path) -> None:
    noticed, unnoticed = damage_checkpoints(tmp_path, 60, random.Random(SEED))
    assert noticed.total() == 3 * 60 and not unnoticed
