"""Values of `kb` and `rag` as text for a terminal, and as JSON for programs. Nothing here prints."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kb.types import Hit, PlannedChange, SearchResult, SyncReport
from rag.types import Answer, Citation
from ui.reasons import file_words, reason_words
from ui.table import clip, safe, table
from ui.text import pick

CHANGES = {
    "added": ("新增", "added"),
    "changed": ("修改", "changed"),
    "renamed": ("改名", "renamed"),
    "deleted": ("删除", "deleted"),
    "unchanged": ("未变", "unchanged"),
    "skipped": ("跳过", "skipped"),
}
LEGS = {"dense": ("语义", "dense"), "lexical": ("字词", "lexical"), "rerank": ("重排", "rerank")}
SUPPORT = {
    "partial": ("部分内容出处中没有", "partly not in the sources"),
    "unsupported": ("没有找到出处", "no source found"),
}


def as_json(value: Any) -> Any:
    """Dataclasses, tuples and paths as what `json.dumps` takes."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: as_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): as_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(inner) for inner in value]
    if isinstance(value, Path):
        return str(value)
    return value.item() if hasattr(value, "item") else value


def counts_line(counts: dict[Any, int]) -> str:
    """ "新增 3，未变 7"."""
    words = [f"{pick(*CHANGES[key])} {counts[key]}" for key in CHANGES if counts.get(key)]
    return pick("，", ", ").join(words) or pick("空文件夹", "an empty folder")


def plan_text(changes: Sequence[PlannedChange], *, everything: bool, most: int = 30) -> str:
    """What indexing would do: totals, then the files that matter (all but unchanged ones, at most `most` of a kind)."""
    counts: dict[Any, int] = {}
    for change in changes:
        counts[change.change] = counts.get(change.change, 0) + 1
    lines = [pick("计划：", "Plan: ") + counts_line(counts)]
    for kind in CHANGES:
        if kind == "unchanged" and not everything:
            continue
        rows = [change for change in changes if change.change == kind]
        shown = rows if everything else rows[:most]
        for row in shown:
            extra = f" ← {row.old_name}" if row.old_name else ""
            extra += f"（{reason_words(row.reason)}）" if row.reason else ""
            lines.append(f"  {pick(*CHANGES[kind])}  {safe(row.name)}{safe(extra)}")
        if len(rows) > len(shown):
            lines.append(
                pick(f"  …… 还有 {len(rows) - len(shown)} 个", f"  ... and {len(rows) - len(shown)} more")
            )
    return "\n".join(lines)


def report_text(report: SyncReport) -> str:
    """What indexing did, with one line for each problem."""
    rate = report.embedded / report.seconds if report.seconds > 0 else 0.0
    done = any(report.counts.values()) or not report.interrupted
    lines = [
        pick(f"知识库 {report.kb}：", f"Knowledge base {report.kb}: ")
        + (counts_line(dict(report.counts)) if done else pick("还没有做完任何文件", "no file is done yet")),
        pick(
            f"{report.passages} 段，{report.chunks} 块；本次嵌入 {report.embedded} 块，复用 {report.reused} 块，"
            f"{report.seconds:.1f} 秒（每秒 {rate:.0f} 块）",
            f"{report.passages} passages, {report.chunks} chunks; embedded {report.embedded}, reused {report.reused}, "
            f"{report.seconds:.1f} s ({rate:.0f} chunks/s)",
        ),
        f"truncated tokens: {report.truncated_tokens}",
    ]
    if report.problems:
        lines.append(
            pick(f"{len(report.problems)} 个文件需要留意：", f"{len(report.problems)} file(s) to look at:")
        )
    for problem in report.problems:
        mark = "✗" if problem.verdict == "failed" else "!"
        lines.append(
            f"  {mark} {safe(problem.name)}{pick('：', ': ')}{safe(file_words(problem.reason, problem.reason_zh))}"
        )
    if report.interrupted:
        lines.append(pick("已中断；再运行一次会接着做完。", "Interrupted; the next run goes on from here."))
    return "\n".join(lines)


def search_text(result: SearchResult) -> str:
    """A table of hits with the rank and score of each leg, then the text of each."""
    if not result.hits:
        return pick("没有找到任何段落。", "Nothing was found.")
    legs = [leg for leg in LEGS if any(score.leg == leg for hit in result.hits for score in hit.legs)]
    rows = [
        [
            str(number),
            f"{hit.score:.3f}",
            f"{hit.confidence:.2f}",
            *[leg_cell(hit, leg) for leg in legs],
            where(hit),
        ]
        for number, hit in enumerate(result.hits, 1)
    ]
    header = [
        "#",
        pick("总分", "score"),
        pick("把握", "confidence"),
        *[pick(*LEGS[leg]) for leg in legs],
        pick("位置", "where"),
    ]
    lines = [table(header, rows, right=range(3 + len(legs))), ""]
    for number, hit in enumerate(result.hits, 1):
        lines.append(f"[{number}] {heading(hit)}{clip(own_text(hit), 160)}")
    verdict = (
        pick("可以回答", "can be answered") if result.answerable else pick("会拒绝回答", "would be refused")
    )
    lines += [
        "",
        pick(f"阈值 {result.threshold:.2f}：{verdict}", f"threshold {result.threshold:.2f}: {verdict}"),
    ]
    return "\n".join(lines)


def leg_cell(hit: Hit, leg: str) -> str:
    """ "2. .731": rank and score that one leg gave; "-" if it did not find the hit."""
    return next((f"{score.rank}. {score.score:.3f}" for score in hit.legs if score.leg == leg), "-")


def where(hit: Hit) -> str:
    """Knowledge base, file and page."""
    return f"{hit.kb}/{safe(hit.document.name)} " + pick(f"第 {hit.page} 页", f"p.{hit.page}")


def own_text(hit: Hit) -> str:
    """What the hit's best chunk says, without the headings that the embedder reads before it."""
    return hit.chunk.text[-(hit.chunk.end - hit.chunk.start) :]


def heading(hit: Hit) -> str:
    """The headings that a passage stands under, ready to go before its text."""
    return f"【{safe(' > '.join(hit.passage.headings))}】" if hit.passage.headings else ""


def answer_note(answer: Answer) -> str:
    """Who answered; an extractive answer says that it is one."""
    if answer.refused:
        return ""
    if answer.generator == "extractive":
        return pick(
            "（摘录式回答：以下是原文中的句子，没有经过语言模型）",
            "(extractive: sentences of the sources, no language model)",
        )
    own = f" + {answer.adapter}" if answer.adapter else ""
    model = answer.generator.removesuffix(own) + own
    return pick(f"（由 {model} 回答）", f"(answered by {model})")


def sources_text(answer: Answer) -> str:
    """Citations with file, page, span and quote; after a refusal the nearest passages; marks for what has no support."""
    lines: list[str] = []
    if answer.refused and answer.nearest:
        lines.append(pick("最接近的段落（供核对）：", "Nearest passages, to look at yourself:"))
        for number, hit in enumerate(answer.nearest, 1):
            lines.append(f"  {number}. {where(hit)} {clip(hit.passage.text, 100)}")
    if answer.citations:
        lines.append(pick("出处：", "Sources:"))
    for citation in answer.citations:
        span = pick(f"第 {citation.page} 页", f"p.{citation.page}") + pick(
            "，第 {}–{} 字", ", characters {}–{}"
        ).format(*source_span(citation))
        lines.append(f"  [{citation.number}] {citation.hit.kb}/{safe(citation.hit.document.name)} {span}")
        lines.append(f"      “{clip(citation.quote, 200)}”")
    doubtful = [sentence for sentence in answer.sentences if sentence.support in SUPPORT]
    if doubtful and not answer.refused:
        lines.append(pick("请核对：", "Please check:"))
    for sentence in doubtful if not answer.refused else []:
        missing = f"：{'、'.join(sentence.missing)}" if sentence.missing else ""
        lines.append(f"  ⚠ {clip(sentence.text, 80)} —— {pick(*SUPPORT[sentence.support])}{safe(missing)}")
    return "\n".join(lines)


def source_span(citation: Citation) -> tuple[int, int]:
    """First and last character (from 1) of a quote in the text of its page."""
    for span in reversed(citation.hit.passage.spans):
        if span.offset <= citation.start:
            first = span.start + citation.start - span.offset
            return first + 1, first + citation.end - citation.start
    return citation.start + 1, citation.end


def hit_json(hit: Hit) -> dict[str, Any]:
    """A hit as programs want it: where it stands, its text and scores."""
    return {
        "kb": hit.kb,
        "file": hit.document.name,
        "page": hit.page,
        "headings": list(hit.passage.headings),
        "text": hit.passage.text,
        "score": hit.score,
        "confidence": hit.confidence,
        "legs": {score.leg: {"rank": score.rank, "score": score.score} for score in hit.legs},
    }


def answer_json(answer: Answer, *, trace: bool) -> dict[str, Any]:
    """An answer as programs want it; with `trace` also how it came about."""
    value = {
        "question": answer.trace.question,
        "answer": answer.text,
        "refused": answer.refused,
        "generator": answer.generator,
        "adapter": answer.adapter,
        "citations": [
            {
                "number": citation.number,
                "kb": citation.hit.kb,
                "file": citation.hit.document.name,
                "page": citation.page,
                "characters": list(source_span(citation)),
                "quote": citation.quote,
            }
            for citation in answer.citations
        ],
        "sentences": as_json(answer.sentences),
        "nearest": [hit_json(hit) for hit in answer.nearest],
        "seconds": dict(answer.trace.seconds),
    }
    return value | ({"trace": as_json(answer.trace)} if trace else {})
