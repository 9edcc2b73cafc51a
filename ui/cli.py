"""`zhiwen`: one subcommand = one library call. Heavy imports happen inside the commands, so that --help is instant."""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from kb.errors import ZhiwenError
from ui.text import pick, set_language

COMMANDS: dict[str, tuple[str, str]] = {
    # name: (Chinese, English); the module is ui.commands.<name>
    "index": ("把文件夹编入知识库（只处理变化的文件）", "mirror a folder into a knowledge base"),
    "ask": ("提问，得到带出处的回答", "ask a question, get an answer with citations"),
    "chat": ("连续对话", "a conversation, with follow-up questions"),
    "search": ("检索，看每一条为何入选", "search, and see why each hit was found"),
    "kb": ("管理知识库：list、show、check、repair、rm", "knowledge bases: list, show, check, repair, rm"),
    "calibrate": ("重新标定拒答阈值", "measure again when to refuse"),
    "evaluate": ("评测检索效果", "measure retrieval on questions with known places"),
    "persona": ("角色设定：list、show、set、rm", "role descriptions: list, show, set, rm"),
    "ui": ("打开网页界面", "open the pages in a browser"),
    "serve": ("以 OpenAI 接口提供本机的模型", "serve the local model over the OpenAI protocol"),
    "models": (
        "语言模型：list、pull、convert、verify、export",
        "language models: list, pull, convert, verify, export",
    ),
    "prompt": ("查看提示词的词元与训练掩码", "a prompt as ids, with its loss mask"),
    "settings": ("查看与修改设置", "show and change settings"),
    "data": (
        "训练数据：list、check、convert、show、corrupt、synthesize",
        "training data: list, check, convert, show, corrupt, synthesize",
    ),
    "finetune": ("训练适配器：计划、训练、续训", "train an adapter: plan, train, resume"),
    "score": ("用奖励模型给回答打分", "what a reward model thinks of answers"),
    "compare": ("同样的问题问基座与各适配器，出对比报告", "the same questions to the base and to adapters"),
    "damage": ("检查适配器损伤了什么，超限则失败", "what an adapter broke; fails past limits"),
    "judge": ("由语言模型或人评判两个回答", "language models or people judge answers"),
    "lab": (
        "一张表的微调实验：同样条件训练，同样问题比较",
        "an experiment: variants trained and compared alike",
    ),
    "improve": (
        "从文档到会答的适配器，一条命令走完",
        "from documents to an adapter that answers, in one command",
    ),
    "adapters": ("适配器：list、show、promote、rm", "adapters: list, show, promote, rm"),
    "doctor": ("检查环境，逐条告诉怎么办", "check this machine, with what to do"),
}
"""In the order in which help lists them. A command of two words (`kb list`) is one module with its own subparsers."""


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Names and their meaning side by side."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)
        self._action_max_length = 12  # argparse forgets how far subcommands are indented


WRONG_USAGE: tuple[tuple[str, str], ...] = (
    (r"the following arguments are required: (.*)", r"缺少参数：\1"),
    (r"one of the arguments (.*) is required", r"\1 要给出一个"),
    (r"unrecognized arguments: (.*)", r"不认识的参数：\1"),
    (r"ambiguous option: (.*) could match (.*)", r"\1 不明确，可能是 \2"),
    (r"argument (.*): not allowed with argument (.*)", r"\1 不能与 \2 同用"),
    (r"argument (.*): invalid choice: (.*) \(choose from (.*)\)", r"\1 不能是 \2；可用的有 \3"),
    (r"argument (.*): expected at least one argument", r"\1 后面至少要有一个值"),
    (r"argument (.*): expected (?:one|\d+) arguments?", r"\1 后面要有值"),
    (r"argument (.*): invalid \S+ value: (.*)", r"\1 的值 \2 不可用"),
)
"""What argparse says of wrong usage -> the same in Chinese."""


class Parser(argparse.ArgumentParser):
    """Says in the language in force what was wrong with the arguments, and where to look."""

    def error(self, message: str) -> NoReturn:
        """Exit code 2."""
        chinese = next((re.sub(p, zh, message) for p, zh in WRONG_USAGE if re.fullmatch(p, message)), message)
        self.print_usage(sys.stderr)
        more = pick(f"详见 {self.prog} --help", f"See {self.prog} --help")
        self.exit(2, pick(f"错误：{chinese}。{more}\n", f"{self.prog}: error: {message}. {more}\n"))


def in_language(parser: argparse.ArgumentParser) -> None:
    """The headings of argparse in the language in force."""
    parser._positionals.title = pick("参数", "arguments")
    parser._optionals.title = pick("选项", "options")
    for action in parser._actions:
        if action.dest == "help":
            action.help = pick("显示帮助", "show this help")


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """The whole parser, or with `only` the top level and the arguments of that one command."""
    parser = Parser(
        prog="zhiwen",
        description=pick(
            "知问：向自己的文档提问，回答带可核对的出处", "zhiwen: ask your own documents, with citations"
        ),
        formatter_class=HelpFormatter,
        epilog=pick(
            "例：zhiwen index data/docs && zhiwen ask 年假有几天？", "example: zhiwen ask 年假有几天？"
        ),
    )
    in_language(parser)
    subparsers = parser.add_subparsers(
        title=pick("命令", "commands"), dest="command", metavar=pick("命令", "COMMAND"), required=True
    )
    for name, (chinese, english) in COMMANDS.items():
        sub = subparsers.add_parser(
            name,
            help=pick(chinese, english),
            description=pick(chinese, english),
            formatter_class=HelpFormatter,
        )
        in_language(sub)
        if only is None or only == name:
            importlib.import_module(f"ui.commands.{name}").add_arguments(sub)
    return parser


def use_language(arguments: Sequence[str]) -> None:
    """Speak the language of zhiwen.toml, if it has one. A broken file is reported by the command itself."""
    from ui.settings import FILE_NAME, home_folder

    if os.environ.get("ZHIWEN_LANG"):
        return
    words = [w for a in arguments for w in (a.split("=", 1) if a.startswith("--home=") else [a])]
    at = next((i for i, word in enumerate(words) if word == "--home"), -1)
    home = Path(words[at + 1]) if 0 <= at < len(words) - 1 else home_folder()
    if (home / FILE_NAME).is_file():
        text = (home / FILE_NAME).read_bytes().decode("utf-8", "replace")
        top = text.split("\n[")[0]
        if found := re.search(r"^\s*language\s*=\s*[\"'](zh|en)[\"']", top, re.MULTILINE):
            set_language("en" if found[1] == "en" else "zh")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0 done, 1 an error that was explained, 2 wrong usage, 130 Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    named = next((a for a in arguments if not a.startswith("-")), "")
    try:
        use_language(arguments)
        args = build_parser(named).parse_args(arguments)
        code = importlib.import_module(f"ui.commands.{args.command}").run(args)
    except ZhiwenError as error:
        print(pick(f"错误：{error.zh}", f"error: {error.message}"), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(pick("已中断。", "Interrupted."), file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a full disk, a folder that may not be written
        if error.filename is None and error.errno != errno.ENOSPC:
            raise
        where = f": {error.filename}" if error.filename is not None else ""
        print(pick("错误：", "error: ") + f"{error.strerror}{where}", file=sys.stderr)
        return 1
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
