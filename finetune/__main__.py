"""A training process, or one of several: started by a page, by `finetune.run.start`, by torchrun or by accelerate.

    python -m finetune RUN_FOLDER
    python -m finetune CONFIG.toml --lora-rank 8
    torchrun --nproc-per-node 2 -m finetune CONFIG.toml
    accelerate launch --num_processes 2 -m finetune RUN_FOLDER

It talks through the run folder.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from finetune.config import RunConfig
from kb.errors import SettingsError, ZhiwenError


def main() -> int:
    """0 done or stopped, 1 an error that the run's status explains, 2 called wrongly."""
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        print("usage: python -m finetune RUN_FOLDER | CONFIG.toml [--option VALUE ...]", file=sys.stderr)
        return 2
    try:
        _go(Path(sys.argv[1]), sys.argv[2:])
    except ZhiwenError as error:
        print(f"{error.zh}\n{error.message}", file=sys.stderr)
        return 1
    return 0


def _go(place: Path, flags: list[str]) -> None:
    from finetune import run
    from finetune.config_file import config_from
    from finetune.parallel import opened
    from finetune.train import train

    if place.is_dir():
        if flags:
            raise SettingsError(
                f"{place} is a run folder: its options are in it, {flags[0]} cannot be given.",
                zh=f"{place} 是运行文件夹，选项已在其中，不能再给 {flags[0]}。",
            )
        with opened(device=run.read_config(place).train.device) as world:
            train(place, world=world)
        return
    config = config_from(place, flags)
    with opened(device=config.train.device) as world:
        folder = Path(world.text(str(_create(config)) if world.main else ""))
        if world.main:
            print(folder, flush=True)
        train(folder, world=world)


def _create(config: RunConfig) -> Path:
    from finetune import run
    from finetune.prepare import with_model

    parent = Path(config.output_dir).resolve()
    config = replace(with_model(config, home=parent), output_dir=str(parent))
    return run.create(config)


if __name__ == "__main__":
    sys.exit(main())
