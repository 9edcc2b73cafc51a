"""`zhiwen lab run lab.toml`: variants trained under the same conditions, asked the same questions, one report."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ui import arguments
from ui.text import pick

if TYPE_CHECKING:
    from finetune.events import Event
    from rag.types import Generator


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The table, and where it goes on."""
    parser.add_argument("action", choices=("run",))
    parser.add_argument("file", type=Path, metavar="TOML", help=pick("实验表", "the table of variants"))
    parser.add_argument(
        "--out",
        type=Path,
        default=None,
        metavar="DIR",
        help=pick("文件夹，默认 runs/lab-名字-时间", "default: runs/lab-NAME-TIME"),
    )
    parser.add_argument(
        "--continue",
        dest="resume",
        type=Path,
        default=None,
        metavar="DIR",
        help=pick("接着做被中断的实验", "go on with an interrupted lab"),
    )
    arguments.add_home(parser)
    arguments.add_json(parser)
    arguments.example(
        parser, "zhiwen lab run data/lab/zhouyi-tiny.toml", "zhiwen lab run data/lab/zhouyi.toml"
    )


def run(args: argparse.Namespace) -> int:
    """0 done."""
    from finetune.compare_report import table
    from finetune.lab import dumps, read_lab, run_lab
    from ui import table as plain
    from ui.counting import counting
    from ui.speakers import open_model

    settings = arguments.settings_of(args)
    lab = read_lab(args.file)

    def opened(folder: Path, adapters: Mapping[str, Path], quantise: str) -> Generator:
        return open_model(folder, adapters, dataclasses.replace(settings.generator, quantise=quantise))

    def tell(name: str, event: Event | None) -> None:
        if event is None:
            print(pick(f"训练 {name}", f"training {name}"), file=sys.stderr, flush=True)

    with counting(pick("回答", "answering"), quiet=args.json) as progress:
        result = run_lab(
            lab,
            open_model=opened,
            home=settings.home,
            folder=args.resume or args.out,
            tell=tell,
            progress=progress,
        )
    if args.json:
        print(dumps(result))
        return 0
    head, *rows = table(result.comparison)
    print(plain.table(head, rows))
    for name in result.memorised:
        print(
            pick(
                f"背出训练回答：{name} {result.memory(name)}",
                f"training answers recited: {name} {result.memory(name)}",
            )
        )
    print(pick(f"报告：{result.folder / 'report.html'}", f"report: {result.folder / 'report.html'}"))
    return 0
