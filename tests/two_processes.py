"""What two processes do in the tests: train the given run folders one after the other. Started by accelerate or torchrun."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from finetune.parallel import opened
from finetune.train import train
from kb.errors import ZhiwenError

if __name__ == "__main__":
    with opened(device="cpu") as world:
        for folder in map(Path, sys.argv[1:]):
            while world.main and not (folder.parent / "ready").exists():
                time.sleep(0.05)
            try:
                train(folder, world=world)
            except ZhiwenError as error:  # told in the run's status
                print(folder.name, error, flush=True)
                if "pid" in str(error):
                    raise
