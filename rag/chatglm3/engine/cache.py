"""Keys and values of every slot, at fixed addresses: what a CUDA graph can be captured over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from rag.chatglm3.shape import GlmShape


class SlotCache:
    """*Shape* of `keys` and `values`: (layers, slots, groups, length + 1, head_dim).

    The position after the last is where rows write that take no part in a step; nothing ever reads it.
    Zeros, not uninitialised memory: a masked NaN would still spoil a row.
    """

    def __init__(
        self, shape: GlmShape, *, slots: int, length: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        import torch

        size = (shape.layers, slots, shape.groups, length + 1, shape.head_dim)
        self.keys = torch.zeros(size, device=device, dtype=dtype)
        self.values = torch.zeros(size, device=device, dtype=dtype)
        self.slots, self.length = slots, length

    def copy(self, source: int, *, target: int, tokens: int) -> None:
        """The first `tokens` positions of one slot into another."""
        for store in (self.keys, self.values):
            store[:, target, :, :tokens] = store[:, source, :, :tokens]

    def put_prefix(self, prefix: torch.Tensor, *, slot: int) -> None:
        """Virtual tokens of a prefix adapter at the beginning of a slot. (layers, 2, groups, n, head_dim)."""
        count = prefix.shape[3]
        self.keys[:, slot, :, :count] = prefix[:, 0].to(self.keys)
        self.values[:, slot, :, :count] = prefix[:, 1].to(self.values)


@dataclass(slots=True)
class Slot:
    """What one slot of the cache holds."""

    number: int
    adapter: str = ""
    tokens: list[int] = field(default_factory=list)
    """Ids whose keys and values are in the cache, after `virtual` positions of a prefix adapter."""
    virtual: int = 0
    used: int = 0
    """When it was last taken, by a counter."""

    @property
    def position(self) -> int:
        """Where the next token goes."""
        return self.virtual + len(self.tokens)


def common(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the shared beginning."""
    for i, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return i
    return min(len(left), len(right))
