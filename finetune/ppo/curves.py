"""Pictures of a run: reward, distance, length and entropy by step, and what the learning itself looks like."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from finetune.events import Event
from finetune.plots import save_figure, smooth

PICTURES: dict[str, tuple[str, tuple[str, ...]]] = {
    # file: (what the axis says, fields of the step events)
    "reward": ("mean of a step", ("score", "reward")),
    "kl": ("nats an answer, to the reference", ("kl",)),
    "length": ("tokens an answer", ("length",)),
    "entropy": ("nats a token", ("entropy",)),
    "clip_fraction": ("share of tokens clipped", ("clip_fraction",)),
    "value": ("value loss; explained variance", ("value_loss", "explained_variance")),
    "seconds": ("seconds a step", ("seconds_generate", "seconds_score", "seconds_learn")),
    "learning_rate": ("learning rate", ("lr",)),
}
SMOOTH_FROM = 30
"""Steps from which a mean is drawn over the values."""
COLOURS = ("#1f4e8c", "#c8553d", "#3f7f5f")


def draw(events: Sequence[Event], *, folder: Path) -> list[Path]:
    """One picture a file of PICTURES; nothing if no step was logged."""
    steps = [e for e in events if e["event"] == "step" and "kl" in e]
    evals = [e for e in events if e["event"] == "held_out"]
    if not steps:
        return []
    from matplotlib.figure import Figure

    x, out = [e["step"] for e in steps], []
    folder.mkdir(parents=True, exist_ok=True)
    for name, (label, fields) in PICTURES.items():
        figure = Figure(figsize=(7, 3.4), dpi=110, layout="constrained")
        axes = figure.add_subplot()
        for field, colour in zip(fields, COLOURS, strict=False):
            values = [float(e[field]) for e in steps]
            if len(values) < SMOOTH_FROM or field == "lr":
                axes.plot(x, values, color=colour, linewidth=1.8, label=field)
                continue
            axes.plot(x, values, color=colour, linewidth=1, alpha=0.4)
            axes.plot(x, smooth(values, weight=0.8), color=colour, linewidth=1.8, label=f"{field}, smoothed")
        if name == "reward" and evals:
            points = [e["step"] for e in evals], [e["score"] for e in evals]
            axes.plot(*points, "o-", color="#3f7f5f", markersize=4, label="score, held out, greedy")
        axes.set(xlabel="step", ylabel=label)
        axes.legend()
        out.append(save_figure(figure, folder / f"{name}.png"))
    return out
