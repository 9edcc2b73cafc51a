"""A run on the terminal: a bar with loss, tokens a second, memory and time left; plain lines where there is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ui.table import clip, safe
from ui.text import pick

Event = dict[str, Any]


def line_of(event: Event) -> str:
    """An event as a line for people; empty for one that needs none."""
    kind = event["event"]
    if kind == "say":
        return pick(str(event["zh"]), str(event["en"]))
    if kind == "eval":
        return pick(
            f"第 {event['step']} 步：评估损失 {event['loss']:.4f}{_judged(event, '，正确率', '，差距')}",
            f"step {event['step']}: evaluation loss {event['loss']:.4f}{_judged(event, ', accuracy', ', margin')}",
        )
    if kind == "held_out":
        return pick(
            f"第 {event['step']} 步：留出的提示得分 {event['score']:.3f}，长 {event['length']:.1f}，"
            f"自己结束 {event['ended']:.0%}",
            f"step {event['step']}: held-out prompts score {event['score']:.3f}, length {event['length']:.1f}, "
            f"{event['ended']:.0%} end by themselves",
        )
    if kind == "sample":
        return safe(clip(f"  {event['prompt']} → {event['text']}", 160))
    if kind == "resume":
        return pick(f"从第 {event['step']} 步续训", f"resumed from step {event['step']}")
    if kind == "compiled":
        return pick(f"编译用了 {event['seconds']:.0f} 秒", f"compiled in {event['seconds']:.0f} s")
    if kind == "begin":
        return pick(
            f"{event['documents']} 条样本，{event['total']} 步，训练 {event['trainable']:,} 个参数",
            f"{event['documents']} documents, {event['total']} steps, {event['trainable']:,} trained weights",
        )
    if kind == "end" and event.get("zh"):
        return pick(str(event["zh"]), str(event["en"]))
    return ""


def _judged(event: Event, accuracy: str, margin: str) -> str:
    """What stages that learn from preferences add to an evaluation."""
    parts = ((accuracy, "accuracy"), (margin, "margin"))
    return "".join(f"{word} {event[name]:.3f}" for word, name in parts if name in event)


def state_of(event: Event) -> str:
    """A step event in a few words."""
    memory = f" {event['memory'] / 2**30:.1f} GiB" if event.get("memory") else ""
    if "seconds_generate" in event:
        return _rewarded(event) + memory
    judged = "".join(f"  {n} {event[n]:.3f}" for n in ("accuracy", "margin", "kl") if n in event)
    return f"loss {event['loss']:.4f}{judged}  lr {event['lr']:.1e}  {event['tokens_per_second']:,.0f} tok/s{memory}"


def _rewarded(event: Event) -> str:
    """A step of ppo: what came out, and the seconds of writing, scoring and learning."""
    parts = "+".join(f"{event[f'seconds_{part}']:.1f}" for part in ("generate", "score", "learn"))
    seconds = pick(f"写+评+学 {parts} 秒", f"write+score+learn {parts} s")
    return (
        f"score {event['score']:.3f}  kl {event['kl']:.2f}  len {event['length']:.0f}  ent {event['entropy']:.2f}  "
        f"{seconds}  {event['tokens_per_second']:,.0f} tok/s"
    )


def clock(seconds: float) -> str:
    """1:02:03 or 2:03."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@contextmanager
def watching() -> Iterator[Callable[[Event], None]]:
    """A listener that shows a run while it goes on."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}", markup=False))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, text=pick("载入模型…", "loading the model…"))

        def show(event: Event) -> None:
            if event["event"] == "begin":
                bar.update(task, total=event["total"], completed=event["step"], text="")
            if event["event"] == "reference":
                share = f"{event['done']}/{event['total']}"
                bar.update(task, text=pick(f"参考模型 {share}", f"reference {share}"))
            if event["event"] == "step":
                left = pick(f"剩 {clock(event['left'])}", f"{clock(event['left'])} left")
                bar.update(task, completed=event["step"], text=f"{state_of(event)}  {left}")
            if text := line_of(event):
                bar.console.print(text, markup=False, highlight=False)

        yield show


class _Lines:
    """At most twenty lines of steps, and everything that is said."""

    def __init__(self) -> None:
        self.total, self.next = 0, 0.0

    def __call__(self, event: Event) -> None:
        if event["event"] == "begin":
            self.total = int(event["total"])
        if event["event"] == "step" and event["step"] >= self.next:
            self.next = event["step"] + self.total / 20
            left = pick(f"剩 {clock(event['left'])}", f"{clock(event['left'])} left")
            print(f"{event['step']}/{self.total}  {state_of(event)}  {left}", file=sys.stderr, flush=True)
        if text := line_of(event):
            print(text, file=sys.stderr, flush=True)
