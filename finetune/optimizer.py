"""AdamW over float32 master weights, with its state in plain tensors: what is written is what is read back.

16-bit weights lose small updates, so each has a float32 master that the optimiser moves; the model sees it rounded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finetune.config import RunConfig
from finetune.shards import part_like, whole
from kb.errors import MissingExtra, ModelError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

NUMBER = "number."
"""Before the name of a state that is a plain number."""
NO_DECAY = ("bias", "norm", "embedding")
"""Weights with these in their name are not decayed."""


@dataclass(slots=True)
class Scaler:
    """Loss scaling for float16: up while nothing overflows, down at once if something does. 1 and idle otherwise."""

    scale: float = 1.0
    good: int = 0
    active: bool = False

    def after(self, finite: bool) -> None:
        """Take note of a step."""
        if not self.active:
            return
        self.good = self.good + 1 if finite else 0
        if not finite:
            self.scale = max(1.0, self.scale / 2)
        elif self.good % 1000 == 0:
            self.scale = min(2.0**24, self.scale * 2)


class Optimizer:
    """What moves the trainable weights. `named` maps their names to the model's own parameters.

    `weight`: about what a step's loss is a sum over. float16 begins with a scale of 2^16 for their mean; with that for the
    sum, the first steps of every run would overflow and be left out.
    """

    def __init__(
        self, named: dict[str, torch.nn.Parameter], *, config: RunConfig, weight: float = 1.0
    ) -> None:
        import torch

        if not named:
            raise ModelError("nothing is trainable with these options.", zh="这些选项下没有可训练的参数。")
        self.named, self.config = named, config
        self.masters: dict[str, Tensor] = {
            name: p if p.dtype == torch.float32 else p.detach().float().clone() for name, p in named.items()
        }
        self.scaler = Scaler()
        if any(p.dtype == torch.float16 for p in named.values()):
            self.scaler = Scaler(
                scale=2.0 ** max(0, 16 - math.ceil(math.log2(max(1.0, weight)))), active=True
            )
        self.inner = _inner(self._groups(), config)

    def _groups(self) -> list[dict[str, Any]]:
        """Masters by how fast they move and whether they decay."""
        ratio = self.config.method.loraplus_lr_ratio or 1.0
        groups: dict[tuple[float, float], list[Tensor]] = {}
        for name, master in self.masters.items():
            speed = ratio if "lora_B" in name else 1.0
            decay = 0.0 if any(part in name.lower() for part in NO_DECAY) else self.config.train.weight_decay
            groups.setdefault((speed, decay), []).append(master)
        return [
            {"params": params, "speed": speed, "weight_decay": decay, "lr": self.config.train.learning_rate}
            for (speed, decay), params in groups.items()
        ]

    def step(self, *, factor: float, tokens: int) -> tuple[float, bool]:
        """One update from the gradients that stand in the model, the sum over `tokens` trained tokens.

        Returns the norm of the mean gradient before clipping, and whether the step was taken: a float16 overflow
        leaves it out. A norm that is not finite without float16 is the caller's to report: no update is made.
        """
        import torch

        divisor = self.scaler.scale * max(1, tokens)
        gradients = []
        for name, parameter in self.named.items():
            master = self.masters[name]
            if parameter.grad is None:
                master.grad = None
                continue
            gradient = parameter.grad.float()
            parameter.grad = None
            master.grad = gradient
            gradients.append(gradient)
        if gradients:
            torch._foreach_div_(gradients, divisor)
        norm = float(whole(torch.nn.utils.get_total_norm(gradients))) if gradients else 0.0
        finite = math.isfinite(norm)
        self.scaler.after(finite)
        if finite:
            limit = self.config.train.max_grad_norm
            if limit and norm > limit:
                torch._foreach_mul_(gradients, limit / (norm + 1e-6))
            for group in self.inner.param_groups:
                group["lr"] = self.config.train.learning_rate * factor * group["speed"]
            self.inner.step()
            self.publish()
        for master in self.masters.values():
            master.grad = None
        return norm, finite

    def publish(self) -> None:
        """Masters into the model, rounded to its dtype."""
        import torch

        with torch.no_grad():
            pairs = [(p, self.masters[n]) for n, p in self.named.items() if p is not self.masters[n]]
            if pairs:
                torch._foreach_copy_([p for p, _ in pairs], [m for _, m in pairs])

    def tensors(self) -> dict[str, Tensor]:
        """Masters and moments by name, whole, for a checkpoint. With sharded weights all processes must ask."""
        import torch

        out: dict[str, Tensor] = {}
        for name, master in self.masters.items():
            out[f"master/{name}"] = _kept(master)
            for key, value in self.inner.state.get(master, {}).items():
                if isinstance(value, int):  # bitsandbytes counts its steps in plain numbers
                    out[f"{NUMBER}{key}/{name}"] = torch.tensor(value)
                elif isinstance(value, torch.Tensor):
                    out[f"{key}/{name}"] = _kept(value)
        return out

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """The opposite of `tensors`. Raises ModelError if they belong to other weights."""
        import torch

        wanted = {name.split("/", 1)[1] for name in tensors}
        if wanted != set(self.masters):
            raise ModelError(
                "the checkpoint is of other trainable weights. Resume with the options that the run began with.",
                zh="检查点与当前可训练参数不符。请用开始训练时的选项续训。",
            )
        with torch.no_grad():
            for name, master in self.masters.items():
                master.copy_(part_like(tensors[f"master/{name}"], master))
                state: dict[str, Any] = {}
                for key, value in tensors.items():
                    part, owner = key.split("/", 1)
                    if owner != name or part == "master":
                        continue
                    if part.startswith(NUMBER):
                        state[part.removeprefix(NUMBER)] = int(value)
                    else:
                        state[part] = part_like(value, master).clone()
                if state:
                    self.inner.state[master] = state
        self.publish()


def _kept(tensor: Tensor) -> Tensor:
    """A whole tensor; one that was gathered waits on the CPU, so that never two are there at once."""
    gathered = whole(tensor.detach())
    return gathered.cpu() if hasattr(tensor, "full_tensor") else gathered


def _inner(groups: list[dict[str, Any]], config: RunConfig) -> Any:
    import torch

    train = config.train
    common = {"betas": (train.adam_beta1, train.adam_beta2), "eps": train.adam_epsilon}
    device = groups[0]["params"][0].device.type
    if train.optim == "adamw":
        kind = {"fused": True} if device == "cuda" else {"foreach": False}
        return torch.optim.AdamW(groups, **common, **kind)  # type: ignore[arg-type]
    if device != "cuda":
        raise ModelError(
            f"--optim {train.optim} works on a GPU only. Use --optim adamw.",
            zh=f"--optim {train.optim} 只能在 GPU 上用，请改用 --optim adamw。",
        )
    try:
        import bitsandbytes
    except ImportError as error:
        raise MissingExtra("bitsandbytes", "gpu", "8-bit AdamW") from error
    paged = train.optim == "paged_adamw_8bit"
    return bitsandbytes.optim.AdamW8bit(groups, **common, is_paged=paged)
