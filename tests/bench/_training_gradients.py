"""How exact gradients are at the real shape: fused layers and transformers' own, both in bf16, against float32.

Losses of two bf16 runs part from each other by rounding alone, faster the higher the learning rate; this tells rounding
from a mistake: the fused layers must be no further from float32 than the plain ones are.
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

from finetune.config import from_values


def measure(folder: Path, documents: list[Any]) -> dict[str, Any]:
    """Share of the float32 gradient's norm by which each way is off, over all LoRA weights and in the worst one."""
    found: dict[str, dict[str, Any]] = {}
    losses: dict[str, float] = {}
    for precision, ways in (("fp32", ("padded",)), ("bf16", ("padded", "packed", "fused", "recomputed"))):
        for way, gradients, loss in _gradients(folder, documents, precision, ways):
            found[f"{precision} {way}"], losses[f"{precision} {way}"] = gradients, loss
        gc.collect()
    exact = found["fp32 padded"]
    whole = sum(float(g.square().sum()) for g in exact.values()) ** 0.5
    off: dict[str, Any] = {}
    for name, gradients in found.items():
        errors = {n: float((gradients[n] - g).square().sum()) for n, g in exact.items()}
        worst = max(errors, key=lambda n: errors[n] / max(1e-30, float(exact[n].square().sum())))
        off[name] = {
            "loss": losses[name],
            "error": sum(errors.values()) ** 0.5 / whole,
            "worst": [worst, (errors[worst] / float(exact[worst].square().sum())) ** 0.5],
        }
    return off


def _gradients(folder: Path, documents: list[Any], precision: str, ways: tuple[str, ...]) -> Any:
    import torch

    from finetune.forward import loss_sum
    from finetune.methods import attach, fuse_layers, open_base
    from finetune.pack import RowShape, packed_batches, padded_batches
    from rag.chatglm3.load import choose_device

    config = from_values(
        {"model_name_or_path": str(folder), "dataset": "-", "finetuning_type": "qlora", "lora_rank": 16, "precision": precision}
    )  # fmt: skip
    device = choose_device("")
    trainee = attach(open_base(config, folder=folder, device=device), config=config)
    generator = torch.Generator().manual_seed(7)
    for name, parameter in trainee.trainable().items():
        if "lora_B" in name:  # zero at first: the gradients of A would be zero too; bf16 holds these exactly
            values = torch.randn(parameter.shape, generator=generator) * 0.01
            parameter.data.copy_(values.bfloat16().to(parameter.dtype))
        else:
            parameter.data.copy_(parameter.data.bfloat16())
    longest = max(map(len, documents))
    packed = packed_batches(documents, shape=RowShape(sum(map(len, documents)), 0, longest, unit=64))
    padded = padded_batches(documents, rows=1)
    for way in ways:
        used, batches = trainee, padded if way == "padded" else packed
        if way in ("fused", "recomputed"):
            used = fuse_layers(trainee, kept=28 if way == "fused" else 0, resident=way == "fused")
        before = trainee.glm.config._attn_implementation
        if way == "padded":
            trainee.glm.config._attn_implementation = "sdpa"
        total = 0.0
        for batch in batches:
            loss = loss_sum(used, batch.to(device))
            loss.backward()
            total += float(loss.detach())
        trainee.glm.config._attn_implementation = before
        yield way, {n: p.grad.float().cpu() for n, p in trainee.trainable().items()}, total
        trainee.model.zero_grad()
        used = trainee
