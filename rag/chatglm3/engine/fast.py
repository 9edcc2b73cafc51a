"""One decoding step through our own kernels: five launches a layer, the same for every length, so it is captured once.

Needs an NVIDIA GPU and Triton. Kernels are compiled on a thread of their own and kept on disk by Triton; until they are
there the engine answers through torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rag.chatglm3.engine.tiles import SEVERAL, SINGLE
from rag.chatglm3.engine.weights import INT8, NF4, NotForKernels, Weights, weights_of

if TYPE_CHECKING:
    import torch

    from rag.chatglm3.engine.lora import LoraStack
    from rag.chatglm3.engine.network import Block, Network

MOST_ROWS = 64
PIECES = 128
"""The cache of a slot is looked at in at most so many pieces, by as many programs."""
SHORTEST_PIECE = 64
MOST_WORDS = 16_384
"""Numbers of the adapters' first halves that a program can wait for."""
SPAN = 1024
"""Inputs of one program's part of one rank of an adapter's first half."""


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
    """The weights of one layer, joined where they share their input. Raises NotForKernels."""
    products = [
        weights_of(product.layers, lora=product.lora)
        for product in (block.qkv, block.out, block.gate_up, block.down)
    ]
    for weights in products:
        _must_be_known(weights)
    return Layer(block.norm.weight.detach(), block.second_norm.weight.detach(), *products)


def _must_be_known(weights: Weights) -> None:
    """nf4's numbers are written into the kernel. Raises NotForKernels for others."""
    import torch

    from rag.chatglm3.engine.kernels.nf4 import NUMBERS

    if weights.table is not None and not torch.allclose(
        weights.table.cpu(), torch.tensor(NUMBERS), atol=1e-6, rtol=0
    ):
        raise NotForKernels("4-bit weights with another table of numbers")


class FastStep:
    """A step for `rows` rows. `positions`, `slots`, `adapter` are read and `ids`, `logits` written at fixed addresses."""

    def __init__(self, network: Network, layers: list[Layer], *, rows: int, lora: bool) -> None:
        import torch

        if rows > MOST_ROWS:
            raise NotForKernels(f"{rows} rows at once")
        shape, device, dtype = network.shape, network.device, network.dtype
        self._network, self._layers, self._rows, self._lora = network, layers, rows, lora
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
        if lora and ranks * parts_of(shape.ffn) > MOST_WORDS:
            raise NotForKernels(f"adapters of {ranks} ranks together")
        self._ranks = empty(rows, ranks, kind=torch.float32)
        self._words = empty(4 * len(layers), parts_of(shape.ffn) * ranks, kind=torch.int64)
        self._epoch = empty(1, kind=torch.int32)
        self._normed = empty(rows, shape.hidden)
        packed = [w for x in layers for w in _products(x) if w.kind == NF4] if rows > 1 else []
        self._scratch = empty(max((w.outputs * w.inputs for w in packed), default=1))
        """nf4 with several rows: the weights of one product at a time in the model's dtype."""
        self._assemble = device.type == "cuda"
        self._multiprocessors = (
            torch.cuda.get_device_properties(device).multi_processor_count if self._assemble else 4
        )
        if packed or layers[0].qkv.kind == NF4:
            from rag.chatglm3.engine.kernels.nf4 import ALPHA, NUMBERS, words

            self._bytes = words()
            self._table = torch.tensor(NUMBERS, device=device) * ALPHA

    def run(self) -> None:
        """One token for every row: its id from `next_ids` in, logits out. No synchronisation."""
        import torch

        network = self._network
        torch.index_select(network.next_ids, 0, self.slots, out=self.ids)
        torch.index_select(network.embed.weight, 0, self.ids, out=self._hidden)
        self._epoch += 1
        hidden = self._hidden
        for number, layer in enumerate(self._layers):
            words = self._words[4 * number :]
            self._product(hidden, layer.qkv, self._qkv, words[0], norm=layer.norm)
            self._attend(number)
            self._product(self._mixed, layer.out, hidden, words[1], residual=hidden)
            self._product(hidden, layer.gate_up, self._inner, words[2], norm=layer.second_norm, swiglu=True)
            self._product(self._inner, layer.down, hidden, words[3], residual=hidden)
        self._product(hidden, self._head, self.logits, self._words[0], norm=network.norm.weight)

    def _product(
        self,
        x: torch.Tensor,
        weights: Weights,
        out: torch.Tensor,
        words: torch.Tensor,
        *,
        norm: torch.Tensor | None = None,
        residual: torch.Tensor | None = None,
        swiglu: bool = False,
    ) -> None:
        lora = weights.lora if self._lora else None
        ranks = 0 if lora is None else lora.down.shape[0]
        what: dict[str, Any] = {
            "N": weights.outputs // 2 if swiglu else weights.outputs, "K": weights.inputs,
            "BIAS": weights.bias is not None, "RESIDUAL": residual is not None, "SWIGLU": swiglu,
            "RANKS": ranks, "WIDE": max(16, 1 << (ranks - 1).bit_length()) if ranks else 16,
        }  # fmt: skip
        if self._rows == 1:
            what["PARTS"] = parts_of(weights.inputs)
        bias = x if weights.bias is None else weights.bias
        left = x if residual is None else residual
        if self._rows > 1:
            self._several(x, weights, bias, left, out, lora, norm, what)
        elif weights.kind == NF4:
            self._four_bits(x, weights, bias, left, out, lora, norm, words, what)
        else:
            self._plain(x, weights, bias, left, out, lora, norm, words, what)

    def _adapters(self, lora: LoraStack | None, words: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What a single row's kernel reads of the adapters."""
        if lora is None:
            return words, words, words, words, words, words
        return lora.down, lora.up, lora.owner, self.adapter, words, self._epoch

    def _plain(
        self,
        x: Any,
        weights: Weights,
        bias: Any,
        left: Any,
        out: Any,
        lora: Any,
        norm: Any,
        words: Any,
        what: Any,
    ) -> None:
        from rag.chatglm3.engine.kernels.single import plain

        cut = SINGLE["plain, long" if weights.inputs >= weights.outputs else "plain"]
        inputs = min(cut.inputs, max(64, 1 << (weights.inputs - 1).bit_length()))
        scale = x if weights.offset is None else weights.offset
        plain[(what["RANKS"] * what["PARTS"] - (-what["N"] // cut.outputs),)](
            x, x if norm is None else norm, weights.weight, scale, bias, left, out, self._network.shape.epsilon,
            *self._adapters(lora, words), **what, INT8=weights.kind == INT8, NORM=norm is not None,
            BN=cut.outputs, BK=inputs, num_warps=cut.warps,
        )  # fmt: skip

    def _four_bits(
        self,
        x: Any,
        weights: Weights,
        bias: Any,
        left: Any,
        out: Any,
        lora: Any,
        norm: Any,
        words: Any,
        what: Any,
    ) -> None:
        import torch

        from rag.chatglm3.engine.kernels.four_bits import four_bits, long

        kind = {torch.bfloat16: 0, torch.float16: 1, torch.float32: 2}[x.dtype]
        whole = torch.int64 if kind == 2 else torch.int32
        cut = SINGLE["nf4"]
        if weights.inputs > cut.inputs and norm is None:
            cut = SINGLE["nf4, long"]
            what.pop("SWIGLU")
            long[(what["RANKS"] * what["PARTS"] - (-what["N"] // cut.outputs),)](
                x, x.view(whole), weights.weight.view(-1).view(torch.int32), weights.scales, weights.code, weights.outer, weights.offset, self._table,
                self._bytes, bias, left, out, *self._adapters(lora, words), **what, KIND=kind, BN=cut.outputs, BK=cut.inputs,
                ASSEMBLE=self._assemble, num_warps=cut.warps,
            )  # fmt: skip
            return
        if what["SWIGLU"] and what["RANKS"]:
            cut = SINGLE["nf4, wide"]
        inputs = max(64, 1 << (weights.inputs - 1).bit_length())
        factor = x if norm is None else norm
        programs = min(cut.each * self._multiprocessors, -(-what["N"] // cut.outputs))
        four_bits[(what["RANKS"] * what["PARTS"] + programs,)](
            x, x.view(whole), factor, factor.view(whole), weights.weight.view(-1).view(torch.int32), weights.scales, weights.code, weights.outer,
            weights.offset, self._table, self._bytes, bias, left, out, self._network.shape.epsilon,
            *self._adapters(lora, words), **what, KIND=kind, NORM=norm is not None, BN=cut.outputs, BK=inputs,
            PROGRAMS=programs, ASSEMBLE=self._assemble, num_warps=cut.warps,
        )  # fmt: skip

    def _several(
        self, x: Any, weights: Weights, bias: Any, left: Any, out: Any, lora: Any, norm: Any, what: Any
    ) -> None:
        from rag.chatglm3.engine.kernels.adapters import down_rows
        from rag.chatglm3.engine.kernels.nf4 import dequantise
        from rag.chatglm3.engine.kernels.several import normalise, several

        if norm is not None:
            wide = 1 << (weights.inputs - 1).bit_length()
            normalise[(self._rows,)](
                x, norm, self._normed, self._network.shape.epsilon, K=weights.inputs, BK=wide, num_warps=8
            )
            x = self._normed
        weight = weights.weight
        if weights.kind == NF4:
            weight, size = self._scratch, weights.outputs * weights.inputs // 2
            dequantise[(-(-size // 2048),)](
                weights.weight, weights.scales, weights.code, weights.outer, weights.offset, self._table, self._bytes, weight, size,
                K=weights.inputs, BLOCK=2048, ASSEMBLE=self._assemble, num_warps=4,
            )  # fmt: skip
        if lora is not None:
            down_rows[(what["RANKS"], self._rows)](
                x, lora.down, lora.owner, self.adapter, self._ranks, K=weights.inputs, RANKS=what["RANKS"], BK=2048,
                num_warps=4,
            )  # fmt: skip
        scale = x if weights.offset is None else weights.offset
        several[(-(-what["N"] // SEVERAL.outputs),)](
            x, weight, scale, bias, left, out, self._rows, self._ranks, weight if lora is None else lora.up, **what,
            INT8=weights.kind == INT8, BM=max(16, 1 << (self._rows - 1).bit_length()), BN=SEVERAL.outputs,
            BK=SEVERAL.inputs, STAGES=SEVERAL.stages, num_warps=SEVERAL.warps,
        )  # fmt: skip

    def _attend(self, number: int) -> None:
        from rag.chatglm3.engine.kernels.attention import join, pieces

        network, shape = self._network, self._network.shape
        keys, values = network.cache.keys[number], network.cache.values[number]
        heads: dict[str, Any] = {
            "GROUPS": shape.groups, "PER_GROUP": self._per_group, "BH": self._tile, "DIM": shape.head_dim,
            "PIECE": self._piece, "PIECES": self._pieces,
        }  # fmt: skip
        pieces[(self._rows, shape.groups, self._pieces)](
            self._qkv, keys, values, network.cos, network.sin, self.positions, self.slots,
            self._part, self._top, self._sum, shape.head_dim**-0.5, network.cache.length, keys.stride(0), keys.stride(1),
            ROTARY=2 * network.cos.shape[1], BT=64, num_warps=4, **heads,
        )  # fmt: skip
        join[(self._rows, shape.heads)](
            self._part, self._top, self._sum, self.positions, self._mixed, network.cache.length,
            BP=max(2, 1 << (self._pieces - 1).bit_length()), num_warps=4, **heads,
        )  # fmt: skip


def parts_of(inputs: int) -> int:
    """Programs that share one rank of an adapter's first half; a power of two."""
    return 1 << (-(-inputs // SPAN) - 1).bit_length()


def _products(layer: Layer) -> tuple[Weights, ...]:
    return layer.qkv, layer.out, layer.gate_up, layer.down
