"""The processes that train together, their device, and the signals that stop them."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import torch
from torch import distributed


@dataclass(frozen=True)
class Process:
    """This process among those that train together."""

    device: torch.device
    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether it scores, writes and reports."""
        return self.rank == 0

    @property
    def half(self) -> bool:
        """Whether the device multiplies bfloat16 faster than float32."""
        if self.device.type == "cuda":
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
        return torch.cpu.get_capabilities().get("avx512_bf16", False) is True


@contextmanager
def join(device: str) -> Iterator[Process]:
    """Join the processes that torchrun started; raise ValueError if the device is missing."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("torch finds no CUDA device here; train with --device cpu, or check the driver")
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if not distributed.is_torchelastic_launched():
        yield Process(torch.device(chosen))
        return
    distributed.init_process_group("nccl" if chosen == "cuda" else "gloo")
    try:
        place = f"cuda:{distributed.get_node_local_rank()}" if chosen == "cuda" else chosen
        yield Process(torch.device(place), distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()


@contextmanager
def signals() -> Iterator[list[int]]:
    """Note SIGINT and SIGTERM in the list instead of dying from them."""
    noted = [0]

    def note(number: int, _: FrameType | None) -> None:
        noted[0] = number

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def greatest(value: int, process: Process) -> int:
    """Return the greatest of all processes' values, so that they stop together or not at all."""
    if process.count == 1:
        return value
    shared = torch.tensor(value, device=process.device)
    distributed.all_reduce(shared, distributed.ReduceOp.MAX)
    return int(shared.item())
