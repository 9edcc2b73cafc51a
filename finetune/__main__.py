"""`python -m finetune RUN_FOLDER`: the process that a page or `finetune.run.start` begins. Talks through the run folder."""

from __future__ import annotations

import sys
from pathlib import Path

from kb.errors import ZhiwenError


def main() -> int:
    """0 done or stopped, 1 an error that the run's status explains."""
    if len(sys.argv) != 2:
        print("usage: python -m finetune RUN_FOLDER", file=sys.stderr)
        return 2
    from finetune.train import train

    try:
        train(Path(sys.argv[1]))
    except ZhiwenError as error:
        print(f"{error.zh}\n{error.message}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
