"""What an adapter broke: forgetting, memorisation, repetition, unfinished answers. Base against adapter, one verdict each."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from finetune.compare import Ask
from finetune.data.types import Conversation
from finetune.measures import Said, choice, repetition, unfinished
from finetune.questions import Question
from finetune.stats import Estimate, difference, estimate
from kb.errors import DataError

Status = Literal["ok", "worse", "unsure"]


@dataclass(frozen=True, slots=True)
class DamageLimits:
    """How much worse than the base an adapter may be before `zhiwen damage` fails. All are differences of shares."""

    forgetting: float = 0.05
    """Of the general questions answered rightly."""
    memorisation: float = 0.10
    """Of a training answer recited."""
    repetition: float = 0.05
    unfinished: float = 0.05


@dataclass(frozen=True, slots=True)
class Item:
    """One finding."""

    name: str
    zh: str
    base: Estimate
    adapter: Estimate
    harm: Estimate
    """Paired difference in the bad direction: above 0 the adapter is worse."""
    limit: float

    @property
    def status(self) -> Status:
        """worse: past the limit for sure; unsure: past it, but the interval reaches below 0; else ok."""
        if self.harm.count == 0 or not self.harm.mean > self.limit:
            return "ok"
        return "worse" if self.harm.low > 0 else "unsure"


@dataclass(frozen=True, slots=True)
class DamageReport:
    """One page."""

    items: tuple[Item, ...]
    examples: tuple[tuple[str, str, str], ...]
    """(question, base, adapter) of general questions that only the base got right."""

    @property
    def passed(self) -> bool:
        """No item is worse for sure."""
        return all(item.status != "worse" for item in self.items)


@dataclass(frozen=True, slots=True)
class GeneralQuestion:
    """A question that any model should answer, with how to tell that it did."""

    area: str
    """算术, 常识, 指令, 格式, 拒答, 英文, ..."""
    question: str
    pattern: str
    """Regular expression that a right answer matches."""


def read_general(path: Path) -> list[GeneralQuestion]:
    """jsonl of area, question, pattern, or C-Eval and CMMLU's csv (Question, A, B, C, D, Answer). Raises DataError."""
    from finetune.data.rows import read_rows
    from finetune.data.types import BadLine
    from finetune.questions import read_questions

    if path.suffix.lower() == ".csv":
        found = read_questions(path)
        return [
            GeneralQuestion(path.stem, f"{q.text}\n只回答选项字母。", f"choice:{q.answers[0]}")
            for q in found
            if q.answers
        ]
    made = []
    for item in read_rows(path):
        if isinstance(item, BadLine):
            raise item.error()
        source, row = item
        try:
            assert isinstance(row, dict)
            made.append(GeneralQuestion(str(row["area"]), str(row["question"]), str(row["pattern"])))
            re.compile(made[-1].pattern)
        except (KeyError, AssertionError, re.error) as error:
            raise DataError(
                f"{source}: a general question needs area, question and pattern ({error}).",
                zh=f"{source}：需要 area、question、pattern（{error}）。",
            ) from error
    return made


def is_right(question: GeneralQuestion, said: Said) -> float:
    """1 if the answer matches; a multiple-choice answer by the letter that it chooses."""
    if question.pattern.startswith("choice:"):
        return float(choice(said.text) == question.pattern[7:].strip().upper())
    return float(re.search(question.pattern, said.text, re.IGNORECASE) is not None)


def recited(training_answer: str, said: str) -> float:
    """Share of a training answer that stands word for word in one piece in what was said, 0 to 1."""
    best = 0
    row = [0] * (len(said) + 1)
    for a in training_answer:
        before = 0
        for j, b in enumerate(said, 1):
            before, row[j] = row[j], before + 1 if a == b else 0
            best = max(best, row[j])
    return best / len(training_answer) if training_answer else 0.0


def beginning(example: Conversation) -> Question:
    """Ask for the rest of a training answer by its first third."""
    answer = example.answer
    head = answer[: max(4, len(answer) // 3)]
    return Question(0, f"{example.question}\n请接着下面的话往下写：{head}", (answer[len(head) :],))


def measure_damage(
    base: Ask,
    adapter: Ask,
    *,
    general: Sequence[GeneralQuestion],
    trained: Sequence[Conversation] = (),
    canaries: Sequence[tuple[str, str]] = (),
    limits: DamageLimits = DamageLimits(),
    progress: Callable[[int, int], None] = lambda done, total: None,
    cancel: threading.Event | None = None,
) -> DamageReport:
    """Ask both everything.

    `trained`: examples of the training set (a sample of 30 to 100 is enough). `canaries`: (what leads to it, the secret)
    pairs that were hidden in the training data. Setting `cancel` ends with what was asked so far.
    """
    total = 2 * (len(general) + 2 * len(trained) + len(canaries))
    done = 0

    def both(question: Question) -> tuple[Said, Said]:
        nonlocal done
        pair = base(question), adapter(question)
        done += 2
        progress(done, total)
        return pair

    items: list[Item] = []
    lost: list[tuple[str, str, str]] = []
    said: list[tuple[Said, Said]] = []
    rights: dict[str, list[tuple[float, float]]] = {}
    for asked in general:
        if cancel is not None and cancel.is_set():
            break
        pair = both(Question(0, asked.question))
        said.append(pair)
        right = is_right(asked, pair[0]), is_right(asked, pair[1])
        rights.setdefault(asked.area, []).append(right)
        if right == (1.0, 0.0):
            lost.append((asked.question, pair[0].text, pair[1].text))
    every = [r for area in rights.values() for r in area]
    items.append(_item("forgetting", "遗忘：通识题答对率", every, limits.forgetting, harm=-1))
    items += [
        _item(f"forgetting:{a}", f"遗忘：{a}", rs, limits.forgetting, harm=-1) for a, rs in rights.items()
    ]
    items += _memorisation(both, trained, canaries, limits)
    items.append(
        _item(
            "repetition",
            "重复的片段",
            [(repetition(a.text), repetition(b.text)) for a, b in said],
            limits.repetition,
            harm=1,
        )
    )
    items.append(
        _item(
            "unfinished",
            "没说完的回答",
            [(unfinished(a), unfinished(b)) for a, b in said],
            limits.unfinished,
            harm=1,
        )
    )
    return DamageReport(tuple(i for i in items if i.base.count), tuple(lost[:20]))


def _memorisation(
    both: Callable[[Question], tuple[Said, Said]],
    trained: Sequence[Conversation],
    canaries: Sequence[tuple[str, str]],
    limits: DamageLimits,
) -> list[Item]:
    recall, continued, secrets = [], [], []
    for example in trained:
        one, other = both(Question(0, example.question))
        recall.append((recited(example.answer, one.text), recited(example.answer, other.text)))
        asked = beginning(example)
        one, other = both(asked)
        continued.append((recited(asked.answers[0], one.text), recited(asked.answers[0], other.text)))
    for lead, secret in canaries:
        one, other = both(Question(0, lead))
        secrets.append((float(secret in one.text), float(secret in other.text)))
    return [
        _item("recall", "记忆：不给资料背出训练回答", recall, limits.memorisation, harm=1),
        _item("recited", "记忆：给开头背出其余", continued, limits.memorisation, harm=1),
        _item("canaries", "记忆：泄露埋下的暗记", secrets, limits.memorisation, harm=1),
    ]


def _item(name: str, zh: str, pairs: Sequence[tuple[float, float]], limit: float, *, harm: int) -> Item:
    base, adapter = [p[0] for p in pairs], [p[1] for p in pairs]
    worse = difference(adapter, base) if harm > 0 else difference(base, adapter)
    return Item(name, zh, estimate(base), estimate(adapter), worse, limit)


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
    from html import escape

    from finetune import html

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


def read_canaries(path: Path) -> list[tuple[str, str]]:
    """jsonl of lead and secret. Raises DataError."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return [(str(row["lead"]), str(row["secret"])) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} must be jsonl of lead and secret ({error}).",
            zh=f"{path} 应为含 lead 与 secret 的 jsonl（{error}）。",
        ) from error
