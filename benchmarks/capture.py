"""Capture: a whole batch, text positions to a Parquet shard, over the model's body and head product alone.

    python benchmarks/capture.py --json capture.json
    python benchmarks/capture.py --device cuda
    python benchmarks/capture.py --device rehearsal

over_floor_49k, over_floor_262k: stage capture on batches of SmolLM2 (49k tokens) and Gemma-3 (262k) over their bodies'
forward pass and the head's matrix product in chunks, bfloat16 both, on the same batches. One thread, and the process's
CPU seconds, the writer's included, which are the wall clock's without what other processes take.
packed_over_sorted_*: the body on packed batches over the body on batches of like length, on the same chunks.
useful_token_share: tokens of the demo corpus over the tokens, padding included, of the batches planned for it; the
worse of the two models. useful_token_share_sorted: the same for a model that cannot be packed.
writer_stall_share: the part of capture's time in which neither body nor head computed; all of it, not the writer's
alone, so what is reported is the most that the writer can have stalled. The worse of the two.
logprob_error_*: how far log-probabilities are from a float32 head's, on the batch's own hidden states.

--device cuda: Llama with 7 billion random weights. Tokens per second, MFU and the ratio over body and head product;
before that the Triton kernel is held equal to the reference. --peak: the GPU's dense bfloat16 TFLOP/s.
--device rehearsal: the same script on a CPU, with a tiny model and the kernel interpreted; its times mean nothing.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from measure import at_least, at_most, interleaved, options, ratio, show, write

from logitfuse.kernels.chunks import cut
from logitfuse.kernels.positions import inputs_and_labels
from logitfuse.kernels.topk import topk_logprobs
from logitfuse.tasks.capture import capture_shard
from logitfuse.tasks.capture_loop import head_positions
from logitfuse.tasks.capture_settings import CaptureSettings
from logitfuse.tasks.engine import MADE
from logitfuse.tasks.models.causal import CausalModel, load_causal_model, padded, split_model
from logitfuse.tasks.models.vocabulary import encode_texts, load_tokenizer, read_vocabulary
from logitfuse.tasks.packaged.models import fetch_model
from logitfuse.tasks.packaged.text import fetch_text
from logitfuse.tasks.passages import Batch as Planned
from logitfuse.tasks.passages import Passage, packed_batches, sorted_batches

MODELS = {"49k": "smollm2-135m", "262k": "gemma3-270m"}
GOALS = {
    "over_floor_49k": at_most(1.30),
    "over_floor_262k": at_most(1.80),
    "useful_token_share": at_least(0.97),
    "writer_stall_share": at_most(0.02),
    "logprob_error_49k": at_most(1e-3),
    "logprob_error_262k": at_most(1e-3),
}
CHUNK_BYTES = 2048
SETTINGS = CaptureSettings()


@dataclass
class Sample:
    """One model and some passages as stage capture meets them."""

    model: CausalModel
    passages: list[Passage]
    settings: CaptureSettings = SETTINGS
    made: float = 0.0  # seconds that the model computed in the last capture

    @property
    def positions(self) -> int:
        return sum(len(passage.inputs) for passage in self.passages)

    def capture(self) -> None:
        """Capture into a Parquet file, all of what the stage does."""
        encoded: Any = SimpleNamespace(counts={"tokens": self.positions})
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "capture.parquet"
            counts = capture_shard(
                self.model, iter(self.passages), encoded, self.settings, path, lambda done, total: None
            )
        self.made = counts[MADE]["model_seconds"]

    def batches(self, packed: bool = True) -> list[Planned]:
        """Return the batches that capture makes."""
        budget, window = self.settings.tokens_per_batch, self.settings.window_chunks
        return list(packed_batches(self.passages, budget) if packed else sorted_batches(self.passages, budget, window))

    def body(self, packed: bool = True) -> torch.Tensor:
        """Return the hidden states [N, H] of the last batch; all are computed."""
        for batch in self.batches(packed):
            texts = [passage.inputs for passage in batch.passages]
            if packed:
                hidden_NH = self.model.hidden_packed(texts)
            else:
                ids_BT, mask_BT = padded(texts)
                hidden_NH = self.model.hidden(ids_BT, mask_BT)[mask_BT.bool().to(self.model.device)]
        return hidden_NH

    @torch.inference_mode()
    def floor(self) -> None:
        """Body and head product, which no capture can do without."""
        for batch in self.batches():
            hidden_NH = self.model.hidden_packed([passage.inputs for passage in batch.passages])
            for chunk_NH in hidden_NH.split(head_positions(self.model, self.settings)):
                torch.nn.functional.linear(chunk_NH, self.model.head.weight_VH)
        if self.model.device.type == "cuda":
            torch.cuda.synchronize()

    def check(self, positions: int) -> float:
        """Hold ids equal to a float32 head's; return the largest difference in log-probability."""
        hidden_NH = self.body()[:positions]
        gold_N = torch.arange(len(hidden_NH), device=hidden_NH.device)
        found = self.model.kept(hidden_NH, gold_N, SETTINGS.keep)
        logits_NV = self.model.head.logits(hidden_NH)
        wanted = topk_logprobs(logits_NV, gold_N, SETTINGS.k)
        # Two float32 sums of the same product differ by about 1e-5, which may turn two tokens around.
        apart_NK = logits_NV.gather(1, found.ids_TK.long()) - logits_NV.gather(1, wanted.ids_TK.long())
        assert bool((apart_NK.abs() <= 5e-5).all()), "ids differ from a float32 head's"
        errors = [found.logprobs_TK - wanted.logprobs_TK, found.gold_logprob_T - wanted.gold_logprob_T]
        return max(float(error.abs().max()) for error in errors)


def passages_of(ids: Sequence[np.ndarray], start: int | None) -> list[Passage]:
    """Return chunks as the source reads them."""
    read = [inputs_and_labels(row, start=start, end=None) for row in ids]
    return [
        Passage({"doc_id": f"doc-{n}", "chunk": 0, "text_hash": bytes(16)}, 0, inputs, labels, 0)
        for n, (inputs, labels) in enumerate(read)
    ]


def useful_share(passages: list[Passage], packed: bool) -> float:
    """Return tokens over tokens and padding, of the batches planned by the defaults."""
    budget, window = SETTINGS.tokens_per_batch, SETTINGS.window_chunks
    plan = packed_batches(passages, budget) if packed else sorted_batches(passages, budget, window)
    read = [batch.tokens if packed else len(batch.numbers) * max(map(len, batch.passages)) for batch in plan]
    return sum(map(len, passages)) / sum(read)


def read_texts() -> list[str]:
    """Return the demo corpus in chunks, as the demo recipe cuts it."""
    with fetch_text().open() as lines:
        return [text for line in lines for text in cut(json.loads(line)["text"], CHUNK_BYTES)]


def sample_of(name: str, texts: list[str], tokens: int) -> tuple[Sample, list[Passage]]:
    """Return a packaged model with two batches of about `tokens` positions, and the passages of all texts."""
    folder = fetch_model(name)
    tokenizer = load_tokenizer(folder)
    vocabulary = read_vocabulary(tokenizer)
    passages = passages_of([ids for ids, _ in encode_texts(tokenizer, vocabulary, texts)], vocabulary.roles.get("bos"))
    batches = list(packed_batches(passages, tokens))
    middle = len(batches) // 2
    chosen = [passage for batch in batches[middle : middle + 2] for passage in batch.passages]
    settings = SETTINGS.model_copy(update={"tokens_per_batch": tokens})
    return Sample(load_causal_model(folder, "bfloat16", "cpu"), chosen, settings), passages


def on_cpu(quick: bool, path: Path | None) -> None:
    """Measure both packaged models."""
    torch.set_num_threads(1)
    tokens, rounds = (256, 5) if quick else (1024, 7)
    texts = read_texts()[: 1024 if quick else None]
    metrics: dict[str, float] = {}
    seconds: dict[str, list[float]] = {}
    useful: dict[bool, list[float]] = {True: [], False: []}
    stalled, sizes = [], {}
    for size, name in MODELS.items():
        sample, passages = sample_of(name, texts, tokens)
        metrics[f"logprob_error_{size}"] = sample.check(512)
        stalls: list[float] = []
        sides: dict[str, Callable[[], object]] = {
            f"capture {size}": timed(sample, stalls),
            f"floor {size}": sample.floor,
            f"packed body {size}": sample.body,
            f"sorted body {size}": lambda sample=sample: sample.body(packed=False),  # type: ignore[misc]
        }
        for side in sides.values():
            side()
        stalls.clear()
        seconds |= interleaved(sides, rounds, clock=time.process_time)
        metrics[f"over_floor_{size}"] = ratio(seconds, f"capture {size}", f"floor {size}")
        metrics[f"packed_over_sorted_{size}"] = ratio(seconds, f"packed body {size}", f"sorted body {size}")
        for packed, shares in useful.items():
            shares.append(useful_share(passages, packed))
        stalled.append(median(stalls))
        sizes[size] = sample.positions
    metrics |= {"useful_token_share": min(useful[True]), "useful_token_share_sorted": min(useful[False])}
    metrics["writer_stall_share"] = max(stalled)
    show("capture", metrics, GOALS, seconds)
    inputs = {"quick": quick, "positions": sizes, "k": SETTINGS.k, "threads": torch.get_num_threads()}
    write(path, metrics, GOALS, inputs | {"rounds": rounds, "chunks": len(texts), "seconds": seconds})


def timed(sample: Sample, stalls: list[float]) -> Callable[[], None]:
    """Return a capture that notes which share of its time the model did not compute."""

    def side() -> None:
        started = time.perf_counter()  # as the model's own clock
        sample.capture()
        stalls.append(1 - sample.made / (time.perf_counter() - started))

    return side


def on_gpu(quick: bool, path: Path | None, peak: float, rehearsal: bool) -> None:
    """Measure a Llama of 7 billion random weights; in a rehearsal a tiny one on the CPU."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    device = "cpu" if rehearsal else "cuda"
    if not rehearsal and not torch.cuda.is_available():
        sys.exit("benchmarks/capture.py --device cuda: torch sees no GPU here. Run it where there is one.")
    check_kernel(device)
    tiny = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(LlamaConfig(**(tiny if rehearsal else {})), dtype=torch.bfloat16)
    causal = split_model(model.eval().requires_grad_(False), "llama, random weights")
    rng = np.random.default_rng(0)
    # Lengths as texts have them, so that packing and its attention are part of what is measured.
    lengths = rng.integers(64, 256, 8) if rehearsal else rng.integers(256, 2048, 8 if quick else 64)
    rows = [rng.integers(3, 32_000, length).astype(np.int32) for length in lengths]
    settings = SETTINGS.model_copy(update={"tokens_per_batch": 512 if rehearsal else 16_384})
    sample = Sample(causal, passages_of(rows, 1), settings)
    error = sample.check(512)
    for side in (sample.capture, sample.floor):
        side()
    seconds = interleaved({"capture": sample.capture, "floor": sample.floor}, 7)
    positions, middle = sample.positions, median(seconds["capture"])
    metrics = {
        "over_floor": ratio(seconds, "capture", "floor"),
        "tokens_per_second": positions / middle,
        "mfu": model_flops(model, rows) / middle / (peak * 1e12),
        "logprob_error": error,
    }
    goals = {"over_floor": at_most(1.03), "logprob_error": at_most(1e-3)}
    title = "rehearsal of capture on a GPU: these times mean nothing" if rehearsal else "capture on a GPU"
    show(title, metrics, {} if rehearsal else goals, seconds)
    inputs = {
        "quick": quick, "rehearsal": rehearsal, "positions": positions, "k": SETTINGS.k, "peak_tflops": peak,
        "packing": "one kernel" if causal.packing.one_kernel else causal.packing.why_not or "text by text",
        "seconds": seconds,
    }  # fmt: skip
    write(path, metrics, goals, inputs)


def model_flops(model: Any, rows: Sequence[np.ndarray]) -> float:
    """Return the operations of a forward pass: two per weight in a product and token, and causal attention's."""
    config, embedded = model.config, model.get_input_embeddings().weight.numel()
    weights = sum(p.numel() for p in model.parameters()) - embedded
    lengths = np.array([len(row) + 1 for row in rows], dtype=np.float64)
    return float(2 * weights * lengths.sum() + 2 * config.num_hidden_layers * config.hidden_size * (lengths**2).sum())


def check_kernel(device: str) -> None:
    """Hold the Triton kernel equal to the reference: ids, ranks, values."""
    from logitfuse.kernels import triton_topk

    assert triton_topk.AVAILABLE, "Triton is not installed; it comes with torch's CUDA builds, here with '.[triton]'"
    generator = torch.Generator(device).manual_seed(0)
    sizes = ((1, 1), (777, 128), (32_000, 10), (262_144, 64))
    for V, k in sizes if device == "cuda" else sizes[:2]:
        logits_TV = torch.randn(33, V, device=device, generator=generator) * 4
        gold_T = torch.randint(0, V, (33,), device=device, generator=generator)
        for dtype in (torch.float32, torch.bfloat16):
            found = triton_topk.triton_topk_logprobs(logits_TV.to(dtype), gold_T, k)
            wanted = topk_logprobs(logits_TV.to(dtype).float(), gold_T, k)
            assert torch.equal(found.ids_TK, wanted.ids_TK) and torch.equal(found.gold_rank_T, wanted.gold_rank_T)
            torch.testing.assert_close(found.logprobs_TK, wanted.logprobs_TK, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(found.gold_logprob_T, wanted.gold_logprob_T, atol=1e-5, rtol=1e-5)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda", "rehearsal"), default="cpu", help="where to measure")
    parser.add_argument("--peak", type=float, default=989.0, help="the GPU's dense bfloat16 TFLOP/s (H100, H200: 989)")
    arguments = parser.parse_args()
    if arguments.device == "cpu":
        on_cpu(arguments.quick, arguments.json)
        return
    if arguments.device == "rehearsal" and os.environ.get("TRITON_INTERPRET") != "1":  # wanted before Triton's import
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"TRITON_INTERPRET": "1"})
    on_gpu(arguments.quick, arguments.json, arguments.peak, arguments.device == "rehearsal")


if __name__ == "__main__":
    main()
