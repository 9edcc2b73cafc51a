"""The forward pass of GLM over a cache of slots. The same numbers as `GlmForCausalLM`, laid out for decoding.

q, k and v are one product where the weights are not quantised (the model's own parameters become views of it, so it costs
no memory); the 16 queries that share a key-value head form one tile, and keys and values are never expanded in a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from kb.errors import ModelError
from rag.chatglm3.engine.cache import SlotCache
from rag.chatglm3.engine.lora import LoraStack, base_of, check_places, refresh
from rag.chatglm3.engine.sampling import send
from rag.chatglm3.engine.weights import weights_of

if TYPE_CHECKING:
    import torch

    from rag.chatglm3.load import LoadedModel


class Product:
    """One matrix product with its adapters: a linear layer, or several with the same input."""

    def __init__(self, modules: Sequence[Any], *, numbers: dict[str, int], like: torch.Tensor) -> None:
        import torch

        self.layers = [base_of(module) for module in modules]
        """The linear layers themselves."""
        self.lora = LoraStack.of(modules, numbers=numbers, like=like)
        plain = all(type(layer) is torch.nn.Linear for layer in self.layers)
        self._joined = weights_of(self.layers) if plain else None

    def __call__(self, inputs: torch.Tensor, adapter: torch.Tensor | None) -> torch.Tensor:
        """*Shape:* (rows, tokens, in) -> (rows, tokens, out). `adapter` None: nobody uses one."""
        import torch

        if self._joined is not None:
            out = torch.nn.functional.linear(inputs, self._joined.weight, self._joined.bias)
        elif len(self.layers) == 1:
            out = self.layers[0](inputs)
        else:
            out = torch.cat([layer(inputs) for layer in self.layers], dim=-1)
        if self.lora is None or adapter is None:
            return out
        return self.lora.add(out, inputs=inputs, adapter=adapter)


class Block:
    """One layer's parts."""

    def __init__(self, layer: Any, *, numbers: dict[str, int], like: torch.Tensor) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        qkv = (attention.q_proj, attention.k_proj, attention.v_proj)
        self.modules = {id(m) for m in (*qkv, attention.o_proj, mlp.gate_up_proj, mlp.down_proj)}
        self.norm, self.second_norm = layer.input_layernorm, layer.post_attention_layernorm
        self.qkv = Product(qkv, numbers=numbers, like=like)
        self.out = Product([attention.o_proj], numbers=numbers, like=like)
        self.gate_up = Product([mlp.gate_up_proj], numbers=numbers, like=like)
        self.down = Product([mlp.down_proj], numbers=numbers, like=like)


class Network:
    """The model over slots. Not thread safe: the engine's thread owns it."""

    def __init__(self, loaded: LoadedModel, *, slots: int, context: int) -> None:
        import torch

        base = loaded.base
        if len({str(p.device) for p in base.parameters()}) > 1:
            raise ModelError(
                "The engine serves a model on one device. Choose device = cuda:0, or quantise = nf4.",
                zh="引擎只支持整个模型在一个设备上。请设 device = cuda:0，或 quantise = nf4。",
            )
        self.shape, self.device = loaded.shape, loaded.device
        self.dtype: torch.dtype = base.model.embed_tokens.weight.dtype
        loras = [n for n, info in loaded.adapters.items() if info.kind == "lora" and not loaded.merged]
        self.adapters = {name: i for i, name in enumerate(loras)}
        like = torch.empty(0, device=self.device, dtype=self.dtype)
        self.embed, self.norm, self.head = base.model.embed_tokens, base.model.norm, base.lm_head
        self.blocks = [Block(layer, numbers=self.adapters, like=like) for layer in base.model.layers]
        check_places(base, known={i for block in self.blocks for i in block.modules})
        self.cache = SlotCache(self.shape, slots=slots, length=context, device=self.device, dtype=self.dtype)
        self.next_ids = torch.zeros(slots, dtype=torch.long, device=self.device)
        """The id that every slot goes on with; written by whoever chooses it, on the device."""
        frequency = base.model.rotary_emb.inv_freq.float().to(self.device)
        turns = torch.arange(context + 1, device=self.device).float()[:, None] * frequency
        self.cos, self.sin = turns.cos().to(self.dtype), turns.sin().to(self.dtype)

    def refresh(self) -> None:
        """Take over the adapters' weights as they stand in the model now (training changes them)."""
        products = [p for b in self.blocks for p in (b.qkv, b.out, b.gate_up, b.down)]
        refresh([p.lora for p in products if p.lora is not None])

    def adapter_index(self, names: Sequence[str]) -> torch.Tensor | None:
        """Per row the index of its LoRA adapter, -1 for none; None if no row has one."""
        numbers = [self.adapters.get(name, -1) for name in names]
        return send(numbers, device=self.device) if max(numbers, default=-1) >= 0 else None

    def prefill(
        self, pieces: Sequence[Sequence[int]], *, slots: Sequence[int], start: int, adapters: Sequence[str]
    ) -> torch.Tensor:
        """Run pieces of prompts at positions from `start`, each in its slot. Returns the logits after the last id of each.

        *Shape:* (pieces, vocabulary). Shorter pieces are filled up behind: what their slots hold after their end is nothing.
        """
        import torch
        from torch.nn.attention.bias import causal_lower_right

        width = max(map(len, pieces))
        tokens = send([[*ids, *[0] * (width - len(ids))] for ids in pieces], device=self.device)
        end = start + width
        positions = torch.arange(start, end, device=self.device)
        mask: Any = None if start == 0 else causal_lower_right(width, end)
        rows: Any = slice(slots[0], slots[0] + 1) if len(slots) == 1 else send(slots, device=self.device)
        repeat = self.shape.heads // self.shape.groups

        def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            keys, values = self.cache.keys[layer], self.cache.values[layer]
            k, v = k.transpose(1, 2), v.transpose(1, 2)
            keys[rows, :, start:end], values[rows, :, start:end] = k, v
            if start:
                k, v = keys[rows, :, :end], values[rows, :, :end]
            wide_keys, wide_values = k.repeat_interleave(repeat, dim=1), v.repeat_interleave(repeat, dim=1)
            return torch.nn.functional.scaled_dot_product_attention(
                q.transpose(1, 2), wide_keys, wide_values, attn_mask=mask, is_causal=mask is None
            ).transpose(1, 2)

        hidden = self._forward(tokens, positions[None, :], self.adapter_index(adapters), attend)
        ends = send([len(ids) - 1 for ids in pieces], device=self.device)
        last = hidden[torch.arange(len(pieces), device=self.device), ends]
        logits: torch.Tensor = self.head(self._normed(last, self.norm))
        return logits

    def decode(
        self,
        ids: torch.Tensor,
        *,
        positions: torch.Tensor,
        first: int,
        length: int,
        adapter: torch.Tensor | None,
    ) -> torch.Tensor:
        """One token for each of the slots from `first` on. Returns logits, (rows, vocabulary).

        `ids`, `positions`: (rows,). A row that takes no part has the cache's length as its position. `length`: how much
        of the cache is looked at; beyond every taking part row's position. No synchronisation: can be captured.
        """
        import torch

        rows = ids.shape[0]
        line = torch.arange(first, first + rows, device=self.device)
        mask = (torch.arange(length, device=self.device)[None, :] <= positions[:, None])[:, None, None, :]

        def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            keys, values = self.cache.keys[layer], self.cache.values[layer]
            keys[line, :, positions], values[line, :, positions] = k[:, 0], v[:, 0]
            tile = q[:, 0].view(rows, self.shape.groups, -1, self.shape.head_dim)
            seen_keys, seen_values = (t[first : first + rows, :, :length] for t in (keys, values))
            out = torch.nn.functional.scaled_dot_product_attention(
                tile, seen_keys, seen_values, attn_mask=mask
            )
            return out.reshape(rows, 1, self.shape.heads, self.shape.head_dim)

        hidden = self._forward(ids[:, None], positions[:, None], adapter, attend)
        logits: torch.Tensor = self.head(self._normed(hidden[:, 0], self.norm))
        return logits

    def _forward(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        adapter: torch.Tensor | None,
        attend: Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        """*Shape:* ids and positions (rows, tokens) -> hidden (rows, tokens, hidden)."""
        import torch

        shape, size = self.shape, ids.shape
        keys = shape.groups * shape.head_dim
        cos, sin = self.cos[positions][:, :, None, :], self.sin[positions][:, :, None, :]
        hidden: torch.Tensor = self.embed(ids)
        for number, block in enumerate(self.blocks):
            qkv = block.qkv(self._normed(hidden, block.norm), adapter)
            qk, v = torch.split(qkv, [shape.heads * shape.head_dim + keys, keys], dim=-1)
            qk = rotate(qk.view(*size, shape.heads + shape.groups, shape.head_dim), cos=cos, sin=sin)
            q, k = torch.split(qk, [shape.heads, shape.groups], dim=2)
            mixed = attend(number, q, k, v.view(*size, shape.groups, shape.head_dim))
            hidden = hidden + block.out(mixed.reshape(*size, -1), adapter)
            gate, up = block.gate_up(self._normed(hidden, block.second_norm), adapter).chunk(2, dim=-1)
            hidden = hidden + block.down(up * torch.nn.functional.silu(gate), adapter)
        return hidden

    def _normed(self, hidden: torch.Tensor, norm: Any) -> torch.Tensor:
        """RMSNorm in one operation: a short prompt is bounded by how many there are."""
        import torch

        size = (self.shape.hidden,)
        return torch.nn.functional.rms_norm(hidden, size, norm.weight, self.shape.epsilon)


def rotate(x: torch.Tensor, *, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn the first half of every head by its position: neighbouring dimensions form the pairs.

    *Shape:* x (rows, tokens, heads, head_dim), cos and sin (rows, tokens, 1, head_dim / 4).
    """
    import torch

    size = 2 * cos.shape[-1]
    turned, kept = x[..., :size], x[..., size:]
    even, odd = turned[..., 0::2], turned[..., 1::2]
    pairs = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)
    return torch.cat((pairs, kept), dim=-1)
