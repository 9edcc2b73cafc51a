"""The training loop: one optimiser step after another, each a function of the seed and its number.

Nothing random is carried from step to step (every step seeds itself), so a run that was killed goes on from its last
checkpoint exactly as it would have without.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from finetune import checkpoint
from finetune.config import RunConfig
from finetune.deal import share
from finetune.events import EventLog
from finetune.memory import Layout, smaller_layout
from finetune.methods import Trainee, checkpoint_layers, compile_layers, fuse_layers
from finetune.optimizer import Optimizer
from finetune.pack import (
    Batch,
    RowShape,
    Unit,
    packed_batches,
    padded_batches,
    step_examples,
    steps_per_epoch,
)
from finetune.parallel import ALONE, World
from finetune.passes import learn, measure
from finetune.plan import rows_of
from finetune.prepare import Prepared, sources
from finetune.progress import Progress, not_a_number, progress_from
from finetune.schedule import factor
from finetune.stages.objective import NextWord, Objective, objective_of
from kb.errors import ModelError


class Loop:
    """One run in progress."""

    def __init__(
        self,
        folder: Path,
        *,
        config: RunConfig,
        prepared: Prepared,
        trainee: Trainee,
        layout: Layout,
        total: int,
        log: EventLog,
        objective: Objective | None = None,
        world: World = ALONE,
    ) -> None:
        self.objective, self.world = objective or objective_of(config), world
        self.folder, self.config, self.prepared = folder, config, prepared
        self.trainee, self.layout, self.total, self.log = trainee, layout, total, log
        each = prepared.report.trained / len(prepared.train) if isinstance(self.objective, NextWord) else 1
        weight = each * config.examples_per_step  # what a step's loss is summed over, about
        self.optimizer = Optimizer(trainee.trainable(), config=config, weight=weight)
        world.copy_from_main(self.optimizer.masters.values())
        self.optimizer.publish()
        self.progress = Progress(scaler=self.optimizer.scaler)
        self.shape = self._shape()
        self.spent, self.spent_tokens = 0.0, 0
        self.last_loss: float | None = None
        self.all_full = False
        """Memory ran out in the last step, and every process knows."""
        self.last_measures: dict[str, float] = {}
        self.ahead: tuple[int, RowShape, list[tuple[Batch, bool]]] | None = None

    # ------------------------------------------------------------ shape of the work

    def _shape(self) -> RowShape:
        lengths, ranks = self.prepared.lengths, self.world.size
        return rows_of(self.config, lengths=lengths, layout=self.layout, steps=self.total, ranks=ranks)

    @property
    def per_epoch(self) -> int:
        """Steps of one epoch."""
        return steps_per_epoch(len(self.prepared.train), per_step=self.config.examples_per_step)

    def documents(self, step: int) -> list[Unit]:
        """What step `step` (0-based) learns from."""
        units, per_step = self.prepared.train, self.config.examples_per_step
        chosen = step_examples(len(units), step=step, per_step=per_step, seed=self.config.train.seed)
        return [units[i] for i in chosen]

    def batches(self, documents: list[Unit]) -> list[Batch]:
        """Documents as forward passes."""
        if self.layout.packed:
            return packed_batches(documents, shape=self.shape)
        rows = max(1, self.layout.tokens // max(self.prepared.lengths))
        return padded_batches(documents, rows=rows)

    def rows(self, step: int) -> list[tuple[Batch, bool]]:
        """Forward passes of a step, and whether each counts; made while the GPU was still busy with the one before."""
        ahead, self.ahead = self.ahead, None
        if ahead is not None and ahead[0] == step and ahead[1] is self.shape:
            return ahead[2]
        units, world = self.documents(step), self.world
        return share(units, make=self.batches, rank=world.rank, ranks=world.size, even=world.sharded)

    def _look_ahead(self) -> None:
        step = self.progress.step + 1
        if step < self.total:
            self.ahead = step, self.shape, self.rows(step)

    def setup(self) -> None:
        """Checkpointing and compiling as the layout says."""
        layout = self.layout
        if layout.kernels:
            self.trainee = fuse_layers(
                self.trainee, kept=layout.kept, resident=layout.resident, roomy=layout.roomy
            )
            return
        if layout.recompute:
            checkpoint_layers(self.trainee)
        if layout.compiled:
            compile_layers(self.trainee)

    # ------------------------------------------------------------ steps

    def train(self, *, after: Callable[[], None], stop: Callable[[], bool]) -> str:
        """Run to the end. `after` is called when a step is done and noted; returns "done", "stopped" or "early"."""
        import torch

        self.spent, self.spent_tokens = self.progress.seconds, self.progress.tokens
        first = True
        try:
            while self.progress.step < self.total:
                if first:
                    self._first_step()
                    first = False
                else:
                    self._step()
                after()
                if self._tired():
                    return "early"
                if self.world.any(stop()):
                    return "stopped"
        finally:
            if self.layout.compiled:
                torch.compiler.set_stance("default")
        return "done"

    def _first_step(self) -> None:
        """The first step of this process: if memory runs out, adapt and say so; afterwards nothing may recompile."""
        import torch

        begin = time.perf_counter()
        while True:
            try:
                self._step()
                break
            except torch.OutOfMemoryError as error:
                if self.world.size > 1 and not self.all_full:
                    raise  # the others do not know: only a start from the beginning would bring them together
                # the frames of the failed step hold its tensors: leave the handler before trying again
                self.layout = self._smaller(str(error).splitlines()[0])
            self.trainee.model.zero_grad(set_to_none=True)
            self.shape = self._shape()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        if self.layout.compiled:
            seconds = time.perf_counter() - begin
            step, tokens = self.progress.step, self.shape.tokens
            self.log.write("compiled", step=step, seconds=round(seconds, 2), tokens=tokens)
            torch.compiler.set_stance("fail_on_recompile")

    def _smaller(self, reason: str) -> Layout:
        """The next smaller layout. Raises ModelError if there is none."""
        layout, longest = self.layout, max(self.prepared.lengths)
        can = self.config.train.gradient_checkpointing != "off" and not self.trainee.prefix
        found = smaller_layout(layout, longest=longest, recompute=can)
        if found is None:
            raise ModelError(
                f"out of memory with the smallest rows ({longest} tokens): {reason} Use a smaller --cutoff-len, "
                "--finetuning-type qlora, or a smaller --lora-rank.",
                zh=f"行缩到最短（{longest} 个 token）内存仍不够：{reason} 请减小 --cutoff-len、改用 "
                "--finetuning-type qlora 或减小 --lora-rank。",
            )
        smaller, zh, en = found
        if smaller.kernels and (smaller.kept, smaller.resident) != (layout.kept, layout.resident):
            self.trainee = fuse_layers(self.trainee, kept=smaller.kept, resident=smaller.resident)
        elif smaller.recompute and not layout.recompute:
            checkpoint_layers(self.trainee)
        self.log.write(
            "say",
            step=self.progress.step,
            zh=f"内存不够，已调整：{zh}。学到的内容不变，只是慢一些。",
            en=f"Out of memory; adapted: {en}. What is learned stays the same, only slower.",
        )
        return smaller

    def _step(self) -> None:
        import torch

        begin, state = time.perf_counter(), self.progress
        # noise differs between processes; the first one's is that of a process alone
        torch.manual_seed((self.config.train.seed << 20) + state.step + (self.world.rank << 44))
        documents = self.documents(state.step)
        learned = learn(
            self.trainee,
            documents,
            objective=self.objective,
            number=state.step,
            layout=self.layout,
            batches=self.rows(state.step),
            meanwhile=self._look_ahead,
            world=self.world,
            scale=self.optimizer.scaler.scale,
            noise=self.config.method.neftune_noise_alpha,
        )
        self.all_full = bool(learned.full)
        if learned.full:
            raise torch.OutOfMemoryError(learned.full)
        mean, trained, sums = learned.loss / max(1, learned.weight), learned.weight, learned.sums
        rate = self.rate(state.step)
        if not math.isfinite(mean):
            raise self._broken(mean)
        self.world.add_gradients(self.optimizer.named.values())
        norm, taken = self.optimizer.step(factor=rate / self.config.train.learning_rate, tokens=trained)
        if not taken and not self.optimizer.scaler.active:
            raise self._broken(norm)
        state.skipped += not taken
        state.step += 1
        state.loss, state.trained = state.loss + mean * trained, state.trained + trained
        state.sums = [a + b for a, b in zip(state.sums or [0.0] * len(sums), sums, strict=True)]
        state.tokens += sum(map(len, documents))
        state.seconds += time.perf_counter() - begin
        if state.step % self.config.train.logging_steps == 0 or state.step == self.total:
            self._note(norm, rate)

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        train = self.config.train
        return train.learning_rate * factor(train, step=step, total=self.total) * self.progress.plateau.scale

    def _note(self, norm: float, rate: float) -> None:
        """Write the step event."""
        import torch

        state = self.progress
        self.last_loss = state.loss / max(1, state.trained)
        self.last_measures = self.objective.report(state.sums)
        speed = (state.tokens - self.spent_tokens) / max(1e-9, state.seconds - self.spent)
        cuda = self.trainee.device.startswith("cuda")
        memory = torch.cuda.max_memory_allocated() if cuda else 0
        self.log.write(
            "step",
            step=state.step,
            epoch=round(state.step / self.per_epoch, 4),
            loss=self.last_loss,
            **self.last_measures,
            lr=rate,
            norm=norm,
            tokens=state.tokens,
            tokens_per_second=round(speed, 1),
            memory=memory,
            left=round((self.total - state.step) * state.seconds / max(1, state.step), 1),
        )
        if self.config.train.lr_scheduler_type == "reduce_lr_on_plateau" and not self.prepared.evaluation:
            state.plateau.see(self.last_loss, config=self.config.train)
        state.loss, state.trained, state.sums = 0.0, 0, []
        self.spent, self.spent_tokens = state.seconds, state.tokens

    def _broken(self, value: float) -> ModelError:
        state, last = self.progress, checkpoint.complete(self.folder / "checkpoints")
        intact = last[-1].folder.name if last else ""
        places = sources(self.documents(state.step)) or "-"
        return not_a_number(
            value, step=state.step + 1, rate=self.rate(state.step), places=places, intact=intact
        )

    def _tired(self) -> bool:
        return 0 < self.config.train.early_stopping_patience <= self.progress.waited

    # ------------------------------------------------------------ evaluation and checkpoints

    def evaluate(self) -> tuple[float, dict[str, float]]:
        """Mean loss of the evaluation set, one document never seeing another, and the objective's measures."""
        units, objective = self.prepared.evaluation, self.objective
        found = measure(self.trainee, units, objective=objective, layout=self.layout, world=self.world)
        return found.loss / found.weight, self.objective.report(found.sums)

    def judge(self, loss: float) -> bool:
        """Take note of an evaluation; True if it is the best so far."""
        state = self.progress
        if self.config.train.lr_scheduler_type == "reduce_lr_on_plateau":
            state.plateau.see(loss, config=self.config.train)
        better = loss < state.best
        state.best, state.best_step = (loss, state.step) if better else (state.best, state.best_step)
        state.waited = 0 if better else state.waited + 1
        return better

    def save(self) -> None:
        """Write a checkpoint: the same one whatever the number of processes."""
        values = self.progress.as_json() | {"total": self.total}
        tensors = self.optimizer.tensors()
        if not self.world.main:
            return
        done = checkpoint.write(
            self.folder / "checkpoints",
            step=self.progress.step,
            tensors=tensors,
            state=values,
            keep=self.config.train.save_total_limit,
        )
        self.log.write("checkpoint", step=self.progress.step, folder=done.folder.name)

    def load(self, found: checkpoint.Checkpoint) -> None:
        """Go back to a checkpoint. Raises ModelError if it is damaged or of another run."""
        tensors, values = checkpoint.read(found)
        self.optimizer.restore(tensors)
        values.pop("total", None)
        self.progress = progress_from(values)
        self.optimizer.scaler = self.progress.scaler
        self.log.rewind(found.step)
        self.log.write("resume", step=found.step)


def eager() -> Any:
    """A context in which compiled layers run as written: other shapes must not recompile them."""
    import torch

    return torch.compiler.set_stance("force_eager")
