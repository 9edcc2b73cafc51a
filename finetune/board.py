"""TensorBoard, if it is wanted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune.config import RunConfig
from kb.errors import MissingExtra


class Board:
    """The curves of a run, written for TensorBoard with --tensorboard; otherwise nothing."""

    def __init__(self, folder: Path, config: RunConfig, *, step: int, silent: bool = False) -> None:
        self.writer: Any = None
        if config.train.tensorboard and not silent:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise MissingExtra("tensorboard", "test", "--tensorboard") from error
            self.writer = SummaryWriter(folder / "tensorboard", purge_step=step + 1)

    def step(self, loss: float | None, rate: float, step: int, measures: Mapping[str, float]) -> None:
        """One logged step. `measures`: what the stage reports beside the loss."""
        if self.writer is not None and loss is not None:
            self.writer.add_scalar("train/loss", loss, step)
            self.writer.add_scalar("train/learning_rate", rate, step)
            for name, value in measures.items():
                self.writer.add_scalar(f"train/{name}", value, step)

    def values(self, values: Mapping[str, float], step: int) -> None:
        """Any numbers by name."""
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(f"train/{name}", value, step)

    def evaluation(self, loss: float, step: int, measures: Mapping[str, float]) -> None:
        """One evaluation."""
        if self.writer is not None:
            self.writer.add_scalar("eval/loss", loss, step)
            for name, value in measures.items():
                self.writer.add_scalar(f"eval/{name}", value, step)

    def close(self) -> None:
        """Write what is left."""
        if self.writer is not None:
            self.writer.close()
