"""Pairs of answers for a judge, out of the answers.csv of a comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finetune.compare_report import harmless_cell
from finetune.data.rows import read_rows
from finetune.data.types import BadLine
from finetune.judge import Pair
from finetune.measures import Said
from finetune.questions import Question
from kb.errors import DataError


def read_pairs(path: Path, *, baseline: str, candidate: str) -> list[Pair]:
    """Both contestants' answers to every question. `path`: answers.csv, or the folder that holds it.

    Raises DataError naming the contestants that there are, or if the two answered different questions.
    """
    file = path / "answers.csv" if path.is_dir() else path
    if not file.is_file():
        raise DataError(
            f"{path} is neither a report of zhiwen compare nor its answers.csv. Make one: zhiwen compare --out {path}",
            zh=f"{path} 不是 zhiwen compare 的报告文件夹，也不是其中的 answers.csv。先做对比：zhiwen compare --out {path}",
        )
    said: dict[str, dict[int, Said]] = {}
    questions: dict[int, Question] = {}
    for item in read_rows(file):
        if isinstance(item, BadLine):
            raise item.error()
        source, row = item
        if not isinstance(row, dict) or not {"number", "question", "contestant", "answer"} <= row.keys():
            raise DataError(
                f"{source}: this is not the answers.csv of zhiwen compare.",
                zh=f"{source}：这不是 zhiwen compare 的 answers.csv。",
            )
        number = int(_cell(row, "number"))
        answers = tuple(a for a in _cell(row, "reference").split(" / ") if a)
        questions[number] = Question(
            number, _cell(row, "question"), answers, _cell(row, "type"), _cell(row, "domain")
        )
        said.setdefault(_cell(row, "contestant"), {})[number] = Said(_cell(row, "answer"))
    for name in (baseline, candidate):
        if name not in said:
            known = ", ".join(said)
            raise DataError(
                f"{file} has no {name!r}; there are {known}.", zh=f"{file} 里没有 {name!r}；有 {known}。"
            )
    both = [n for n in questions if n in said[baseline] and n in said[candidate]]
    if not both:
        raise DataError(f"{file}: no question was put to both.", zh=f"{file}：没有两者都答过的问题。")
    return [Pair(questions[n], said[baseline][n], said[candidate][n]) for n in both]


def _cell(row: dict[str, Any], key: str) -> str:
    """The text of a cell as it was before it was made harmless for spreadsheets."""
    text = str(row.get(key) or "")
    return text[1:] if text[:1] == "'" and harmless_cell(text[1:]) == text else text
