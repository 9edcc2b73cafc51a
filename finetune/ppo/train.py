"""A run of `--stage ppo`, from its folder to its adapter. The counterpart of finetune.train, which hands over to it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune import adapter_folder, checkpoint, events, run
from finetune.bases import settled
from finetune.config import RunConfig
from finetune.encode import Encoded
from finetune.events import EventLog
from finetune.kernels import fit
from finetune.methods import attach, checkpoint_layers, open_base
from finetune.parallel import ALONE, World
from finetune.plan import does_not_fit, make_plan
from finetune.ppo import curves, samples
from finetune.ppo.loop import Loop
from finetune.ppo.policy import Policy
from finetune.ppo.reward import AdapterReward, Reward
from finetune.ppo.rollout import Sampler
from finetune.prepare import Prepared, model_folder, prepare
from finetune.start import add_reference
from finetune.together import stoppable
from finetune.train import RunResult
from kb.errors import ModelError, SettingsError

if TYPE_CHECKING:
    from rag.chatglm3.chat import ChatTokenizer

SHOWN = 3
"""Sample events of a step that shows any."""


class PpoRun:
    """The parts of one run. `reward`: a function instead of `reward_model`."""

    def __init__(
        self,
        folder: Path,
        config: RunConfig,
        log: EventLog,
        world: World = ALONE,
        *,
        reward: Reward | None = None,
    ) -> None:
        from rag.chatglm3.chat import open_tokenizer

        settled(config)
        if world.size > 1:
            raise SettingsError(
                f"--stage ppo works with one process, {world.size} were started. The other stages take several.",
                zh=f"--stage ppo 只能用一个进程，现在启动了 {world.size} 个。其他阶段可以用多个。",
            )
        if reward is None and not config.ppo.reward_model:
            raise SettingsError(
                "--stage ppo needs --reward-model RUN: a run of --stage rm on the same base.",
                zh="--stage ppo 需要 --reward-model 运行：在同一基座上训练的 rm 阶段的运行。",
            )
        self.folder, self.config, self.log, self.function = folder, config, log, reward
        self.tokenizer: ChatTokenizer = open_tokenizer(model_folder(config))
        self.prepared: Prepared = prepare(config, tokenizer=self.tokenizer)
        self.prompts = [p for p in self.prepared.train if isinstance(p, Encoded)]
        self.held = [p for p in self.prepared.evaluation if isinstance(p, Encoded)]

    def carry_out(self) -> RunResult:
        """All of it."""
        import torch

        run.write_json(self.folder / "data.json", self.prepared.facts)
        run.write_json(self.folder / "environment.json", run.environment())
        self.plan = make_plan(self.config, prepared=self.prepared)
        if said := fit.must_say(self.config, device=self.plan.device, dtype=self.plan.dtype):
            self.log.write("say", step=0, zh=said[0], en=said[1])
        run.write_json(self.folder / "plan.json", self.plan.as_json())
        if not self.plan.fits:
            raise does_not_fit(self.plan)
        if left_out := len(self.prepared.report.unusable):
            self.log.write(
                "say", step=0, zh=f"{left_out} 个提示太长，未使用", en=f"{left_out} prompts were too long"
            )
        policy = self._policy()
        reward = self.function or AdapterReward(
            policy, Path(self.config.ppo.reward_model), end_id=self.tokenizer.specials.eos
        )
        longest = max(map(len, [*self.prompts, *self.held]))
        with Sampler(policy.trainee, config=self.config, longest=longest) as sampler:
            self.loop = Loop(
                self.folder, config=self.config, prompts=self.prompts, policy=policy, reward=reward,
                sampler=sampler, total=self.plan.steps, log=self.log,
            )  # fmt: skip
            try:
                return self._steps()
            except torch.OutOfMemoryError as error:
                raise _full(str(error).splitlines()[0]) from error

    def _policy(self) -> Policy:
        loaded = open_base(self.config, folder=model_folder(self.config), device=self.plan.device)
        trainee = attach(loaded, config=self.config)
        if self.config.data.adapter:
            add_reference(trainee, Path(self.config.data.adapter))
        if self.plan.layout.recompute and not self.plan.layout.kernels:
            checkpoint_layers(trainee)
        return Policy(trainee, temperature=self.config.ppo.ppo_temperature, layout=self.plan.layout)

    # ------------------------------------------------------------ along the way

    def _steps(self) -> RunResult:
        from finetune.board import Board

        loop, train = self.loop, self.config.train
        found = checkpoint.complete(self.folder / "checkpoints")
        if found:
            loop.load(found[-1])
        else:
            self.log.rewind(-1)
        samples.rewind(self.folder, step=loop.progress.step)
        self.board = Board(self.folder, self.config, step=loop.progress.step)
        self.log.write(
            "begin", step=loop.progress.step, total=loop.total, documents=self.plan.documents,
            tokens=self.plan.tokens, trainable=self.plan.trainable, rows=self.plan.layout.tokens,
            estimate=round(self.plan.seconds, 1),
        )  # fmt: skip
        self._status("running")
        with stoppable(self.folder) as wanted:
            while loop.progress.step < loop.total:
                report = loop.step()
                step = loop.progress.step
                self._note(step, report)
                if self.held and (step % (train.eval_steps or loop.per_epoch) == 0 or step == loop.total):
                    self._evaluate(step)
                if step % train.save_steps == 0 and step < loop.total:
                    loop.save()
                    curves.draw(events.read(self.folder), folder=self.folder / "plots")
                if wanted() and step < loop.total:
                    return self._stopped()
        return self._finish()

    def _note(self, step: int, report: dict[str, float]) -> None:
        """The step's answers and, where one is due, its event."""
        import torch

        loop, train, last = self.loop, self.config.train, step == self.loop.total
        assert loop.last is not None
        said = samples.append(
            self.folder,
            step=step,
            scored=loop.last,
            tokenizer=self.tokenizer,
        )
        if step % train.logging_steps == 0 or last:
            cuda = loop.policy.trainee.device.startswith("cuda")
            state = loop.progress
            self.log.write(
                "step",
                step=step,
                epoch=round(step / loop.per_epoch, 4),
                **report,
                tokens=state.tokens,
                memory=torch.cuda.max_memory_allocated() if cuda else 0,
                left=round((loop.total - step) * state.seconds / step, 1),
            )
            self.board.values({k: v for k, v in report.items() if k != "lr"}, step)
            self._status("running", loss=report["loss"])
        if last or (train.sample_steps and step % train.sample_steps == 0):
            for prompt, text in said[:SHOWN]:
                self.log.write("sample", step=step, prompt=prompt, text=text)

    def _evaluate(self, step: int) -> None:
        found = self.loop.evaluate(self.held)
        self.log.write("held_out", step=step, **found)
        self.board.values({f"eval_{k}": v for k, v in found.items()}, step)

    def _status(self, state: run.State, **values: Any) -> None:
        run.write_status(
            self.folder, state=state, step=self.loop.progress.step, total=self.loop.total, **values
        )

    # ------------------------------------------------------------ the end

    def _stopped(self) -> RunResult:
        (self.folder / run.STOP).unlink(missing_ok=True)
        self.loop.save()
        curves.draw(events.read(self.folder), folder=self.folder / "plots")
        self._status("stopped")
        self.log.write(
            "end",
            state="stopped",
            zh="已停止，进度已保存，可续训。",
            en="Stopped; the progress is saved, resume any time.",
        )
        return RunResult(self.folder, "stopped", None, {})

    def _finish(self) -> RunResult:
        loop = self.loop
        metrics = self._metrics()
        adapter = adapter_folder.write(
            self.folder,
            trainee=loop.policy.trainee,
            config=self.config,
            plan=self.plan,
            data=self.prepared.facts,
            metrics=metrics,
        )
        loop.save()
        curves.draw(events.read(self.folder), folder=self.folder / "plots")
        run.write_json(self.folder / "metrics.json", metrics)
        self._status("done", loss=metrics.get("loss"))
        self.log.write("end", step=loop.progress.step, state="done", metrics=metrics, folder=adapter.name)
        self.board.close()
        return RunResult(self.folder, "done", adapter, metrics)

    def _metrics(self) -> dict[str, float]:
        """Of the last tenth of the steps; the first step's score beside it."""
        import torch

        steps = [e for e in events.read(self.folder) if e["event"] == "step"]
        tail, state = steps[-max(1, len(steps) // 10) :], self.loop.progress
        names = ("score", "reward", "kl", "length", "ended", "entropy", "loss")
        found = {name: float(np.mean([e[name] for e in tail])) for name in names}
        found["first_score"] = float(steps[0]["score"])
        evals = [e for e in events.read(self.folder) if e["event"] == "held_out"]
        if evals:
            found["eval_score"] = float(evals[-1]["score"])
        for part in ("generate", "score", "learn"):
            found[f"seconds_{part}"] = round(float(np.median([e[f"seconds_{part}"] for e in steps])), 4)
        found |= {
            "steps": float(state.step),
            "tokens": float(state.tokens),
            "seconds": round(state.seconds, 2),
        }
        if self.loop.policy.trainee.device.startswith("cuda"):
            found["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
            found["planned_gib"] = self.plan.need.total / 2**30
        return found


def _full(reason: str) -> ModelError:
    """The error for memory that ran out, with what to change."""
    return ModelError(
        f"out of memory ({reason}). You can: --gradient-checkpointing on, --pack-tokens 2048, a smaller --ppo-slots or "
        "--ppo-max-new-tokens.",
        zh=f"内存不够（{reason}）。可以：--gradient-checkpointing on、--pack-tokens 2048、减小 --ppo-slots 或 "
        "--ppo-max-new-tokens。",
    )


def train(folder: Path, *, reward: Reward, listen: Callable[[events.Event], None] | None = None) -> RunResult:
    """Carry out or go on with a ppo run that a function scores instead of a reward model. See finetune.train.train."""
    from finetune.train import carry_out

    return carry_out(folder, listen=listen, make=partial(PpoRun, reward=reward))
