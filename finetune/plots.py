"""The curves of a run as pictures."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.events import Event

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def smooth(values: Sequence[float], *, weight: float = 0.9) -> list[float]:
    """Exponential mean with its start corrected, as TensorBoard draws it."""
    out, last = [], 0.0
    for number, value in enumerate(values, 1):
        last = last * weight + value * (1 - weight)
        out.append(last / (1 - weight**number))
    return out


def draw(events: Sequence[Event], *, folder: Path) -> list[Path]:
    """loss.png (training, smoothed, evaluation) and learning_rate.png; nothing if no step was logged.

    Stages that learn from preferences add accuracy.png and rewards.png (with their margin and, for kto, the KL).
    """
    steps = [e for e in events if e["event"] == "step"]
    evals = [e for e in events if e["event"] == "eval"]
    if not steps:
        return []
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    judged = any("accuracy" in e for e in steps)
    unit = "loss per example" if judged else "loss per token"
    out = [save_figure(_curves(steps, evals, {"loss": "#1f4e8c"}, unit), folder / "loss.png")]
    rate = Figure(figsize=(7, 3), dpi=110, layout="constrained")
    axes = rate.add_subplot()
    axes.plot([e["step"] for e in steps], [e["lr"] for e in steps], color="#1f4e8c")
    axes.set(xlabel="step", ylabel="learning rate")
    out.append(save_figure(rate, folder / "learning_rate.png"))
    if judged:
        figure = _curves(steps, evals, {"accuracy": "#1f4e8c"}, "right order (share)")
        out.append(save_figure(figure, folder / "accuracy.png"))
        figure = _curves(steps, evals, REWARDS, "reward")
        out.append(save_figure(figure, folder / "rewards.png"))
    return out


REWARDS = {"reward_chosen": "#2f6f5e", "reward_rejected": "#c8553d", "margin": "#1f4e8c", "kl": "#8b4fc1"}


def _curves(steps: Sequence[Event], evals: Sequence[Event], names: Mapping[str, str], label: str) -> Figure:
    """Each measure as it is, smoothed, and on the evaluation set; several in colours of their own."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    for name, colour in names.items():
        points = [(e["step"], float(e[name])) for e in steps if name in e]
        if not points:
            continue
        x, values = zip(*points, strict=True)
        said = "training" if len(names) == 1 else name.replace("_", " ")
        axes.plot(x, values, color=colour, alpha=0.35, linewidth=1)
        axes.plot(x, smooth(values), color=colour, linewidth=1.8, label=f"{said}, smoothed")
        held = [(e["step"], float(e[name])) for e in evals if name in e]
        if held:
            mark = "#c8553d" if len(names) == 1 else colour
            axes.plot(
                *zip(*held, strict=True),
                "o--",
                color=mark,
                markersize=4,
                label=f"{said}, evaluation" if len(names) > 1 else "evaluation",
            )
    axes.set(xlabel="step", ylabel=label)
    axes.legend(fontsize=8)
    return figure


def save_figure(figure: object, path: Path) -> Path:
    """A reader never sees half a picture."""
    work = path.with_name(f".{os.getpid()}-{path.name}")
    figure.savefig(work)  # type: ignore[attr-defined]
    work.replace(path)
    return path
