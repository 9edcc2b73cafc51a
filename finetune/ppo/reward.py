"""What scores an answer: the adapter and head of an rm run on the policy's own base, or any function in Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from finetune.forward import hidden_states
from finetune.ppo.prompts import Answer, document
from finetune.start import switched

if TYPE_CHECKING:
    from finetune.ppo.policy import Policy

REWARD = "reward"
"""PEFT's name of the reward adapter."""


class Reward(Protocol):
    """Scores without a unit, higher is better."""

    def __call__(self, answers: Sequence[Answer]) -> list[float]:
        """One score an answer."""
        ...


class AdapterReward:
    """An rm run's adapter beside the policy's, on the same weights."""

    def __init__(self, policy: Policy, folder: Path, *, end_id: int) -> None:
        from finetune import run
        from finetune.reward import add_reward
        from rag.chatglm3.adapters import TRAIN_FILE, AdapterInfo, check_base

        trainee, about = policy.trainee, folder / TRAIN_FILE
        known = str(run.read_json(about).get("base_hash", "")) if about.is_file() else ""
        check_base(AdapterInfo(folder.name, folder, "lora", known), base=trainee.loaded.folder)
        self.policy, self.end_id = policy, end_id
        self.head = add_reward(trainee.model, folder, name=REWARD)

    def __call__(self, answers: Sequence[Answer]) -> list[float]:
        """The head's score of each answer's last token.

        The base may end its turn with the id of another role; reward models learned from answers that end with `</s>`.
        """
        import torch

        documents = [
            document(a.prompt, [*a.written[:-1], self.end_id] if a.ended else a.written) for a in answers
        ]
        out = [0.0] * len(documents)
        with torch.no_grad(), switched(self.policy.trainee, REWARD):
            for group, batch in self.policy.parts(documents):
                hidden = hidden_states(self.policy.role(REWARD), batch)
                width = batch.ids.shape[1]
                if batch.cu_seqlens is None:
                    ends = [row * width + len(documents[i]) - 1 for row, i in enumerate(group)]
                else:
                    ends = (np.cumsum([len(documents[i]) for i in group]) - 1).tolist()
                last = hidden.reshape(-1, hidden.shape[-1])[torch.tensor(ends, device=hidden.device)]
                for number, score in zip(group, self.head(last).tolist(), strict=True):
                    out[number] = float(score)
        return out
