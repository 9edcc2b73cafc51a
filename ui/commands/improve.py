"""`zhiwen improve`: the whole way from documents to an adapter that answers, each step a command of its own."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from kb.errors import SettingsError, ZhiwenError
from ui import arguments
from ui.text import pick

EXAMPLE = "zhiwen improve --kb docs --teacher deepseek-chat@https://api.deepseek.com/v1 --key-env DEEPSEEK_KEY --config zhouyi.toml --out work"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the whole way."""
    parser.add_argument("--kb", required=True, help=pick("从哪个知识库出题", "knowledge base to ask about"))
    parser.add_argument(
        "--teacher", required=True, metavar="MODEL@URL", help=pick("出题的模型", "model that writes the data")
    )
    parser.add_argument(
        "--key-env", default="", help=pick("密钥所在的环境变量", "environment variable of its key")
    )
    parser.add_argument(
        "--config", type=Path, required=True, help=pick("微调配置", "config of the fine-tuning")
    )
    parser.add_argument(
        "--out", type=Path, required=True, help=pick("放数据与报告的文件夹", "folder of data and report")
    )
    parser.add_argument(
        "--hold-out",
        default="0.2",
        metavar="SHARE",
        help=pick("留作比较的问题", "questions kept for comparing"),
    )
    parser.add_argument(
        "--max-tokens", default="256", help=pick("回答最长 token 数", "longest answer in tokens")
    )
    arguments.add_home(parser)
    parser.epilog = pick(f"例：\n  {EXAMPLE}", f"example:\n  {EXAMPLE}")


def run(args: argparse.Namespace) -> int:
    """Synthesize, fine-tune, compare on questions that were held out, promote unless it is worse for sure."""
    from ui.settings import home_folder

    model, at, url = args.teacher.partition("@")
    if not at or not model or not url:
        raise SettingsError(
            f"--teacher must be MODEL@URL, got {args.teacher!r}.",
            zh=f"--teacher 应为 模型@地址，而不是 {args.teacher!r}。",
        )
    home = home_folder(args.home)
    args.out.mkdir(parents=True, exist_ok=True)
    data, runs = args.out / "made.jsonl", home / "runs"
    teacher = {"KIND": "openai", "BASE_URL": url, "MODEL": model, "KEY_ENV": args.key_env}
    _step(
        home,
        ["data", "synthesize", "--from-kb", args.kb, "--out", str(data), "--hold-out", args.hold_out],
        teacher,
    )
    before = set(runs.glob("*")) if runs.is_dir() else set()
    _step(
        home,
        [
            "finetune",
            str(args.config),
            "--dataset",
            data.name,
            "--dataset-dir",
            str(args.out),
            "--output-dir",
            str(runs),
        ],
        {},
    )
    made = max(set(runs.glob("*")) - before, key=lambda folder: folder.stat().st_mtime)
    train: dict[str, Any] = json.loads((made / "adapter" / "train.json").read_text(encoding="utf-8"))
    local = {"KIND": "chatglm3", "MODEL": train["base_folder"], "BASE_URL": "", "KEY_ENV": ""}
    report = args.out / "report"
    asked = ["--questions", str(data.with_suffix(".questions.jsonl")), "--kb", args.kb, "--retrieval", "on"]
    _step(
        home,
        ["compare", "--adapters", made.name, *asked, "--max-tokens", args.max_tokens, "--out", str(report)],
        local,
    )
    if _worse(report / "report.json", made.name):
        print(
            pick(
                f"{made.name} 的 F1 确实低于基座，没有启用。看 {report / 'report.html'}",
                f"{made.name} has a lower F1 than the base for sure and was not promoted. See {report / 'report.html'}",
            )
        )
        return 1
    _step(home, ["adapters", "promote", made.name, "--comparison", str(report / "report.json")], local)
    return 0


def _step(home: Path, command: list[str], generator: dict[str, str]) -> None:
    """One command of ours in a process of its own. Raises ZhiwenError if it fails: running `improve` again goes on."""
    print(f"$ zhiwen {' '.join(command)}", flush=True)
    environment = dict(os.environ, ZHIWEN_HOME=str(home))
    for name in [
        n
        for n in environment
        if n.startswith("ZHIWEN_GENERATOR_") and n.removeprefix("ZHIWEN_GENERATOR_") in generator
    ]:
        del environment[name]
    environment |= {f"ZHIWEN_GENERATOR_{name}": value for name, value in generator.items() if value}
    root = str(Path(__file__).resolve().parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH", "")]))
    code = subprocess.run([sys.executable, "-m", "ui", *command], env=environment, check=False).returncode
    if code:
        raise ZhiwenError(
            f"the step `zhiwen {command[0]}` ended with {code}; see what it says above, then run the same line again.",
            zh=f"步骤 zhiwen {command[0]} 以 {code} 结束；请看上面的说明，处理后再运行同一条命令。",
        )


def _worse(report: Path, name: str) -> bool:
    """Is the adapter's F1 below the base's, with an interval that leaves out 0?"""
    measured = json.loads(report.read_text(encoding="utf-8"))["overall"].get("f1", {}).get(f"{name} +kb", {})
    high = (measured.get("gain_interval") or [None, None])[1]
    return isinstance(high, int | float) and high < 0
