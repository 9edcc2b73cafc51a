"""The clipped objectives of PPO (Schulman et al. 2017), summed over tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from finetune.ppo.config import PpoConfig

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Before:
    """What stood before the first update of a step, one number a token, flat."""

    logprobs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor


@dataclass(frozen=True)
class Loss:
    """Sums over the tokens of a forward pass. All but `total` are for looking at."""

    total: Tensor
    policy: Tensor
    value: Tensor
    entropy: Tensor
    clipped: Tensor
    """Tokens whose ratio was clipped."""
    moved: Tensor
    """Estimate of the KL divergence to the policy before the step, from the ratios (k3)."""


def objective(
    logprobs: Tensor, *, entropy: Tensor, values: Tensor, before: Before, config: PpoConfig
) -> Loss:
    """Policy loss + coefficient x value loss - coefficient x entropy. *Shape:* all `(tokens)`."""
    import torch

    change = logprobs - before.logprobs
    ratio = change.exp()
    narrow = ratio.clamp(1 - config.ppo_clip, 1 + config.ppo_clip)
    wide_loss, narrow_loss = -before.advantages * ratio, -before.advantages * narrow
    policy = torch.maximum(wide_loss, narrow_loss).sum()
    error = (values - before.returns).square()
    if config.ppo_clip_value:
        reach = config.ppo_clip_value
        near = before.values + (values - before.values).clamp(-reach, reach)
        error = torch.maximum(error, (near - before.returns).square())
    value = 0.5 * error.sum()
    spread = entropy.sum()
    total = policy + config.ppo_value_coef * value - config.ppo_entropy_coef * spread
    return Loss(
        total=total,
        policy=policy.detach(),
        value=value.detach(),
        entropy=spread.detach(),
        clipped=(narrow_loss > wide_loss).sum(),
        moved=(ratio - 1 - change).sum().detach(),
    )
