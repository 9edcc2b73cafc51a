"""`zhiwen judge`: language models and people say which of two answers is better."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kb.errors import DataError, SettingsError
from ui import arguments
from ui.text import pick

if TYPE_CHECKING:
    from finetune.judge import Ask, JudgeReport
    from finetune.stats import Estimate
    from ui.settings import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The answers, the two sides, the judges."""
    parser.add_argument(
        "report",
        type=Path,
        metavar="DIR",
        help=pick("zhiwen compare 的报告文件夹", "report folder of compare"),
    )
    parser.add_argument("--baseline", default="base", help=pick("基准，默认 base", "default: base"))
    parser.add_argument("--candidate", required=True, help=pick("要评的应答者", "who is judged"))
    parser.add_argument(
        "--judge",
        action="append",
        default=[],
        metavar="MODEL@URL",
        help=pick(
            "评审模型@接口地址，可多次；settings：用设置里的模型",
            "model@address, several times; settings: the model of the settings",
        ),
    )
    parser.add_argument(
        "--key-env",
        default="",
        metavar="NAME",
        help=pick("存密钥的环境变量", "environment variable of the key"),
    )
    parser.add_argument(
        "--percent", action="store_true", help=pick("另打分：占基准分的百分比", "scores too, as per cent")
    )
    parser.add_argument(
        "--human",
        type=Path,
        default=None,
        metavar="SHEET",
        help=pick("导出盲评表 csv、jsonl", "write a blind sheet (csv, jsonl)"),
    )
    parser.add_argument(
        "--votes",
        type=Path,
        action="append",
        default=[],
        metavar="SHEET",
        help=pick("读回填好的盲评表，可多次", "read sheets that people filled in"),
    )
    parser.add_argument(
        "--limit", type=arguments.positive, default=0, help=pick("最多几对", "pairs at the most")
    )
    parser.add_argument(
        "--seed", type=int, default=0, help=pick("盲评表次序的种子", "seed of the sheet's order")
    )
    arguments.add_home(parser)
    arguments.add_json(parser)
    arguments.example(
        parser,
        "zhiwen judge report --candidate zhouyi --judge deepseek-chat@https://api.deepseek.com/v1 --key-env DEEPSEEK_KEY",
        "zhiwen judge report --candidate zhouyi --human sheet.csv",
        "zhiwen judge report --candidate zhouyi --votes sheet.csv --judge settings",
    )


def run(args: argparse.Namespace) -> int:
    """0 done."""
    from finetune.blind import read_blind_sheet, write_blind_sheet
    from finetune.judge import judge_pairs, percent_of_baseline, report
    from finetune.pairs import read_pairs
    from ui.counting import counting

    pairs = read_pairs(args.report, baseline=args.baseline, candidate=args.candidate)
    pairs = pairs[: args.limit or None]
    if args.human:
        path = write_blind_sheet(pairs, args.human, seed=args.seed)
        key = path.with_suffix(".key.json")
        text = pick(
            f"盲评表：{path}。请人在 vote 一栏填 A、B 或 平，再用 --votes {path} 读回。{key.name} 记着谁是 A，不要给评的人。",
            f"Blind sheet: {path}. People fill in vote with A, B or tie; then --votes {path}. Keep {key.name} from them.",
        )
        alone = not args.judge and not args.votes
        if alone or not args.json:
            arguments.said(args, text, sheet=path, key=key)
        if alone:
            return 0
    if not args.judge and not args.votes:
        raise SettingsError(
            "give --judge MODEL@URL, --human SHEET or --votes SHEET",
            zh="请给出 --judge 模型@地址、--human 表 或 --votes 表",
        )
    judges = open_judges(args, arguments.settings_of(args))
    folder = args.report if args.report.is_dir() else args.report.parent
    with counting(pick("评审", "judging"), quiet=args.json) as progress:
        made = judge_pairs(judges, pairs, state=folder / "judge.state.jsonl", progress=progress)
    for number, sheet in enumerate(args.votes, start=1):
        name = "human" if len(args.votes) == 1 else f"human {number}"
        made += [
            j for j in read_blind_sheet(sheet, judge=name) if j.number in {p.question.number for p in pairs}
        ]
    if not made:
        raise DataError(
            "there is no vote yet: fill in the column vote with A, B or tie.",
            zh="还没有任何票：请在 vote 一栏填 A、B 或 平。",
        )
    found = report(made, pairs)
    scores = {name: percent_of_baseline(ask, pairs) for name, ask in judges.items()} if args.percent else {}
    if args.json:
        print(json.dumps(_as_json(found, scores), ensure_ascii=False, indent=2))
    else:
        _tell(found, scores, args)
    return 0


def open_judges(args: argparse.Namespace, settings: Settings) -> dict[str, Ask]:
    """Name -> how to ask. Raises SettingsError for a judge that is not MODEL@URL."""
    from finetune.judge import ask_with
    from ui.wiring import open_generator

    judges: dict[str, Ask] = {}
    for given in args.judge:
        model, at, url = given.partition("@")
        if given == "settings":
            wanted = settings
        elif at and model and url.startswith(("http://", "https://")):
            how = dataclasses.replace(
                settings.generator, kind="openai", model=model, base_url=url, key_env=args.key_env
            )
            wanted = dataclasses.replace(settings, generator=how)
        else:
            raise SettingsError(
                f"--judge must be MODEL@URL or settings, got {given!r}",
                zh=f"--judge 应为 模型@地址 或 settings，而不是 {given!r}",
            )
        generator = open_generator(wanted)
        if generator is None:
            raise SettingsError("no language model is set", zh="设置里没有语言模型")
        judges[model if at else generator.name] = ask_with(generator)
    return judges


def _as_json(found: JudgeReport, scores: dict[str, Estimate]) -> dict[str, Any]:
    about = dataclasses.asdict(found)
    about["percent"] = {name: dataclasses.asdict(score) for name, score in scores.items()}
    return {key: None if value != value else value for key, value in about.items()}


def _tell(found: JudgeReport, scores: dict[str, Estimate], args: argparse.Namespace) -> None:
    from ui.table import table

    rows = []
    for name, won in found.wins.items():
        verdict = pick("不确定", "unsure")
        if won.count >= 6 and won.low > 0.5:
            verdict = pick("更好", "better")
        elif won.count >= 6 and won.high < 0.5:
            verdict = pick("更差", "worse")
        percent = (
            f"{scores[name].mean:.1f} % [{scores[name].low:.1f}, {scores[name].high:.1f}]"
            if name in scores
            else ""
        )
        rows.append([name, str(won), verdict, f"{found.swayed[name]:.0%}", str(found.unread[name]), percent])
    head = [
        pick("评审", "judge"),
        pick(f"{args.candidate} 的胜率（平算一半）", f"share of {args.candidate} (ties half)"),
        pick("判定", "verdict"),
        pick("换位就变", "swayed by place"),
        pick("读不出", "unread"),
        pick("占基准分", "of the baseline"),
    ]
    print(table(head, rows))
    for pair, kappa in found.agreement.items():
        print(pick(f"一致性 {pair}：kappa {kappa:.2f}", f"agreement {pair}: kappa {kappa:.2f}"))
    if found.longer == found.longer:
        print(
            pick(
                f"分出胜负时，较长的回答赢了 {found.longer:.0%}（接近 50 % 才没有长度偏好）",
                f"of decided pairs the longer answer won {found.longer:.0%} (near 50 %: no bias to length)",
            )
        )
