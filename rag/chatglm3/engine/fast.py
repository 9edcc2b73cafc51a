"""One decoding step through our own kernels: five launches a layer, the same for every length, so it is captured once.

Needs an NVIDIA GPU and Triton. Kernels are compiled on a thread of their own and kept on disk by Triton; until they are
there the engine answers through torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rag.chatglm3.engine.weights import INT8, NF4, PLAIN, NotForKernels, Weights, weights_of

if TYPE_CHECKING:
    import torch

    from rag.chatglm3.engine.network import Block, Network

MOST_ROWS = 64
PIECES = 64
"""The cache of a slot is looked at in at most so many pieces, by as many programs."""
SHORTEST_PIECE = 128


@dataclass(frozen=True, slots=True)
class Tiles:
    """How a product is cut: outputs and inputs of one program at a time, its warps, loads under way."""

    outputs: int
    inputs: int
    warps: int
    stages: int = 1


SINGLE = {
    PLAIN: Tiles(2, 4096, 4),
    NF4: Tiles(4, 4096, 4),
    INT8: Tiles(4, 4096, 4),
}
SEVERAL = {
    PLAIN: Tiles(16, 256, 4, 4),
    NF4: Tiles(32, 128, 4, 2),
    INT8: Tiles(16, 256, 4, 4),
}


def why_not(network: Network) -> str:
    """Why this model cannot be decoded with the kernels; empty if it can."""
    try:
        import triton  # noqa: F401
    except ImportError:
        return "Triton is not installed"
    size = network.shape.head_dim
    if size & (size - 1) or size < 16:
        return f"heads of {size} dimensions"
    try:
        for block in network.blocks:
            layers_of(block)
    except NotForKernels as reason:
        return str(reason)
    return ""


@dataclass(frozen=True, slots=True)
class Layer:
    """What one layer's kernels read."""

    norm: torch.Tensor
    second_norm: torch.Tensor
    qkv: Weights
    out: Weights
    gate_up: Weights
    down: Weights


def layers_of(block: Block) -> Layer:
    """The weights of one layer, joined where they share their input."""
    products = [
        weights_of(product.layers, lora=product.lora)
        for product in (block.qkv, block.out, block.gate_up, block.down)
    ]
    return Layer(block.norm.weight.detach(), block.second_norm.weight.detach(), *products)


class FastStep:
    """A step for `rows` rows. `positions`, `slots`, `adapter` are read and `ids`, `logits` written at fixed addresses."""

    def __init__(
        self, network: Network, layers: list[Layer], *, rows: int, lora: bool, overlap: bool
    ) -> None:
        import torch

        if rows > MOST_ROWS:
            raise NotForKernels(f"{rows} rows at once")
        shape, device, dtype = network.shape, network.device, network.dtype
        self._network, self._layers, self._rows, self._lora = network, layers, rows, lora
        self._overlap = overlap
        self._head = weights_of([network.head])
        self.ids = torch.zeros(rows, dtype=torch.long, device=device)
        self.inputs = torch.zeros(3, rows, dtype=torch.long, device=device)
        self.positions, self.slots, self.adapter = self.inputs
        self.positions.fill_(network.cache.length)

        def empty(*size: int, kind: Any = dtype) -> torch.Tensor:
            return torch.zeros(size, dtype=kind, device=device)

        wide = (shape.heads + 2 * shape.groups) * shape.head_dim
        self._hidden, self._qkv = empty(rows, shape.hidden), empty(rows, wide)
        self._mixed, self._inner = empty(rows, shape.heads * shape.head_dim), empty(rows, shape.ffn)
        self.logits = empty(rows, shape.vocabulary, kind=torch.float32)
        self._piece = max(
            SHORTEST_PIECE, -(-network.cache.length // PIECES // SHORTEST_PIECE) * SHORTEST_PIECE
        )
        self._pieces = -(-network.cache.length // self._piece)
        self._per_group = shape.heads // shape.groups
        self._tile = max(16, 1 << (self._per_group - 1).bit_length())
        parts = (rows * shape.groups, self._pieces, self._tile)
        self._part = empty(*parts, shape.head_dim, kind=torch.float32)
        self._top, self._sum = empty(*parts, kind=torch.float32), empty(*parts, kind=torch.float32)
        ranks = max((w.lora.down.shape[0] for x in layers for w in _products(x) if w.lora), default=1)
        self._ranks = empty(rows, ranks, kind=torch.float32)

    def run(self) -> None:
        """One token for every row: its id from `next_ids` in, logits and the likeliest id out. No synchronisation."""
        import torch

        network = self._network
        torch.index_select(network.next_ids, 0, self.slots, out=self.ids)
        torch.index_select(network.embed.weight, 0, self.ids, out=self._hidden)
        hidden = self._hidden
        for number, layer in enumerate(self._layers):
            self._product(hidden, layer.qkv, self._qkv, norm=layer.norm)
            self._attend(number)
            self._product(self._mixed, layer.out, hidden, residual=hidden)
            self._product(hidden, layer.gate_up, self._inner, norm=layer.second_norm, swiglu=True)
            self._product(self._inner, layer.down, hidden, residual=hidden)
        self._product(hidden, self._head, self.logits, norm=network.norm.weight)

    def _product(
        self,
        x: torch.Tensor,
        weights: Weights,
        out: torch.Tensor,
        *,
        norm: torch.Tensor | None = None,
        residual: torch.Tensor | None = None,
        swiglu: bool = False,
    ) -> None:
        from rag.chatglm3.engine.kernels.product import adapters_down, several, single

        outputs = weights.outputs // 2 if swiglu else weights.outputs
        epsilon, ranks, any_tensor = self._network.shape.epsilon, 0, x
        pdl: dict[str, Any] = {"PDL": True, "launch_pdl": True} if self._overlap else {"PDL": False}
        up: torch.Tensor | None = None
        if self._lora and weights.lora is not None:
            stack, up = weights.lora, weights.lora.up
            ranks = stack.down.shape[0]
            adapters_down[(ranks, self._rows)](
                x, any_tensor if norm is None else norm, stack.down, stack.owner, self.adapter, self._ranks, epsilon,
                K=weights.inputs, NORM=norm is not None, RANKS=ranks, BK=2048, num_warps=4, **pdl,
            )  # fmt: skip

        def or_any(tensor: torch.Tensor | None) -> torch.Tensor:
            return any_tensor if tensor is None else tensor

        read = (
            x, or_any(norm), weights.weight, or_any(weights.scales), or_any(weights.code), or_any(weights.outer),
            or_any(weights.offset), or_any(weights.table), or_any(weights.bias), or_any(residual), self._ranks, or_any(up),
            out, epsilon,
        )  # fmt: skip
        kind: dict[str, Any] = {
            "N": outputs, "K": weights.inputs, "KIND": weights.kind, "NORM": norm is not None,
            "BIAS": weights.bias is not None, "RESIDUAL": residual is not None, "SWIGLU": swiglu,
            "RANKS": ranks, "WIDE": max(16, 1 << (ranks - 1).bit_length()) if ranks else 16,
        }  # fmt: skip
        if self._rows == 1:
            cut = SINGLE[weights.kind]
            inputs = min(cut.inputs, max(64, 1 << (weights.inputs - 1).bit_length()))
            single[(-(-outputs // cut.outputs),)](
                *read, **kind, BN=cut.outputs, BK=inputs, num_warps=cut.warps, **pdl
            )
            return
        cut = SEVERAL[weights.kind]
        several[(-(-outputs // cut.outputs),)](
            *read, self._rows, **kind, BM=max(16, 1 << (self._rows - 1).bit_length()), BN=cut.outputs, BK=cut.inputs,
            STAGES=cut.stages, num_warps=cut.warps, **pdl,
        )  # fmt: skip

    def _attend(self, number: int) -> None:
        from rag.chatglm3.engine.kernels.attention import join, pieces

        network, shape = self._network, self._network.shape
        keys, values = network.cache.keys[number], network.cache.values[number]
        pdl: dict[str, Any] = {"PDL": True, "launch_pdl": True} if self._overlap else {"PDL": False}
        heads: dict[str, Any] = {
            "GROUPS": shape.groups, "PER_GROUP": self._per_group, "BH": self._tile, "DIM": shape.head_dim,
            "PIECE": self._piece, "PIECES": self._pieces,
        }  # fmt: skip
        pieces[(self._rows, shape.groups, self._pieces)](
            self._qkv, keys, values, network.cos, network.sin, self.positions, self.slots,
            self._part, self._top, self._sum, shape.head_dim**-0.5, network.cache.length, keys.stride(0), keys.stride(1),
            ROTARY=2 * network.cos.shape[1], BT=64, num_warps=4, **heads, **pdl,
        )  # fmt: skip
        join[(self._rows, shape.heads)](
            self._part, self._top, self._sum, self.positions, self._mixed, network.cache.length,
            BP=max(2, 1 << (self._pieces - 1).bit_length()), num_warps=4, **heads, **pdl,
        )  # fmt: skip


def _products(layer: Layer) -> tuple[Weights, ...]:
    return layer.qkv, layer.out, layer.gate_up, layer.down
