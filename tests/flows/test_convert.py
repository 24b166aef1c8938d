"""`logitfuse convert`: captured shards change their form without the models, and nothing is ever half-done."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import paper_models
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from logitfuse.flows.cli import app
from logitfuse.storage import convert as conversion
from logitfuse.storage.checksums import checksum_file
from logitfuse.storage.convert import is_compact
from logitfuse.storage.errors import BadInput, ShardCorrupt, ShardMissing
from logitfuse.storage.schemas import IDS
from logitfuse.tasks.checks import claim_folder
from logitfuse.tasks.convert import convert_units
from logitfuse.tasks.execute import do_prepare, do_units, is_up_to_date
from logitfuse.tasks.recipe import parse_recipe
from logitfuse.tasks.run import Run

pytestmark = pytest.mark.models
SHARDS = 6  # of two sources


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A recipe whose text is captured."""
    folder = tmp_path_factory.mktemp("made")
    found = paper_models.recipe_content(folder, folder / "models", documents=18)
    done(found, ["encode", "capture"])
    return found


@pytest.fixture
def content(made: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """The same in a folder of its own, the recipe written to `my.yaml` beside it."""
    shutil.copytree(made["execution"]["folder"], tmp_path / "runs")
    found = made | {"execution": made["execution"] | {"folder": str(tmp_path / "runs")}}
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(found))
    return found


def opened(content: dict[str, Any], codec: str = "plain") -> Run:
    return Run(parse_recipe(content | {"capture": content["capture"] | {"codec": codec}}, "test"))


def done(content: dict[str, Any], stages: list[str], codec: str = "plain") -> Run:
    run = opened(content, codec)
    claim_folder(run.recipe)
    do_prepare(run)
    for stage in stages:
        list(do_units(run, run.units(stage)))
    return run


def captured(content: dict[str, Any], codec: str) -> dict[str, str]:
    """Return the checksums of all captured shards of a form."""
    folder = Path(content["execution"]["folder"]) / content["name"] / "capture"
    paths = sorted(folder.rglob("part-*.parquet"))
    return {str(path): checksum_file(path) for path in paths if is_compact(path) == (codec == "compact")}


def states(content: dict[str, Any], to: str, **options: Any) -> list[str]:
    return [made.state for made in convert_units(opened(content), to, **options)]  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_converted_shard_is_the_one_that_would_have_been_captured(content: dict[str, Any], tmp_path: Path) -> None:
    plain = captured(content, "plain")
    assert states(content, "compact") == ["converted"] * SHARDS
    assert captured(content, "plain") == plain, "the other form was touched"
    assert states(content, "compact") == ["kept"] * SHARDS
    assert is_up_to_date(opened(content, "compact"), ["encode", "capture"]), "it does not stand for the recipe"
    elsewhere = content | {"execution": content["execution"] | {"folder": str(tmp_path / "elsewhere")}}
    done(elsewhere, ["encode", "capture"], "compact")
    assert list(captured(elsewhere, "compact").values()) == list(captured(content, "compact").values())
    made = opened(content, "compact").record(opened(content).units("capture")[0])
    given = opened(content).record(opened(content).units("capture")[0])
    assert made.made["converted_from"] == given.key and made.counts == given.counts


@pytest.mark.slow
def test_later_stages_go_on_from_either_form(content: dict[str, Any]) -> None:
    states(content, "compact", remove=True)
    assert not captured(content, "plain")
    run = done(content, ["map", "align", "fuse"], "compact")
    assert is_up_to_date(run, ["capture", "map", "align", "fuse"])
    assert not is_up_to_date(opened(content), ["capture"])
    assert states(content, "plain", remove=True) == ["converted"] * SHARDS
    assert not captured(content, "compact") and is_up_to_date(opened(content), ["capture"])
    assert not is_up_to_date(opened(content), ["align"]), "rounded values pass for those that align has read"


def test_a_part_and_what_is_not_there(content: dict[str, Any], tmp_path: Path) -> None:
    assert states(content, "compact", source="tiny-mpt", shards=(1, 2)) == ["converted"] * 2
    for path in map(Path, captured(content, "plain")):
        path.unlink() if "tiny-llama" in path.parts else None
    assert states(content, "compact") == ["missing"] * 3 + ["converted", "kept", "kept"]
    with pytest.raises(BadInput, match="no such source"):
        states(content, "compact", source="gpt5")
    with pytest.raises(ShardMissing, match="prepare"):
        states(content | {"name": "nothing-yet"}, "compact")


def test_removal_goes_on_where_it_was_interrupted(content: dict[str, Any]) -> None:
    states(content, "compact")
    assert states(content, "compact", remove=True) == ["kept"] * SHARDS
    assert not captured(content, "plain") and len(captured(content, "compact")) == SHARDS


def test_a_damaged_result_does_not_cost_the_other_form(content: dict[str, Any]) -> None:
    states(content, "compact")
    damaged = Path(next(iter(captured(content, "compact"))))
    data = bytearray(damaged.read_bytes())
    data[40] ^= 1
    damaged.write_bytes(data)
    with pytest.raises(ShardCorrupt, match="--redo"):
        states(content, "compact", remove=True)
    assert len(captured(content, "plain")) == SHARDS


def test_a_wrong_conversion_is_not_published(content: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def other_k(plain: Path, compact: Path, k: int, **options: Any) -> int:
        table = pq.read_table(plain)
        ids = pa.array([[token + 1 for token in row] for row in table["ids"].to_pylist()], type=IDS)
        wrong = table.set_column(table.schema.get_field_index("ids"), table.schema.field("ids"), ids)
        pq.write_table(wrong, plain.parent / "wrong")
        return conversion.to_compact(plain.parent / "wrong", compact, k)

    monkeypatch.setattr("logitfuse.tasks.convert.to_compact", other_k)
    with pytest.raises(ShardCorrupt, match=r"ids did not survive.*Nothing was published"):
        states(content, "compact")
    assert not captured(content, "compact")


@pytest.mark.slow
def test_a_kill_in_the_middle_leaves_nothing_half_done(content: dict[str, Any], tmp_path: Path) -> None:
    """The writer is killed between two row groups of the third shard, without a chance to clean up."""
    before = captured(content, "plain")
    killed = tmp_path / "killed.py"
    killed.write_text(
        "import os, signal, sys\n"
        "from logitfuse.storage import convert\n"
        "write, calls = convert.write_compact, []\n"
        "def killing(writer, batch, k):\n"
        "    write(writer, batch, k)\n"
        "    calls.append(1)\n"
        "    len(calls) == 3 and os.kill(os.getpid(), signal.SIGKILL)\n"
        "convert.write_compact = killing\n"
        "from logitfuse.flows.cli import main\n"
        "sys.argv = ['logitfuse', 'convert', 'my.yaml', '--to', 'compact', '--remove',"
        " '--set', 'capture.codec=compact']\n"
        "main()\n"
    )
    found = subprocess.run([sys.executable, killed], cwd=tmp_path, capture_output=True, text=True, env=os.environ)
    assert found.returncode == -signal.SIGKILL, found.stdout + found.stderr
    assert list(captured(content, "plain").values()) == list(before.values())[2:]
    assert states(content, "compact", remove=True) == ["kept"] * 2 + ["converted"] * (SHARDS - 2)
    assert len(captured(content, "compact")) == SHARDS and not captured(content, "plain")
    folder = Path(content["execution"]["folder"])
    assert not list(folder.rglob(".scratch-*")), "what the killed process left is still there"


def command(*arguments: str) -> tuple[int, str]:
    found = CliRunner().invoke(app, ["convert", *arguments])
    if found.exception and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found.exit_code, " ".join(found.output.split())


def test_the_form_that_the_recipe_asks_for_is_not_removed(content: dict[str, Any], tmp_path: Path) -> None:
    before, recipe = captured(content, "plain"), str(tmp_path / "my.yaml")
    with pytest.raises(BadInput, match=r"asks for the plain form.*--set capture\.codec=compact"):
        command(recipe, "--to", "compact", "--remove")
    with pytest.raises(BadInput, match="asks for the compact form"):
        command(recipe, "--to", "plain", "--remove", "--set", "capture.codec=compact")
    assert captured(content, "plain") == before and not captured(content, "compact")


def test_what_the_command_says(content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = command("my.yaml", "--to", "compact", "--source", "tiny-mpt", "--shards", "0")
    assert code == 0 and "set capture.codec: compact in my.yaml" in said
    to_compact = ["my.yaml", "--to", "compact", "--source", "tiny-mpt", "--set", "capture.codec=compact"]
    code, said = command(*to_compact, "--remove")
    assert code == 0
    for words in ("capture/tiny-mpt/part-00001: converted", "bytes, the other form is removed", "2 converted, 1 in",
                  "align and after are then made again"):  # fmt: skip
        assert words in said
    code, said = command("my.yaml", "--to", "compact", "--source", "tiny-mpt")
    assert code == 0 and "up to date" in said and "0 converted, 3 in that form before." in said
    code, said = command("my.yaml", "--to", "plain", "--source", "tiny-mpt", "--shards", "1")
    assert code == 0 and "capture.codec" not in said, "the recipe asks for that form already"
    for path in map(Path, captured(content, "plain")):
        path.unlink() if "tiny-llama" in path.parts else None
    code, said = command("my.yaml", "--to", "compact")
    assert code == 1 and "capture/tiny-llama/part-00002: not captured" in said and "3 not captured yet" in said
    with pytest.raises(BadInput, match=r"--to zip.*plain, compact"):
        command("my.yaml", "--to", "zip")
    records = sorted((tmp_path / "runs").rglob("capture/tiny-mpt/*.json"))
    assert {json.loads(path.read_text())["record"]["settings"].get("codec") for path in records} == {"compact", None}
