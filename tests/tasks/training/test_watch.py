"""What a training run tells of itself, and that watching it changes nothing."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from logitfuse.storage.errors import BadInput
from logitfuse.tasks.training.boards import TensorBoard
from logitfuse.tasks.training.flops import StepFlops, known_peak, peak_flops
from logitfuse.tasks.training.launch import run_training
from logitfuse.tasks.training.metrics import MEASURED, MetricsFile, last_line, read_metrics, scalars
from logitfuse.tasks.training.report import duration, held_out_line, progress_line
from logitfuse.tasks.training.trainer import Stopped, Trainer
from logitfuse.tasks.training.watch_settings import WatchSettings


class StopAfter(threading.Event):
    """Is set once it was asked about often enough, which is once a step."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._left = steps

    def is_set(self) -> bool:
        self._left -= 1
        return self._left <= 0


def train(config, stop=None) -> list[dict]:
    Trainer(config, stop or threading.Event(), print).train()
    return read_metrics(config.metrics)


def watched(config, **watch):
    return config.model_copy(update={"watch": WatchSettings(**watch)})


def weights(config) -> bytes:
    return (config.out / "model.safetensors").read_bytes()


@pytest.fixture
def sample(tmp_path) -> Path:
    """Held-out texts of two domains, of the language that the shards are in."""
    rows = []
    for number, length in enumerate((20, 9, 1, 14, 30)):
        tokens = ((7 * number + 3 * np.arange(length + 1)) % 94 + 3).tolist()
        domain = "even" if number % 2 == 0 else "odd"
        rows.append({"domain": domain, "inputs": tokens[:-1], "labels": tokens[1:], "bytes": 3 * length})
    path = tmp_path / "held-out.json"
    path.write_text(json.dumps(rows))
    return path


def test_a_line_adds_up(run):
    lines = train(run(max_steps=6))
    for line in lines:
        assert line["clm_loss"] == pytest.approx(line["clm_sum"] / line["tokens"])
        assert line["fusion_loss"] == pytest.approx(line["fusion_sum"] / line["served"])
        assert line["served_share"] == line["served"] / line["tokens"]
        assert line["clm_weight"] == 0.9 and line["mfu"] is None  # a CPU's peak is not known
        assert line["tokens_per_s"] == pytest.approx(line["tokens"] / line["seconds"])
        # Positions without a fused target learn from the label with weight 1, the others with λ.
        assert line["loss"] < line["clm_loss"] + line["fusion_loss"] and line["peak_memory_gb"] > 0.01
    assert lines[-1]["seconds_left"] == 0 and lines[0]["seconds_left"] > 0
    assert last_line(run().metrics) == lines[-1]


@pytest.mark.parametrize("batching", ["packed", "padded"])
def test_held_out_nats_are_the_models_own(run, sample, batching):
    config = watched(run(max_steps=4, batching=batching), sample=sample, evaluate_every_steps=4)
    said: list[str] = []
    Trainer(config, threading.Event(), said.append).train()
    found = read_metrics(config.metrics)[-1]["held_out"]
    assert [("held_out" in line) for line in read_metrics(config.metrics)] == [False, False, False, True]
    model = AutoModelForCausalLM.from_pretrained(config.out, dtype=torch.float32)  # stored as bfloat16
    nats, size = {"even": 0.0, "odd": 0.0}, {"even": 0, "odd": 0}
    for row in json.loads(sample.read_text()):
        with torch.no_grad():
            logits_TV = model(torch.tensor([row["inputs"]])).logits[0]
        nats[row["domain"]] += torch.nn.functional.cross_entropy(
            logits_TV, torch.tensor(row["labels"]), reduction="sum"
        ).item()
        size[row["domain"]] += row["bytes"]
    for domain in nats:
        assert found[domain] == pytest.approx(nats[domain] / size[domain], rel=1e-2)
    assert found["mean"] == pytest.approx(sum(nats.values()) / sum(size.values()), rel=1e-2)
    assert any("held-out sample" in line and "even" in line for line in said)


def test_watching_does_not_change_the_weights(run, sample, monkeypatch):
    plain = run("plain", epochs=2)
    looked = watched(run("looked", epochs=2), sample=sample, evaluate_every_steps=1, peak_tflops=0.01)
    left, right = train(plain), train(looked)
    assert weights(plain) == weights(looked)
    for line, same in zip(left, right, strict=True):
        assert {k: v for k, v in line.items() if k not in MEASURED} == {
            k: v for k, v in same.items() if k not in MEASURED | {"held_out"}
        }
    assert all(0 < line["mfu"] < 5 for line in right)


def test_looks_come_back_the_same_after_a_stop(run, sample):
    whole, broken = (watched(run(n), sample=sample, evaluate_every_steps=2) for n in ("whole", "broken"))
    wanted = [line.get("held_out") for line in train(whole)]
    with pytest.raises(Stopped):
        train(broken, StopAfter(3))
    assert [line.get("held_out") for line in train(broken)] == wanted
    assert weights(whole) == weights(broken)


def test_flops_of_a_dense_model():
    config = LlamaConfig(vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                         num_attention_heads=2, tie_word_embeddings=False)  # fmt: skip
    model = LlamaForCausalLM(config)
    counted = sum(p.numel() for p in model.parameters()) - 50 * 32  # the head computes, the embedding is looked up
    lengths = np.array([10, 20], np.int32)
    attention = 6 * 2 * 32 * (10**2 + 20**2)
    assert StepFlops(model).of(lengths) == 6 * counted * 30 + attention
    tied = LlamaForCausalLM(LlamaConfig(**{**config.to_dict(), "tie_word_embeddings": True}))
    assert StepFlops(tied).of(lengths) == StepFlops(model).of(lengths)
    for parameter in model.model.parameters():
        parameter.requires_grad_(False)
    assert StepFlops(model).of(lengths) < 6 * counted * 30 + attention


def test_flops_of_experts_and_of_windows():
    small = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    config = MixtralConfig(**small, **heads, num_local_experts=4, num_experts_per_tok=1)
    model = MixtralForCausalLM(config)
    experts = sum(p.numel() for n, p in model.named_parameters() if ".experts." in n)
    everything = sum(p.numel() for p in model.parameters()) - 50 * 32
    found = StepFlops(model).of(np.array([1], np.int32))
    assert experts > 0 and found == pytest.approx(6 * (everything - 0.75 * experts), rel=0.01)
    plain = LlamaForCausalLM(LlamaConfig(**small, num_attention_heads=2))
    whole = StepFlops(plain)
    plain.config.sliding_window, plain.config.layer_types = 8, ["sliding_attention", "full_attention"]
    windowed, long, short = StepFlops(plain), np.array([100], np.int32), np.array([8], np.int32)
    assert windowed.of(short) == whole.of(short)
    pairs = 2 * 100 * 8 - 8**2
    assert whole.of(long) - windowed.of(long) == pytest.approx(6 * 32 * (100**2 - pairs))


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989), ("NVIDIA H100 PCIe", 756), ("NVIDIA A100-SXM4-40GB", 312), ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362), ("NVIDIA A10", 125), ("NVIDIA H200", 989), ("NVIDIA GH200 480GB", 989),
        ("NVIDIA GeForce RTX 4090", 165.2), ("AMD Instinct MI300X", 1307),
    ],
)  # fmt: skip
def test_known_gpus(name, tflops):
    assert known_peak(name, "bf16") == tflops * 1e12
    assert known_peak(name, "fp32") < known_peak(name, "bf16")


def test_an_unknown_device_has_no_peak_unless_it_is_given():
    assert known_peak("NVIDIA A1000 Something", "bf16") is None
    assert peak_flops(torch.device("cpu"), "bf16", None) is None
    assert peak_flops(torch.device("cpu"), "bf16", 0.5) == 5e11


def test_the_last_line_is_read_from_the_end(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert last_line(path) is None
    file = MetricsFile(path, 0)
    assert last_line(path) is None
    for step in range(1, 3001):
        file.write({"step": step, "loss": float("nan") if step == 3000 else 1.0, "padding": "x" * 50})
    assert last_line(path)["step"] == 3000 and last_line(path)["loss"] is None
    with path.open("a") as stream:
        stream.write('{"step": 3001')
    assert last_line(path)["step"] == 3000


def test_words_for_people():
    assert [duration(s) for s in (0.4, 59, 61, 3600, 100_000, 5_000_000)] == [
        "0 s", "59 s", "1 min 1 s", "1 h 0 min", "1 d 3 h", "57 d 20 h",
    ]  # fmt: skip
    line = {
        "step": 3, "steps": 9, "loss": 2.0, "clm_loss": 2.1, "fusion_loss": 1.9, "served_share": 0.912,
        "grad_norm": 0.5, "learning_rate": 1e-5, "tokens_per_s": 45_123.4, "mfu": 0.413, "peak_memory_gb": 61.2,
        "seconds_left": 7260.0,
    }  # fmt: skip
    assert progress_line(line) == (
        "step 3/9: loss 2.0000 (labels 2.1000, fusion 1.9000 at 91%), gradient 0.5, rate 1.00e-05, 45,123 tokens/s, "
        "MFU 41.3%, 61.2 GB, 2 h 1 min left"
    )
    looked = {"step": 3, "steps": 9, "held_out": {"code": 0.51234, "law": None, "mean": float("nan")}}
    assert "sample no finite number of nats per byte (code 0.5123, law no finite" in held_out_line(looked)


def points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Read the event files as a TensorBoard that starts now does."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    read = accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0})
    read.Reload()
    return {tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def test_tensorboard_has_each_step_once_also_after_a_kill(run, sample, tmp_path):
    pytest.importorskip("tensorboard")
    board = tmp_path / "board"
    config = watched(run(every=3), sample=sample, evaluate_every_steps=2, tensorboard=board)

    class Killed(Exception):
        pass

    trainer = Trainer(config, threading.Event(), print)
    step = trainer._step

    def killed(number):
        if number == 5:
            raise Killed
        return step(number)

    trainer._step = killed
    with pytest.raises(Killed):
        trainer.train()
    assert len(points(board)["loss/all"]) == 5  # of which the last two will be done again
    lines = train(config)
    found = points(board)
    assert [s for s, _ in found["loss/all"]] == [line["step"] for line in lines]
    for name, values in found.items():
        wanted = [(line["step"], scalars(line)[name]) for line in lines if name in scalars(line)]
        assert [s for s, _ in values] == [s for s, _ in wanted], name
        assert [v for _, v in values] == pytest.approx([v for _, v in wanted]), name
    assert {"held_out/even", "held_out/mean", "train/grad_norm", "loss/fusion", "train/lambda"} <= found.keys()


def test_a_board_that_is_not_installed_is_said_before_training(run, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(BadInput, match=r"logitfuse\[tensorboard\]"):
        TensorBoard(tmp_path / "board", [])
    config = watched(run(), wandb="project")
    with pytest.raises(BadInput, match=r"logitfuse\[wandb\]"):
        train(config)
    assert not config.out.exists() and read_metrics(config.metrics) == []


class FakeRun:
    """A W&B run on the server's side: it takes no step twice."""

    def __init__(self) -> None:
        self.step, self.logged = 0, []

    def log(self, values, step):
        assert step >= self.step
        self.step = step + 1
        self.logged.append(step)

    def finish(self):
        pass


def test_wandb_goes_on_as_the_same_run(run, monkeypatch):
    import sys
    from types import SimpleNamespace

    there, given = FakeRun(), []

    def init(**arguments):
        given.append(arguments)
        if "mode" not in arguments and len(given) == 1:
            raise ConnectionError("no network")
        return there

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    config = watched(run(every=3), wandb="fusing", wandb_run="demo-fused")
    said: list[str] = []
    with pytest.raises(Stopped):
        Trainer(config, StopAfter(5), said.append).train()
    assert any("wandb sync" in line for line in said) and given[1]["mode"] == "offline"
    lines = train(config)
    assert there.logged == [line["step"] for line in lines]
    assert {(a["id"], a["project"], a["name"], a["resume"]) for a in given} == {("k1", "fusing", "demo-fused", "allow")}


def test_wandb_itself_offline(run, monkeypatch, tmp_path):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    config = watched(run(max_steps=3), wandb="fusing", wandb_run="demo-fused")
    assert len(train(config)) == 3
    kept = list((config.metrics.parent / "wandb").glob("offline-run-*-k1/*.wandb"))
    assert len(kept) == 1 and kept[0].stat().st_size > 500


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True])
def test_several_processes_look_together_and_train_the_same(run, sample, sharded):
    settings = {"max_steps": 5, "micro_batch_tokens": 24, "every": 2}
    alone = watched(run("alone", **settings), sample=sample, evaluate_every_steps=2)
    plain, looked = (
        run(name, **settings).model_copy(update={"sharded": sharded}) for name in ("plain", f"looked-{sharded}")
    )
    looked = watched(looked, sample=sample, evaluate_every_steps=2)
    train(alone)
    for config in (plain, looked):
        run_training(config, processes=2, device="cpu", log=lambda line: None)
    assert weights(plain) == weights(looked)
    found, wanted = ([line.get("held_out") for line in read_metrics(c.metrics)] for c in (looked, alone))
    assert [bool(look) for look in found] == [False, True, False, True, True]  # the last step always
    for left, right in zip(found, wanted, strict=True):
        assert left == (right and pytest.approx(right, rel=1e-3))
