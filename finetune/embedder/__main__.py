"""`python -m finetune.embedder train | score`: make and measure the embedder that ships with zhiwen."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from kb.errors import ZhiwenError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m finetune.embedder",
        description="Train or measure the small Chinese embedder that ships with zhiwen.",
        epilog="example: python -m finetune.embedder train --data DATA --out runs/embedder/model --seed 0",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="data folder -> model folder")
    train.add_argument("--data", type=Path, required=True, help="holds reading/, similarity/ and folders/")
    train.add_argument("--out", type=Path, required=True, help="model folder to write (README.md included)")
    train.add_argument("--work", type=Path, help="keeps the vocabulary for the next run (default: OUT.work)")
    train.add_argument(
        "--quick", action="store_true", help="a twentieth of the data, one minute, a toy model"
    )
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--tokens", type=int, help="size of the vocabulary (default 40000)")
    train.add_argument("--dimensions", type=int, help="of a vector (default 256)")
    train.add_argument("--steps", type=int, help="of training (default 600)")
    train.add_argument("--threads", type=int, default=1, help="of torch (default 1)")
    score = commands.add_parser("score", help="recall on sets that the model was not trained on")
    score.add_argument("--data", type=Path, required=True)
    score.add_argument("--model", type=Path, required=True)
    score.add_argument("--limit", type=int, default=1000, help="questions a set (default 1000)")
    score.add_argument("--card", action="store_true", help="write the table into the model's README.md")
    score.add_argument("--json", type=Path, help="write the table here as well")
    return parser


def _train(args: argparse.Namespace) -> int:
    import torch

    from finetune.embedder import card, model, recipe

    torch.set_num_threads(args.threads)
    plan = recipe.Recipe()
    plan = recipe.quick(plan) if args.quick else plan
    asked = {"dimensions": args.dimensions, "steps": args.steps}
    changed = {name: value for name, value in asked.items() if value is not None}
    plan = replace(
        plan, tokens=args.tokens or plan.tokens, train=replace(plan.train, seed=args.seed, **changed)
    )
    work = args.work or args.out.with_name(args.out.name + ".work")
    made = recipe.make(
        args.data, work=work, recipe=plan, small=args.quick, say=lambda line: print(line, flush=True)
    )
    size = model.save(made, args.out, card=card.text(plan, quick=args.quick))
    print(f"{args.out}: {made.rows.shape[0]:,} tokens x {made.rows.shape[1]}, {size:,} bytes")
    return 0


def _score(args: argparse.Namespace) -> int:
    from finetune.embedder import card, model, score

    embedder = model.load(args.model)
    found: dict[str, dict[str, dict[str, float]]] = {}
    print(f"{'set':12}{'questions':>10}{'way':>10}{'R@1':>8}{'R@5':>8}{'R@10':>8}{'MRR@10':>8}")
    for name in score.SETS:
        asked = score.read_set(name, args.data, limit=args.limit)
        dense, lexical = score.dense_scores(embedder, asked), score.lexical_scores(asked)
        ways = {"dense": dense, "lexical": lexical, "both": score.fuse(dense, lexical, weight=score.FUSED)}
        found[name] = {}
        for way, scores in ways.items():
            result = score.measure(scores, asked.right)
            found[name][way] = asdict(result)
            cells = "".join(f"{value:8.3f}" for value in asdict(result).values())
            print(f"{name:12}{len(asked.questions):10}{way:>10}{cells}", flush=True)
    if args.card:
        readme = args.model / "README.md"
        readme.write_text(card.with_scores(readme.read_text(encoding="utf-8"), found), encoding="utf-8")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """0 done; 1 an error that was explained; 130 Ctrl-C (what is in --work is used by the next run)."""
    args = _parser().parse_args(argv)
    try:
        return _train(args) if args.command == "train" else _score(args)
    except ZhiwenError as error:
        print(f"错误：{error.zh}\nerror: {error.message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("已中断；再次运行会接着做。Interrupted; the next run goes on from here.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
