"""What an adapter broke, as a job: what `zhiwen damage` does, with its progress on disk."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finetune.data.types import Conversation
    from ui.jobs import RunningJob


def run(given: dict[str, Any], *, job: RunningJob) -> dict[str, Any]:
    """`given`: home, kind, model, adapter, general (file), sample, max_tokens, out. Returns the report's folder."""
    from finetune.contestants import direct
    from finetune.damage import measure_damage, read_general
    from finetune.damage_report import as_json, damage_page, text_table
    from ui import wiring
    from ui.jobs import replace_json
    from ui.settings import load_settings
    from ui.sides import Asked, settings_of
    from ui.speakers import find_adapter, open_speakers

    asked = Asked("", given["model"], given["kind"], (given["adapter"],), ())
    settings = settings_of(load_settings(Path(given["home"])), asked)
    general = read_general(Path(given["general"]))
    trained = training_sample(find_adapter(settings, given["adapter"]).train, count=int(given["sample"]))
    job.tell(now=True, step="load", done=0, total=0)
    base, adapter = open_speakers(settings, asked.adapters)
    options = dataclasses.replace(
        wiring.answer_options(settings).generate, max_tokens=int(given["max_tokens"])
    )
    report = measure_damage(
        direct(base.generator, options=dataclasses.replace(options, adapter=base.adapter)),
        direct(adapter.generator, options=dataclasses.replace(options, adapter=adapter.adapter)),
        general=general,
        trained=trained,
        progress=lambda done, total: job.tell(now=done == total, step="ask", done=done, total=total),
        cancel=job.cancel,
    )
    out = Path(given["out"])
    out.mkdir(parents=True, exist_ok=True)
    page = damage_page(report, title=f"{adapter.name}：损伤检查")
    (out / "damage.html").write_text(page, encoding="utf-8")
    tables = {"zh": text_table(report, english=False), "en": text_table(report, english=True)}
    lost = [list(example) for example in report.examples]
    replace_json(
        out / "damage.json", {**as_json(report), "tables": tables, "lost": lost, "adapter": adapter.name}
    )
    return {"folder": out.name, "passed": report.passed, "recited": len(trained)}


def training_sample(train: dict[str, Any], *, count: int) -> list[Conversation]:
    """Conversations that the adapter was trained on, drawn evenly; none if its data is not here any more."""
    from finetune.data.load import load_sets
    from finetune.data.types import Conversation
    from kb.errors import DataError

    config = train.get("config", {})
    if not config.get("dataset") or not count:
        return []
    try:
        loaded = load_sets(str(config["dataset"]), folder=Path(str(config["dataset_dir"])))
    except DataError:
        return []  # said on the page: "recited" is 0
    found = [e for e in loaded.examples if isinstance(e, Conversation) and e.question and e.answer]
    return random.Random(0).sample(found, min(count, len(found)))
