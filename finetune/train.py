"""A prepared run folder -> an adapter folder. Read this first, then loop.py.

config.json -> data -> plan -> base model -> trainable weights -> (last checkpoint) -> loop -> adapter/, plots, metrics
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from finetune import adapter_folder, best, checkpoint, events, plots, run, samples, shards
from finetune.bases import chat_of, settled, verified
from finetune.board import Board
from finetune.config import RunConfig
from finetune.encode import Limits
from finetune.events import Event, EventLog
from finetune.kernels import fit
from finetune.loop import Loop, eager
from finetune.methods import ADAPTERS, attach, open_base
from finetune.parallel import ALONE, World, kind_of
from finetune.plan import does_not_fit
from finetune.prepare import Prepared, left_out, model_folder, prepare
from finetune.run_metrics import final_metrics
from finetune.stages.objective import objective_of
from finetune.stages.reference import with_reference
from finetune.together import Peers, begin, fail, plan_together, stoppable
from kb.errors import ZhiwenError
from rag.types import Message

if TYPE_CHECKING:
    from rag.types import Chat


@dataclass(frozen=True, slots=True)
class RunResult:
    """What came out."""

    folder: Path
    state: run.State
    adapter: Path | None
    """adapter/ or model/; None if the run was stopped."""
    metrics: dict[str, float]


def train(folder: Path, *, listen: Callable[[Event], None] | None = None, world: World = ALONE) -> RunResult:
    """Carry out or go on with the run in `folder`. `listen` hears every event. `world`: see `finetune.parallel`.

    Raises ZhiwenError with what to do; the run's status says the same, and its last checkpoint stays.
    """
    return carry_out(folder, listen=listen, make=_make, world=world)


class Runner(Protocol):
    """The parts of one run of some stage."""

    def carry_out(self) -> RunResult:
        """All of it."""
        ...


def _make(folder: Path, config: RunConfig, log: EventLog, world: World) -> Runner:
    if config.data.stage == "ppo":
        from finetune.ppo.train import PpoRun

        return PpoRun(folder, config, log, world)
    return _Run(folder, config, log, world)


def carry_out(
    folder: Path,
    *,
    listen: Callable[[Event], None] | None,
    make: Callable[[Path, RunConfig, EventLog, World], Runner],
    world: World = ALONE,
) -> RunResult:
    """What `train` does, with the stage's own parts. Whatever ends it stands in the status and the events."""
    config = run.read_config(folder)
    world = replace(world, kind=kind_of(config))
    if world.main:
        run.must_be_idle(folder)
        run.write_status(folder, state="running", step=0, total=0)
    log = EventLog(folder, listen=listen, silent=not world.main)
    begin(folder, world=world)
    peers = Peers(world, folder, log)
    try:
        result = make(folder, config, log, world).carry_out()
        peers.leaving = True
        world.wait()
        return result
    except ZhiwenError as error:
        fail(folder, log, error.message, error.zh, world=world)
        raise
    except (KeyboardInterrupt, SystemExit):
        english, chinese = "interrupted before a step was done", "在完成一步之前被中断"
        fail(folder, log, english, chinese, world=world, state="stopped")
        raise
    except Exception as error:
        if (lost := peers.explain(error)) is not None:
            fail(folder, log, lost.message, lost.zh, world=world, of_another=True)
            raise lost from error
        kind = type(error).__name__
        fail(folder, log, f"{kind}: {error}", f"{kind}：{error}", world=world)
        raise
    finally:
        peers.leaving = True


class _Run:
    """The parts of one run, from its config to its adapter."""

    def __init__(self, folder: Path, config: RunConfig, log: EventLog, world: World) -> None:
        self.folder, self.log, self.world = folder, log, world
        self.config, self.note = settled(config)
        self.tokenizer: Chat = chat_of(config)
        self.prepared: Prepared = prepare(config, tokenizer=self.tokenizer)

    def carry_out(self) -> RunResult:
        """All of it."""
        found = checkpoint.complete(self.folder / "checkpoints")
        if not found:
            self.log.rewind(-1)
        self.world.wait()  # what a process tells from now on stays
        if self.world.sharded:
            shards.check(self.config)
        self._compare_data(resumed=bool(found))
        self._write("data.json", self.prepared.facts)
        self._write("environment.json", run.environment())
        self.plan = plan_together(self.config, prepared=self.prepared, world=self.world)
        self._write("plan.json", self.plan.as_json())
        if not self.plan.fits:
            raise does_not_fit(self.plan)
        why = fit.must_say(self.config, device=self.plan.device, dtype=self.plan.dtype)
        for zh, en in [*(note for note in (self.note, why) if note), *left_out(self.prepared)]:
            self.log.write("say", step=0, zh=zh, en=en)
        self.loop = self._loop()
        if found:
            self.loop.load(found[-1])
        self.board = Board(self.folder, self.config, step=self.loop.progress.step, silent=not self.world.main)
        plan = self.plan
        self.log.write(
            "begin", step=self.loop.progress.step, total=plan.steps, documents=plan.documents, tokens=plan.tokens,
            trainable=plan.trainable, rows=self.loop.shape.tokens, estimate=round(plan.seconds, 1),
            processes=self.world.size, parallel=self.world.kind,
        )  # fmt: skip
        self._status("running")
        with stoppable(self.folder) as wanted:
            ended = self.loop.train(after=self._after, stop=wanted)
        return self._stopped() if ended == "stopped" else self._finish(ended)

    def _compare_data(self, *, resumed: bool) -> None:
        """Say so if a run goes on with other data than it began with: its steps are then others, too."""
        before = run.read_json(self.folder / "data.json") if resumed and self.world.main else {}
        parts = [p for p in ("train", "evaluation") if p in before]
        if any(before[p]["sha256"] != self.prepared.facts.get(p, {}).get("sha256") for p in parts):
            zh = "数据文件在续训前被改过：接下来学的是新的数据，曲线不再与一次跑完的相同。"
            en = "The data files were changed: the run goes on with the new ones, and differs from one without a break."
            self.log.write("say", step=0, zh=zh, en=en)

    def _loop(self) -> Loop:
        loaded = open_base(self.config, folder=model_folder(self.config), device=self.plan.device)
        trainee = attach(loaded, config=self.config)
        if note := verified(trainee, config=self.config):
            self.log.write("say", step=0, zh=note[0], en=note[1])
            self.config = replace(self.config, train=replace(self.config.train, packing=False))
            self.plan = plan_together(self.config, prepared=self.prepared, world=self.world)
        objective = objective_of(self.config)
        if self.world.sharded:
            trainee = shards.shard(trainee, world=self.world)
        loop = Loop(
            self.folder, config=self.config, prepared=self.prepared, trainee=trainee, layout=self.plan.layout,
            total=self.plan.steps, log=self.log, objective=objective, world=self.world,
        )  # fmt: skip
        loop.setup()
        loop.prepared = self.prepared = loop.trainee.within(
            lambda: with_reference(
                self.prepared, objective=objective, trainee=loop.trainee, layout=loop.layout, steps=loop.total,
                config=self.config, folder=self.folder, log=self.log, world=self.world,
            )
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
            self._draw()
        if step % train.logging_steps == 0 or last:
            self.board.step(self.loop.last_loss, self.loop.rate(step - 1), step, self.loop.last_measures)
            self._status("running", loss=self.loop.last_loss)

    def _evaluate(self) -> None:
        loss, measures = self.loop.evaluate()
        self.log.write("eval", step=self.loop.progress.step, loss=loss, **measures)
        self.board.evaluation(loss, self.loop.progress.step, measures)
        if self.loop.judge(loss) and self.config.train.early_stopping_patience:
            best.keep(self.folder, optimizer=self.loop.optimizer, world=self.world)

    def _sample(self) -> None:
        """Without shards the first process answers alone."""
        if not (self.world.main or self.world.sharded):
            return
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
        if not self.world.main:
            return
        step = self.loop.progress.step
        with (self.folder / "samples.md").open("a", encoding="utf-8") as file:
            for prompt, text in said:
                self.log.write("sample", step=step, prompt=prompt, text=text)
                file.write(f"## step {step}\n\n**{prompt}**\n\n{text}\n\n")

    def _write(self, name: str, value: dict[str, Any]) -> None:
        if self.world.main:
            run.write_json(self.folder / name, value)

    def _draw(self) -> None:
        if self.world.main:
            plots.draw(events.read(self.folder), folder=self.folder / "plots")

    def _status(self, state: run.State, **values: Any) -> None:
        step, total = self.loop.progress.step, self.loop.total
        if self.world.main:
            run.write_status(self.folder, state=state, step=step, total=total, **values)

    # ------------------------------------------------------------ the end

    def _stopped(self) -> RunResult:
        self.loop.save()
        if self.world.main:
            (self.folder / run.STOP).unlink(missing_ok=True)
        self._draw()
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
        else:
            loop.save()  # whatever happens to answers and measures: nothing that was learned is lost
        self._sample()
        metrics = final_metrics(
            events.read(self.folder),
            state=loop.progress,
            device=loop.trainee.device,
            planned=self.plan.need.total,
        )
        if train.predict_with_generate and (self.world.main or self.world.sharded):
            metrics |= self._predict()
        adapter = self._save_adapter(metrics)
        self._draw()
        self._write("metrics.json", metrics)
        self._status("done", loss=loop.last_loss)
        self.log.write("end", step=loop.progress.step, state="done", metrics=metrics, folder=adapter.name)
        self.board.close()
        return RunResult(self.folder, "done", adapter, metrics)

    def _save_adapter(self, metrics: dict[str, float]) -> Path:
        weights = shards.gathered(self.loop.trainee, keep=self.world.main) if self.world.sharded else None
        if not self.world.main:
            return self.folder / (run.ADAPTER if self.loop.trainee.method in ADAPTERS else run.MODEL)
        return adapter_folder.write(
            self.folder, trainee=self.loop.trainee, config=self.config, plan=self.plan,
            data=self.prepared.facts, metrics=metrics, weights=weights,
        )  # fmt: skip

    def _take_best(self) -> None:
        """Go back to the weights of the best evaluation."""
        state = self.loop.progress
        best.take(self.folder, optimizer=self.loop.optimizer)
        self.log.write(
            "say", step=state.step,
            zh=f"评估损失连续 {state.waited} 次没有下降，提前结束；采用第 {state.best_step} 步的权重（{state.best:.4f}）。",
            en=f"No progress in {state.waited} evaluations: ended early, with the weights of step {state.best_step} "
            f"({state.best:.4f}).",
        )  # fmt: skip

    def _predict(self) -> dict[str, float]:
        with eager():
            return samples.predict(
                self.loop.trainee,
                examples=self.prepared.eval_examples,
                tokenizer=self.tokenizer,
                most=self.config.train.sample_tokens,
                path=self.folder / "predictions.jsonl" if self.world.main else None,
            )
