"""`zhiwen score`: what a reward model (`--stage rm`) thinks of answers, or how often it is right on a data set of pairs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from kb.errors import SettingsError
from ui import arguments
from ui.text import pick

if TYPE_CHECKING:
    from finetune.reward import RewardModel


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, and a question with answers or a data set."""
    parser.add_argument(
        "reward",
        type=Path,
        metavar="RUN",
        help=pick("rm 的运行文件夹，或其中的 adapter、model", "run folder of rm, or its adapter or model"),
    )
    parser.add_argument("question", nargs="?", default="", metavar="QUESTION", help=pick("问题", "question"))
    parser.add_argument("answers", nargs="*", metavar="ANSWER", help=pick("一个或多个回答", "answers"))
    parser.add_argument("--dataset", default="", help=pick("改为评测偏好数据集", "a set of pairs instead"))
    parser.add_argument(
        "--dataset-dir", type=Path, default=Path("data"), help=pick("数据文件夹", "its folder")
    )
    parser.add_argument(
        "--base", type=Path, default=None, help=pick("基座现在的位置", "where the base lies now")
    )
    parser.add_argument("--device", default="", help=pick("cpu、cuda、cuda:1", "cpu, cuda, cuda:1"))
    parser.add_argument("--quantise", default="none", choices=("none", "int8", "nf4"))
    arguments.add_json(parser)
    arguments.example(
        parser,
        "zhiwen score runs/rm-20261121-120000 年假有几天？ 满一年五天。 不知道。",
        "zhiwen score runs/rm-20261121-120000 --dataset service_preference",
    )


def run(args: argparse.Namespace) -> int:
    """0 done."""
    from finetune.reward import load_reward

    if bool(args.dataset) == bool(args.answers):
        raise SettingsError(
            "give a question with answers, or --dataset NAME.", zh="请给出问题和回答，或 --dataset 名称。"
        )
    from finetune.start import made_at

    folder = next((f for n in ("adapter", "model") if (f := args.reward / n).is_dir()), args.reward)
    if not folder.is_dir():
        folder = made_at(str(args.reward), flag="RUN")  # runs/rm, without the time
    model = load_reward(folder, base=args.base, device=args.device, quantise=args.quantise)
    if args.dataset:
        return _measure(model, args)
    scores = model.score_answers(args.question, args.answers)
    found = sorted(zip(scores, args.answers, strict=True), reverse=True)
    if args.json:
        print(json.dumps([{"score": s, "answer": a} for s, a in found], ensure_ascii=False))
        return 0
    for score, answer in found:
        print(f"{score:+8.3f}  {answer}")
    print(
        pick("只有同一问题下的高低有意义。", "Only the order among answers to one question means something.")
    )
    return 0


def _measure(model: RewardModel, args: argparse.Namespace) -> int:
    from finetune.data.load import load_sets
    from finetune.data.types import Preference
    from finetune.reward import measure_pairs

    examples = load_sets(args.dataset, folder=args.dataset_dir).examples
    pairs = [e for e in examples if isinstance(e, Preference)]
    if not pairs:
        raise SettingsError(
            f"{args.dataset} holds no pairs of a chosen and a rejected answer.",
            zh=f"{args.dataset} 里没有成对的好坏回答。",
        )
    measures = measure_pairs(model, pairs)
    if args.json:
        print(json.dumps({"pairs": len(pairs), **measures}, ensure_ascii=False))
        return 0
    print(
        pick(
            f"{len(pairs)} 对：正确率 {measures['accuracy']:.3f}，平均差距 {measures['margin']:+.3f}",
            f"{len(pairs)} pairs: accuracy {measures['accuracy']:.3f}, mean margin {measures['margin']:+.3f}",
        )
    )
    return 0
