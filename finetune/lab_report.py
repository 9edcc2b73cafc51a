"""A lab as one self-contained page: the variants, what they recite, the table and every answer side by side."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from finetune import html
from finetune.compare_report import write_all
from finetune.config import RunConfig
from finetune.lab import BASE, LAB, Lab, LabResult, dumps
from finetune.stats import estimate

SHOWN = ("finetuning_type", "num_train_epochs", "learning_rate", "lora_rank")


def write(result: LabResult, lab: Lab, configs: Mapping[str, RunConfig]) -> None:
    """report.html, report.md, answers.csv, report.json of the comparison, and lab.json."""
    rows = []
    for variant in lab.variants:
        values = configs[variant.name].flat()
        damage = variant.damage
        data = f"{damage.damage} {damage.share:.0%}" if damage else "原样"
        rows.append(
            [
                escape(variant.name),
                escape(data),
                *(escape(str(values[key])) for key in SHOWN),
                escape(result.runs[variant.name].name),
            ]
        )
    before = [
        "<h2>变体</h2>",
        html.table(["变体", "数据", *SHOWN, "运行"], rows),
        "<p class=dim>其余条件全部相同；基座与各变体回答同样的问题，用同样的提示词。</p>",
    ]
    if result.memorised:
        names = [BASE, *(v.name for v in lab.variants)]
        first = lab.variants[0].name
        before += [
            "<h2>背诵</h2>",
            html.bars(
                "只给训练过的问题，背出回答的比例", names, [estimate(result.recalled[n]) for n in names]
            ),
            html.bars("给出训练回答的开头，背出其余的比例", names, [result.memory(n) for n in names]),
        ]
        gains = [
            [
                escape(n),
                str(estimate(result.recalled[n])),
                str(result.recall_gain(n, first)),
                str(result.memory(n)),
                str(result.memory_gain(n, first)),
            ]
            for n in names
        ]
        head = ["", "凭问题背出", f"减 {first}（逐条）", "凭开头背出", f"减 {first}（逐条）"]
        before.append(html.table(head, gains))
    write_all(result.comparison, result.folder, title=f"实验：{lab.name}", before=before)
    (result.folder / LAB).write_text(dumps(result), encoding="utf-8")
