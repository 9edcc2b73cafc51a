"""People as judges: a blind sheet goes out, votes come back as judgements like any other judge's."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Sequence
from pathlib import Path

from finetune.compare_report import harmless_cell
from finetune.data.rows import read_rows
from finetune.data.types import BadLine
from finetune.judge import Judgement, Pair, Verdict, read_verdict
from kb.errors import DataError


def write_blind_sheet(pairs: Sequence[Pair], path: Path, *, seed: int = 0) -> Path:
    """A sheet for people (.csv for spreadsheets, or .jsonl): two answers in an order drawn with the seed, nothing says whose.

    The key lies beside it in `<name>.key.json`; `read_blind_sheet` needs both. A person fills in "vote": A, B or 平.
    """
    draw = random.Random(seed)
    key: dict[str, str] = {}
    rows = []
    for pair in pairs:
        swapped = draw.random() < 0.5
        a, b = (pair.baseline, pair.candidate) if swapped else (pair.candidate, pair.baseline)
        key[str(pair.question.number)] = "B" if swapped else "A"
        row = {
            "number": pair.question.number,
            "question": pair.question.text,
            "A": a.text,
            "B": b.text,
            "vote": "",
        }
        rows.append(row)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".csv":
        out = io.StringIO(newline="")
        writer = csv.writer(out)
        writer.writerow(["number", "question", "A", "B", "vote"])
        writer.writerows([harmless_cell(str(cell)) for cell in row.values()] for row in rows)
        path.write_text("\ufeff" + out.getvalue(), encoding="utf-8", newline="")
    else:
        path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    path.with_suffix(".key.json").write_text(json.dumps(key), encoding="utf-8")
    return path


def read_blind_sheet(path: Path, *, judge: str = "human") -> list[Judgement]:
    """The votes that were filled in, as judgements; those left empty are left out. Raises DataError for another vote."""
    key_path = path.with_suffix(".key.json")
    if not key_path.is_file():
        raise DataError(
            f"{key_path.name} is missing: it says who is A.", zh=f"缺少 {key_path.name}：它记着谁是 A。"
        )
    key = json.loads(key_path.read_text(encoding="utf-8"))
    made: list[Judgement] = []
    for item in read_rows(path):
        if isinstance(item, BadLine):
            raise item.error()
        source, row = item
        vote = str(row.get("vote", "")).strip() if isinstance(row, dict) else ""
        if not vote:
            continue
        verdict = read_verdict(vote)
        if verdict is None or not isinstance(row, dict) or str(row.get("number")) not in key:
            raise DataError(
                f"{source}: the vote is {vote!r}; it must be A, B or 平.",
                zh=f"{source}：投票是 {vote!r}，应为 A、B 或 平。",
            )
        ours = key[str(row["number"])]
        for_candidate: Verdict = "tie" if verdict == "tie" else ("A" if verdict == ours else "B")
        opposite: Verdict = "tie" if verdict == "tie" else ("B" if for_candidate == "A" else "A")
        made.append(Judgement(judge, int(row["number"]), for_candidate, opposite))
    return made
