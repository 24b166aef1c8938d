"""LoRA: little is trained and saved, and what is exported is the base with the adapter's products added."""

import json
import sys
import threading

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import AutoModelForCausalLM

from logitfuse.storage.errors import BadInput
from logitfuse.tasks.training.launch import run_training
from logitfuse.tasks.training.loading import load_base, load_model
from logitfuse.tasks.training.lora import refuse_without_peft
from logitfuse.tasks.training.settings import TrainSettings
from logitfuse.tasks.training.trainer import Stopped, Trainer

peft = pytest.importorskip("peft")
LORA = {"lora": {"rank": 4, "alpha": 8.0}, "max_steps": 6, "epochs": 2}
IDS = torch.arange(3, 15)[None]


class StopAfter(threading.Event):
    """Is set once it was asked about often enough, which is once a step."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._left = steps

    def is_set(self) -> bool:
        self._left -= 1
        return self._left <= 0


def train(config) -> Trainer:
    trainer = Trainer(config, threading.Event(), print)
    trainer.train()
    return trainer


def weights(config) -> bytes:
    return (config.out / "model.safetensors").read_bytes() + (
        config.out / "adapter" / "adapter_model.safetensors"
    ).read_bytes()


def test_an_untrained_adapter_changes_nothing(run):
    config = run(**LORA)
    model, base = load_model(config), load_base(config.model)
    assert torch.equal(model(IDS).logits, base(IDS).logits)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * 7 * 2 and all(".lora_" in name for name in trained)


def test_the_exported_model_is_base_plus_adapter(run):
    config = run(**LORA).model_copy(update={"base_model": "maker/base"})
    trainer = train(config)
    base = load_base(config.model)
    before = base(IDS).logits.detach()
    adapted = peft.PeftModel.from_pretrained(base, str(config.out / "adapter")).eval()
    wanted = adapted(IDS).logits
    assert_close(trainer.model.eval()(IDS).logits, wanted, rtol=1e-5, atol=1e-5)
    assert (wanted - before).abs().max() > 0.1  # it has learnt something
    assert adapted.peft_config["default"].base_model_name_or_path == "maker/base"
    matrices = load_file(config.out / "adapter" / "adapter_model.safetensors")
    exported, plain = (load_file(folder / "model.safetensors") for folder in (config.out, config.model))
    assert exported.keys() == plain.keys()
    for name, tensor in plain.items():
        key = "base_model.model." + name.removesuffix(".weight")
        if f"{key}.lora_A.weight" in matrices:
            product = matrices[f"{key}.lora_B.weight"] @ matrices[f"{key}.lora_A.weight"]
            tensor = (tensor.float() + 2.0 * product).bfloat16()  # alpha / rank
            assert not torch.equal(tensor, plain[name])
        assert torch.equal(exported[name], tensor), name
    loaded = AutoModelForCausalLM.from_pretrained(config.out, dtype=torch.float32)
    assert_close(loaded(IDS).logits, wanted, rtol=0.05, atol=0.05)  # stored in bfloat16


def test_checkpoints_hold_adapters_alone_and_resume_to_the_bit(run):
    dropout = {**LORA, "lora": {"rank": 4, "dropout": 0.1, "target_modules": ["q_proj", "v_proj"]}}
    whole, broken = run("whole", **dropout), run("broken", **dropout)
    train(whole)
    with pytest.raises(Stopped):
        Trainer(broken, StopAfter(3), print).train()
    saved = load_file(broken.checkpoints / "checkpoint-00000003" / "model.safetensors")
    assert len(saved) == 2 * 2 * 2 and all(".lora_" in name for name in saved)
    moments = load_file(broken.checkpoints / "checkpoint-00000003" / "optimizer.safetensors")
    assert {name.rpartition("/")[0] for name in moments} == set(saved)
    train(broken)
    assert weights(broken) == weights(whole)


def test_frozen_weights_in_half_the_memory_change_no_bit(run):
    config = run(**LORA, dtype="bf16")
    trainer = Trainer(config, threading.Event(), print)
    model = trainer.model
    frozen = {str(p.dtype) for n, p in model.named_parameters() if n.endswith("base_layer.weight")}
    assert frozen == {"torch.bfloat16"}
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model(IDS).logits, load_base(config.model)(IDS).logits)
    trainer.train()
    assert (config.out / "adapter" / "adapter_config.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True])
def test_two_processes_train_the_same_adapter(run, monkeypatch, sharded):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    alone, together = run("alone", **LORA), run("together", **LORA).model_copy(update={"sharded": sharded})
    train(alone)
    said: list[str] = []
    run_training(together, processes=2, device="cpu", log=said.append)
    assert any(("FSDP2" if sharded else "DDP") in line for line in said)
    left, right = (load_file(c.out / "adapter" / "adapter_model.safetensors") for c in (alone, together))
    for name, tensor in left.items():
        assert_close(tensor, right[name], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("modules", "message"),
    [(["no_such"], "no_such"), (["lm_head"], "output head"), (["embed_tokens"], "embeddings")],
)
def test_modules_that_cannot_be_adapted_are_refused(run, modules, message):
    with pytest.raises(BadInput, match=message):
        load_model(run(lora={"target_modules": modules}))


def test_peft_is_asked_for_by_name(monkeypatch):
    monkeypatch.setattr("logitfuse.tasks.training.lora.find_spec", lambda name: None)
    refuse_without_peft(TrainSettings())
    with pytest.raises(BadInput, match=r"pip install 'logitfuse\[lora\]'"):
        refuse_without_peft(TrainSettings(lora={}))


def test_peft_is_not_loaded_without_lora(run):
    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "peft"}
    try:
        load_model(run())
        assert "peft" not in sys.modules
    finally:
        sys.modules.update(kept)


def test_the_adapters_configuration_does_not_vary(run):
    one, other = run("one", **LORA), run("other", **LORA)
    for config in (one, other):
        train(config)
    left, right = ((c.out / "adapter" / "adapter_config.json").read_text() for c in (one, other))
    assert left.replace(str(one.model), "") == right.replace(str(other.model), "")
    assert json.loads(left)["target_modules"] == sorted(json.loads(left)["target_modules"])
