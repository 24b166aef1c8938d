"""The plot of a training run in Prefect's UI: one artifact, kept up to date; and the lines that training says."""

import base64
import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID, uuid4

import pytest

from logitfuse.flows.training_plot import TrainingPlot, training_lines, training_shown
from logitfuse.tasks.reporting.live_plot import live_plot
from logitfuse.tasks.train import LOG
from logitfuse.tasks.unit import Unit

PNG = b"\x89PNG\r\n"


def line(step: int, **more) -> dict:
    return {
        "step": step, "steps": 90, "loss": 3.0 - step / 100, "clm_loss": 3.0 - step / 100, "fusion_loss": 2.0,
        "served_share": 0.9, "grad_norm": 1.0, "learning_rate": 1e-5, "tokens": 100, "tokens_per_s": 50.0, **more,
    }  # fmt: skip


def lines(count: int) -> list[dict]:
    skipped = {"skipped": "the loss is not a finite number", "documents": ["d"], "loss": None, "clm_loss": None}
    found = [line(step, **(skipped if step == 7 else {})) for step in range(1, count + 1)]
    for looked in found[9::10]:
        looked["held_out"] = {"code": 0.6, "mean": 0.7 - looked["step"] / 1000}
    return found


def write(path: Path, count: int) -> None:
    path.write_text("".join(json.dumps(one) + "\n" for one in lines(count)))


@pytest.mark.parametrize("count", [1, 7, 60, 2000])
def test_any_run_can_be_drawn(count):
    image = live_plot(lines(count))
    assert image.startswith(PNG) and len(image) < 100_000


class Api:
    """Stands for Prefect's client."""

    def __init__(self, monkeypatch) -> None:
        self.made: list[dict] = []
        self.updates: list[tuple[UUID, object]] = []
        self.broken = False
        monkeypatch.setattr("prefect.artifacts.create_image_artifact", self.create)
        client = SimpleNamespace(update_artifact=self.update)
        monkeypatch.setattr("prefect.client.orchestration.get_client", lambda sync_client: nullcontext(client))

    def create(self, image_url, key, description):
        if self.broken:
            raise ConnectionError("no server")
        self.made.append({"image": image_url, "key": key, "text": description})
        return uuid4()

    def update(self, artifact, update):
        self.updates.append((artifact, update))


def test_one_artifact_is_made_and_then_updated(monkeypatch, tmp_path):
    api, path = Api(monkeypatch), tmp_path / "metrics.jsonl"
    plot = TrainingPlot(path, "run-train-fused-losses", "train fused", pytest.fail)
    plot.update()
    assert not api.made  # nothing to draw yet
    write(path, 5)
    plot.update()
    plot.update()  # nothing new
    assert len(api.made) == 1 and not api.updates
    made = api.made[0]
    assert made["key"] == "run-train-fused-losses" and "step 5/90" in made["text"]
    assert base64.b64decode(made["image"].removeprefix("data:image/png;base64,")).startswith(PNG)
    write(path, 12)
    plot.update()
    assert len(api.made) == 1 and len(api.updates) == 1
    assert "held-out sample 0.6900" in api.updates[0][1].description


def test_a_server_that_is_gone_is_warned_of_once(monkeypatch, tmp_path):
    api, path = Api(monkeypatch), tmp_path / "metrics.jsonl"
    api.broken = True
    warnings: list[str] = []
    plot = TrainingPlot(path, "key", "train fused", warnings.append)
    for count in (3, 4):
        write(path, count)
        plot.update()
    assert len(warnings) == 1 and "Training goes on" in warnings[0]
    api.broken = False
    plot.update()
    assert len(api.made) == 1


def test_lines_are_handed_on_while_the_block_runs():
    said: list[str] = []
    with training_lines(said.append):
        LOG.info("step 1/9: loss 2.0")
    LOG.info("later")
    assert said == ["step 1/9: loss 2.0"]


def test_other_stages_have_neither():
    with training_shown(None, Unit("capture", "a", 0), pytest.fail, pytest.fail):  # type: ignore[arg-type]
        LOG.info("nobody listens")


@pytest.mark.slow
@pytest.mark.server
def test_a_real_server_takes_the_plot(prefect_server, tmp_path):
    from prefect import flow
    from prefect.client.orchestration import get_client

    path = tmp_path / "metrics.jsonl"

    @flow
    def drawn() -> str:
        plot = TrainingPlot(path, "tiny-train-fused-losses", "train fused", pytest.fail)
        for count in (4, 30):
            write(path, count)
            plot.update()
        return str(plot._made)

    made = drawn()
    with get_client(sync_client=True) as client:
        found = client.request("POST", "/artifacts/filter", json={}).json()
    mine = [artifact for artifact in found if artifact["id"] == made]
    assert len(mine) == 1 and "step 30/90" in mine[0]["description"] and mine[0]["type"] == "image"
    assert len([a for a in found if a["key"] == "tiny-train-fused-losses"]) == 1
