"""The weights of the best evaluation, kept in the run folder for early stopping."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from finetune.parallel import World
from finetune.shards import part_like, whole

if TYPE_CHECKING:
    from finetune.optimizer import Optimizer

FILE = "best.safetensors"


def keep(folder: Path, *, optimizer: Optimizer, world: World) -> None:
    """Write the masters as they are now; every process must call it, the first one writes."""
    from safetensors.torch import save_file

    masters = {n: whole(t.detach()).cpu().contiguous().clone() for n, t in optimizer.masters.items()}
    if world.main:
        work = folder / f".{FILE}"
        save_file(masters, work)
        work.replace(folder / FILE)
    world.wait()


def take(folder: Path, *, optimizer: Optimizer) -> None:
    """Put them back into the model."""
    import torch
    from safetensors.torch import load_file

    best = load_file(folder / FILE)
    with torch.no_grad():
        for name, master in optimizer.masters.items():
            master.copy_(part_like(best[name], master))
    optimizer.publish()
