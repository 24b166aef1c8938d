"""GPUs by name: what they compute at best and how much memory they have."""

from __future__ import annotations

from dataclasses import dataclass

from logitfuse.kernels.closest_name import known_names
from logitfuse.storage.errors import BadInput
from logitfuse.tasks.training.flops import known_peak

GB = 1e9
# GB of one device as torch sees it, from the same data sheets as PEAK_TFLOPS (NVIDIA's product pages and white papers,
# AMD's data sheets). An A100 was also made with 40 GB: name it "A100 40GB".
MEMORY: dict[str, float] = {
    "B200": 180, "GH200": 96, "H200": 141, "H100 PCIe": 80, "H100 NVL": 94, "H100": 80, "H800": 80,
    "A100 40GB": 40, "A100": 80, "A800": 80, "L40S": 48, "L40": 48, "L4": 24, "A10": 24, "A30": 24, "A40": 48,
    "RTX A6000": 48, "RTX 4090": 24, "RTX 3090": 24, "MI300X": 192, "MI250X": 64,
}  # fmt: skip


@dataclass(frozen=True)
class Devices:
    """Devices that a plan is made for: `flops` is what all of them do together in a second at this MFU."""

    name: str
    count: int
    peak: float  # of one, in FLOP/s
    mfu: float
    memory: float | None  # bytes of one; None where only a rate was stated

    @property
    def flops(self) -> float:
        return self.count * self.peak * self.mfu

    def __str__(self) -> str:
        return f"{self.count} × {self.name} at {self.mfu:.0%} of {self.peak / 1e12:,.0f} TFLOP/s"


def named_devices(name: str, count: int, mfu: float, dtype: str = "bf16") -> Devices:
    """Return devices by their name, such as h100 or rtx-4090; raises `BadInput` with the closest one."""
    words = name.replace("-", " ").replace("_", " ").lower()
    for known, memory in MEMORY.items():
        if known.lower() == words:
            peak = known_peak(known, dtype)
            assert peak is not None, "every GPU of one table is in the other"
            return Devices(known, count, peak, mfu, memory * GB)
    known_ones = known_names(name, [known.lower() for known in MEMORY], called="Known")
    raise BadInput(f"--gpu {name}: it is not in the table. {known_ones} For another one state its rate: --flops 1e15.")


def stated_devices(flops: float, count: int, mfu: float) -> Devices:
    """Return devices of which only the rate of one is known."""
    return Devices("devices", count, flops, mfu, None)
