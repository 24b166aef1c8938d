"""A resumed run is the undisturbed one to the bit; what is damaged is never resumed."""

import json
import threading

import pytest
import torch
from torch import nn

from logitfuse.storage.errors import BadInput
from logitfuse.tasks.training.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint, steps_done
from logitfuse.tasks.training.loading import make_optimizer
from logitfuse.tasks.training.metrics import MEASURED, read_metrics
from logitfuse.tasks.training.settings import TrainSettings
from logitfuse.tasks.training.trainer import Stopped, Trainer


class StopAfter(threading.Event):
    """Is set once it was asked about often enough, which is once a step."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._left = steps

    def is_set(self) -> bool:
        self._left -= 1
        return self._left <= 0


class TwoLayers(nn.Module):
    """Stands for a model: a tied matrix, a vector, a buffer that is saved and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.register_buffer("kept", torch.rand(3))
        self.register_buffer("made", torch.rand(3), persistent=False)


def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = TwoLayers()
    optimizer = make_optimizer(model, TrainSettings())
    for _ in range(3):
        (model.second(model.first(torch.rand(2, 4))) ** 2).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def save(folder, step: int, key: str = "k", keep: int = 2, parts=None) -> tuple[nn.Module, torch.optim.Optimizer]:
    model, optimizer = parts or trained()
    save_checkpoint(folder, {"step": step, "steps": 9, "key": key, "processes": 1}, model, optimizer, keep=keep)
    return model, optimizer


def weights(config) -> bytes:
    return (config.out / "model.safetensors").read_bytes()


def steps_of(config) -> list[dict]:
    return [{k: v for k, v in line.items() if k not in MEASURED} for line in read_metrics(config.metrics)]


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_resumed_is_undisturbed_to_the_bit(run, monkeypatch, dropout):
    if dropout:
        load = Trainer.__init__.__globals__["load_model"]

        def with_dropout(config):
            model = load(config)
            for layer in model.model.layers:
                layer.self_attn.attention_dropout = dropout
            return model

        monkeypatch.setitem(Trainer.__init__.__globals__, "load_model", with_dropout)
    whole, broken = run("whole", epochs=2), run("broken", epochs=2)
    Trainer(whole, threading.Event(), print).train()
    total = len(read_metrics(whole.metrics))
    assert total > 12
    for steps in (5, 3):
        with pytest.raises(Stopped, match=f"of {total}"):
            Trainer(broken, StopAfter(steps), print).train()
    assert len(read_metrics(broken.metrics)) == 8 and not broken.out.exists()
    Trainer(broken, threading.Event(), print).train()
    assert steps_of(broken) == steps_of(whole)
    assert weights(broken) == weights(whole)


def test_state_comes_back_to_the_bit(tmp_path):
    model, optimizer = save(tmp_path, 3)
    fresh = TwoLayers()
    fresh_optimizer = make_optimizer(fresh, TrainSettings())
    load_checkpoint(latest_checkpoint(tmp_path, "k", print), fresh, fresh_optimizer)
    for (name, tensor), (_, same) in zip(model.state_dict().items(), fresh.state_dict().items(), strict=True):
        assert torch.equal(tensor, same), name
    assert fresh.first.weight is fresh.second.weight
    left, right = (o.state_dict()["state"] for o in (optimizer, fresh_optimizer))
    assert left.keys() == right.keys() and len(left) == 3
    for number, state in left.items():
        assert all(torch.equal(value, right[number][name]) for name, value in state.items())


def test_what_stands_is_told_before_anything_is_loaded(tmp_path):
    assert steps_done(tmp_path) == (0, 0)
    save(tmp_path, 3)
    assert steps_done(tmp_path) == (3, 9)
    (tmp_path / "checkpoint-00000003" / "state.json").write_text("[]")
    assert steps_done(tmp_path) == (0, 0)


def test_only_safetensors_and_json(tmp_path):
    save(tmp_path, 3)
    files = {path.name for path in (tmp_path / "checkpoint-00000003").iterdir()}
    assert files == {"model.safetensors", "optimizer.safetensors", "state.json"}


def test_the_newest_are_kept(tmp_path):
    for step in (3, 6, 9, 12):
        save(tmp_path, step, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-00000009", "checkpoint-00000012"]


def truncate(folder):
    path = folder / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


def flip(folder):
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def remove(folder):
    (folder / "model.safetensors").unlink()


def cut_state(folder):
    path = folder / "state.json"
    path.write_text(path.read_text()[:40])


def other_format(folder):
    path = folder / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))


def other_step(folder):
    path = folder / "state.json"
    path.write_text(path.read_text().replace('"step": 6', '"step": 5'))


@pytest.mark.parametrize("damage", [truncate, flip, remove, cut_state, other_format, other_step])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, damage):
    save(tmp_path, 3)
    save(tmp_path, 6)
    damage(tmp_path / "checkpoint-00000006")
    warnings: list[str] = []
    assert latest_checkpoint(tmp_path, "k", warnings.append).step == 3
    assert len(warnings) == 1 and "checkpoint-00000006" in warnings[0]


def test_no_checkpoint_is_none(tmp_path):
    assert latest_checkpoint(tmp_path, "k", print) is None
    save(tmp_path, 3)
    flip(tmp_path / "checkpoint-00000003")
    assert latest_checkpoint(tmp_path, "k", print) is None


def test_another_runs_checkpoints_are_refused(run):
    config = run()
    config.checkpoints.mkdir(parents=True)
    save(config.checkpoints, 3, key="other")
    with pytest.raises(BadInput, match="other settings or data"):
        Trainer(config, threading.Event(), print)


def test_half_written_checkpoints_are_removed(run):
    config = run(max_steps=1)
    left = config.checkpoints / ".scratch-1-ab-checkpoint-00000003"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    Trainer(config, threading.Event(), print)
    assert not left.exists()
