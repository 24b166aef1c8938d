"""What a machine lacks is said before anything is loaded, and what is full says what to change."""

import threading

import pytest
import torch

from logitfuse.storage.errors import BadInput
from logitfuse.tasks.training import launch, loading, worker
from logitfuse.tasks.training.launch import run_training
from logitfuse.tasks.training.loading import load_model, use_flash
from logitfuse.tasks.training.settings import TrainSettings
from logitfuse.tasks.training.trainer import Trainer

FLASH = TrainSettings(attention="flash", dtype="bf16")


@pytest.fixture(autouse=True)
def not_told_to_use_the_cpu(monkeypatch):
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)


@pytest.fixture
def with_flash(monkeypatch):
    """As if flash-attn were installed and usable."""
    monkeypatch.setattr(loading, "find_spec", lambda name: object())
    monkeypatch.setattr(loading, "is_flash_attn_2_available", lambda: True)


def test_flash_that_is_not_there_is_refused(run, monkeypatch):
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"flash-attn is not installed \(pip install 'logitfuse\[flash\]'"):
        run_training(run(attention="flash", dtype="bf16"), device="cpu")
    monkeypatch.setattr(loading, "find_spec", lambda name: object())
    with pytest.raises(BadInput, match="or there is no GPU"):
        load_model(run(attention="flash", dtype="bf16"))


def test_flash_in_float32_is_refused(run, with_flash):
    with pytest.raises(BadInput, match=r"16 bits, and train\.dtype is fp32"):
        load_model(run(attention="flash", dtype="fp32"))


def test_flash_on_a_cpu_is_refused(run, with_flash, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    with pytest.raises(BadInput, match="on the CPU"):
        load_model(run(attention="flash", dtype="bf16"))


@pytest.mark.parametrize(
    ("attention", "there", "knows", "wanted"),
    [
        ("auto", True, True, True),
        ("auto", True, False, False),
        ("auto", False, True, False),
        ("flash", True, True, True),
        ("sdpa", True, True, False),
    ],
)
def test_flash_is_taken_where_it_can_be(run, with_flash, monkeypatch, attention, there, knows, wanted):
    model = load_model(run())
    monkeypatch.setattr(loading, "is_flash_attn_2_available", lambda: there)
    monkeypatch.setattr(type(model), "_supports_flash_attn", knows)
    chosen = []
    monkeypatch.setattr(type(model), "set_attn_implementation", lambda self, name: chosen.append(name))
    assert use_flash(model, FLASH.model_copy(update={"attention": attention})) == wanted
    assert chosen == (["flash_attention_2"] if wanted else [])


def test_sdpa_is_what_it_says(run):
    assert load_model(run(attention="sdpa")).config._attn_implementation == "sdpa"


def checkpointed(model):
    return (module for module in model.modules() if getattr(module, "gradient_checkpointing", False))


def test_gradient_checkpointing_gives_the_same_gradients(run):
    found = {}
    for checkpointing in (False, True):
        trainer = Trainer(
            run(str(checkpointing), gradient_checkpointing=checkpointing, learning_rate=1e-12),
            threading.Event(),
            print,
        )
        trainer.objective.train()
        assert bool(list(checkpointed(trainer.model))) == checkpointing
        trainer._accumulate(0)
        found[checkpointing] = {name: p.grad for name, p in trainer.model.named_parameters()}
    assert found[True].keys() == found[False].keys() and all(g is not None for g in found[True].values())
    for name, gradient in found[False].items():
        assert torch.equal(gradient, found[True][name]), name


def memory_errors() -> list[tuple[BaseException, str]]:
    """What really comes when memory is full."""
    try:
        torch.empty(1 << 58)
    except RuntimeError as error:
        on_cpu = error
    return [
        (on_cpu, "this machine's"),
        (MemoryError(), "this machine's"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), "the GPU's"),
    ]


@pytest.mark.parametrize(("error", "whose"), memory_errors(), ids=["cpu", "python", "gpu"])
def test_full_memory_says_what_to_change(run, monkeypatch, capsys, error, whose):
    def fail(*_):
        raise error

    monkeypatch.setattr(Trainer, "train", fail)
    config = run()
    written = config.metrics.parent / "config.json"
    written.write_text(config.model_dump_json())
    assert worker._train(written, threading.Event()) == 1
    said = capsys.readouterr().out
    assert f"training error: {whose} memory is full: lower train.micro_batch_tokens" in said
    for setting in ("train.loss_chunk", "train.gradient_checkpointing", "train.lora", "execution.sharded"):
        assert setting in said


def test_a_process_killed_from_outside_says_so():
    said = launch.deque(["exitcode  : -9 (pid: 1)", "traceback : Signal 9 (SIGKILL) received by PID 1"])
    told = launch._failure(1, said)
    assert "most often because memory ran out: lower train.micro_batch_tokens" in told


def test_other_errors_are_raised_as_they_are(run, monkeypatch):
    def fail(*_):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(Trainer, "train", fail)
    config = run()
    written = config.metrics.parent / "config.json"
    written.write_text(config.model_dump_json())
    with pytest.raises(RuntimeError, match="shapes"):
        worker._train(written, threading.Event())
