"""Conversations written as running text: Vicuna's USER/ASSISTANT, ChatGLM2's [Round n], and the medical line."""

from __future__ import annotations

import re

from finetune.data.types import Turn, Unusable

_VICUNA = re.compile(r"(?:^|(?<=\s)|(?<=</s>))(USER|ASSISTANT):\s?")
_ROUND = re.compile(r"(?:^|\n+)\[Round (\d+)\]\n+")


def read_vicuna(text: str) -> tuple[str, tuple[Turn, ...]]:
    """(system prompt, turns) of "SYSTEM USER: ... ASSISTANT: ...</s>USER: ...". Raises Unusable."""
    marks = list(_VICUNA.finditer(text))
    if not marks:
        raise Unusable("there is no 'USER:' in it", "里面没有 “USER:”")
    turns: list[Turn] = []
    for number, mark in enumerate(marks):
        end = marks[number + 1].start() if number + 1 < len(marks) else len(text)
        content = text[mark.end() : end].strip()
        content = content.removesuffix("</s>").rstrip()
        role = mark.group(1)
        if (role == "USER") != (number % 2 == 0):
            raise Unusable(f"{role} speaks twice in a row", f"{role} 连续说了两次")
        if not content:
            raise Unusable(f"turn {number + 1} is empty", f"第 {number + 1} 条是空的")
        turns.append(Turn("user" if role == "USER" else "assistant", content))
    if len(turns) % 2:
        raise Unusable("the last question has no answer", "最后一个问题没有回答")
    return text[: marks[0].start()].strip(), tuple(turns)


def write_vicuna(system: str, turns: tuple[Turn, ...]) -> str:
    """The inverse of `read_vicuna`, where the contents allow it."""
    pieces = [f"USER: {t.content} " if t.role == "user" else f"ASSISTANT: {t.content}</s>" for t in turns]
    return (system + " " if system else "") + "".join(pieces)


def read_rounds(text: str) -> tuple[Turn, ...]:
    """Turns of "[Round 1]\\n\\n问：...\\n\\n答：...". Raises Unusable."""
    parts = _ROUND.split(text)
    if len(parts) < 3 or parts[0].strip():
        raise Unusable("it does not begin with '[Round 1]'", "开头不是 “[Round 1]”")
    turns: list[Turn] = []
    for number, body in zip(parts[1::2], parts[2::2], strict=True):
        match = re.fullmatch(r"问：(.*?)\n+答：(.*)", body.strip(), re.DOTALL)
        if not match or not match.group(1).strip() or not match.group(2).strip():
            raise Unusable(f"round {number} is not 问：... 答：...", f"第 {number} 轮不是 “问：… 答：…”")
        turns += [Turn("user", match.group(1).strip()), Turn("assistant", match.group(2).strip())]
    return tuple(turns)


def write_rounds(turns: tuple[Turn, ...]) -> str:
    """The inverse of `read_rounds`, where the contents allow it."""
    rounds = zip(turns[::2], turns[1::2], strict=True)
    return "\n\n".join(
        f"[Round {n}]\n\n问：{q.content}\n\n答：{a.content}" for n, (q, a) in enumerate(rounds, start=1)
    )


# ------------------------------------------------------------------ 简短问题? 详细描述,回答

_ENDS = "。？！?!；;…~～）)”」"


def read_medical_line(line: str) -> tuple[str, str]:
    """(question, answer) of a line "short question? detail,answer". Raises Unusable.

    The question and its detail are joined by a line break, as instruction and input are. The separator is the ASCII
    comma: of several the first that follows the end of a sentence, else the first one. With none, a full-width
    comma right after a question mark is taken. Without a question mark, the first blank ends the short question.
    """
    line = line.strip()
    cut = _separator(line)
    if cut < 0:
        raise Unusable(
            "there is no ',' between the question and the answer (简短问题? 详细描述,回答)",
            "问题与回答之间没有半角逗号“,”（应为：简短问题? 详细描述,回答）",
        )
    asked, answer = line[:cut].strip(), line[cut + 1 :].strip()
    if not asked or not answer:
        which = "question" if not asked else "answer"
        raise Unusable(f"the {which} is empty", f"{'问题' if not asked else '回答'}是空的")
    short, detail = _short_and_detail(asked)
    return (f"{short}\n{detail}" if detail else short), answer


def _separator(line: str) -> int:
    commas = [m.start() for m in re.finditer(r",(?!\d{3}(?!\d))", line)]
    for at in commas:
        if line[:at].rstrip()[-1:] in _ENDS and line[:at].strip():
            return at
    if commas:
        return commas[0]
    match = re.search(r"[？?]\s*，", line)
    return match.end() - 1 if match else -1


def _short_and_detail(asked: str) -> tuple[str, str]:
    match = re.match(r"(.+?[？?])\s*(.+)$", asked, re.DOTALL)
    if not match:
        match = re.match(r"(\S+)\s+(.+)$", asked, re.DOTALL)
    return (match.group(1), match.group(2).strip()) if match else (asked, "")


def write_medical_line(question: str, answer: str) -> str:
    """The inverse of `read_medical_line`, where the contents allow it; line breaks become blanks."""
    short, _, detail = question.partition("\n")
    asked = f"{short} {detail}" if detail else short
    return f"{' '.join(asked.split())},{' '.join(answer.split())}"
