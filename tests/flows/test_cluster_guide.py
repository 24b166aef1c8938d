"""What an operator copies from recipes/cluster/ and docs/cluster.md: it parses, and names what there is."""

import ast
import configparser
import json
import re
import shlex
import stat
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from prefect.events.schemas.automations import AutomationCore, EventTrigger

from logitfuse.flows.cli import app
from logitfuse.tasks.recipe import Recipe

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "recipes" / "cluster"
GUIDE = (ROOT / "docs" / "cluster.md").read_text()
DEPLOYMENTS = {d["name"]: d for d in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]}
POOL = {deployment["work_pool"]["name"] for deployment in DEPLOYMENTS.values()}
QUEUES = {deployment["work_pool"]["work_queue_name"] for deployment in DEPLOYMENTS.values()}
ALL_TEXT = GUIDE + "".join(path.read_text() for path in SHIPPED.iterdir())


def environment(path: Path) -> dict[str, str]:
    """Read a file as systemd does, for which all that follows `=` is the value."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def unit(name: str) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False, delimiters=["="], comment_prefixes=["#"])
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string((SHIPPED / name).read_text())
    return parser


def commands() -> Iterator[list[str]]:
    """Yield the `logitfuse` commands of the guide, in blocks and in running text."""
    blocks = re.findall(r"```bash\n(.*?)```", GUIDE, re.DOTALL)
    inline = re.findall(r"`(logitfuse [^`]+)`", re.sub(r"```.*?```", "", GUIDE, flags=re.DOTALL))
    for line in [line for block in blocks for line in block.splitlines()] + inline:
        for part in re.split(r"&&|;|\|", line.partition(" #")[0]):
            if re.match(r"\s*logitfuse ", part):
                yield shlex.split(part)


def test_the_guide_lists_every_file_that_is_shipped() -> None:
    listed = set(re.findall(r"`([\w.@-]+)`", "".join(line for line in GUIDE.splitlines() if line.startswith("| `"))))
    assert {path.name for path in SHIPPED.iterdir()} <= listed
    assert (files("logitfuse.recipes") / "cluster" / "server.env").is_file()


@pytest.mark.parametrize("name", ["server.env", "worker.env", "redis.env"])
def test_environment_files_hold_one_value_a_line_and_no_secret(name: str) -> None:
    for variable, value in environment(SHIPPED / name).items():
        assert re.fullmatch(r"[A-Z][A-Z0-9_]*", variable) and value and "#" not in value and value == value.strip()
        assert "AUTH_STRING" not in variable or value.endswith("CHANGE-ME")


@pytest.mark.parametrize(
    "name", ["logitfuse-server.service", "logitfuse-services.service", "logitfuse-worker@.service"]
)
def test_units_have_their_sections_and_read_a_file_of_secrets(name: str) -> None:
    found = unit(name)
    assert found.sections() == ["Unit", "Service", "Install"]
    assert found["Service"]["ExecStart"].startswith("/opt/logitfuse/bin/prefect ")
    assert "/etc/logitfuse/" in found["Service"]["EnvironmentFile"] and found["Service"]["User"] == "logitfuse"


def test_a_worker_sees_the_tmp_of_its_host() -> None:
    """The locks by which a host's GPUs are given out lie there."""
    assert "PrivateTmp" not in unit("logitfuse-worker@.service")["Service"]


def test_pool_and_queues_are_those_of_the_deployments() -> None:
    assert set(re.findall(r"worker start --pool (\S+)", ALL_TEXT)) == POOL
    named = set(re.findall(r"(?:logitfuse-worker@|QUEUE=|QUEUE:-|--work-queue )(\w+)", ALL_TEXT))
    assert named and named <= QUEUES
    table = re.findall(r"^\| .* \| `(\w+)` \| .* \| (.*) \|$", GUIDE, re.MULTILINE)
    assert {queue for queue, _ in table} == QUEUES
    for queue, taken in table:
        for name in re.findall(r"[\w-]+", taken.partition(";")[0]):
            at = DEPLOYMENTS[name]["work_pool"]["work_queue_name"]
            assert at == queue, f"{name} is on {at}"


def test_the_automation_is_one_that_prefect_reads() -> None:
    content = yaml.safe_load((SHIPPED / "heartbeat.yaml").read_text())
    automation = AutomationCore.model_validate(content)
    assert isinstance(automation.trigger, EventTrigger)
    seconds = int(environment(SHIPPED / "worker.env")["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
    assert automation.trigger.within.total_seconds() == 3 * seconds


def test_the_kubernetes_template_uses_its_variables_and_takes_our_job_variables() -> None:
    content: dict[str, Any] = json.loads((SHIPPED / "kubernetes-pool.json").read_text())
    variables = set(content["variables"]["properties"])
    assert set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(content["job_configuration"]))) == variables
    given = {name for deployment in DEPLOYMENTS.values() for name in deployment["work_pool"]["job_variables"]}
    assert given | {"gpus"} <= variables
    named = re.findall(
        r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", GUIDE.partition("Variable of the template")[2], re.M))
    )
    assert {"image", "gpus", "shared_claim"} <= set(named) & variables


def test_scripts_are_for_their_shells_and_run_as_they_are() -> None:
    assert (SHIPPED / "slurm-worker.sbatch").read_text().startswith("#!/bin/bash\n")
    assert (SHIPPED / "stop-worker").read_text().startswith("#!/bin/sh\n")
    assert (SHIPPED / "stop-worker").stat().st_mode & stat.S_IXUSR


def test_commands_of_the_guide_name_commands_and_options_that_exist() -> None:
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    found = list(commands())
    assert len(found) > 3
    for words in found:
        assert words[1] in known, f"there is no `logitfuse {words[1]}`"
        options = {name for parameter in known[words[1]].params for name in parameter.opts}
        asked = {word.partition("=")[0] for word in words[2:] if word.startswith("--")}
        assert asked <= options, f"`{shlex.join(words)}`: {asked - options}"


def test_settings_that_the_guide_names_exist() -> None:
    fields = Recipe.model_fields
    for part, field in re.findall(r"`(execution|capture|train|corpus)\.(\w+)", GUIDE):
        model = fields[part].annotation
        assert model is not None and field in model.model_fields, f"{part}.{field}"


def test_the_guides_python_is_python() -> None:
    for code in re.findall(r"python -c '(.*?)'", GUIDE):
        ast.parse(code)
