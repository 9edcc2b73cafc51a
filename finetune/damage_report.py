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


def damage_page(report: DamageReport, *, title: str) -> str:
    """One self-contained HTML page."""
    words = {
        "ok": '<span class="good">正常</span>',
        "worse": '<span class="bad">变差</span>',
        "unsure": "变差，但不确定",
    }
    rows = [
        [escape(i.zh), f"{i.base.mean:.3f}", f"{i.adapter.mean:.3f}", f"{i.harm.mean:+.3f} [{i.harm.low:+.3f}, {i.harm.high:+.3f}]", f"{i.limit:.2f}", words[i.status], str(i.harm.count)]
        for i in report.items
    ]  # fmt: skip
    parts = [
        f"<p>结论：<b>{'通过' if report.passed else '未通过'}</b></p>",
        html.table(["项目", "基座", "微调后", "变差（95 % 区间）", "上限", "判定", "题数"], rows),
    ]
    if report.examples:
        parts.append("<h2>只有基座答对的题</h2>")
        cells = [
            [escape(q), f"<div class=said>{escape(a)}</div>", f"<div class=said>{escape(b)}</div>"]
            for q, a, b in report.examples
        ]
        parts.append(html.table(["问题", "基座", "微调后"], cells))
    return html.page(title, parts)
