"""The objective in a model, the training loop in this process, and what it leaves behind."""

import json
import shutil
import threading

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
)

from logitfuse.kernels.losses.reference import objective_reference
from logitfuse.kernels.losses.weights import by_position
from logitfuse.storage.errors import ModelRefused, ShardCorrupt, WorkFailed
from logitfuse.tasks.training.batch import collate
from logitfuse.tasks.training.config import FusedShard, WorkerConfig
from logitfuse.tasks.training.data import FusedRows
from logitfuse.tasks.training.export import export_model
from logitfuse.tasks.training.metrics import MEASURED, MetricsFile, read_metrics
from logitfuse.tasks.training.objective import Objective
from logitfuse.tasks.training.schedule import learning_rate
from logitfuse.tasks.training.settings import TrainSettings, control_of
from logitfuse.tasks.training.trainer import Trainer


def train(config: WorkerConfig) -> None:
    Trainer(config, threading.Event(), print).train()


def tiny_config(kind, **more):
    return kind(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, max_position_embeddings=64, pad_token_id=0, bos_token_id=0, eos_token_id=1,
        **more,
    )  # fmt: skip


def first_batch(config: WorkerConfig):
    rows = FusedRows([shard.path for shard in config.shards], 24, vocabulary=97)
    return collate(rows.read(np.arange(5)))


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "cohere"])
def test_objective_is_the_reference_on_the_models_own_logits(run, tiny_model, architecture):
    torch.manual_seed(1)
    if architecture == "llama":
        model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    elif architecture == "gemma2":
        model = Gemma2ForCausalLM(tiny_config(Gemma2Config, final_logit_softcapping=2.0, query_pre_attn_scalar=16))
    else:
        model = CohereForCausalLM(tiny_config(CohereConfig, logit_scale=0.25))
    config = run()
    batch = first_batch(config)
    parts = Objective(model, config.settings)(*batch[:4], normaliser=50.0, clm_weight=0.9)
    logits_NV = model(input_ids=batch.inputs_BT, attention_mask=batch.mask_BT).logits.flatten(0, 1)
    labels_N = batch.labels_BT.flatten()
    weights = by_position(labels_N, batch.targets.served_N, clm_weight=0.9, normaliser=50.0)
    wanted = objective_reference(logits_NV, torch.eye(97), labels_N, batch.targets, weights)
    assert parts.loss.item() == pytest.approx(wanted[0].item(), rel=1e-5)
    assert parts.labelled == (batch.labels_BT >= 0).sum()
    parts.loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_head_that_hides_something_is_refused(tiny_model):
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    model.lm_head.register_forward_hook(lambda module, inputs, output: output * 1.1)
    model.config.logits_scaling = 2.0
    with pytest.raises(ModelRefused, match="does not know"):
        Objective(model, TrainSettings())


def test_a_run_learns_and_exports_a_model_that_generates(run, tiny_model):
    config = run(epochs=8)
    train(config)
    lines = read_metrics(config.metrics)
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    first, last = lines[0], lines[-1]
    assert last["clm_loss"] < 0.7 * first["clm_loss"] and last["fusion_loss"] < 0.8 * first["fusion_loss"]
    assert set(first) == {
        "step", "steps", "epoch", "loss", "clm_loss", "fusion_loss", "clm_sum", "fusion_sum", "tokens", "served",
        "served_share", "grad_norm", "learning_rate", "clm_weight", *MEASURED,
    }  # fmt: skip
    assert 0.5 < first["served_share"] < 1 and last["epoch"] == 7

    model = AutoModelForCausalLM.from_pretrained(config.out)
    tokenizer = AutoTokenizer.from_pretrained(config.out)
    assert model.dtype == torch.bfloat16
    prompt = tokenizer("w5 w8 w11", return_tensors="pt")
    assert model.generate(**prompt, max_new_tokens=3, do_sample=False, min_new_tokens=3).shape == (1, 6)
    assert (config.out / "tokenizer.json").read_bytes() == (tiny_model / "tokenizer.json").read_bytes()
    assert (config.out / "README.md").read_text() == "# A tiny model\n"
    assert json.loads((config.out / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    assert "lm_head.weight" not in load_file(config.out / "model.safetensors")


def test_a_generation_config_that_transformers_would_not_save_is_kept(tiny_model, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(tiny_model, source)
    odd = {"temperature": 0.5, "bos_token_id": 0, "eos_token_id": 1}  # without do_sample
    (source / "generation_config.json").write_text(json.dumps(odd))
    export_model(AutoModelForCausalLM.from_pretrained(source), source, tmp_path / "out", "card")
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text()) == odd
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").generation_config.temperature == 0.5


def test_the_control_learns_the_same_tokens_from_labels_alone(run):
    fused, control = run("fused"), run("control")
    control = control.model_copy(update={"settings": control_of(control.settings)})
    train(fused)
    train(control)
    left, right = read_metrics(fused.metrics), read_metrics(control.metrics)
    assert [line["tokens"] for line in left] == [line["tokens"] for line in right]
    assert right[0]["loss"] == pytest.approx(right[0]["clm_loss"], rel=1e-6)
    assert left[0]["clm_loss"] == pytest.approx(right[0]["clm_loss"], rel=1e-6)
    assert left[0]["loss"] != pytest.approx(left[0]["clm_loss"], rel=1e-4)


def test_micro_batches_and_chunks_do_not_change_the_step(run):
    wanted, *others = [
        run("a", max_steps=3, epochs=2),
        run("b", max_steps=3, epochs=2, micro_batch_tokens=1000),
        run("c", max_steps=3, epochs=2, loss_chunk=7),
        run("d", max_steps=3, epochs=2, gradient_checkpointing=True),
    ]
    train(wanted)
    for config in others:
        train(config)
        for line, same in zip(read_metrics(config.metrics), read_metrics(wanted.metrics), strict=True):
            assert line["loss"] == pytest.approx(same["loss"], rel=1e-4)
            assert line["grad_norm"] == pytest.approx(same["grad_norm"], rel=1e-3)


def test_bf16_trains_with_float32_master_weights(run):
    config = run(dtype="bf16", max_steps=4)
    trainer = Trainer(config, threading.Event(), print)
    trainer.train()
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    exact = run("exact", max_steps=4)
    train(exact)
    for line, same in zip(read_metrics(config.metrics), read_metrics(exact.metrics), strict=True):
        assert line["loss"] == pytest.approx(same["loss"], rel=2e-2)


def test_a_loss_that_is_no_number_stops_with_step_and_documents(run):
    config = run()
    trainer = Trainer(config, threading.Event(), print)
    with torch.no_grad():
        trainer.model.model.norm.weight.fill_(torch.nan)
    with pytest.raises(WorkFailed, match=r"step 1: the loss is not a finite number.*doc-\d+"):
        trainer.train()
    assert read_metrics(config.metrics) == []


def test_a_gradient_that_is_no_number_stops_before_the_step(run):
    trainer = Trainer(run(), threading.Event(), print)
    trainer.model.model.norm.weight.register_hook(lambda gradient: gradient * torch.inf)
    before = trainer.model.model.embed_tokens.weight.clone()
    with pytest.raises(WorkFailed, match=r"step 1: the gradient.*doc-\d+"):
        trainer.train()
    assert torch.equal(before, trainer.model.model.embed_tokens.weight)


def test_a_damaged_shard_is_found_before_the_first_step(run, tmp_path):
    config = run()
    copy = tmp_path / "damaged.parquet"
    damaged = bytearray(config.shards[0].path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    copy.write_bytes(damaged)
    config = config.model_copy(update={"shards": (FusedShard(path=copy, checksum=config.shards[0].checksum),)})
    with pytest.raises(ShardCorrupt, match=r"damaged\.parquet"):
        train(config)
    assert not config.metrics.exists()


def test_learning_rate_warms_up_and_goes_down():
    settings = TrainSettings(learning_rate=1.0, warmup_ratio=0.1)
    rates = [learning_rate(step, 100, settings) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == rates[10] == 1
    assert rates[10:] == sorted(rates[10:], reverse=True) and 0 < rates[-1] < 1e-3
    constant = settings.model_copy(update={"schedule": "constant", "warmup_ratio": 0.0})
    assert {learning_rate(step, 100, constant) for step in range(100)} == {1.0}
    assert learning_rate(0, 1, settings) == 1.0


@pytest.mark.parametrize(
    ("field", "value"),
    [("clm_weight", 1.1), ("clm_weight", -0.1), ("residual", "buket"), ("betas", (0.9, 1.0)), ("lambda", 0.5)],
)
def test_settings_refuse_what_cannot_be(field, value):
    with pytest.raises(ValidationError, match="bucket" if field == "residual" else field):
        TrainSettings(**{field: value})


def test_settings_have_what_a_form_needs():
    for name, field in TrainSettings.model_fields.items():
        assert field.title and field.description and not field.is_required(), name
    assert TrainSettings.model_json_schema()["properties"]["residual"]["enum"] == ["as_given", "bucket", "renormalise"]


def test_metrics_hold_no_step_twice(tmp_path):
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path, 0)
    for step in range(1, 6):
        file.write({"step": step})
    path.write_text(path.read_text() + '{"step": 6, "lo')
    file = MetricsFile(path, 3)
    file.write({"step": 4, "again": True})
    assert [line["step"] for line in read_metrics(path)] == [1, 2, 3, 4] and read_metrics(path)[-1]["again"]
