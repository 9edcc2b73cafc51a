"""A prepared run folder -> an adapter folder. Read this first, then loop.py.

config.json -> data -> plan -> base model -> trainable weights -> (last checkpoint) -> loop -> adapter/, plots, metrics
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from finetune import adapter_folder, checkpoint, events, plots, run, samples
from finetune.board import Board
from finetune.config import RunConfig
from finetune.encode import Limits
from finetune.events import Event, EventLog
from finetune.kernels import fit
from finetune.loop import Loop, eager
from finetune.methods import attach, open_base
from finetune.plan import Plan, make_plan
from finetune.prepare import Prepared, model_folder, prepare
from finetune.run_metrics import final_metrics
from finetune.stages.objective import objective_of
from finetune.stages.reference import with_reference
from kb.errors import ModelError, ZhiwenError
from rag.types import Message

if TYPE_CHECKING:
    from rag.chatglm3.chat import ChatTokenizer

BEST = "best.safetensors"
"""Weights of the best evaluation, kept for early stopping."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """What came out."""

    folder: Path
    state: run.State
    adapter: Path | None
    """adapter/ or model/; None if the run was stopped."""
    metrics: dict[str, float]


def train(folder: Path, *, listen: Callable[[Event], None] | None = None) -> RunResult:
    """Carry out or go on with the run in `folder`. `listen` hears every event.

    Raises ZhiwenError with what to do; the run's status says the same, and its last checkpoint stays.
    """
    return carry_out(folder, listen=listen, make=_make)


class Runner(Protocol):
    """The parts of one run of some stage."""

    def carry_out(self) -> RunResult:
        """All of it."""
        ...


def _make(folder: Path, config: RunConfig, log: EventLog) -> Runner:
    if config.data.stage == "ppo":
        from finetune.ppo.train import PpoRun

        return PpoRun(folder, config, log)
    return _Run(folder, config, log)


def carry_out(
    folder: Path,
    *,
    listen: Callable[[Event], None] | None,
    make: Callable[[Path, RunConfig, EventLog], Runner],
) -> RunResult:
    """What `train` does, with the stage's own parts. Whatever ends it stands in the status and the events."""
    run.must_be_idle(folder)
    # rows differ in length: let blocks of GPU memory grow instead of piling up; read when CUDA begins
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    log = EventLog(folder, listen=listen)
    config = run.read_config(folder)
    run.write_status(folder, state="running", step=0, total=0)
    try:
        return make(folder, config, log).carry_out()
    except ZhiwenError as error:
        _failed(folder, log, error.message, error.zh)
        raise
    except (KeyboardInterrupt, SystemExit):
        _failed(folder, log, "interrupted before a step was done", "在完成一步之前被中断", state="stopped")
        raise
    except Exception as error:
        _failed(folder, log, f"{type(error).__name__}: {error}", f"{type(error).__name__}：{error}")
        raise


def _failed(folder: Path, log: EventLog, english: str, chinese: str, *, state: run.State = "failed") -> None:
    done = checkpoint.complete(folder / "checkpoints")
    step = done[-1].step if done else 0
    total = run.info(folder).total
    run.write_status(folder, state=state, step=step, total=total, error_en=english, error_zh=chinese)
    log.write("end", state=state, zh=chinese, en=english)


@contextmanager
def stoppable(folder: Path) -> Iterator[Callable[[], bool]]:
    """Ctrl-C, a termination signal or `run.stop` end the run after the step at hand; a second Ctrl-C at once."""
    asked = threading.Event()

    def on_signal(number: int, frame: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    def wanted() -> bool:
        return asked.is_set() or run.stop_requested(folder)

    if threading.current_thread() is not threading.main_thread():
        yield wanted
        return
    before = {kind: signal.signal(kind, on_signal) for kind in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wanted
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


class _Run:
    """The parts of one run, from its config to its adapter."""

    def __init__(self, folder: Path, config: RunConfig, log: EventLog) -> None:
        from rag.chatglm3.chat import open_tokenizer

        self.folder, self.config, self.log = folder, config, log
        self.tokenizer: ChatTokenizer = open_tokenizer(model_folder(config))
        self.prepared: Prepared = prepare(config, tokenizer=self.tokenizer)
        self.began = time.time()

    def carry_out(self) -> RunResult:
        """All of it."""
        found = checkpoint.complete(self.folder / "checkpoints")
        if not found:
            self.log.rewind(-1)
        run.write_json(self.folder / "data.json", self.prepared.facts)
        run.write_json(self.folder / "environment.json", run.environment())
        self.plan = make_plan(self.config, prepared=self.prepared)
        run.write_json(self.folder / "plan.json", self.plan.as_json())
        if not self.plan.fits:
            raise does_not_fit(self.plan)
        self._say_data()
        why = fit.must_say(self.config, device=self.plan.device, dtype=self.plan.dtype)
        if why:
            self.log.write("say", step=0, zh=why[0], en=why[1])
        self.loop = self._loop()
        if found:
            self.loop.load(found[-1])
        self.board = Board(self.folder, self.config, step=self.loop.progress.step)
        plan = self.plan
        self.log.write(
            "begin", step=self.loop.progress.step, total=plan.steps, documents=plan.documents, tokens=plan.tokens,
            trainable=plan.trainable, rows=self.loop.shape.tokens, estimate=round(plan.seconds, 1),
        )  # fmt: skip
        self._status("running")
        with stoppable(self.folder) as wanted:
            ended = self.loop.train(after=self._after, stop=wanted)
        return self._stopped() if ended == "stopped" else self._finish(ended)

    def _say_data(self) -> None:
        """What was left out or cut, once."""
        report = self.prepared.report
        bad = sum(int(f.get("bad_lines", 0)) for f in self.prepared.facts.values() if isinstance(f, dict))
        for count, zh, en in (
            (bad, "行有问题，未使用（见 data.json）", "bad lines were left out (see data.json)"),
            (len(report.unusable), "条样本没有可学的内容，未使用", "examples had nothing to learn from"),
            (report.shortened, "条样本超长，已截短", "examples were too long and were shortened"),
        ):
            if count:
                self.log.write("say", step=0, zh=f"{count} {zh}", en=f"{count} {en}")

    def _loop(self) -> Loop:
        loaded = open_base(self.config, folder=model_folder(self.config), device=self.plan.device)
        trainee = attach(loaded, config=self.config)
        objective = objective_of(self.config)
        loop = Loop(
            self.folder, config=self.config, prepared=self.prepared, trainee=trainee, layout=self.plan.layout,
            total=self.plan.steps, log=self.log, objective=objective,
        )  # fmt: skip
        loop.setup()
        loop.prepared = self.prepared = with_reference(
            self.prepared, objective=objective, trainee=loop.trainee, layout=loop.layout, steps=loop.total,
            config=self.config, folder=self.folder, log=self.log,
        )  # fmt: skip
        return loop

    # ------------------------------------------------------------ along the way

    def _after(self) -> None:
        """After every step: evaluate, sample, save, tell."""
        train, step = self.config.train, self.loop.progress.step
        last = step == self.loop.total
        if self.prepared.evaluation and (step % (train.eval_steps or self.loop.per_epoch) == 0 or last):
            self._evaluate()
        if train.sample_steps and step % train.sample_steps == 0 and not last:
            self._sample()
        if step % train.save_steps == 0 and not last:
            self.loop.save()
            plots.draw(events.read(self.folder), folder=self.folder / "plots")
        if step % train.logging_steps == 0 or last:
            self.board.step(self.loop.last_loss, self.loop.rate(step - 1), step, self.loop.last_measures)
            self._status("running", loss=self.loop.last_loss)

    def _evaluate(self) -> None:
        loss, measures = self.loop.evaluate()
        self.log.write("eval", step=self.loop.progress.step, loss=loss, **measures)
        self.board.evaluation(loss, self.loop.progress.step, measures)
        if self.loop.judge(loss) and self.config.train.early_stopping_patience:
            from safetensors.torch import save_file

            work = self.folder / f".{BEST}"
            masters = {
                n: t.detach().cpu().contiguous().clone() for n, t in self.loop.optimizer.masters.items()
            }
            save_file(masters, work)
            work.replace(self.folder / BEST)

    def _sample(self) -> list[tuple[str, str]]:
        train, data = self.config.train, self.config.data
        prompts = [(Message("user", text),) for text in train.sample_prompts] or self.prepared.prompts()
        with eager():
            said = (
                samples.scored(
                    self.loop.trainee,
                    examples=self.prepared.eval_examples or self.prepared.train_examples,
                    tokenizer=self.tokenizer,
                    limits=Limits(data.cutoff_len, data.max_source_length, data.max_target_length),
                    layout=self.loop.layout,
                )
                if data.stage == "rm"
                else samples.sample(
                    self.loop.trainee,
                    prompts=prompts,
                    stage=data.stage,
                    tokenizer=self.tokenizer,
                    most=train.sample_tokens,
                )
            )
        step = self.loop.progress.step
        with (self.folder / "samples.md").open("a", encoding="utf-8") as file:
            for prompt, text in said:
                self.log.write("sample", step=step, prompt=prompt, text=text)
                file.write(f"## step {step}\n\n**{prompt}**\n\n{text}\n\n")
        return said

    def _status(self, state: run.State, **values: Any) -> None:
        run.write_status(
            self.folder, state=state, step=self.loop.progress.step, total=self.loop.total, **values
        )

    # ------------------------------------------------------------ the end

    def _stopped(self) -> RunResult:
        (self.folder / run.STOP).unlink(missing_ok=True)
        self.loop.save()
        plots.draw(events.read(self.folder), folder=self.folder / "plots")
        self._status("stopped", loss=self.loop.last_loss)
        self.log.write(
            "end",
            state="stopped",
            zh="已停止，进度已保存，可续训。",
            en="Stopped; the progress is saved, resume any time.",
        )
        return RunResult(self.folder, "stopped", None, {})

    def _finish(self, ended: str) -> RunResult:
        loop, train = self.loop, self.config.train
        if ended == "early":
            self._take_best()
        self._sample()
        metrics = final_metrics(
            events.read(self.folder),
            state=loop.progress,
            device=loop.trainee.device,
            planned=self.plan.need.total,
        )
        if train.predict_with_generate:
            metrics |= self._predict()
        adapter = adapter_folder.write(
            self.folder,
            trainee=loop.trainee,
            config=self.config,
            plan=self.plan,
            data=self.prepared.facts,
            metrics=metrics,
        )
        if ended == "done":
            loop.save()
        plots.draw(events.read(self.folder), folder=self.folder / "plots")
        run.write_json(self.folder / "metrics.json", metrics)
        self._status("done", loss=loop.last_loss)
        self.log.write("end", step=loop.progress.step, state="done", metrics=metrics, folder=adapter.name)
        self.board.close()
        return RunResult(self.folder, "done", adapter, metrics)

    def _take_best(self) -> None:
        """Go back to the weights of the best evaluation."""
        from safetensors.torch import load_file

        optimizer, state = self.loop.optimizer, self.loop.progress
        best = load_file(self.folder / BEST)
        import torch

        with torch.no_grad():
            for name, master in optimizer.masters.items():
                master.copy_(best[name])
        optimizer.publish()
        self.log.write(
            "say", step=state.step,
            zh=f"评估损失连续 {state.waited} 次没有下降，提前结束；采用第 {state.best_step} 步的权重（{state.best:.4f}）。",
            en=f"No progress in {state.waited} evaluations: ended early, with the weights of step {state.best_step} "
            f"({state.best:.4f}).",
        )  # fmt: skip

    def _predict(self) -> dict[str, float]:
        chosen = self.prepared.eval_examples
        if not chosen:
            raise ModelError(
                "--predict-with-generate needs --eval-dataset or --val-size.",
                zh="--predict-with-generate 需要 --eval-dataset 或 --val-size。",
            )
        with eager():
            return samples.predict(
                self.loop.trainee,
                examples=chosen,
                tokenizer=self.tokenizer,
                most=self.config.train.sample_tokens,
                path=self.folder / "predictions.jsonl",
            )


def does_not_fit(plan: Plan) -> ModelError:
    """The error for a run that will not fit, with what to change."""
    need, free = plan.need.total / 2**30, plan.free / 2**30
    return ModelError(
        f"this needs about {need:.1f} GiB on {plan.device}, {free:.1f} GiB are free. You can: "
        + "; ".join(plan.changes_en)
        + ".",
        zh=f"在 {plan.device} 上约需 {need:.1f} GiB，可用 {free:.1f} GiB。可以："
        + "；".join(plan.changes_zh)
        + "。",
    )
