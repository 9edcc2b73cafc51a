"""A frozen weight with LoRA in its border, so that a product with its LoRA is one product.

    [ W   sB-side: B | bias ]   rows: outputs         columns: inputs, rank, bias
    [ A            0 | 0    ]   rows: rank

Forward: P = s x A^T, then y = [x P 1] [W B bias]^T. Backward: G = s dy B, then dx = [dy G] [W; A], dB = dy^T P, dA = G^T x.
The sums are those of `y = x W^T + s (x A^T) B^T`, added up in float32 inside one product; no pass over y is spent on LoRA.
Layers that read the same input (q, k, v) share one plate: their A stand below each other, their B on a diagonal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

UNIT = 16
"""Rows of every matrix start at a multiple of 32 bytes."""


def up(number: int) -> int:
    """The next multiple of UNIT."""
    return -(-number // UNIT) * UNIT


@dataclass(frozen=True)
class Part:
    """One linear layer in a plate."""

    base: Any
    """torch's Linear or bitsandbytes' Linear4bit."""
    first: Any
    """LoRA's A, (rank, inputs), or None."""
    second: Any
    """LoRA's B, (outputs, rank), or None."""
    row: int
    """Where its outputs begin."""
    column: int
    """Where its rank begins, counted from the first of the plate."""

    @property
    def rank(self) -> int:
        """0 without LoRA."""
        return 0 if self.first is None else int(self.first.shape[0])


def _in_force(module: Any) -> str:
    """The adapter that a layer answers with; "" for none: an adapter need not have this layer among its targets.

    Raises ValueError for DoRA, which is more than two products.
    """
    name = next(iter(module.active_adapters), "") if hasattr(module, "lora_A") else ""
    if name not in getattr(module, "lora_A", ()):
        return ""
    if name in module.lora_magnitude_vector:
        raise ValueError("DoRA cannot be fused.")
    return str(name)


class Plate:
    """Linear layers with one input. `modules`: PEFT's LoRA layers, or plain ones."""

    def __init__(self, modules: list[Any]) -> None:
        parts: list[Part] = []
        scales: set[float] = set()
        row = column = 0
        for module in modules:
            base = module.base_layer if hasattr(module, "base_layer") else module
            first = second = None
            name = _in_force(module)
            if name:
                first, second = module.lora_A[name].weight, module.lora_B[name].weight
                scales.add(float(module.scaling[name]))
            parts.append(Part(base, first, second, row, column))
            row, column = row + base.out_features, column + parts[-1].rank
        if len(scales) > 1:
            raise ValueError(f"LoRA layers of one input scale differently: {sorted(scales)}")
        self.parts = parts
        self.inputs, self.outputs = int(parts[0].base.in_features), row
        self.rank = up(column)
        self.biased = any(p.base.bias is not None for p in parts)
        self.columns = self.inputs + self.rank + (UNIT if self.biased else 0)
        self.scale = scales.pop() if scales else 1.0

    @property
    def trained(self) -> list[Any]:
        """A and B of every part, in order."""
        return [w for p in self.parts if p.rank for w in (p.first, p.second)]

    # ------------------------------------------------------------ the matrix

    def new_matrix(self, like: Tensor) -> Tensor:
        """An empty plate, its border zero."""
        matrix = like.new_zeros(self.outputs + self.rank, self.columns)
        return matrix

    def new_input(self, tokens: int, *, like: Tensor) -> Tensor:
        """Room for [x P 1]."""
        room = like.new_zeros(tokens, self.columns)
        if self.biased:
            room[:, self.inputs + self.rank] = 1
        return room

    def own_input(self, tokens: int, *, like: Tensor) -> Tensor:
        """The same, to be kept: only what is not written anyway is set."""
        room = like.new_empty(tokens, self.columns)
        if self.biased:
            border = like.new_zeros(self.columns - self.inputs - self.rank)
            border[0] = 1
            room[:, self.inputs + self.rank :] = border
        return room

    def fill(self, matrix: Tensor, *, ops: Any) -> None:
        """Frozen weights and bias into the matrix."""
        for part in self.parts:
            rows = slice(part.row, part.row + part.base.out_features)
            target, weight = matrix[rows, : self.inputs], part.base.weight
            state = getattr(weight, "quant_state", None)
            if state is None:
                target.copy_(weight.detach())
            else:
                ops.unpack_nf4(weight.data, state, target)
            if part.base.bias is not None:
                matrix[rows, self.inputs + self.rank].copy_(part.base.bias.detach())

    def border(self, matrix: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Where A and B stand in a matrix, and what stands there now: for one copy of many."""
        places, values = [], []
        for part in self.parts:
            if part.rank:
                top, left = self.outputs + part.column, self.inputs + part.column
                places.append(matrix[top : top + part.rank, : self.inputs])
                places.append(matrix[part.row : part.row + part.base.out_features, left : left + part.rank])
                values += [part.first.detach(), part.second.detach()]
        return places, values

    # ------------------------------------------------------------ products

    def forward(self, matrix: Tensor, room: Tensor, out: Tensor) -> None:
        """out = y; x stands in `room`, P is put beside it."""
        import torch

        if self.rank:
            middle = room[:, self.inputs : self.inputs + self.rank]
            below = matrix[self.outputs :, : self.inputs]
            torch.addmm(middle, room[:, : self.inputs], below.T, beta=0, alpha=self.scale, out=middle)
        torch.mm(room, matrix[: self.outputs].T, out=out)

    def middle(self, matrix: Tensor, x: Tensor) -> Tensor:
        """P alone."""
        import torch

        below = matrix[self.outputs :, : self.inputs]
        out = x.new_empty(x.shape[0], self.rank)
        return torch.addmm(out, x, below.T, beta=0, alpha=self.scale, out=out)

    def beside(self, grad: Tensor) -> Tensor:
        """G, where `backward` put it."""
        return grad[:, self.outputs : self.outputs + self.rank]

    def middle_of(self, room: Tensor) -> Tensor:
        """P, where `forward` put it."""
        return room[:, self.inputs : self.inputs + self.rank]

    def backward(self, matrix: Tensor, grad: Tensor, dx: Tensor | None) -> None:
        """dx, if somebody wants it; dy stands in `grad`, G is put beside it."""
        import torch

        if self.rank:
            beside = grad[:, self.outputs : self.outputs + self.rank]
            right = matrix[: self.outputs, self.inputs : self.inputs + self.rank]
            torch.addmm(beside, grad[:, : self.outputs], right, beta=0, alpha=self.scale, out=beside)
        if dx is not None:
            torch.mm(grad[:, : self.outputs + self.rank], matrix[:, : self.inputs], out=dx)

    def backward_joined(self, matrix: Tensor, grad: Tensor, dx: Tensor) -> None:
        """The same for a wide dy: [dx G] = dy [W B] first, so that dy is not read again for G; G stands beside dx.

        *Shape:* grad `(tokens, >= outputs)`, dx `(tokens, inputs + rank)`.
        """
        import torch

        torch.mm(grad[:, : self.outputs], matrix[: self.outputs, : self.inputs + self.rank], out=dx)
        if self.rank:
            beside, below = dx[:, self.inputs :], matrix[self.outputs :, : self.inputs]
            wide = dx[:, : self.inputs]
            torch.addmm(wide, beside, below, alpha=self.scale, out=wide)

    def second_grads(self, grad: Tensor, middle: Tensor) -> list[Tensor]:
        """dB of every part; dy stands in `grad`."""
        if not self.rank:
            return []
        whole = grad[:, : self.outputs].T @ middle
        return [
            whole[p.row : p.row + p.base.out_features, p.column : p.column + p.rank]
            for p in self.parts
            if p.rank
        ]

    def first_grads(self, beside: Tensor, x: Tensor, *, scale: float = 1.0) -> list[Tensor]:
        """dA of every part. `beside`: G, or G before it is scaled and its `scale`."""
        if not self.rank:
            return []
        whole = beside.T @ x
        if scale != 1:
            whole *= scale
        return [whole[p.column : p.column + p.rank] for p in self.parts if p.rank]


def interleave(first: list[torch.Tensor], second: list[torch.Tensor]) -> list[torch.Tensor]:
    """Gradients in the order of `trained`."""
    return [g for pair in zip(first, second, strict=True) for g in pair]
