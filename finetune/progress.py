"""How far a run is: everything besides the weights that a checkpoint holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from finetune.optimizer import Scaler
from finetune.schedule import Plateau
from kb.errors import ModelError


@dataclass(slots=True)
class Progress:
    """Everything besides the weights that a checkpoint must hold."""

    step: int = 0
    """Steps done."""
    loss: float = 0.0
    """Sum over the trained tokens since the last logged step."""
    trained: int = 0
    sums: list[float] = field(default_factory=list)
    """What the objective counted since then."""
    tokens: int = 0
    """Real tokens seen in all."""
    best: float = math.inf
    """Lowest evaluation loss."""
    best_step: int = 0
    waited: int = 0
    """Evaluations since then."""
    seconds: float = 0.0
    """Of training alone, without evaluating and saving."""
    skipped: int = 0
    """Steps left out because float16 overflowed."""
    plateau: Plateau = field(default_factory=Plateau)
    scaler: Scaler = field(default_factory=Scaler)

    def as_json(self) -> dict[str, Any]:
        """For state.json; JSON has no infinity."""
        values: dict[str, Any] = asdict(self)
        for part in (values, values["plateau"]):
            part["best"] = None if part["best"] == math.inf else part["best"]
        return values


def progress_from(values: Mapping[str, Any]) -> Progress:
    """The opposite of `as_json`."""
    own = dict(values)
    plateau, scaler = dict(own.pop("plateau")), own.pop("scaler")
    for part in (own, plateau):
        part["best"] = math.inf if part["best"] is None else part["best"]
    return Progress(**own, plateau=Plateau(**plateau), scaler=Scaler(**scaler))


def not_a_number(value: float, *, step: int, rate: float, places: str, intact: str) -> ModelError:
    """The error for a loss or a gradient that is no number any more. `intact`: name of a checkpoint before it."""
    back_zh = f"检查点 {intact} 完好，改好后可续训。" if intact else ""
    back = f" {intact} is intact: resume from it afterwards." if intact else ""
    return ModelError(
        f"the loss became {value} at step {step} (learning rate {rate:.2e}, examples {places}). Usual reasons: the "
        "learning rate is too high (try a tenth), float16 overflows (try --precision bf16), or the base weights are "
        f"damaged (zhiwen doctor).{back}",
        zh=f"第 {step} 步的损失变成了 {value}（学习率 {rate:.2e}，样本 {places}）。常见原因：学习率太高（试试十分之一）、"
        f"float16 溢出（试试 --precision bf16）、基座权重损坏（zhiwen doctor）。{back_zh}",
    )
