"""`zhiwen damage`: what an adapter broke, one page with a verdict for each item; non-zero past the limits."""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
from pathlib import Path
from typing import TYPE_CHECKING

from ui import arguments
from ui.text import pick

if TYPE_CHECKING:
    from finetune.data.types import Conversation

GENERAL = Path("data/general/basics.jsonl")
LIMITS = {
    "forgetting": ("通识题答对率最多降多少", "how much fewer general questions may be right"),
    "memorisation": ("训练回答最多多背出多少", "how much more of training answers may be recited"),
    "canaries": ("暗记最多泄露多少", "how many canaries may be given away"),
    "repetition": ("重复最多增加多少", "how much more may be repeated"),
    "unfinished": ("没说完的最多增加多少", "how many more answers may be unfinished"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The adapter, what to ask, the limits."""
    parser.add_argument("adapter", help=pick("适配器名或文件夹", "name or folder of the adapter"))
    parser.add_argument(
        "--general",
        type=Path,
        action="append",
        default=None,
        metavar="FILE",
        help=pick(
            f"通识题：jsonl，或 C-Eval、CMMLU 的 csv，可多次；默认 {GENERAL}",
            f"general questions: jsonl, or csv of C-Eval, CMMLU; several times; default {GENERAL}",
        ),
    )
    parser.add_argument(
        "--dataset", default="", help=pick("训练集：查记忆", "the training set, to look for memorisation")
    )
    parser.add_argument("--folder", type=Path, default=Path("data"), help=pick("数据文件夹", "data folder"))
    parser.add_argument(
        "--sample",
        type=arguments.positive,
        default=50,
        help=pick("训练集抽多少条", "training examples to ask"),
    )
    parser.add_argument("--canaries", type=Path, default=None, metavar="FILE", help="jsonl: lead, secret")
    for name, about in LIMITS.items():
        parser.add_argument(f"--max-{name}", type=float, default=None, metavar="X", help=pick(*about))
    parser.add_argument(
        "--strict", action="store_true", help=pick("不确定的也算不通过", "what is unsure fails too")
    )
    parser.add_argument(
        "--max-tokens", type=arguments.positive, default=128, help=pick("回答最长 token 数", "longest answer")
    )
    parser.add_argument("--seed", type=int, default=0, help=pick("抽样种子", "seed of the sample"))
    parser.add_argument(
        "--out", type=Path, default=None, metavar="HTML", help=pick("另存为网页", "save the page")
    )
    arguments.add_home(parser)
    arguments.add_json(parser)
    arguments.example(
        parser,
        "zhiwen damage zhouyi --dataset zhouyi --out damage.html",
        "zhiwen damage zhouyi --max-forgetting 0.02 && zhiwen adapters promote zhouyi",
    )


def run(args: argparse.Namespace) -> int:
    """0 passed; 1 past a limit."""
    from finetune.contestants import direct
    from finetune.damage import DamageLimits, measure_damage, read_canaries, read_general
    from finetune.damage_report import as_json, damage_page, text_table
    from ui import wiring
    from ui.counting import counting
    from ui.speakers import open_speakers
    from ui.table import table

    settings = arguments.settings_of(args)
    general = [q for path in args.general or [GENERAL] for q in read_general(path)]
    trained = training_sample(args)
    canaries = read_canaries(args.canaries) if args.canaries else []
    given = {name: value for name in LIMITS if (value := getattr(args, f"max_{name}")) is not None}
    base, adapter = open_speakers(settings, [args.adapter])
    options = dataclasses.replace(wiring.answer_options(settings).generate, max_tokens=args.max_tokens)
    with counting(pick("提问", "asking"), quiet=args.json) as progress:
        report = measure_damage(
            direct(base.generator, options=dataclasses.replace(options, adapter=base.adapter)),
            direct(adapter.generator, options=dataclasses.replace(options, adapter=adapter.adapter)),
            general=general,
            trained=trained,
            canaries=canaries,
            limits=DamageLimits(**given),
            progress=progress,
        )
    passed = report.passed and not (args.strict and any(item.status == "unsure" for item in report.items))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(damage_page(report, title=f"{adapter.name}：损伤检查"), encoding="utf-8")
    if args.json:
        print(json.dumps(as_json(report) | {"passed": passed}, ensure_ascii=False, indent=2))
        return int(not passed)
    head, *rows = text_table(report, english=pick("zh", "en") == "en")
    print(table(head, rows, right=(1, 2)))
    print(pick("通过" if passed else "未通过", "passed" if passed else "FAILED"))
    return int(not passed)


def training_sample(args: argparse.Namespace) -> list[Conversation]:
    """Conversations of --dataset, at most --sample of them, drawn with the seed."""
    from finetune.data.load import load_sets
    from finetune.data.types import Conversation

    if not args.dataset:
        return []
    loaded = load_sets(args.dataset, folder=args.folder)
    found = [e for e in loaded.examples if isinstance(e, Conversation) and e.question and e.answer]
    return random.Random(args.seed).sample(found, min(args.sample, len(found)))
