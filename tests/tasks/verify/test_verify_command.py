"""`logitfuse verify`: a healthy run has no fault, a damaged one is told of, mistakes are answered."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from damaged_runs import CAPTURE, MPT, edited, put, verified
from typer.testing import CliRunner

from logitfuse.flows.cli import app
from logitfuse.storage.errors import BadInput
from logitfuse.storage.schemas import SCHEMAS
from logitfuse.tasks.recipe import parse_recipe
from logitfuse.tasks.stages import ORDER
from logitfuse.tasks.unit import Unit
from logitfuse.tasks.verify.chunks import OWN, Chunks, Lists
from logitfuse.tasks.verify.standing import StandingRun
from logitfuse.tasks.verify.text import falling_ends
from logitfuse.tasks.verify.verifier import Verifier

pytestmark = pytest.mark.models


@pytest.mark.parametrize("name", ["healthy", "published"])
def test_a_healthy_run_has_no_fault(name: str, request: pytest.FixtureRequest) -> None:
    content = request.getfixturevalue(name)
    verifier = Verifier(StandingRun(parse_recipe(content, "test")), "my.yaml")
    found = {stage: verifier.stage(stage) for stage in ORDER}
    assert verifier.faults == []
    assert all(found[stage].rows for stage in SCHEMAS)
    assert all(found[stage].missing == 0 for stage in ORDER[:9])
    assert found["evaluate"].shards == 2 and found["evaluate"].missing == 1
    assert verifier.stale == []


def test_what_stands_beside_a_result_under_its_key_is_not_stale(content: dict[str, Any]) -> None:
    run = StandingRun(parse_recipe(content, "test"))
    (record, *_) = (run.recipe.folder / "map").glob("*/map.*.json")
    beside = record.with_name(f"beside{record.name.removeprefix('map')}")
    beside.write_text("{}")
    verifier = Verifier(run, "my.yaml")
    assert verifier.stage("map").stale == 0 and verifier.stale == []
    beside.unlink()


def test_what_is_no_longer_wanted_is_stale_with_what_stands_beside_it(content: dict[str, Any]) -> None:
    run = StandingRun(parse_recipe(content, "test"))
    fused = run.store.local(run.record(Unit("fuse", None, 0)).path)
    fused.with_name(f"beside.{fused.name.split('.')[1]}.json").write_text("{}")
    verifier = Verifier(StandingRun(parse_recipe(content | {"fuse": {"rule": "avg_ce"}}, "test")), "my.yaml")
    found = {stage: verifier.stage(stage) for stage in ORDER}
    assert verifier.faults == []
    assert (found["fuse"].stale, found["fuse"].missing, found["fuse"].shards) == (2, 2, 0)
    assert found["capture"].stale == 0
    assert [path.split("/")[1].split(".")[0] for path in verifier.stale if path.startswith("fuse/")] == [
        "part-00000",
        "part-00001",
    ]


@pytest.fixture
def recipe(content: dict[str, Any], tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "my.yaml"
    path.write_text(yaml.safe_dump(content))
    yield path


def test_the_command(recipe: Path, content: dict[str, Any], tmp_path: Path) -> None:
    arguments = ["verify", str(recipe), "--json-file", str(tmp_path / "found.json")]
    healthy = CliRunner().invoke(app, arguments)
    assert healthy.exit_code == 0, healthy.output
    for words in ("capture: 4 read", "no fault", "What was verified", "0 faults."):
        assert words in healthy.output
    edited(content, CAPTURE, lambda rows: put("logprobs", 0.5, 0)(rows[-1] if rows[-1]["ids"] else rows[0]))
    broken = CliRunner().invoke(app, [*arguments, "--stage", "capture", "--source", MPT])
    assert broken.exit_code == 1, broken.output
    shown = " ".join(broken.output.split())
    assert "FAULT capture/tiny-mpt/part-00001, document 'doc-" in shown
    assert f"logitfuse stage capture {recipe} --source tiny-mpt --shards 1 --redo" in shown
    facts = json.loads((tmp_path / "found.json").read_text())
    assert facts["stages"][0]["shards"] == 2 and facts["faults"][0]["unit"]["stage"] == "capture"
    assert CliRunner().invoke(app, [*arguments, "--stage", "encode"]).exit_code == 0


def test_what_it_says_to_type_can_be_typed(recipe: Path, content: dict[str, Any]) -> None:
    odd = recipe.rename(recipe.with_name("it's $(mine).yaml"))
    run = StandingRun(parse_recipe(content, "test"))
    run.store.local(run.record(Unit("map", run.target.tokenizer_label)).path).write_bytes(b"")
    workers = "execution.workers=1"
    answer = CliRunner().invoke(app, ["verify", str(odd), "--stage", "map", "--json", "--set", workers])
    (fault,) = json.loads(answer.stdout)["faults"]
    removal, redo = (shlex.split(command) for command in fault["redo"].split(" && "))
    assert removal == ["rm", str(run.store.root / fault["where"])]
    assert redo[:6] == ["logitfuse", "stage", "map", str(odd), "--set", workers]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--stage", "captur"], "Did you mean 'capture'"), (["--source", "gpt5"], "no such source")],
)
def test_mistakes(recipe: Path, arguments: list[str], words: str) -> None:
    answer = CliRunner().invoke(app, ["verify", str(recipe), *arguments])
    assert words in str(answer.exception)


def test_nothing_to_verify(content: dict[str, Any], tmp_path: Path) -> None:
    empty = content | {"execution": content["execution"] | {"folder": str(tmp_path / "nowhere")}}
    with pytest.raises(BadInput, match="nothing to verify"):
        verified(empty)


def test_lists_are_checked_without_a_loop_over_tokens() -> None:
    """The flat form of slices and of empty lists."""
    array = pa.array([[1, 2], [], [3], [4, 5, 6]], pa.list_(pa.int32()))
    lists = Chunks.of({OWN: pa.record_batch({"ids": array}).slice(1, 3)}).lists("ids")
    assert lists.offsets.tolist() == [0, 0, 1, 4] and lists.values.tolist() == [3, 4, 5, 6]
    assert lists.any(lists.values == 5).tolist() == [False, False, True]
    ends = Lists(np.array([0, 3, 5, 5]), np.array([4, -1, 2, 7, 1], np.int32))
    assert falling_ends(ends).tolist() == [True, True, False]
