"""Reports as one self-contained HTML file: no script, no link to anywhere, text of models always escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from finetune.stats import Estimate

if TYPE_CHECKING:
    from finetune.compare import Comparison

_STYLE = """
body{font:15px/1.6 "Noto Sans SC","PingFang SC","Microsoft YaHei","WenQuanYi Micro Hei",sans-serif;max-width:1100px;
margin:2rem auto;padding:0 1rem;color:#1c2733;background:#fff}
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2rem;border-bottom:1px solid #d9e0e7}
table{border-collapse:collapse;width:100%;margin:.6rem 0}th,td{border:1px solid #d9e0e7;padding:.35rem .6rem;text-align:left;
vertical-align:top}th{background:#f3f6f9}.good{color:#0a7a3f}.bad{color:#b3261e}.dim{color:#6b7785;font-size:.85em}
.said{white-space:pre-wrap}svg text{font-size:12px;fill:#1c2733}
@media(prefers-color-scheme:dark){body{background:#14191f;color:#dbe3ea}th{background:#1f2730}th,td,h2{border-color:#33404d}
svg text{fill:#dbe3ea}}
"""
COLOURS = ("#8a97a5", "#2f6fd0", "#0a8f5b", "#c96a11", "#8b4fc1", "#b3261e")


def page(title: str, parts: Sequence[str]) -> str:
    """The whole file; `parts` are HTML already."""
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="zh"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>\n{body}\n</body></html>\n"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells of `rows` are HTML already; those of `head` are text."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def bars(title: str, names: Sequence[str], values: Sequence[Estimate]) -> str:
    """Horizontal bars with their intervals, as SVG. Values that are not numbers are left out."""
    usable = [(n, v) for n, v in zip(names, values, strict=True) if v.count]
    if not usable:
        return ""
    top = max((v.high for _, v in usable), default=1.0) or 1.0
    width, height, left = 640, 26, 190
    lines = []
    for number, (name, value) in enumerate(usable):
        y = 8 + number * height
        length, low, high = (
            max(0.0, x) / top * (width - left - 90) for x in (value.mean, value.low, value.high)
        )
        colour = COLOURS[number % len(COLOURS)]
        lines.append(
            f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{escape(name[:24])}</text>'
            f'<rect x="{left}" y="{y + 2}" width="{length:.1f}" height="16" rx="2" fill="{colour}"/>'
            f'<line x1="{left + low:.1f}" x2="{left + high:.1f}" y1="{y + 10}" y2="{y + 10}" stroke="#1c2733"/>'
            f'<text x="{left + high + 8:.1f}" y="{y + 14}">{value.mean:.3f}</text>'
        )
    tall = 16 + len(usable) * height
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg role="img" aria-label="{escape(title)}" '
        f'viewBox="0 0 {width} {tall}" width="{width}">{"".join(lines)}</svg></figure>'
    )


def comparison_page(comparison: Comparison, *, title: str = "对比报告", before: Sequence[str] = ()) -> str:
    """Charts, tables, and every answer side by side. `before`: HTML that stands above them."""
    names = comparison.names
    parts = [
        *before,
        f"<p class=dim>{len(comparison.rows)} 个问题，{len(names)} 位应答者；差值逐题相减，区间为 95 %（自助法）。</p>",
    ]
    groups = [("总表", "", ""), *((k, k, "") for k in comparison.kinds)]
    groups += [(f"领域：{d}", "", d) for d in comparison.domains]
    for title, kind, domain in groups:
        parts.append(f"<h2>{escape(title)}</h2>")
        rows = []
        for measure in comparison.measures:
            if not comparison.values(measure, 0, kind=kind, domain=domain):
                continue
            means = [comparison.mean(measure, who, kind=kind, domain=domain) for who in range(len(names))]
            cells = [f"{escape(measure.zh)} <span class=dim>{measure.name}</span>"]
            for who, mean in enumerate(means):
                gain = comparison.gain(measure, who, kind=kind, domain=domain) if who else None
                cells.append(_cell(mean, gain, measure.better))
            rows.append(cells)
            if title == "总表" and measure.name in ("f1", "rouge_l", "repetition", "unfinished"):
                parts.append(bars(measure.zh, names, means))
        parts.append(table(["", *names], rows))
    parts.append("<h2>逐题对照</h2>")
    for row in comparison.rows:
        answers = "；".join(row.question.answers)
        head = f"{row.question.number}. {row.question.text}" + (f"（参考：{answers}）" if answers else "")
        said = [
            f"<div class=said>{escape(s.text)}</div><span class=dim>{s.finish}，{s.seconds:.1f} 秒</span>"
            for s in row.said
        ]
        parts.append(f"<h3>{escape(head)}</h3>" + table(names, [said]))
    return page(title, parts)


def _cell(mean: Estimate, gain: Estimate | None, better: int) -> str:
    text = f"{mean.mean:.3f} <span class=dim>[{mean.low:.3f}, {mean.high:.3f}]</span>"
    if gain is None:
        return text
    colour = ""
    if gain.sure and better:
        colour = "good" if gain.mean * better > 0 else "bad"
    return f'{text}<br><span class="{colour or "dim"}">{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]</span>'
