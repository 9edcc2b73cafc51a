"""A decoder layer's weights, and what is kept of its forward pass."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from finetune.kernels.plate import Plate

if TYPE_CHECKING:
    from torch import Tensor

    from finetune.kernels.plain import FlashKept

KINDS = ("qkv", "o", "gate_up", "down")


class Layer:
    """The weights of one decoder layer."""

    def __init__(self, module: Any) -> None:
        at, mlp = module.self_attn, module.mlp
        self.plates = {
            "qkv": Plate([at.q_proj, at.k_proj, at.v_proj]),
            "o": Plate([at.o_proj]),
            "gate_up": Plate([mlp.gate_up_proj]),
            "down": Plate([mlp.down_proj]),
        }
        self.first_norm = module.input_layernorm.weight
        self.second_norm = module.post_attention_layernorm.weight

    @property
    def trained(self) -> list[Any]:
        """LoRA weights, in order."""
        return [w for kind in KINDS for w in self.plates[kind].trained]


@dataclass(slots=True)
class Kept:
    """What a layer's backward pass reads. Only x is there if the rest is computed again."""

    x: Tensor
    first: Tensor | None = None
    """1 / rms of the first norm."""
    qkv: Tensor | None = None
    flash: FlashKept | None = None
    after: Tensor | None = None
    """x + attention."""
    second: Tensor | None = None
    both: Tensor | None = None
    """gate and up."""
    middles: tuple[Tensor, ...] = ()
    """P of qkv, o, gate_up."""
    own: bool = False
    """Whether the inputs of products are kept, in `rooms`."""
    rooms: dict[str, Tensor] = field(default_factory=dict)
    """Inputs of qkv, gate_up and down, if there is memory for them."""


class Way(NamedTuple):
    """What all layers of a pass share."""

    cosine: Tensor
    sine: Tensor
    begins: Tensor
    longest: int
