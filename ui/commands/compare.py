"""`zhiwen compare`: the same questions to the base and to adapters, with and without documents; one table and a report."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ui import arguments
from ui.text import pick

if TYPE_CHECKING:
    from finetune.compare import Contestant
    from finetune.measures import Measure
    from finetune.questions import Question
    from ui.settings import Settings
    from ui.speakers import Speaker


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Who, what, and where the report goes."""
    parser.add_argument(
        "--adapters",
        default="",
        metavar="A,B",
        help=pick(
            "适配器名或文件夹，逗号隔开（接口模型：模型名）",
            "names or folders, with commas (a server: names of its models)",
        ),
    )
    parser.add_argument(
        "--questions",
        type=Path,
        required=True,
        metavar="FILE",
        help=pick("问题文件 csv、jsonl，可带答案、题型、领域", "csv or jsonl, with answers, types, domains"),
    )
    arguments.add_kb(
        parser,
        about=pick(
            "检索这些知识库，可多次给出；不写则不检索（--retrieval on、both：用全部）",
            "search these knowledge bases, may be given several times; default: no documents (--retrieval on, both: all)",
        ),
    )
    parser.add_argument(
        "--retrieval",
        choices=("off", "on", "both"),
        default=None,
        help=pick("是否检索知识库；给了 --kb 默认 both", "with documents or without; with --kb: both"),
    )
    parser.add_argument(
        "--terms",
        default="",
        metavar="FILE",
        help=pick(
            "术语表，每行一个；auto：从参考答案学", "domain terms, one a line; auto: learned from the answers"
        ),
    )
    parser.add_argument(
        "--similarity", action="store_true", help=pick("另算语义相似", "embedding similarity too")
    )
    parser.add_argument("--system", default="", metavar="TEXT", help=pick("系统提示", "system prompt"))
    parser.add_argument(
        "--limit", type=arguments.positive, default=0, help=pick("最多几个问题", "questions at the most")
    )
    parser.add_argument(
        "--max-tokens", type=arguments.positive, default=256, help=pick("回答最长 token 数", "longest answer")
    )
    parser.add_argument(
        "--out", type=Path, default=None, metavar="DIR", help=pick("报告文件夹", "folder of the report")
    )
    arguments.add_home(parser)
    arguments.add_json(parser)
    arguments.example(
        parser,
        "zhiwen compare --adapters zhouyi,zhouyi-bad --questions data/lab/zhouyi_questions.csv",
        "zhiwen compare --adapters handbook --questions held.jsonl --kb docs --out report",
    )


def run(args: argparse.Namespace) -> int:
    """0 done."""
    from finetune.compare import compare
    from finetune.compare_report import as_json, table, write_all
    from finetune.questions import read_questions
    from ui import table as plain
    from ui.counting import counting
    from ui.speakers import open_speakers

    settings = arguments.settings_of(args)
    questions = read_questions(args.questions, limit=args.limit)
    extra = extra_measures(args, settings, questions)
    speakers = open_speakers(settings, arguments.comma_names(args.adapters))
    contestants = contestants_of(speakers, args, settings)
    out = args.out or Path("reports") / time.strftime("compare-%Y%m%d-%H%M%S")
    try:
        with counting(pick("回答", "answering"), quiet=args.json) as progress:
            made = compare(
                contestants, questions, extra=extra, state=out / "answers.state.jsonl", progress=progress
            )
    except KeyboardInterrupt:
        again = pick("接着做：同样的命令，加上", "To go on: the same command with")
        print(f"{again} --out {out}", file=sys.stderr)
        raise
    written = write_all(made, out)
    if args.json:
        print(json.dumps(as_json(made) | {"files": [str(p) for p in written]}, ensure_ascii=False, indent=2))
        return 0
    head, *rows = table(made)
    print(plain.table(head, rows))
    print(
        pick(
            "（括号：与第一列逐题相减；* 表示 95 % 区间不含 0）",
            "(in brackets: minus the first column, question by question; *: the 95 % interval leaves out 0)",
        )
    )
    print(pick(f"报告：{written[0]}", f"report: {written[0]}"))
    return 0


def extra_measures(
    args: argparse.Namespace, settings: Settings, questions: list[Question]
) -> tuple[Measure, ...]:
    """--terms and --similarity."""
    from finetune.measures import learn_terms, similarity, term_density

    extra: list[Measure] = []
    if args.terms == "auto":
        extra.append(term_density(learn_terms([a for q in questions for a in q.answers])))
    elif args.terms:
        from finetune.data.rows import read_text

        lines = read_text(Path(args.terms))[0].splitlines()
        extra.append(term_density([line.strip() for line in lines if line.strip()]))
    if args.similarity:
        from ui.wiring import new_embedder

        extra.append(similarity(new_embedder(settings).embedder))
    return tuple(extra)


def contestants_of(speakers: list[Speaker], args: argparse.Namespace, settings: Settings) -> list[Contestant]:
    """Everybody without documents, then everybody with them, as --retrieval says."""
    from finetune.compare import Contestant
    from finetune.contestants import direct, grounded
    from ui import wiring

    mode = args.retrieval or ("both" if args.kb else "off")
    options = wiring.answer_options(settings)
    generate = dataclasses.replace(options.generate, max_tokens=args.max_tokens)
    found: list[Contestant] = []
    if mode in ("off", "both"):
        for who in speakers:
            chosen = dataclasses.replace(generate, adapter=who.adapter)
            version = f"{who.version} {chosen} {args.system}"
            found.append(
                Contestant(who.name, direct(who.generator, options=chosen, system=args.system), version)
            )
    if mode in ("on", "both"):
        kbs = wiring.open_kbs(settings, arguments.kb_names(args))
        for who in speakers:
            chosen = dataclasses.replace(generate, adapter=who.adapter)
            how = dataclasses.replace(options, generate=chosen, system=args.system)
            ask = grounded(
                who.generator, kbs=kbs, embedder=lambda kb: wiring.embedder_of(kb, settings), options=how
            )
            state = " ".join(f"{kb.name}:{kb.store.generation}" for kb in kbs)
            found.append(Contestant(f"{who.name} +kb", ask, f"{who.version} {how} {state}"))
    return found
