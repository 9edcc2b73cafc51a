"""What the reference thinks of the answers, measured once before the first step and kept in the run folder.

The reference is the model as the run finds it: the base with its adapter off, since a new LoRA adapter begins at zero.
So no second copy of the weights is needed, with full training neither, and later epochs and resumed runs pay nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from finetune.config import RunConfig
from finetune.encode_judged import Judged
from finetune.events import EventLog
from finetune.logprobs import answer_log_probs
from finetune.memory import Layout
from finetune.methods import Trainee
from finetune.pack import Unit, documents_of, step_examples, steps_per_epoch
from finetune.parallel import ALONE, World
from finetune.prepare import Prepared
from finetune.quiet import quiet, quiet_shares
from finetune.run import stop_requested
from finetune.stages.kto import Kto, mean_log_prob, mismatched

if TYPE_CHECKING:
    from torch import Tensor

    from finetune.stages.objective import Objective

FILE = "reference.safetensors"
PIECE = 64
"""Units of one piece of the evaluation set."""


def pieces(units: Sequence[Unit]) -> list[Sequence[Unit]]:
    """The evaluation set as it is gone through."""
    return [units[at : at + PIECE] for at in range(0, len(units), PIECE)]


def with_reference(
    prepared: Prepared,
    *,
    objective: Objective,
    trainee: Trainee,
    layout: Layout,
    steps: int,
    config: RunConfig,
    folder: Path,
    log: EventLog,
    world: World = ALONE,
) -> Prepared:
    """The data with `Judged.reference` filled in for every example that the run will see; others stay as they are.

    Only dpo and kto need it. Call it before the first step and before a checkpoint is loaded.
    """
    if config.data.stage not in ("dpo", "kto"):
        return prepared
    seen = _seen(len(prepared.train), steps=steps, config=config)
    key = _key(prepared, seen, config)
    found = _read(folder / FILE, key)
    if found is None:
        log.write(
            "say",
            step=0,
            zh=f"先计算参考模型对 {len(seen) + len(prepared.evaluation)} 条样本的对数概率（只算一次）。",
            en=f"First, the reference's log-probabilities of {len(seen) + len(prepared.evaluation)} examples (once).",
        )
        groups = _groups(prepared, steps, config) if config.data.stage == "kto" else {}
        count = len(seen) + len(prepared.evaluation) + sum(map(len, groups.get("train", [])))
        teller = _Teller(folder, log, count, heeds=world.size == 1)
        found = _measure(prepared, seen, groups, trainee, layout, teller, world)
        if world.main:
            _write(folder / FILE, found, key)
    if isinstance(objective, Kto):
        objective.apart = {
            (part, n): float(v)
            for part in ("train", "evaluation")
            for n, v in enumerate(found[f"apart/{part}"])
        }
    train = list(prepared.train)
    for index, values in zip(seen, found["train"].tolist(), strict=True):
        train[index] = replace(cast(Judged, train[index]), reference=tuple(values))
    evaluation = [
        replace(cast(Judged, unit), reference=tuple(values))
        for unit, values in zip(prepared.evaluation, found["evaluation"].tolist(), strict=True)
    ]
    return replace(prepared, train=tuple(train), evaluation=tuple(evaluation))


def _seen(count: int, *, steps: int, config: RunConfig) -> list[int]:
    """Indices of the examples that the run will see."""
    per_step, seed = config.examples_per_step, config.train.seed
    if steps >= steps_per_epoch(count, per_step=per_step):
        return list(range(count))
    chosen = (step_examples(count, step=s, per_step=per_step, seed=seed) for s in range(steps))
    return sorted({i for indices in chosen for i in indices})


def _groups(prepared: Prepared, steps: int, config: RunConfig) -> dict[str, list[list[Judged]]]:
    """kto: what does not belong together, step by step and piece by piece."""
    count, per_step, seed = len(prepared.train), config.examples_per_step, config.train.seed
    chosen = (step_examples(count, step=s, per_step=per_step, seed=seed) for s in range(steps))
    parts: dict[str, list[Sequence[Unit]]] = {
        "train": [[prepared.train[i] for i in indices] for indices in chosen],
        "evaluation": pieces(prepared.evaluation),
    }
    return {
        name: [mismatched(units, cutoff=config.data.cutoff_len) for units in groups]
        for name, groups in parts.items()
    }


class _Teller:
    """Says how far the measuring is, at most fifty times, and hears a wish to stop."""

    def __init__(self, folder: Path, log: EventLog, total: int, *, heeds: bool) -> None:
        self.folder, self.log, self.total, self.heeds = folder, log, total, heeds
        self.done, self.said = 0, -1

    def __call__(self, count: int) -> None:
        """So many more are done. Raises KeyboardInterrupt if the run is to stop: nothing has been learned yet."""
        self.done += count
        if self.done * 50 // self.total != self.said:
            self.said = self.done * 50 // self.total
            self.log.write("reference", step=0, done=self.done, total=self.total)
        if self.heeds and stop_requested(self.folder):  # of several processes none may leave alone
            raise KeyboardInterrupt


def _measure(
    prepared: Prepared,
    seen: list[int],
    groups: dict[str, list[list[Judged]]],
    trainee: Trainee,
    layout: Layout,
    tell: Callable[[int], None],
    world: World,
) -> dict[str, Tensor]:
    import torch

    out = {
        "train": reference_of(
            trainee, [prepared.train[i] for i in seen], layout=layout, tell=tell, world=world
        ),
        "evaluation": reference_of(trainee, prepared.evaluation, layout=layout, tell=tell, world=world),
    }
    for name, parts in groups.items():
        means = []
        for units in parts:
            means.append(mean_log_prob(trainee, units, layout=layout, world=world))
            tell(len(units) if name == "train" else 0)
        out[f"apart/{name}"] = torch.tensor(means, dtype=torch.float64)
    return out


def reference_of(
    trainee: Trainee,
    units: Sequence[Unit],
    *,
    layout: Layout,
    tell: Callable[[int], None] | None = None,
    world: World = ALONE,
) -> Tensor:
    """Log-probabilities of the answers, now. *Shape:* (units, documents of one), float32. Processes share the work."""
    import torch

    out: list[Tensor] = []
    piece = max(PIECE, 4 * layout.tokens // max(map(len, units), default=1))
    with quiet(trainee):
        for at in range(0, len(units), piece):
            part = units[at : at + piece]
            place = {id(unit): n for n, unit in enumerate(part)}
            values = torch.zeros(len(part), len(documents_of(part[:1])))
            for batch, counts in quiet_shares(part, layout=layout, world=world):
                found = answer_log_probs(trainee, batch.to(trainee.device)).cpu()
                if counts:
                    values[[place[id(unit)] for unit in batch.units]] = found.view(len(batch.units), -1)
            out.append(world.add_tensor(values))
            if tell is not None:
                tell(len(part))
    return torch.cat(out) if out else torch.empty(0, 1)


def _key(prepared: Prepared, seen: list[int], config: RunConfig) -> str:
    """What the numbers belong to: the words, what is seen of them, and the model."""
    found = hashlib.sha256()
    for document in documents_of([*(prepared.train[i] for i in seen), *prepared.evaluation]):
        found.update(document.ids.tobytes())
    data = config.data
    rest = (seen, data.model_name_or_path, data.adapter, data.stage, config.method, config.examples_per_step)
    found.update(repr(rest).encode())
    return found.hexdigest()


def _read(path: Path, key: str) -> dict[str, Tensor] | None:
    """The numbers, if they are there and of this run."""
    if not path.is_file():
        return None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("key") != key:
                return None
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError:
        return None  # damaged: measuring again gives the same numbers


def _write(path: Path, tensors: dict[str, Tensor], key: str) -> None:
    from safetensors.torch import save_file

    work = path.with_name(f".{path.name}")
    save_file(tensors, work, metadata={"key": key})
    work.replace(path)
