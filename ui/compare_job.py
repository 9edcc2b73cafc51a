"""A whole question file put to base and adapters, as a job: what `zhiwen compare` does, with its progress on disk."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ui.jobs import RunningJob


def run(given: dict[str, Any], *, job: RunningJob) -> dict[str, Any]:
    """`given`: home, kind, model, adapters, questions, retrieval, kbs, max_tokens, limit, out. Returns the report's folder."""
    from finetune.compare import compare
    from finetune.compare_report import write_all
    from finetune.questions import read_questions
    from ui.commands.compare import contestants_of
    from ui.settings import load_settings
    from ui.sides import Asked, settings_of
    from ui.speakers import open_speakers

    asked = Asked("", given["model"], given["kind"], tuple(given["adapters"]), ())
    settings = settings_of(load_settings(Path(given["home"])), asked)
    questions = read_questions(Path(given["questions"]), limit=int(given["limit"]))
    job.tell(now=True, step="load", done=0, total=0)
    speakers = open_speakers(settings, asked.adapters)
    args = argparse.Namespace(
        retrieval=given["retrieval"], kb=list(given["kbs"]), max_tokens=int(given["max_tokens"]), system=""
    )
    out = Path(given["out"])
    made = compare(
        contestants_of(speakers, args, settings),
        questions,
        state=out / "answers.state.jsonl",
        progress=lambda done, total: job.tell(now=done == total, step="ask", done=done, total=total),
        cancel=job.cancel,
    )
    if made.rows:
        write_all(made, out)
    return {"folder": out.name, "questions": len(made.rows)}
