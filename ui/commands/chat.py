"""`zhiwen chat`: a conversation with follow-up questions, each answer with its sources."""

from __future__ import annotations

import argparse
import json
import sys
import threading

from kb.errors import ZhiwenError
from ui import arguments
from ui.text import pick


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to look and who answers."""
    from ui.commands.ask import add_answering

    arguments.add_kb(parser)
    add_answering(parser)
    arguments.add_home(parser)
    parser.add_argument(
        "--json", action="store_true", help=pick("每个回答一行 JSON", "one line of JSON for each answer")
    )
    arguments.example(parser, "zhiwen chat", "zhiwen chat --kb handbook --persona 诸葛亮")


def run(args: argparse.Namespace) -> int:
    """Until the end of input or /quit. A question that fails is reported and the conversation goes on."""
    from rag.types import Message
    from ui import wiring
    from ui.commands.ask import answering_settings, tell
    from ui.live import follow, loading, say_note
    from ui.show import answer_json

    settings = answering_settings(args)
    kbs = wiring.open_kbs(settings, arguments.kb_names(args))
    options = wiring.answer_options(settings, persona=args.persona, system=args.system)
    with loading(settings, quiet=args.json):
        generator = wiring.open_generator(settings)
    say_note(generator)
    person = sys.stdin.isatty() and not args.json
    if person:
        welcome([kb.name for kb in kbs], generator.name if generator else "")
    history: list[Message] = []
    while (question := next_question(person)) is not None:
        if question == "/clear":
            history.clear()
            print(pick("（已忘记前面的对话）", "(the conversation is forgotten)"))
            continue
        cancel = threading.Event()
        try:
            events = wiring.reply(
                settings,
                question,
                kbs=kbs,
                generator=generator,
                history=history,
                options=options,
                cancel=cancel,
            )
            answer = follow(events, quiet=args.json)
        except KeyboardInterrupt:
            cancel.set()
            print(pick("（已停止）", "(stopped)"), file=sys.stderr)
            continue
        except ZhiwenError as error:
            print(pick(f"错误：{error.zh}", f"error: {error.message}"), file=sys.stderr)
            continue
        history += [Message("user", question), Message("assistant", answer.text)]
        if args.json:
            print(json.dumps(answer_json(answer, trace=False), ensure_ascii=False), flush=True)
        else:
            if answer.trace.rewritten:
                print(
                    pick(
                        f"（理解为：{answer.trace.rewritten}）", f"(understood as: {answer.trace.rewritten})"
                    )
                )
            tell(answer)
            print()
    return 0


def welcome(names: list[str], generator: str) -> None:
    """Who answers from what, and how to leave."""
    listed = pick("、", ", ").join(names)
    who = generator or pick("摘录式回答（没有配置语言模型）", "extracts (no language model is set)")
    print(pick(f"知识库：{listed}；{who}", f"knowledge bases: {listed}; {who}"))
    print(
        pick(
            "直接输入问题；/clear 重新开始，/quit 结束。", "Type a question; /clear starts anew, /quit ends."
        )
    )


def next_question(person: bool) -> str | None:
    """The next line that is not empty; None at the end."""
    if person:
        import readline  # noqa: F401  (line editing and history)
    while True:
        try:
            line = input(pick("问> ", "you> ")) if person else sys.stdin.readline()
        except (EOFError, KeyboardInterrupt):
            print()
            return None
        if not person and not line:
            return None
        line = line.strip()
        if line in ("/quit", "/exit", "/q"):
            return None
        if line:
            return line
