"""The curves of a run as pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from finetune.events import Event


def smooth(values: Sequence[float], *, weight: float = 0.9) -> list[float]:
    """Exponential mean with its start corrected, as TensorBoard draws it."""
    out, last = [], 0.0
    for number, value in enumerate(values, 1):
        last = last * weight + value * (1 - weight)
        out.append(last / (1 - weight**number))
    return out


def draw(events: Sequence[Event], *, folder: Path) -> list[Path]:
    """loss.png (training, smoothed, evaluation) and learning_rate.png; nothing if no step was logged."""
    steps = [e for e in events if e["event"] == "step"]
    evals = [e for e in events if e["event"] == "eval"]
    if not steps:
        return []
    from matplotlib.figure import Figure

    x, losses = [e["step"] for e in steps], [e["loss"] for e in steps]
    loss = Figure(figsize=(7, 4), dpi=110, layout="constrained")
    axes = loss.add_subplot()
    axes.plot(x, losses, color="#9db8d9", linewidth=1, label="training")
    axes.plot(x, smooth(losses), color="#1f4e8c", linewidth=1.8, label="training, smoothed")
    if evals:
        points = [e["step"] for e in evals], [e["loss"] for e in evals]
        axes.plot(*points, "o-", color="#c8553d", markersize=4, label="evaluation")
    axes.set(xlabel="step", ylabel="loss per token")
    axes.legend()
    rate = Figure(figsize=(7, 3), dpi=110, layout="constrained")
    axes = rate.add_subplot()
    axes.plot(x, [e["lr"] for e in steps], color="#1f4e8c")
    axes.set(xlabel="step", ylabel="learning rate")
    folder.mkdir(parents=True, exist_ok=True)
    return [save_figure(loss, folder / "loss.png"), save_figure(rate, folder / "learning_rate.png")]


def save_figure(figure: object, path: Path) -> Path:
    """A reader never sees half a picture."""
    work = path.with_name(f".{os.getpid()}-{path.name}")
    figure.savefig(work)  # type: ignore[attr-defined]
    work.replace(path)
    return path
