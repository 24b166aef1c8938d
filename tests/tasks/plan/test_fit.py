"""Memory, disk and devices: what must fit, and what cannot."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from logitfuse.storage.errors import BadInput
from logitfuse.tasks.plan import fit
from logitfuse.tasks.plan.gpus import MEMORY, named_devices, stated_devices
from logitfuse.tasks.plan.memory import capture_memory, train_memory
from logitfuse.tasks.plan.plan import glance, make_plan
from logitfuse.tasks.plan.probe import Held
from logitfuse.tasks.plan.refusals import refusals
from logitfuse.tasks.plan.rows import stage_rows
from logitfuse.tasks.plan.sizes import ModelSize, model_size
from logitfuse.tasks.plan.times import flops_of
from logitfuse.tasks.run import Run
from logitfuse.tasks.stages import ORDER
from logitfuse.tasks.training.flops import PEAK_TFLOPS
from logitfuse.tasks.training.settings import LoraSettings, TrainSettings

SEVEN_B = ModelSize(6_738_000_000, 6.607e9, 262_000_000, 13_476_000_000, 32, 4096, 11_008, 4096, 32_000)


def silent(line: str) -> None:
    pass


def test_a_model_is_measured_by_its_headers(recipe_for) -> None:
    from transformers import AutoModelForCausalLM

    target = Run(recipe_for()).target
    size = model_size(target)
    model = AutoModelForCausalLM.from_pretrained(target.home.folder)
    assert size.parameters == sum(p.numel() for p in model.parameters())
    assert size.multiplied == size.parameters - model.get_input_embeddings().weight.numel()  # its head is its own
    assert (size.layers, size.hidden, size.vocabulary) == (1, 16, 300)


def test_operations_are_those_that_training_counts(recipe_for) -> None:
    import numpy as np
    from transformers import AutoModelForCausalLM

    from logitfuse.tasks.training.flops import StepFlops

    target = Run(recipe_for()).target
    model = AutoModelForCausalLM.from_pretrained(target.home.folder)
    lengths = np.array([40, 100, 7], np.int32)
    found = 3 * model_size(target).forward(float(lengths.sum()), float((lengths.astype(float) ** 2).sum()))
    assert found == pytest.approx(StepFlops(model).of(lengths))


def test_what_training_needs_of_memory(recipe_for) -> None:
    execution = recipe_for().execution
    whole = train_memory(SEVEN_B, TrainSettings(), execution, 1, on_gpu=True)
    assert whole.least == pytest.approx(16 * SEVEN_B.parameters)
    sharded = execution.model_copy(update={"sharded": True})
    assert train_memory(SEVEN_B, TrainSettings(), sharded, 8, on_gpu=True).least == pytest.approx(whole.least / 8)
    lora = train_memory(SEVEN_B, TrainSettings(lora=LoraSettings()), execution, 1, on_gpu=True)
    assert 2 * SEVEN_B.parameters < lora.least < 2.2 * SEVEN_B.parameters
    saving = TrainSettings(gradient_checkpointing=True)
    assert train_memory(SEVEN_B, saving, execution, 1, on_gpu=True).beside < whole.beside / 2
    small = TrainSettings(micro_batch_tokens=1024)
    assert train_memory(SEVEN_B, small, execution, 1, on_gpu=True).beside < whole.beside / 2


def test_what_a_probe_held_is_what_is_needed(recipe_for) -> None:
    run = Run(recipe_for(capture={"k": 4, "tokens_per_batch": 512}))
    rows = stage_rows(run, glance(run, ORDER).amounts)
    held = {("train", None): Held(5_000_000_000, 512), ("capture", "second"): Held(2_000_000_000, 128)}
    computed = {(need.stage, need.model): need for need in fit.needs(run, rows, None)}
    found = {(need.stage, need.model): need for need in fit.needs(run, rows, None, held)}
    assert found["train", "fused"].probed and found["train", "fused"].memory.needed == 5e9
    assert found["train", "control"].memory == found["train", "fused"].memory, "the same steps, on labels alone"
    assert found["train", "fused"].memory.least == computed["train", "fused"].memory.least
    scaled = found["capture", "second"].memory
    assert scaled.needed > 2e9, "the run's batches are larger than the probe's"
    assert not found["capture", "first"].probed
    assert found["capture", "first"].memory == computed["capture", "first"].memory
    few = {("train", None): Held(1_000, 512)}
    (least,) = {need.memory for need in fit.needs(run, rows, None, few) if need.stage == "train"}
    assert least.least == least.needed == 1_000, "what is held cannot be less than the least"


def test_what_capture_needs_of_memory(recipe_for) -> None:
    capture = recipe_for().capture
    half = capture_memory(SEVEN_B, "bfloat16", capture, on_gpu=True)
    assert 2 * SEVEN_B.parameters < half.least < 2.2 * SEVEN_B.parameters
    assert capture_memory(SEVEN_B, "float32", capture, on_gpu=True).least > 1.9 * half.least


def test_every_gpu_has_a_peak_and_a_memory() -> None:
    assert {name.removesuffix(" 40GB") for name in MEMORY} == set(PEAK_TFLOPS)
    for name in MEMORY:
        assert named_devices(name.lower().replace(" ", "-"), 8, 0.4).name == name
    assert named_devices("h100", 8, 0.4).flops == pytest.approx(8 * 989e12 * 0.4)
    with pytest.raises(BadInput, match="h100"):
        named_devices("h10", 1, 0.4)


def test_times_follow_from_a_rate(recipe_for) -> None:
    run = Run(recipe_for())
    one = make_plan(run, devices=stated_devices(1e12, 1, 0.5), say=silent)
    eight = make_plan(run, devices=stated_devices(1e12, 8, 0.5), say=silent)
    for slow, fast in zip(one.rows, eight.rows, strict=True):
        if slow.stage in ("capture", "train", "evaluate"):
            assert slow.seconds and fast.seconds and slow.seconds.value == pytest.approx(8 * fast.seconds.value)
            operations = flops_of(run, slow, one.amounts)
            assert operations and slow.seconds.value == pytest.approx(operations.value / 5e11)
        if slow.stage == "align":
            assert slow.seconds == fast.seconds, "no GPU helps a data stage"
    by_stage = {row.stage: row.seconds for row in one.rows}
    assert by_stage["report"] is None, "nobody knows"


def free(monkeypatch: pytest.MonkeyPatch, size: float) -> None:
    usage = SimpleNamespace(total=1e12, used=0, free=size)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)


def test_a_disk_that_is_too_small(recipe_for, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(recipe_for())
    needed = glance(run, ORDER).disk
    assert needed is not None and needed.fits and needed.checkpoints == 0  # its steps come to none
    free(monkeypatch, needed.needed.low * 0.99)
    (reason,) = glance(run, ORDER).reasons
    assert "free" in reason and "execution.folder" in reason
    free(monkeypatch, needed.needed.low * 1.01)
    assert not glance(run, ORDER).reasons, "only what cannot fit is stopped"
    free(monkeypatch, 2e6)
    assert not glance(run, ["prepare", "encode"]).reasons, "what is not asked for needs no room"
    often = run.recipe.execution.model_copy(update={"checkpoint_every_steps": 1})
    run = Run(run.recipe.model_copy(update={"execution": often}))
    found = glance(run, ORDER).disk
    assert found is not None and found.checkpoints == 3 * 12 * model_size(run.target).parameters


def test_a_memory_that_is_too_small(recipe_for, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "memory_here", lambda device: 1e8)
    run = Run(recipe_for())
    found = glance(run, ORDER).reasons
    assert any("stage train, fused" in reason and "train.lora" in reason for reason in found)
    assert any("stage capture" in reason for reason in found)
    assert not glance(run, ["prepare", "encode"]).reasons
    handing_out = run.recipe.execution.model_copy(update={"shards_per_run": 4})
    elsewhere = Run(run.recipe.model_copy(update={"execution": handing_out}))
    assert not glance(elsewhere, ORDER).reasons, "other machines have other memory"
    assert not make_plan(run, devices=named_devices("h100", 1, 0.4), say=silent).reasons


def test_all_that_is_wrong_is_told(recipe_for, tmp_path: Path) -> None:
    recipe = recipe_for(capture={"k": 320}, target={"model": str(tmp_path / "nowhere")}, corpus={"text_column": "body"})
    found = refusals(Run(recipe))
    assert any("nowhere" in line for line in found) and any("body" in line for line in found)
    (wide,) = [line for line in refusals(Run(recipe_for(capture={"k": 320}))) if "capture.k" in line]
    assert "300" in wide
    assert refusals(Run(recipe_for())) == []
    plan = make_plan(Run(recipe), say=silent)
    assert not plan.goes and plan.sample is None and len(plan.refused) >= 2


def test_every_model_that_is_refused_is_told_once_with_its_field(recipe_for, tmp_path: Path) -> None:
    """Models of several faults: one that cannot be read hides neither another nor two that are the same."""
    second = recipe_for().sources[0].model
    for name in ("copy", "third", "mute"):
        shutil.copytree(second, tmp_path / name)
    config = tmp_path / "mute" / "tokenizer_config.json"
    config.write_text(json.dumps({k: v for k, v in json.loads(config.read_text()).items() if k != "bos_token"}))
    (tmp_path / "third" / "config.json").write_text("no JSON")
    copy, third, mute, gone = ({"model": str(tmp_path / name)} for name in ("copy", "third", "mute", "gone"))
    sources = [{"model": second}, third, gone, mute | {"start": "bos"}, copy]
    found = refusals(Run(recipe_for(sources=sources, capture={"k": 320})))
    begins = ["capture.k: 320 is more than the 300", "sources.1.model: ", "sources.2.model: ", "sources.3.start: "]
    same = "sources: 'second', 'mute' and 'copy' are the same model"
    assert len(found) == 5 and all(map(str.startswith, found, [*begins, same])), found
    sources = [mute | {"start": "bos"}, copy | {"start": "bos"}]
    found = refusals(Run(recipe_for(sources=sources)))
    assert [line.partition(":")[0] for line in found] == ["sources.0.start", "sources"], found


def test_what_stands_is_not_counted_again(recipe_for) -> None:
    from done_runs import done_run

    recipe = recipe_for()
    before = {(row.stage, row.source): row for row in glance(Run(recipe), ORDER).rows}
    run = done_run(recipe.model_dump(mode="json"), ["encode"])
    plan = glance(run, ORDER)
    for row in plan.rows:
        if row.stage in ("prepare", "encode"):
            assert row.done == row.units == before[row.stage, row.source].units and row.bytes_left.value == 0
            written = run.store.names(f"encode/{row.source}", ".parquet")
            if row.stage == "encode":
                sizes = [run.store.local(name).stat().st_size for name in written]
                assert row.bytes.exact and row.bytes.value == sum(sizes)
                assert (
                    0.6 < before[row.stage, row.source].bytes.value / sum(sizes) < 1.8
                )  # 300 tokens are no language's
        else:
            assert row.done == 0 and row.bytes_left.value > 0
    assert stage_rows(run, plan.amounts, ["encode"])[0].left == 0
