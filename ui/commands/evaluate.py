"""`zhiwen evaluate retrieval FILE`: recall, MRR, nDCG and refusal errors, for each way of searching side by side."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from kb.errors import SettingsError
from ui import arguments
from ui.text import language, pick


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to measure, and on which questions."""
    parser.add_argument("what", choices=("retrieval",))
    parser.add_argument(
        "file", type=Path, metavar="FILE", help=pick("问题文件（JSONL）", "questions (JSONL)")
    )
    arguments.add_kb(parser)
    parser.add_argument(
        "--picture", type=Path, default=None, metavar="PNG", help=pick("另存为图", "save a picture")
    )
    arguments.add_home(parser)
    arguments.add_json(parser)
    arguments.example(
        parser,
        "zhiwen evaluate retrieval data/eval/docs.jsonl --kb docs",
        "zhiwen evaluate retrieval data/eval/docs.jsonl --json",
    )


def run(args: argparse.Namespace) -> int:
    """0 done."""
    from ui import wiring

    settings = arguments.settings_of(args)
    kbs = wiring.open_kbs(settings, arguments.kb_names(args))
    if len(kbs) != 1:
        names = ", ".join(kb.name for kb in kbs)
        raise SettingsError(
            f"evaluate measures one knowledge base; choose with --kb: {names}",
            zh=f"evaluate 一次评测一个知识库，请用 --kb 选择：{names}",
        )
    from kb.evaluate import evaluate_retrieval
    from kb.questions import read_questions

    questions = read_questions(args.file)
    embedder = wiring.embedder_of(kbs[0], settings)
    report = evaluate_retrieval(kbs[0], questions, embedder=embedder, options=wiring.search_options(settings))
    if report.unknown:
        names = ", ".join(report.unknown[:5])
        print(
            pick(f"注意：知识库里没有这些文件：{names}", f"note: the knowledge base does not have: {names}"),
            file=sys.stderr,
        )
    print(report.to_json() if args.json else report.table(zh=language() == "zh"))
    if args.picture:
        report.save_picture(args.picture)
        print(pick(f"图已存为 {args.picture}", f"picture: {args.picture}"), file=sys.stderr)
    return 0
