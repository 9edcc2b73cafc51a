"""samples.jsonl: every answer of every step, with what was thought of it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.ppo.prompts import question_of

if TYPE_CHECKING:
    from finetune.ppo.loop import Scored
    from rag.chatglm3.chat import ChatTokenizer

FILE = "samples.jsonl"


def append(folder: Path, *, step: int, scored: Scored, tokenizer: ChatTokenizer) -> list[tuple[str, str]]:
    """Write a step's answers. Returns (question, text) of each."""
    lines, said = [], []
    for answer, score, mark, kl in zip(scored.answers, scored.scores, scored.shaped, scored.kl, strict=True):
        question = question_of(answer.prompt, tokenizer=tokenizer)
        text = tokenizer.decode(answer.written).strip()
        said.append((question, text))
        row = {
            "step": step, "prompt": question, "text": text, "score": round(score, 6), "shaped": round(mark, 6),
            "kl": round(kl, 6), "tokens": len(answer.written), "ended": answer.ended,
        }  # fmt: skip
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    with (folder / FILE).open("a", encoding="utf-8") as file:
        file.write("".join(lines))
    return said


def rewind(folder: Path, *, step: int) -> None:
    """Forget what came after `step`; a half-written last line is dropped."""
    path = folder / FILE
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            if line.endswith("\n") and json.loads(line)["step"] <= step:
                kept.append(line)
        except ValueError:
            continue  # the end of a killed run
    work = path.with_name(f".{FILE}.{os.getpid()}")
    work.write_text("".join(kept), encoding="utf-8")
    work.replace(path)
