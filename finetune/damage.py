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
from finetune.data.rows import read_rows
from finetune.data.types import BadLine, Conversation
from finetune.measures import Said, choice, repetition, unfinished
from finetune.questions import Question, read_questions
from finetune.stats import Estimate, difference, estimate
from kb.errors import DataError

Status = Literal["ok", "worse", "unsure"]


@dataclass(frozen=True, slots=True)
class DamageLimits:
    """How much worse than the base an adapter may be before `zhiwen damage` fails. All are differences of shares."""

    forgetting: float = 0.05
    """Of the general questions answered rightly."""
    memorisation: float = 0.50
    """Of a training answer recited word for word. Learning answers is the point; reciting most of them whole is not."""
    canaries: float = 0.0
    """Of the hidden secrets given away. Nobody guesses them: one is enough to fail."""
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
    by_chance: bool = True
    """Whether it could come about by chance; if not, being past the limit is enough."""

    @property
    def status(self) -> Status:
        """worse: past the limit for sure; unsure: past it, but it may be chance (interval reaches 0, or too few); else ok."""
        if self.harm.count == 0 or not self.harm.mean > self.limit:
            return "ok"
        return "worse" if not self.by_chance or (self.harm.sure and self.harm.low > 0) else "unsure"


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
    if path.suffix.lower() == ".csv":
        found = [q for q in read_questions(path) if q.answers]
        if not found:
            raise DataError(f"{path.name} gives no answers.", zh=f"{path.name} 里没有答案。")
        return [
            GeneralQuestion(path.stem, f"{q.text}\n只回答选项字母。", f"choice:{q.answers[0]}") for q in found
        ]
    made = []
    for item in read_rows(path):
        if isinstance(item, BadLine):
            raise item.error()
        source, row = item
        try:
            if not isinstance(row, dict):
                raise KeyError("area")
            made.append(GeneralQuestion(str(row["area"]), str(row["question"]), str(row["pattern"])))
            re.compile(made[-1].pattern)
        except (KeyError, re.error) as error:
            raise DataError(
                f"{source}: a general question needs area, question and pattern ({error}).",
                zh=f"{source}：需要 area、question、pattern（{error}）。",
            ) from error
    if not made:
        raise DataError(f"{path.name} holds no question.", zh=f"{path.name} 里没有问题。")
    return made


def is_right(question: GeneralQuestion, said: Said) -> float:
    """1 if the answer matches; a multiple-choice answer by the letter that it chooses."""
    if question.pattern.startswith("choice:"):
        return float(choice(said.text) == question.pattern[7:].strip().upper())
    return float(re.search(question.pattern, said.text, re.IGNORECASE) is not None)


def recited(training_answer: str, said: str) -> float:
    """Share of a training answer that stands word for word in one piece in what was said, 0 to 1."""
    low, high = 0, min(len(training_answer), len(said))
    while low < high:  # what holds for a length holds for every shorter one
        size = (low + high + 1) // 2
        pieces = {said[i : i + size] for i in range(len(said) - size + 1)}
        found = any(training_answer[i : i + size] in pieces for i in range(len(training_answer) - size + 1))
        low, high = (size, high) if found else (low, size - 1)
    return low / len(training_answer) if training_answer else 0.0


def beginning(example: Conversation) -> Question:
    """Ask for the rest of a training answer by its first third."""
    answer = example.answer
    head = answer[: max(4, len(answer) // 3)]
    return Question(0, f"{example.question}\n请接着下面的话往下写：{head}", (answer[len(head) :],))


@dataclass
class _Asked:
    """Both, one question after the other, until somebody stops it."""

    base: Ask
    adapter: Ask
    total: int
    progress: Callable[[int, int], None]
    cancel: threading.Event | None
    done: int = 0

    def both(self, question: Question) -> tuple[Said, Said] | None:
        if self.cancel is not None and self.cancel.is_set():
            return None
        pair = self.base(question), self.adapter(question)
        self.done += 2
        self.progress(self.done, self.total)
        return pair


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
    asked = _Asked(base, adapter, total, progress, cancel)
    lost: list[tuple[str, str, str]] = []
    said: list[tuple[Said, Said]] = []
    rights: dict[str, list[tuple[float, float]]] = {}
    for question in general:
        if (pair := asked.both(Question(0, question.question))) is None:
            break
        said.append(pair)
        right = is_right(question, pair[0]), is_right(question, pair[1])
        rights.setdefault(question.area, []).append(right)
        if right == (1.0, 0.0):
            lost.append((question.question, pair[0].text, pair[1].text))
    memory = _memorisation(asked, trained, canaries, limits, said)
    every = [r for area in rights.values() for r in area]
    items = [_item("forgetting", "遗忘：通识题答对率", every, limits.forgetting, harm=-1)]
    items += [
        _item(f"forgetting:{a}", f"遗忘：{a}", rs, limits.forgetting, harm=-1) for a, rs in rights.items()
    ]
    repeats = [(repetition(a.text), repetition(b.text)) for a, b in said]
    loops = [(float(a.finish == "loop"), float(b.finish == "loop")) for a, b in said]
    cuts = [(unfinished(a), unfinished(b)) for a, b in said]
    items += memory
    items += [
        _item("repetition", "重复的片段", repeats, limits.repetition, harm=1),
        _item("looped", "陷入循环", loops, limits.repetition, harm=1),
        _item("unfinished", "没说完的回答", cuts, limits.unfinished, harm=1),
    ]
    return DamageReport(tuple(i for i in items if i.base.count), tuple(lost[:20]))


def _memorisation(
    asked: _Asked,
    trained: Sequence[Conversation],
    canaries: Sequence[tuple[str, str]],
    limits: DamageLimits,
    said: list[tuple[Said, Said]],
) -> list[Item]:
    """Three items. What is said on the way is added to `said`, for repetition and truncation."""
    recall, continued, secrets = [], [], []
    for example in trained:
        if (pair := asked.both(Question(0, example.question))) is None:
            break
        said.append(pair)
        recall.append((recited(example.answer, pair[0].text), recited(example.answer, pair[1].text)))
        start = beginning(example)
        if (pair := asked.both(start)) is None:
            break
        rest = start.answers[0]
        if rest:
            continued.append((recited(rest, pair[0].text), recited(rest, pair[1].text)))
    for lead, secret in canaries:
        if (pair := asked.both(Question(0, lead))) is None:
            break
        secrets.append((float(secret in pair[0].text), float(secret in pair[1].text)))
    return [
        _item("recall", "记忆：不给资料背出训练回答", recall, limits.memorisation, harm=1),
        _item("recited", "记忆：给开头背出其余", continued, limits.memorisation, harm=1),
        _item("canaries", "记忆：泄露埋下的暗记", secrets, limits.canaries, harm=1, by_chance=False),
    ]


def _item(
    name: str,
    zh: str,
    pairs: Sequence[tuple[float, float]],
    limit: float,
    *,
    harm: int,
    by_chance: bool = True,
) -> Item:
    base, adapter = [p[0] for p in pairs], [p[1] for p in pairs]
    worse = difference(adapter, base) if harm > 0 else difference(base, adapter)
    return Item(name, zh, estimate(base), estimate(adapter), worse, limit, by_chance)


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
