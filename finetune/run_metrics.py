"""The numbers of a run that ended, for metrics.json, train.json and the card."""

from __future__ import annotations

from collections.abc import Sequence

from finetune.events import Event
from finetune.progress import Progress

MEASURES = ("accuracy", "margin", "kl", "reward_chosen", "reward_rejected")
"""What stages that learn from preferences report beside the loss."""


def final_metrics(events: Sequence[Event], *, state: Progress, device: str, planned: int) -> dict[str, float]:
    """Means over the last tenth of the steps, the best evaluation, speed and memory. `planned`: bytes."""
    import torch

    steps = [e for e in events if e["event"] == "step"]
    tail = steps[-max(1, len(steps) // 10) :]
    found = {"train_loss": sum(e["loss"] for e in tail) / max(1, len(tail)), "steps": float(state.step)}
    for name in MEASURES:
        values = [float(e[name]) for e in tail if name in e]
        if values:
            found[f"train_{name}"] = sum(values) / len(values)
    if state.best < float("inf"):
        found |= {"eval_loss": state.best}
        best = [e for e in events if e["event"] == "eval" and e["step"] == state.best_step]
        found |= {f"eval_{name}": e[name] for e in best for name in MEASURES if name in e}
    found |= {
        "tokens": float(state.tokens),
        "seconds": round(state.seconds, 2),
        "tokens_per_second": round(state.tokens / max(state.seconds, 1e-9), 1),
    }
    if device.startswith("cuda"):
        found["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
        found["planned_gib"] = planned / 2**30
    if state.skipped:
        found["skipped_steps"] = float(state.skipped)
    return found
