"""The least time that an operation can take on a GPU: its bytes at the speed of memory, or its arithmetic at that of the cores."""

from typing import Literal

from modelzoo.kernels.registry import Work

GPUS = {"A100": (1.555e12, 19.5e12), "H100": (3.35e12, 67e12)}  # bytes/s and float32 flop/s outside the tensor cores


def roofline(work: Work, gpu: str) -> tuple[float, Literal["memory", "arithmetic"]]:
    """Seconds, and which side of the roof it is."""
    bandwidth, speed = GPUS[gpu]
    memory, arithmetic = work.bytes / bandwidth, work.flops / speed
    return max(memory, arithmetic), "memory" if memory > arithmetic else "arithmetic"
