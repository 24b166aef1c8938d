"""Training with a gate: sequences whose labels the student knows better have no fused loss, and no other changes."""

import threading

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.testing import assert_close
from transformers import AutoModelForCausalLM

from logitfuse.kernels.losses.gate import gold_nats
from logitfuse.tasks.training.batch import Batch, collate
from logitfuse.tasks.training.data import FusedRows
from logitfuse.tasks.training.metrics import read_metrics
from logitfuse.tasks.training.objective import Objective
from logitfuse.tasks.training.settings import TrainSettings, control_of, fused_of
from logitfuse.tasks.training.trainer import Trainer

SETTINGS = {"dtype": "fp32", "loss_chunk": 16, "clm_weight": 0.3}


def parts_and_gradient(config, batch: Batch, **settings):
    """Return the objective's parts and the gradient of the embeddings."""
    model = AutoModelForCausalLM.from_pretrained(config.model, dtype=torch.float32)
    objective = Objective(model, TrainSettings(**{**SETTINGS, **settings}))
    parts = objective(*batch[:4], 40.0, 0.3, batch.lengths, batch.scores_DS)
    parts.loss.backward()
    return parts, model.get_input_embeddings().weight.grad


def batch_of(config, packed: bool) -> Batch:
    rows = FusedRows([shard.path for shard in config.shards], 24, vocabulary=97)
    return collate(rows.read(np.arange(8)), packed=packed)


def closed_by_hand(config, batch: Batch) -> tuple[Batch, list[bool]]:
    """Take the targets from sequences whose labels the student gives more, sequence by sequence."""
    model = AutoModelForCausalLM.from_pretrained(config.model, dtype=torch.float32)
    sizes = batch.lengths or [batch.inputs_BT.shape[1]] * len(batch.inputs_BT)
    targets, opened = [], []
    starts = np.concatenate([[0], np.cumsum(sizes)])
    for start, size in zip(starts, sizes, strict=False):
        here = torch.arange(start, start + size)
        inputs, labels = (t.flatten()[here] for t in (batch.inputs_BT, batch.labels_BT))
        with torch.no_grad():
            logprobs = model(input_ids=inputs[None]).logits[0].log_softmax(-1)
        mine = batch.targets.take(here)
        gained = 0.0
        for t in range(size):
            if not mine.served_N[t] or labels[t] < 0:
                continue
            kept = {int(i): float(p) for i, p in zip(mine.ids_NK[t], mine.probs_NK[t], strict=True) if p > 0}
            outside = 1 - sum(float(logprobs[t, i].exp()) for i in kept)
            gold = float(logprobs[t, labels[t]].exp())
            gained += np.log(kept.get(int(labels[t]), float(mine.tail_N[t]) * gold / outside)) - np.log(gold)
        opened.append(bool(gained > 0))
        targets.append(mine._replace(served_N=mine.served_N & opened[-1]))
    joined = type(batch.targets)(*map(torch.cat, zip(*targets, strict=True)))
    return batch._replace(targets=joined), opened


@pytest.mark.parametrize("packed", [False, True])
def test_it_is_training_without_the_closed_sequences_targets(run, packed: bool) -> None:
    config = run()
    batch = batch_of(config, packed)
    # A target that is wrong about everything: its sequence must close, while the teacher's others stay open.
    wrong = batch.targets.ids_NK.clone()
    sizes = batch.lengths or [batch.inputs_BT.shape[1]] * len(batch.inputs_BT)
    one = slice(sum(sizes[:3]), sum(sizes[:4]))
    wrong[one] = (wrong[one] + 40) % 97
    batch = batch._replace(targets=batch.targets._replace(ids_NK=wrong))
    by_hand, opened = closed_by_hand(config, batch)
    assert batch.targets.served_N[one].any() and not opened[3] and any(opened)
    found, gradient = parts_and_gradient(config, batch, gate="sequence")
    wanted, wanted_gradient = parts_and_gradient(config, by_hand)
    assert_close(found, wanted)
    assert_close(gradient, wanted_gradient)
    ungated, _ = parts_and_gradient(config, batch)
    assert not torch.isclose(found.loss, ungated.loss)


def test_with_published_weights_a_closed_sequence_learns_its_labels_whole(run) -> None:
    config = run()
    batch = batch_of(config, packed=True)
    wrong = batch.targets._replace(ids_NK=(batch.targets.ids_NK + 40) % 97)
    found, gradient = parts_and_gradient(config, batch._replace(targets=wrong), gate="sequence", weighting="sequence")
    none = batch.targets._replace(served_N=torch.zeros_like(batch.targets.served_N))
    model = AutoModelForCausalLM.from_pretrained(config.model, dtype=torch.float32)
    objective = Objective(model, TrainSettings(**{**SETTINGS, "weighting": "sequence"}))
    plain = objective(batch.inputs_BT, batch.mask_BT, batch.labels_BT, none, 40.0, 1.0, batch.lengths, batch.scores_DS)
    plain.loss.backward()
    assert_close(found.loss, plain.loss)
    assert_close(gradient, model.get_input_embeddings().weight.grad)


@pytest.mark.slow
def test_a_run_opens_and_closes_as_the_student_learns(run) -> None:
    gated, plain = run("gated", gate="sequence", epochs=12), run("plain", epochs=12)
    for config in (gated, plain):
        Trainer(config, threading.Event(), lambda line: None).train()
    shares = [line["served_share"] for line in read_metrics(gated.metrics)]
    always = [line["served_share"] for line in read_metrics(plain.metrics)]
    assert all(one <= other for one, other in zip(shares, always, strict=True)) and shares != always
    assert max(shares) > 0, "an untrained student knows less than its teacher"


def test_plain_language_modelling_pays_nothing(run, monkeypatch) -> None:
    config = run()

    def fail(*_, **__):
        raise AssertionError("there is no fused loss to gate")

    monkeypatch.setattr("logitfuse.tasks.training.objective.gold_nats", fail)
    assert gold_nats is not fail
    batch = batch_of(config, packed=True)
    model = AutoModelForCausalLM.from_pretrained(config.model, dtype=torch.float32)
    objective = Objective(model, TrainSettings(**SETTINGS, gate="sequence"))
    assert objective(*batch[:4], 40.0, 1.0, batch.lengths, batch.scores_DS).loss > 0


def test_the_control_has_a_learning_rate_of_its_own_and_no_gate() -> None:
    settings = TrainSettings(learning_rate=1e-4, control_learning_rate=3e-5, control=True, gate="sequence")
    control, fused = control_of(settings), fused_of(settings)
    assert control == TrainSettings(learning_rate=3e-5, clm_weight=1.0)
    assert fused == TrainSettings(learning_rate=1e-4, gate="sequence")
    assert control_of(TrainSettings(learning_rate=1e-4)).learning_rate == 1e-4


@pytest.mark.parametrize("change", [{"residual": "renormalise"}, {"residual": "as_given"}])
def test_likelihoods_that_are_mostly_none_are_refused(change) -> None:
    with pytest.raises(ValidationError, match="set residual to bucket"):
        TrainSettings(gate="sequence", **change)
