"""Two processes at once on one run folder: they share the work, or one waits or refuses in words; never both write."""

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter

import pytest
import yaml
from runs_in_trouble import TOLD, WORKED, Troubled, ended
from runs_under_fire import Forks, Undisturbed, run_command

DONE = re.compile(r"^(\S+): done in [0-9.]+ s \(", re.MULTILINE)


pytestmark = pytest.mark.slow  # in CI the short campaign has two processes at work


@pytest.fixture
def troubled(forks: Forks, wanted: Undisturbed, request: pytest.FixtureRequest) -> Troubled:
    return Troubled(forks, wanted, request.node.name)


def test_two_runs_share_the_work(troubled: Troubled) -> None:
    troubled.given("train", "capture")
    late = ["slow", troubled.below(), 0.005]
    ends = [ended(command) for command in [troubled.start(late), troubled.start(late)]]
    assert [end.code for end in ends] == [WORKED, WORKED], ends
    made = Counter(name for end in ends for name in DONE.findall(end.said))
    assert len(made) > 15 and set(made.values()) == {1}, made
    assert any(re.search(r"waiting for process \d+ on ", end.said) for end in ends)
    troubled.as_undisturbed()


@pytest.mark.timeout(900)
def test_two_trainings_of_one_arm(troubled: Troubled) -> None:
    troubled.given("prepare", "encode", "check", "capture", "map", "align", "fuse", "headroom")
    commands = [troubled.start(command=troubled.stage("train")) for _ in range(2)]
    ends = [ended(command) for command in commands]
    assert [end.code for end in ends] == [WORKED, WORKED], ends
    assert sum("train/fused: done" in end.said for end in ends) == 1
    troubled.as_undisturbed()


def test_a_result_is_redone_while_others_run_verify_and_read_it(troubled: Troubled) -> None:
    everything = ("prepare", "encode", "check", "capture", "map", "align", "fuse", "headroom", "train")
    troubled.given(*everything)
    late, recipe = ["slow", troubled.below(), 0.01], str(troubled.wanted.recipe(troubled.name))
    redone = [troubled.start(late, command=troubled.stage(stage, "--redo")) for stage in ("capture", "align")]
    others = [troubled.end(), troubled.end(command=["verify", recipe]), troubled.end(command=["status", recipe])]
    for end in [*others, *(ended(command) for command in redone)]:
        assert end.code in (WORKED, 1, TOLD) and "Traceback" not in end.said, end.said
        assert end.code != TOLD or end.told
        assert "FAULT" not in end.said
    troubled.as_undisturbed()


def test_shards_change_their_form_while_a_run_reads_them(troubled: Troubled) -> None:
    troubled.given("prepare", "encode", "check", "capture", "map", "train")
    recipe = troubled.wanted.recipe(troubled.name)
    wanted = ["--to", "compact", "--remove", "--set", "capture.codec=compact"]
    converted = troubled.start(command=["convert", str(recipe), *wanted])
    ends = [troubled.end(), ended(converted)]
    for end in ends:
        assert end.code == WORKED or (end.code == TOLD and end.told), end.said
    troubled.as_undisturbed(only=False)


def test_another_recipe_is_refused(troubled: Troubled) -> None:
    troubled.given("prepare")
    recipe = troubled.wanted.recipe(troubled.name)
    content = yaml.safe_load(recipe.read_text())
    other = recipe.with_name("other.yaml")
    other.write_text(yaml.safe_dump(content | {"target": content["sources"][0], "sources": [content["target"]]}))
    end = troubled.end(command=run_command(other))
    assert end.code == TOLD and "it was made by other settings: target" in end.told


@pytest.mark.timeout(1200)
def test_a_run_of_prefect_beside_a_plain_one(troubled: Troubled) -> None:
    troubled.given("train")
    folder = troubled.wanted.run_folder(troubled.name)
    recipe = str(troubled.wanted.recipe(troubled.name))
    environment = os.environ | {"PREFECT_HOME": str(folder.parent / "prefect"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "logitfuse.flows.cli", "run", recipe]
    served = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not (folder / "prepare").is_dir():
        assert served.poll() is None, served.communicate()
        time.sleep(0.05)
    plain = troubled.end(["slow", troubled.below(), 0.02])
    said = served.communicate()[0]
    assert (plain.code, served.returncode) == (WORKED, 0), plain.said + said
    made = [json.loads(path.read_text())["record"]["made"]["pid"] for path in folder.glob("*/*/part-*.json")]
    assert set(made) <= {served.pid, *made} and len(set(made)) == 2, "both made some"
    troubled.as_undisturbed()
