"""One step: write answers, score them, learn from them in several passes. Each step is a function of seed, number and weights.

Nothing random is carried from step to step, so a run that was killed goes on exactly as it would have without.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune import checkpoint
from finetune.config import RunConfig
from finetune.encode import Encoded
from finetune.events import EventLog
from finetune.optimizer import Optimizer
from finetune.pack import step_examples, steps_per_epoch
from finetune.ppo import advantages as gae
from finetune.ppo.controller import KlCost, Running, shaped
from finetune.ppo.objective import Before, objective
from finetune.ppo.policy import Places, Policy
from finetune.ppo.prompts import Answer
from finetune.ppo.reward import Reward
from finetune.ppo.rollout import Sampler
from finetune.progress import not_a_number
from finetune.schedule import factor

if TYPE_CHECKING:
    from torch import Tensor


LOOKED_AT = ("total", "policy", "value", "entropy", "clipped", "moved")
"""Sums of the objective that are reported."""


@dataclass(slots=True)
class Progress:
    """Everything besides weights and moments that a checkpoint must hold."""

    kl: KlCost
    step: int = 0
    """Steps done."""
    tokens: int = 0
    """Written in all."""
    seconds: float = 0.0
    scale: Running = field(default_factory=Running)
    spread: Running = field(default_factory=Running)
    """Of the advantages."""
    scaler: dict[str, Any] = field(default_factory=dict)
    """Of float16."""

    def as_json(self) -> dict[str, Any]:
        """For state.json."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Scored:
    """Answers of a step with what was thought of them."""

    answers: list[Answer]
    scores: list[float]
    """As the reward model said them."""
    shaped: list[float]
    """As they are learned from."""
    kl: list[float]
    """Of each answer to the reference, nats (sum over its tokens)."""


class Loop:
    """One run in progress."""

    def __init__(
        self,
        folder: Path,
        *,
        config: RunConfig,
        prompts: Sequence[Encoded],
        policy: Policy,
        reward: Reward,
        sampler: Sampler,
        total: int,
        log: EventLog,
    ) -> None:
        self.folder, self.config, self.prompts, self.policy = folder, config, prompts, policy
        self.reward, self.sampler, self.total, self.log = reward, sampler, total, log
        words = config.ppo.ppo_max_new_tokens * config.examples_per_step / config.ppo.ppo_mini_batches
        self.optimizer = Optimizer(policy.trainable(), config=config, weight=words)
        self.progress = Progress(KlCost(config.ppo.ppo_kl_coef))
        self.spent = {"generate": 0.0, "score": 0.0, "learn": 0.0}
        self.last: Scored | None = None
        self.last_score: float | None = None

    @property
    def per_epoch(self) -> int:
        """Steps of one pass over the prompts."""
        return steps_per_epoch(len(self.prompts), per_step=self.config.examples_per_step)

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        train = self.config.train
        return train.learning_rate * factor(train, step=step, total=self.total)

    # ------------------------------------------------------------ a step

    def step(self) -> dict[str, float]:
        """Write, score, learn. Returns what the step event says."""
        import torch

        state, clock = self.progress, Clock(self.policy.trainee.device)
        torch.manual_seed((self.config.train.seed << 20) + state.step)
        chosen = step_examples(
            len(self.prompts),
            step=state.step,
            per_step=self.config.examples_per_step,
            seed=self.config.train.seed,
        )
        answers = self.sampler.write([self.prompts[i].ids.tolist() for i in chosen], step=state.step)
        written = clock.lap()
        documents = [a.document for a in answers]
        before, report = self._score(answers, documents)
        scored = clock.lap()
        report |= self._learn(documents, before)
        self.spent = {"generate": written, "score": scored, "learn": clock.lap()}
        tokens = sum(len(a.written) for a in answers)
        state.kl.see(report["kl"], answers=len(answers), config=self.config.ppo)
        state.step += 1
        state.tokens += tokens
        state.seconds += sum(self.spent.values())
        self.last_score = report["score"]
        report["tokens_per_second"] = round(tokens / max(written, 1e-9), 1)
        return report | {f"seconds_{name}": round(value, 4) for name, value in self.spent.items()}

    def _score(self, answers: list[Answer], documents: list[Encoded]) -> tuple[Before, dict[str, float]]:
        """What reward, reference and value head think of the answers; advantages."""
        import torch

        state, ppo = self.progress, self.config.ppo
        raw = self.reward(answers)
        said, values, referred = self.policy.before(documents)
        ended, lengths = [a.ended for a in answers], [len(a.written) for a in answers]
        marks = shaped(raw, ended=ended, scale=state.scale, config=ppo)
        kl, mask = gae.padded((said - referred).double().cpu().numpy(), lengths=lengths)
        worth, _ = gae.padded(values.double().cpu().numpy(), lengths=lengths)
        rewards = gae.token_rewards(kl, scores=marks, lengths=lengths, coefficient=state.kl.coefficient)
        found = gae.estimate(rewards, values=worth, mask=mask, gamma=ppo.ppo_gamma, lam=ppo.ppo_lambda)
        state.spread.see(found.advantages[mask].tolist())
        gain = found.advantages
        if ppo.ppo_whiten:
            gain = gae.whiten(gain, mask=mask, least=state.spread.deviation)

        def flat(values: gae.Array) -> Tensor:
            return torch.from_numpy(values[mask]).to(said)

        self.last = Scored(answers, raw, marks, kl.sum(1).tolist())
        report = {
            "reward": float(rewards.sum(1).mean()),
            "score": float(np.mean(raw)),
            "score_deviation": float(np.std(raw)),
            "kl": float(kl.sum(1).mean()),
            "kl_cost": state.kl.coefficient,
            "length": float(np.mean(lengths)),
            "ended": float(np.mean(ended)),
            "explained_variance": gae.explained_variance(worth, returns=found.returns, mask=mask),
        }
        return Before(said, values, flat(gain), flat(found.returns)), report

    def _learn(self, documents: list[Encoded], before: Before) -> dict[str, float]:
        """Several passes over the answers, each in mini-batches of another order. Means over all that was looked at.

        If the policy has moved further than `ppo_most_moved` from where it stood when it wrote, the rest is left out.
        """
        ppo, places, count = self.config.ppo, Places(documents), len(documents)
        order = np.random.default_rng([self.config.train.seed, self.progress.step])
        rate = self.rate(self.progress.step)
        sums, seen, norms = dict.fromkeys(LOOKED_AT, 0.0), 0, []
        minis = [
            [int(i) for i in mini]
            for _ in range(ppo.ppo_epochs)
            for mini in np.array_split(order.permutation(count), min(ppo.ppo_mini_batches, count))
        ]
        for mini in minis:
            found = self._gradients(documents, mini, before, places)
            tokens = sum(places.lengths[i] for i in mini)
            seen += tokens
            sums = {name: sums[name] + found[name] for name in LOOKED_AT}
            if not math.isfinite(found["total"]):
                raise self._broken(found["total"])
            if ppo.ppo_most_moved and found["moved"] / tokens > ppo.ppo_most_moved:
                self.policy.forget()
                break
            norm, taken = self.optimizer.step(factor=rate / self.config.train.learning_rate, tokens=tokens)
            if not taken and not self.optimizer.scaler.active:
                raise self._broken(norm)
            norms.append(norm)
        means = {name: value / max(1, seen) for name, value in sums.items()}
        return {
            "loss": means["total"],
            "policy_loss": means["policy"],
            "value_loss": means["value"],
            "entropy": means["entropy"],
            "clip_fraction": means["clipped"],
            "moved": means["moved"],
            "updates": len(norms) / len(minis),
            "norm": float(np.mean(norms)) if norms else 0.0,
            "lr": rate,
        }

    def _gradients(
        self, documents: list[Encoded], mini: list[int], before: Before, places: Places
    ) -> dict[str, float]:
        """Gradients of a mini-batch into the model; the sums of its objective."""
        import torch

        sums: dict[str, Any] = dict.fromkeys(LOOKED_AT, 0.0)
        for group, batch in self.policy.parts([documents[i] for i in mini]):
            at = torch.from_numpy(places.of([mini[i] for i in group])).to(batch.ids.device)
            logprobs, entropy, values = self.policy.look(batch)
            part = Before(before.logprobs[at], before.values[at], before.advantages[at], before.returns[at])
            loss = objective(logprobs, entropy=entropy, values=values, before=part, config=self.config.ppo)
            scaled: Any = loss.total * self.optimizer.scaler.scale
            scaled.backward()
            sums = {name: sums[name] + getattr(loss, name).detach().float() for name in LOOKED_AT}
        return {name: float(value) for name, value in sums.items()}

    def _broken(self, value: float) -> Exception:
        last = checkpoint.complete(self.folder / "checkpoints")
        step = self.progress.step
        return not_a_number(
            value,
            step=step + 1,
            rate=self.rate(step),
            places="-",
            intact=last[-1].folder.name if last else "",
        )

    # ------------------------------------------------------------ evaluation and checkpoints

    def evaluate(self, prompts: Sequence[Encoded]) -> dict[str, float]:
        """Mean score and length of greedy answers to held-out prompts."""
        answers = self.sampler.write([p.ids.tolist() for p in prompts], step=0, greedy=True)
        scores = self.reward(answers)
        return {
            "score": float(np.mean(scores)),
            "length": float(np.mean([len(a.written) for a in answers])),
            "ended": float(np.mean([a.ended for a in answers])),
        }

    def save(self) -> checkpoint.Checkpoint:
        """Write a checkpoint."""
        self.progress.scaler = asdict(self.optimizer.scaler)
        done = checkpoint.write(
            self.folder / "checkpoints",
            step=self.progress.step,
            tensors=self.optimizer.tensors(),
            state=self.progress.as_json(),
            keep=self.config.train.save_total_limit,
        )
        self.log.write("checkpoint", step=self.progress.step, folder=done.folder.name)
        return done

    def load(self, found: checkpoint.Checkpoint) -> None:
        """Go back to a checkpoint. Raises ModelError if it is damaged or of another run."""
        from finetune.optimizer import Scaler

        tensors, values = checkpoint.read(found)
        self.optimizer.restore(tensors)
        self.progress = Progress(
            **{
                **values,
                "kl": KlCost(**values["kl"]),
                "scale": Running(**values["scale"]),
                "spread": Running(**values["spread"]),
            }
        )
        self.optimizer.scaler = Scaler(**self.progress.scaler)
        self.log.rewind(found.step)
        self.log.write("resume", step=found.step)


class Clock:
    """Seconds between laps, the device's work included."""

    def __init__(self, device: str) -> None:
        self.device, self.at = device, time.perf_counter()

    def lap(self) -> float:
        """Since the last one."""
        if self.device.startswith("cuda"):
            import torch

            torch.cuda.synchronize(self.device)
        before, self.at = self.at, time.perf_counter()
        return self.at - before
