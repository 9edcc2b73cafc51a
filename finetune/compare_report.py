"""A comparison as files: report.html, report.md, answers.csv, report.json."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path

from finetune.compare import Comparison


def table(comparison: Comparison, *, kind: str = "", domain: str = "") -> list[list[str]]:
    """Rows of cells: measure, then each contestant's mean, with its gain where it is sure (* after it)."""
    rows = [["", *comparison.names]]
    for measure in comparison.measures:
        if not comparison.values(measure, 0, kind=kind, domain=domain):
            continue
        cells = [f"{measure.zh} {measure.name}"]
        for who in range(len(comparison.names)):
            mean = comparison.mean(measure, who, kind=kind, domain=domain)
            text = f"{mean.mean:.3f} [{mean.low:.3f}, {mean.high:.3f}]"
            if who:
                gain = comparison.gain(measure, who, kind=kind, domain=domain)
                text += f" ({gain.mean:+.3f}{'*' if gain.sure else ''})"
            cells.append(text)
        rows.append(cells)
    return rows


def markdown(comparison: Comparison) -> str:
    """The tables, then every question with its answers."""
    parts = ["## 总表", _markdown_table(table(comparison))]
    for kind in comparison.kinds:
        parts += [f"## {kind}", _markdown_table(table(comparison, kind=kind))]
    for domain in comparison.domains:
        parts += [f"## 领域：{domain}", _markdown_table(table(comparison, domain=domain))]
    parts.append("（括号内为与第一列逐题相减的差，* 表示 95 % 置信区间不含 0，且至少有 6 题）")
    for row in comparison.rows:
        parts.append(f"### {row.question.number}. " + " ".join(row.question.text.split()))
        if row.question.answers:
            parts.append("参考：" + " / ".join(row.question.answers))
        for name, said in zip(comparison.names, row.said, strict=True):
            parts.append(f"**{name}**\n\n" + "\n".join(f"> {line}" for line in _text_lines(said.text)))
    return "\n\n".join(parts) + "\n"


def _text_lines(text: str) -> list[str]:
    """Lines of a model's text that Markdown shows as they are: no tag of it becomes HTML."""
    return [line.replace("<", "&lt;") for line in text.splitlines()] or ["（空）"]


def _markdown_table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def csv_text(comparison: Comparison) -> str:
    """One row an answer: question, type, domain, contestant, text, all measures."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    head = ["number", "question", "type", "domain", "reference", "contestant", "answer", "finish"]
    writer.writerow([*head, *(m.name for m in comparison.measures)])
    for at, row in enumerate(comparison.rows):
        asked = row.question
        for who, (name, said) in enumerate(zip(comparison.names, row.said, strict=True)):
            numbers = [comparison.numbers[m.name][at][who] for m in comparison.measures]
            cells = [asked.number, asked.text, asked.kind, asked.domain, " / ".join(asked.answers)]
            cells += [name, said.text, said.finish]
            writer.writerow(
                [harmless_cell(str(c)) for c in cells] + ["" if n is None else f"{n:.6g}" for n in numbers]
            )
    return out.getvalue()


def harmless_cell(cell: str) -> str:
    """A cell that a spreadsheet would take for a formula is given as text."""
    return "'" + cell if cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell


def as_json(comparison: Comparison) -> dict[str, object]:
    """Means, intervals and gains of every measure, overall, by type and by domain."""

    def block(kind: str, domain: str) -> dict[str, object]:
        made: dict[str, object] = {}
        for m in comparison.measures:
            if not comparison.values(m, 0, kind=kind, domain=domain):
                continue
            by_name = {}
            for who, name in enumerate(comparison.names):
                mean = comparison.mean(m, who, kind=kind, domain=domain)
                gain = comparison.gain(m, who, kind=kind, domain=domain)
                by_name[name] = {
                    "mean": mean.mean,
                    "interval": [mean.low, mean.high],
                    "count": mean.count,
                    "gain": gain.mean,
                    "gain_interval": [gain.low, gain.high],
                    "sure": gain.sure,
                }
            made[m.name] = by_name
        return made

    return {
        "questions": len(comparison.rows),
        "names": list(comparison.names),
        "overall": block("", ""),
        "types": {k: block(k, "") for k in comparison.kinds},
        "domains": {d: block("", d) for d in comparison.domains},
    }


def write_all(
    comparison: Comparison, folder: Path, *, title: str = "对比报告", before: Sequence[str] = ()
) -> list[Path]:
    """report.html, report.md, answers.csv, report.json; each whole or not at all. `before`: HTML above the tables."""
    from finetune.html import comparison_page

    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        "report.html": comparison_page(comparison, title=title, before=before),
        "report.md": markdown(comparison),
        "answers.csv": "\ufeff" + csv_text(comparison),
        "report.json": json.dumps(as_json(comparison), ensure_ascii=False, indent=2),
    }
    for name, text in contents.items():
        temporary = folder / (name + ".part")
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, folder / name)
    return [folder / name for name in contents]
