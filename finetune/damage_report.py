"""What an adapter broke, as one page and as JSON."""

from __future__ import annotations

from html import escape

from finetune import html
from finetune.damage import DamageReport


def as_json(report: DamageReport) -> dict[str, object]:
    """Every item with its numbers and verdict."""
    return {
        "passed": report.passed,
        "items": [
            {
                "name": i.name,
                "base": i.base.mean,
                "adapter": i.adapter.mean,
                "harm": i.harm.mean,
                "interval": [i.harm.low, i.harm.high],
                "limit": i.limit,
                "status": i.status,
                "count": i.harm.count,
            }
            for i in report.items
        ],
    }


WORDS = {"ok": ("正常", "ok"), "worse": ("变差", "worse"), "unsure": ("可能变差", "maybe worse")}


def text_table(report: DamageReport, *, english: bool) -> list[list[str]]:
    """Rows of cells for a terminal; the first is the head."""
    zh = ["项目", "基座", "微调后", "变差（95 % 区间）", "上限", "判定", "题数"]
    en = ["item", "base", "adapter", "worse by (95 % interval)", "limit", "verdict", "asked"]
    rows = [
        [
            i.name if english else i.zh,
            f"{i.base.mean:.3f}",
            f"{i.adapter.mean:.3f}",
            f"{i.harm.mean:+.3f} [{i.harm.low:+.3f}, {i.harm.high:+.3f}]",
            f"{i.limit:.2f}",
            WORDS[i.status][english],
            str(i.harm.count),
        ]
        for i in report.items
    ]
    return [en if english else zh, *rows]


def damage_page(report: DamageReport, *, title: str) -> str:
    """One self-contained HTML page."""
    head, *rows = text_table(report, english=False)
    colours = {"ok": "good", "worse": "bad", "unsure": "dim"}
    cells = [[escape(cell) for cell in row] for row in rows]
    for row, item in zip(cells, report.items, strict=True):
        row[5] = f'<span class="{colours[item.status]}">{row[5]}</span>'
    parts = [
        f"<p>结论：<b>{'通过' if report.passed else '未通过'}</b></p>",
        *(
            html.bars(i.zh, ["基座", "微调后"], [i.base, i.adapter])
            for i in report.items
            if ":" not in i.name
        ),
        html.table(head, cells),
        "<p class=dim>变差为逐题相减；“可能变差”指超过上限，但区间含 0，或不足 6 题。</p>",
    ]
    if report.examples:
        parts.append("<h2>只有基座答对的题</h2>")
        cells = [
            [escape(q), f"<div class=said>{escape(a)}</div>", f"<div class=said>{escape(b)}</div>"]
            for q, a, b in report.examples
        ]
        parts.append(html.table(["问题", "基座", "微调后"], cells))
    return html.page(title, parts)
