"""Bars with intervals as a PNG, with a font that knows Chinese if there is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CHINESE_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Source Han Sans SC",
    "Microsoft YaHei",
    "PingFang SC",
    "SimHei",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Droid Sans Fallback",
    "Arial Unicode MS",
)


def bars(
    path: Path,
    groups: Sequence[str],
    series: Mapping[str, Sequence[tuple[float, float, float]]],
    *,
    title: str,
) -> None:
    """One group of bars a name, one bar a series; values are (mean, low, high), 0 to 1."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(7.0, 1.2 * len(groups) + 2), 4.2), dpi=120)
    FigureCanvasAgg(figure)
    font, title = _font(title)
    axes = figure.add_subplot()
    width = 0.8 / max(1, len(series))
    for number, (name, values) in enumerate(series.items()):
        places = [i + (number - (len(series) - 1) / 2) * width for i in range(len(groups))]
        means = [v[0] for v in values]
        errors = [[max(0.0, v[0] - v[1]) for v in values], [max(0.0, v[2] - v[0]) for v in values]]
        axes.bar(places, means, width * 0.92, label=name, yerr=errors, capsize=2, error_kw={"linewidth": 0.8})
    axes.set_xticks(range(len(groups)), groups, fontproperties=font)
    axes.set_ylim(0, 1.05)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.set_title(title, fontproperties=font)
    axes.legend(loc="lower right", ncols=max(1, len(series)), fontsize=8)
    figure.tight_layout()
    figure.savefig(path, format="png")


def _font(title: str) -> tuple[Any, str]:
    """(font, title): without a font that knows Chinese, characters outside Latin are left out of the title."""
    from matplotlib import font_manager

    installed = {entry.name for entry in font_manager.fontManager.ttflist}
    for name in CHINESE_FONTS:
        if name in installed:
            return font_manager.FontProperties(family=[name]), title
    plain = "".join(c if ord(c) < 0x250 else "?" for c in title)
    return font_manager.FontProperties(), plain
