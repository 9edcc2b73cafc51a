"""One forward pass of a batch: embeddings, layers, and the loss without all logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from finetune.loss import linear_cross_entropy
from finetune.methods import Trainee
from finetune.pack import Batch

if TYPE_CHECKING:
    from torch import Tensor


def loss_sum(trainee: Trainee, batch: Batch, *, noise: float = 0.0) -> Tensor:
    """Sum of the cross entropy over the batch's trained tokens, float32. `noise`: NEFTune's alpha."""
    hidden = hidden_states(trainee, batch, noise=noise)
    rows = hidden.reshape(-1, hidden.shape[-1]).index_select(0, batch.where)
    return linear_cross_entropy(rows, trainee.glm.lm_head.weight, batch.targets)


def hidden_states(trainee: Trainee, batch: Batch, *, noise: float = 0.0) -> Tensor:
    """What the last norm gives. *Shape:* (rows, tokens, hidden)."""
    import torch

    glm = trainee.glm
    embedded = glm.get_input_embeddings()(batch.ids)
    if noise and trainee.model.training:
        reach = noise / (batch.lengths.float() * embedded.shape[-1]).sqrt()
        uniform = torch.rand(embedded.shape, device=embedded.device) * 2 - 1
        embedded = embedded + (uniform * reach[..., None]).to(embedded.dtype)
    if trainee.stack is not None and batch.cu_seqlens is not None:
        hidden = trainee.stack(
            embedded[0], positions=batch.positions[0], begins=batch.cu_seqlens, longest=batch.longest
        )
        return hidden[None]  # type: ignore[no-any-return]
    options: dict[str, Any] = {"use_cache": False, "position_ids": batch.positions}
    if trainee.prefix:
        rows = batch.ids.shape[0]
        before = torch.ones(rows, trainee.prefix, dtype=torch.long, device=batch.ids.device)
        mask = torch.ones_like(batch.ids) if batch.mask is None else batch.mask
        options = {
            "past_key_values": trainee.model.get_prompt(rows),
            "attention_mask": torch.cat([before, mask], dim=1),
            "position_ids": batch.positions + trainee.prefix,
        }
    elif batch.cu_seqlens is not None:
        options |= {"cu_seqlens": batch.cu_seqlens, "longest": batch.longest}
    else:
        options["attention_mask"] = batch.mask
    return trainee.decoder(inputs_embeds=embedded, **options).last_hidden_state  # type: ignore[no-any-return]
