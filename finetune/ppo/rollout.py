"""Answers of the policy as it stands now, through rag's engine: the same slots, graphs and kernels that answer people.

The engine keeps its own copy of the adapter, side by side for all its requests; `Engine.refresh` copies the trained weights into
it before each step, in a handful of launches. Nothing is loaded again and nothing is captured again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING

from finetune.config import RunConfig
from finetune.methods import Trainee
from finetune.ppo.prompts import Answer
from finetune.start import POLICY
from rag.types import GenerateOptions

if TYPE_CHECKING:
    from rag.chatglm3.engine.engine import Engine

MOST_SLOTS = 32
"""Answers written at the same time, if nobody says otherwise."""


def slots_of(config: RunConfig) -> int:
    """Answers written at the same time."""
    return min(config.ppo.ppo_slots or MOST_SLOTS, config.examples_per_step)


def answer_seed(seed: int, *, step: int, number: int) -> int:
    """Of one answer of a step: depends on nothing that came before."""
    return (seed << 40) + (step << 16) + number


class Sampler:
    """Prompts -> answers. Use as a context: it holds an engine with a thread and a cache."""

    def __init__(self, trainee: Trainee, *, config: RunConfig, longest: int) -> None:
        from rag.chatglm3.adapters import AdapterInfo
        from rag.chatglm3.engine.engine import Engine, EngineConfig
        from rag.chatglm3.load import LoadedModel

        self.config, loaded = config, trainee.loaded
        assert isinstance(loaded, LoadedModel)  # other bases are refused before a run begins
        own = AdapterInfo(POLICY, loaded.folder, "lora")
        live = replace(loaded, model=trainee.model, adapters={POLICY: own})
        self.engine: Engine = Engine(
            live,
            config=EngineConfig(
                slots=slots_of(config),
                context=longest + config.ppo.ppo_max_new_tokens,
                loop_guard=False,
            ),
        )
        self.engine.ready.wait()  # its kernels join weights that training reads

    def __enter__(self) -> Sampler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.engine.close()

    def write(self, prompts: Sequence[Sequence[int]], *, step: int, greedy: bool = False) -> list[Answer]:
        """One answer a prompt, drawn with the seed of the step. Raises GenerationError."""
        ppo, seed = self.config.ppo, self.config.train.seed
        self.engine.refresh()
        tickets = self.engine.submit_all(
            [
                (
                    prompt,
                    GenerateOptions(
                        max_tokens=ppo.ppo_max_new_tokens,
                        temperature=0.0 if greedy else ppo.ppo_temperature,
                        seed=answer_seed(seed, step=step, number=number),
                        adapter=POLICY,
                    ),
                )
                for number, prompt in enumerate(prompts)
            ]
        )
        out = []
        for prompt, ticket in zip(prompts, tickets, strict=True):
            _, last = ticket.text()
            ended = last.finish == "stop"
            out.append(Answer(tuple(prompt), (*ticket.ids, *([ticket.last_id] if ended else [])), ended))
        return out
