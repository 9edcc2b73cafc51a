"""All LoRA adapters of a layer side by side, so that every row of a batch can use its own in the same two products.

The down projections are stacked into one matrix and the up projections into another; a row's gate is 1 for the columns
of its adapter and 0 for all others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kb.errors import ModelError

if TYPE_CHECKING:
    import torch


def base_of(module: Any) -> Any:
    """The linear layer itself, under PEFT's wrapper if there is one."""
    return module.base_layer if hasattr(module, "base_layer") else module


@dataclass(frozen=True, slots=True)
class Part:
    """Where the weights of one adapter on one layer come from and where they lie in the stack."""

    source_down: Any
    source_up: Any
    """PEFT's two linear layers."""
    scaling: float
    down: torch.Tensor
    up: torch.Tensor
    """Views of the stack."""


def refresh(stacks: Sequence[LoraStack]) -> None:
    """Copy the adapters' weights, as they stand in the model now, to where the stacks keep them: a few launches in all.

    The addresses stay, so captured graphs see them. Call it inside torch.inference_mode().
    """
    import torch

    parts = [part for stack in stacks for part in stack.parts]
    if not parts:
        return
    sources = [p.source_down.weight.detach() for p in parts] + [p.source_up.weight.detach() for p in parts]
    targets = [p.down for p in parts] + [p.up for p in parts]
    torch._foreach_copy_(targets, sources)
    scaled = [p for p in parts if p.scaling != 1.0]
    if scaled:
        torch._foreach_mul_([p.up for p in scaled], [p.scaling for p in scaled])


class LoraStack:
    """The adapters on one product, which may be several layers with the same input (q, k and v)."""

    def __init__(
        self, down: torch.Tensor, up: torch.Tensor, owner: torch.Tensor, parts: Sequence[Part] = ()
    ) -> None:
        self.down, self.up, self.owner = down, up, owner
        """(ranks, in), (out, ranks), (ranks,) index of the adapter."""
        self.parts = tuple(parts)

    @classmethod
    def of(
        cls, modules: Sequence[Any], *, numbers: Mapping[str, int], like: torch.Tensor
    ) -> LoraStack | None:
        """Collect the adapters of `modules`, whose outputs stand one after the other. None if there are none.

        `numbers`: adapter name -> its index; `like` gives dtype and device. Raises ModelError for what is not plain LoRA.
        """
        import torch

        downs, ups, spans = [], [], []
        owners: list[int] = []
        rows = [base_of(module).out_features for module in modules]
        for place, module in enumerate(modules):
            for name, number in numbers.items():
                if name not in getattr(module, "lora_A", {}):
                    continue
                _must_be_plain(module, name)
                a, b = module.lora_A[name].weight, module.lora_B[name].weight
                up = torch.zeros(sum(rows), a.shape[0], dtype=like.dtype, device=like.device)
                start = sum(rows[:place])
                up[start : start + rows[place]] = b.detach().float() * module.scaling[name]
                downs.append(a.detach().to(like))
                ups.append(up)
                spans.append(
                    (module, name, start, start + rows[place], len(owners), len(owners) + a.shape[0])
                )
                owners += [number] * a.shape[0]
        if not downs:
            return None
        owner = torch.tensor(owners, device=like.device)
        down, up = torch.cat(downs).contiguous(), torch.cat(ups, dim=1).contiguous()
        parts = [
            Part(m.lora_A[n], m.lora_B[n], m.scaling[n], down[left:right], up[top:bottom, left:right])
            for m, n, top, bottom, left, right in spans
        ]
        return cls(down, up, owner, parts)

    def add(self, out: torch.Tensor, *, inputs: torch.Tensor, adapter: torch.Tensor) -> torch.Tensor:
        """`out` plus what each row's adapter adds.

        *Shape:* inputs (rows, tokens, in), out (rows, tokens, out), adapter (rows,) with -1 for none.
        """
        import torch

        gate = (adapter[:, None] == self.owner[None, :]).to(inputs.dtype)
        inner = torch.nn.functional.linear(inputs, self.down) * gate[:, None, :]
        return torch.addmm(out.flatten(0, 1), inner.flatten(0, 1), self.up.T).view_as(out)


def _must_be_plain(module: Any, name: str) -> None:
    variant = getattr(module, "lora_variant", {})
    if name in variant or getattr(module.lora_B[name], "bias", None) is not None:
        raise ModelError(
            f"The adapter {name!r} is not plain LoRA (DoRA or biases): load it merged.",
            zh=f"适配器 {name!r} 不是普通 LoRA（DoRA 或带偏置）：请合并后加载。",
        )


def check_places(base: Any, *, known: set[int]) -> None:
    """Raise ModelError if an adapter sits on a layer that the engine does not add it to. `known`: ids of modules."""
    for name, module in base.named_modules():
        # PEFT's wrapper around a copy: modules_to_save, trained tokens
        whole = hasattr(module, "original_module")
        if whole or (hasattr(module, "lora_A") and id(module) not in known):
            raise ModelError(
                f"An adapter changes {name}, which the engine cannot switch per request: load it merged.",
                zh=f"有适配器改动了 {name}，引擎无法按请求切换：请合并后加载。",
            )
