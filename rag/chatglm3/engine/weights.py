"""What the kernels read of a linear layer, or of several with the same input laid one after the other.

The layers keep working: their tensors become views of the joined ones, so nothing is stored twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rag.chatglm3.engine.lora import LoraStack

if TYPE_CHECKING:
    import torch

PLAIN, NF4, INT8 = 0, 1, 2
_BLOCK, _OUTER = 64, 256


class NotForKernels(Exception):
    """Why a model cannot be decoded with our kernels; the slower path can."""


@dataclass(frozen=True, slots=True)
class Weights:
    """One product. *Shape:* `weight` (outputs, inputs), or packed nf4 bytes in one column."""

    kind: int
    outputs: int
    inputs: int
    weight: torch.Tensor
    bias: torch.Tensor | None
    scales: torch.Tensor | None = None
    """nf4: 8-bit scales of blocks of 64 weights."""
    code: torch.Tensor | None = None
    """nf4: what 8-bit scales mean, 256 numbers."""
    outer: torch.Tensor | None = None
    """nf4: factors of 256 scales each."""
    offset: torch.Tensor | None = None
    """nf4: for each output, what is added to its scales; int8: the factor of each output. float32."""
    table: torch.Tensor | None = None
    """nf4: the 16 numbers."""
    lora: LoraStack | None = None


def weights_of(layers: Sequence[Any], *, lora: LoraStack | None = None) -> Weights:
    """Join `layers` (the linear layers themselves, without PEFT's wrappers). Raises NotForKernels."""
    import torch

    kinds = {type(layer).__name__ for layer in layers}
    outputs, inputs = sum(layer.out_features for layer in layers), layers[0].in_features
    bias = _joined([layer.bias for layer in layers], [(layer, "bias") for layer in layers])
    if all(type(layer) is torch.nn.Linear for layer in layers):
        weight = _joined([layer.weight for layer in layers], [(layer, "weight") for layer in layers])
        assert weight is not None
        return Weights(PLAIN, outputs, inputs, weight, bias, lora=lora)
    if kinds == {"Linear4bit"}:
        return _nf4(layers, outputs, inputs, bias, lora)
    if kinds == {"Linear8bitLt"}:
        return _int8(layers, outputs, inputs, bias, lora)
    raise NotForKernels(f"layers of type {', '.join(sorted(kinds))}")


def _joined(tensors: Sequence[Any], owners: Sequence[tuple[Any, str]]) -> torch.Tensor | None:
    """One tensor of all; each owner's attribute becomes a view of its part."""
    import torch

    if tensors[0] is None:
        return None
    if len(tensors) == 1:
        alone: torch.Tensor = tensors[0].data
        return alone
    whole: torch.Tensor | None = getattr(tensors[0], "_zhiwen_joined", None)
    if whole is None:
        whole = torch.cat([tensor.data for tensor in tensors])
        start = 0
        for tensor, (owner, name) in zip(tensors, owners, strict=True):
            part = whole[start : start + tensor.shape[0]]
            start += tensor.shape[0]
            if isinstance(tensor, torch.nn.Parameter):
                tensor.data = part
            else:
                setattr(owner, name, part)
        getattr(*owners[0])._zhiwen_joined = whole
    return whole


def _nf4(layers: Sequence[Any], outputs: int, inputs: int, bias: Any, lora: LoraStack | None) -> Weights:
    import torch

    states = [layer.weight.quant_state for layer in layers]
    for layer, state in zip(layers, states, strict=True):
        if state is None or state.quant_type != "nf4" or not state.nested:
            raise NotForKernels("4-bit weights that are not nf4 with double quantisation")
        sizes = (state.blocksize, state.state2.blocksize, layer.in_features % _BLOCK)
        last = layer is layers[-1]
        if sizes != (_BLOCK, _OUTER, 0) or (
            not last and layer.out_features * inputs % (_BLOCK * _OUTER) != 0
        ):
            raise NotForKernels(f"nf4 weights with blocks of {sizes[:2]} and {inputs} inputs")
    if any(not torch.equal(s.state2.code, states[0].state2.code) for s in states):
        raise NotForKernels("nf4 weights with different tables for their scales")
    offset = torch.cat(
        [
            state.offset.float().reshape(1).expand(layer.out_features)
            for layer, state in zip(layers, states, strict=True)
        ]
    )
    weight = _joined([layer.weight for layer in layers], [(layer, "weight") for layer in layers])
    assert weight is not None
    return Weights(
        NF4,
        outputs,
        inputs,
        weight,
        bias,
        scales=_joined([s.absmax for s in states], [(s, "absmax") for s in states]),
        code=states[0].state2.code.float().contiguous(),
        outer=_joined([s.state2.absmax for s in states], [(s.state2, "absmax") for s in states]),
        offset=offset.contiguous(),
        table=states[0].code.float().contiguous(),
        lora=lora,
    )


def _int8(layers: Sequence[Any], outputs: int, inputs: int, bias: Any, lora: LoraStack | None) -> Weights:
    """The rows' factors times 8-bit weights; activations are not rounded as bitsandbytes' own product does."""
    import torch

    parts = []
    for layer in layers:
        scale = layer.weight.SCB if layer.weight.SCB is not None else layer.state.SCB
        if scale is None or layer.weight.dtype != torch.int8:
            raise NotForKernels("int8 weights that were not quantised yet")
        parts.append(scale.float() / 127)
    weight = _joined([layer.weight for layer in layers], [(layer, "weight") for layer in layers])
    assert weight is not None
    for layer in layers:
        for owner in (layer.weight, layer.state):
            if getattr(owner, "CB", None) is not None:
                owner.CB = layer.weight.data
    return Weights(INT8, outputs, inputs, weight, bias, offset=torch.cat(parts), lora=lora)
