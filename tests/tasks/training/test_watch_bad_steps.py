"""Steps whose loss or gradient is no number, or whose loss spikes: stopped or left out, the same after a resume."""

import json
import threading

import pytest
import torch

from logitfuse.storage.errors import WorkFailed
from logitfuse.tasks.train import arm_settings, learnt
from logitfuse.tasks.training.bad_steps import MOST_IN_A_ROW
from logitfuse.tasks.training.checkpoint import latest_checkpoint
from logitfuse.tasks.training.launch import run_training
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


def trainer_with(config, bad_steps=(), stop=None, say=print, what="loss") -> Trainer:
    """Return a trainer whose loss or gradient is no number in these steps (from 1); its weights stay as they are."""
    trainer = Trainer(config, stop or threading.Event(), say)

    def spoil(tensor):
        return tensor * torch.nan if trainer.done + 1 in bad_steps else tensor

    if what == "loss":
        trainer.model.model.embed_tokens.register_forward_hook(lambda module, inputs, output: spoil(output))
    else:
        trainer.model.model.norm.weight.register_hook(spoil)
    return trainer


def weights(config) -> bytes:
    return (config.out / "model.safetensors").read_bytes()


def told(config) -> list[dict]:
    return [{k: v for k, v in line.items() if k not in MEASURED} for line in read_metrics(config.metrics)]


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_stop_saves_the_state_before_the_step(run, what):
    config, whole = run("broken", epochs=2), run("whole", epochs=2)
    with pytest.raises(WorkFailed, match=rf"step 5: the {what} is not a finite number.*doc-\d+.*checkpoint-00000004"):
        trainer_with(config, {5}, what=what).train()
    assert latest_checkpoint(config.checkpoints, "k1", print).step == 4
    assert len(read_metrics(config.metrics)) == 4 and not config.out.exists()
    trainer_with(config).train()  # whatever it was, it is gone
    trainer_with(whole).train()
    assert weights(config) == weights(whole) and told(config) == told(whole)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_skip_leaves_the_update_out_and_says_so(run, what):
    config = run(epochs=2, on_bad_step="skip")
    said: list[str] = []
    trainer = trainer_with(config, {5, 6, 9}, say=said.append, what=what)
    trainer.train()
    lines = read_metrics(config.metrics)
    assert [line["step"] for line in lines if "skipped" in line] == [5, 6, 9]
    bad = lines[4]
    assert bad[{"loss": "loss", "gradient": "grad_norm"}[what]] is None and what in bad["skipped"]
    assert bad["documents"] and all(name.startswith("doc-") for name in bad["documents"])
    assert sum("is left out" in line for line in said) == 3
    assert {state["step"].item() for state in trainer.optimizer.state.values()} == {len(lines) - 3}
    assert all(p.isfinite().all() for p in trainer.model.parameters())
    counts = learnt(lines)
    assert counts["steps"] == len(lines) and counts["skipped_steps"] == 3
    assert counts["tokens"] == sum(line["tokens"] for line in lines if "skipped" not in line)


def test_a_run_with_left_out_steps_resumes_to_the_bit(run):
    whole, broken = (run(name, epochs=2, on_bad_step="skip", every=4) for name in ("whole", "broken"))
    bad = {2, 5, 6, 11}
    trainer_with(whole, bad).train()
    for steps in (3, 4, 2):
        with pytest.raises(Stopped):
            trainer_with(broken, bad, stop=StopAfter(steps)).train()
    trainer_with(broken, bad).train()
    assert weights(broken) == weights(whole) and told(broken) == told(whole)


def test_a_stopped_run_goes_on_with_skip(run):
    stopped = run("stopped", epochs=2)
    with pytest.raises(WorkFailed, match="on_bad_step to skip"):
        trainer_with(stopped, {5}).train()
    settings = stopped.settings.model_copy(update={"on_bad_step": "skip"})
    trainer_with(stopped.model_copy(update={"settings": settings}), {5}).train()
    skipped = run("skipped", epochs=2, on_bad_step="skip")
    trainer_with(skipped, {5}).train()
    assert weights(stopped) == weights(skipped)
    # So it is in no key: the same result is looked for with either.
    both = [arm_settings(TrainSettings(on_bad_step=choice), "fused") for choice in ("stop", "skip")]
    assert both[0] == both[1] == TrainSettings()


def test_too_many_in_a_row_stop_in_any_case(run):
    config = run(epochs=3, on_bad_step="skip", every=100)
    with pytest.raises(WorkFailed, match=rf"step {5 + MOST_IN_A_ROW}: .*{MOST_IN_A_ROW} steps before it"):
        trainer_with(config, set(range(5, 50))).train()
    state = json.loads((config.checkpoints / f"checkpoint-{4 + MOST_IN_A_ROW:08d}" / "state.json").read_text())
    assert state["bad_steps"]["skipped"] == state["bad_steps"]["in_a_row"] == MOST_IN_A_ROW
    with pytest.raises(WorkFailed, match=f"step {5 + MOST_IN_A_ROW}"):  # it is remembered
        trainer_with(config, set(range(5, 50))).train()


@pytest.mark.parametrize("choice", ["stop", "skip"])
def test_broken_weights_are_never_saved(run, choice):
    config = run(on_bad_step=choice)
    trainer = trainer_with(config)
    step = trainer._step

    def break_then_step(number):
        if number == 4:
            with torch.no_grad():
                trainer.model.model.norm.weight[3] = torch.inf
        return step(number)

    trainer._step = break_then_step
    with pytest.raises(WorkFailed, match=r"step 5: .*weights themselves.*Nothing was saved"):
        trainer.train()
    assert latest_checkpoint(config.checkpoints, "k1", print).step == 3


def with_foreign_documents(config, shard_writer, tmp_path, at=(3, 17)):
    """Replace some documents by ones in a language the model does not learn: the loss on them stays high."""
    rows = [shard_writer.row(number, 12) for number in range(24)]
    for number in at:
        draw = torch.Generator().manual_seed(number)
        tokens = torch.randint(3, 97, (13,), generator=draw).tolist()
        rows[number] |= {"inputs": tokens[:-1], "labels": tokens[1:], "counts": [0] * 12, "mass": [0.0] * 12,
                         "ids": [], "logprobs": [], "doc_id": f"foreign-{number}"}  # fmt: skip
    shard = shard_writer.write(tmp_path / "planted.parquet", rows)
    return config.model_copy(update={"shards": (shard,)})


SPIKY = {"epochs": 12, "tokens_per_step": 12, "spike_factor": 2.0, "spike_window": 8, "learning_rate": 2e-2}


@pytest.mark.slow
def test_a_planted_document_spikes(run, shard_writer, tmp_path):
    config = with_foreign_documents(run(**SPIKY), shard_writer, tmp_path)
    with pytest.raises(WorkFailed, match=r"the loss [\d.]+ is more than 2 times [\d.]+.*foreign-\d+.*is saved"):
        Trainer(config, threading.Event(), print).train()
    calm = config.model_copy(update={"settings": config.settings.model_copy(update={"spike_factor": None})})
    Trainer(calm, threading.Event(), print).train()
    assert not [line for line in told(calm) if "skipped" in line]


@pytest.mark.slow
def test_spikes_are_left_out_the_same_after_a_resume(run, shard_writer, tmp_path):
    whole, broken = (
        with_foreign_documents(run(name, every=5, on_bad_step="skip", **SPIKY), shard_writer, tmp_path)
        for name in ("whole", "broken")
    )
    Trainer(whole, threading.Event(), print).train()
    left_out = [line for line in told(whole) if "skipped" in line]
    assert len(left_out) > 3
    assert "foreign-3" in {name for line in left_out for name in line["documents"]}
    for steps in (90, 31):
        with pytest.raises(Stopped):
            Trainer(broken, StopAfter(steps), print).train()
    Trainer(broken, threading.Event(), print).train()
    assert told(broken) == told(whole) and weights(broken) == weights(whole)


SOON = {"on_bad_step": "skip", "max_steps": 30, "spike_factor": 1.1, "spike_window": 6}


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True])
def test_two_processes_leave_out_the_same_steps_as_one(run, shard_writer, tmp_path, sharded):
    alone, together = (
        with_foreign_documents(run(name, **{**SPIKY, **SOON}), shard_writer, tmp_path) for name in ("alone", "together")
    )
    Trainer(alone, threading.Event(), print).train()
    left_out = [line["step"] for line in told(alone) if "skipped" in line]
    assert left_out
    run_training(together.model_copy(update={"sharded": sharded}), processes=2, device="cpu")
    assert [line["step"] for line in told(together) if "skipped" in line] == left_out
    for line, same in zip(told(together), told(alone), strict=True):
        assert set(line.get("documents", [])) == set(same.get("documents", []))
