"""Several processes, one for each GPU, that train one run together.

torchrun, `accelerate launch` and `zhiwen finetune --gpus N` start them (all three are torch.distributed.run), and
torch.distributed joins them: NCCL between GPUs, gloo between CPUs and for everything small that is not on a GPU.

    with opened(device="auto") as world:        # outside of torchrun: one process, nothing is opened
        train(folder, world=world)

With ddp every process holds the whole model. Their gradients are added once a step, in few flat pieces in float32, after
all passes of the step: adapters are small (30 million weights of ChatGLM3-6B at rank 16: 120 MB, a millisecond between
linked GPUs), so there is nothing to hide behind the backward pass, and compiled layers stay as they are.
With fsdp (`finetune.shards`) every process holds a part of each layer.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from finetune.config import Parallel, RunConfig
from kb.errors import ModelError

if TYPE_CHECKING:
    import torch

PIECE = 64 * 2**20
"""Gradients that are added at once: 256 MB in float32."""
PATIENCE = timedelta(hours=24)
"""How long a process waits for another one that lives (it may be answering questions); dead ones are noticed in seconds."""


@dataclass(frozen=True, slots=True)
class World:
    """The processes of this run, seen from one of them."""

    rank: int = 0
    size: int = 1
    local: int = 0
    """Number of this process on its machine; its GPU."""
    kind: Parallel = "ddp"

    @property
    def main(self) -> bool:
        """Whether this one writes the run folder."""
        return self.rank == 0

    @property
    def sharded(self) -> bool:
        """Whether each process holds only a part of the weights."""
        return self.size > 1 and self.kind == "fsdp"

    def sums(self, *values: float) -> list[float]:
        """Sums over all processes, in float64."""
        return self._reduced(values, "SUM")

    def least(self, *values: float) -> list[float]:
        """The smallest of each over all processes."""
        return self._reduced(values, "MIN")

    def any(self, flag: bool) -> bool:
        """Whether one of them says so."""
        return self.sums(float(flag))[0] > 0

    def _reduced(self, values: Iterable[float], operation: str) -> list[float]:
        if self.size == 1:
            return list(values)
        import torch
        from torch import distributed

        found = torch.tensor(list(values), dtype=torch.float64)
        distributed.all_reduce(found, op=getattr(distributed.ReduceOp, operation))
        return [float(v) for v in found]

    def gathered(self, value: int) -> list[int]:
        """Everybody's number, by rank."""
        if self.size == 1:
            return [value]
        import torch
        from torch import distributed

        found = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        distributed.all_gather(found, torch.tensor([value]))
        return [int(t) for t in found]

    def text(self, value: str) -> str:
        """What the first process says, at most 64 KiB."""
        if self.size == 1:
            return value
        import torch
        from torch import distributed

        buffer = torch.zeros(65_536 + 8, dtype=torch.uint8)
        if self.main:
            data = value.encode()
            buffer[:8] = torch.frombuffer(bytearray(len(data).to_bytes(8, "little")), dtype=torch.uint8)
            buffer[8 : 8 + len(data)] = torch.frombuffer(bytearray(data or b"\0"), dtype=torch.uint8)[
                : len(data)
            ]
        distributed.broadcast(buffer, 0)
        size = int.from_bytes(bytes(buffer[:8].tolist()), "little")
        return bytes(buffer[8 : 8 + size].tolist()).decode()

    def add_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of everybody's tensor, on the CPU; the given one is overwritten."""
        if self.size > 1:
            from torch import distributed

            distributed.all_reduce(tensor)
        return tensor

    def wait(self) -> None:
        """Until all are here."""
        self.sums(0.0)

    def add_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace every gradient by its sum over all processes (ddp). A missing gradient counts as zero."""
        if self.size == 1 or self.sharded:
            return
        import torch
        from torch import distributed

        for piece in _pieces(parameters):
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in piece]
            flat = torch.cat([g.reshape(-1).float() for g in gradients])
            distributed.all_reduce(flat)
            parts = torch.split(flat, [g.numel() for g in gradients])
            torch._foreach_copy_(gradients, [p.view_as(g) for p, g in zip(parts, gradients, strict=True)])
            for parameter, gradient in zip(piece, gradients, strict=True):
                parameter.grad = gradient

    def copy_from_main(self, tensors: Iterable[torch.Tensor]) -> None:
        """Give everybody the first process' values (ddp)."""
        if self.size == 1 or self.sharded:
            return
        from torch import distributed

        for tensor in tensors:
            distributed.broadcast(tensor.detach(), 0)


ALONE = World()
"""One process."""


def _pieces(parameters: Iterable[torch.nn.Parameter]) -> Iterator[list[torch.nn.Parameter]]:
    piece: list[torch.nn.Parameter] = []
    for parameter in parameters:
        if piece and sum(p.numel() for p in piece) + parameter.numel() > PIECE:
            yield piece
            piece = []
        piece.append(parameter)
    if piece:
        yield piece


def count() -> int:
    """Processes that torchrun started together with this one; 1 outside of it."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def kind_of(config: RunConfig) -> Parallel:
    """`--parallel`, or fsdp if accelerate's own configuration says so."""
    wanted = os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
    return "fsdp" if wanted else config.train.parallel


def own_device(device: str) -> str:
    """The device of this process for `--device`: with several processes auto and cuda are the GPU of its own number.

    Raises ModelError if there are more processes than GPUs.
    """
    import torch

    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device == "cpu" or (device in ("", "auto") and not torch.cuda.is_available()):
        return "cpu"
    if device not in ("", "auto", "cuda"):
        raise ModelError(
            f"--device {device} names one device, but {count()} processes were started. Use auto, or choose GPUs with "
            "CUDA_VISIBLE_DEVICES.",
            zh=f"--device {device} 只指定了一个设备，但启动了 {count()} 个进程。请用 auto，"
            "并用 CUDA_VISIBLE_DEVICES 选择显卡。",
        )
    there = torch.cuda.device_count()
    if local >= there:
        raise ModelError(
            f"{local + 1} processes on this machine, but {there} GPUs. Start one for each GPU.",
            zh=f"本机启动了至少 {local + 1} 个进程，但只有 {there} 块显卡。请按显卡数启动。",
        )
    return f"cuda:{local}"


def let_memory_grow() -> None:
    """Rows differ in length: blocks of GPU memory grow instead of piling up. Read when CUDA begins."""
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")


@contextmanager
def opened(*, device: str = "auto") -> Iterator[World]:
    """Join the processes that torchrun or accelerate started. Raises ModelError."""
    let_memory_grow()
    size = count()
    if size == 1:
        yield ALONE
        return
    import torch
    from torch import distributed

    own = own_device(device)
    backend = "cpu:gloo"
    if own != "cpu":
        torch.cuda.set_device(own)
        backend += ",cuda:nccl"
    distributed.init_process_group(backend, timeout=PATIENCE)
    world = World(distributed.get_rank(), size, int(os.environ.get("LOCAL_RANK", "0")))
    yield world
    # not after an error: taking leave of processes that are gone can take for ever
    distributed.destroy_process_group()
