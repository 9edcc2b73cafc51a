"""Public question sets as retrieval: documents, questions, and which documents answer which question.

Read from a folder of data that is not part of the repository; nothing of it is copied.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """Questions over pooled documents."""

    name: str
    documents: list[str]
    questions: list[str]
    right: list[frozenset[int]]
    """For each question the documents that answer it; empty: none does."""

    def sample(self, count: int, *, seed: int = 0) -> QuestionSet:
        """At most `count` questions, drawn with `seed`; all documents stay."""
        chosen = sorted(
            random.Random(seed).sample(range(len(self.questions)), min(count, len(self.questions)))
        )
        return QuestionSet(
            self.name, self.documents, [self.questions[i] for i in chosen], [self.right[i] for i in chosen]
        )


def squad(name: str, path: Path) -> QuestionSet:
    """SQuAD's layout; each paragraph is a document. Questions marked impossible have none that answers."""
    numbers: dict[str, int] = {}
    asked: dict[str, frozenset[int]] = {}
    for paragraph in _paragraphs(json.loads(path.read_text(encoding="utf-8"))):
        number = numbers.setdefault(paragraph["context"], len(numbers))
        for question in paragraph["qas"]:
            impossible = str(question.get("is_impossible", "false")).lower() == "true"
            found = frozenset() if impossible or not question.get("answers", True) else frozenset([number])
            asked.setdefault(question["question"].strip(), found)
    return QuestionSet(name, list(numbers), list(asked), list(asked.values()))


def _paragraphs(data: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for article in data["data"]:
        yield from article["paragraphs"]


def stard(name: str, folder: Path, *, part: str) -> QuestionSet:
    """Lay questions (`part`: dev, train) over the statute articles of all parts."""
    rows = json.loads((folder / "queries.json").read_text(encoding="utf-8"))
    lines = (folder / f"{part}.query.txt").read_text(encoding="utf-8").splitlines()
    wanted = {int(line.split("\t")[0]) for line in lines if line.strip()}
    numbers: dict[str, int] = {}
    texts: list[str] = []
    questions, right = [], []
    for row in rows:
        own = []
        for article, text in row["相关法规"].items():
            if article not in numbers:
                numbers[article] = len(texts)
                texts.append(f"{article}\n{text.strip()}")
            own.append(numbers[article])
        if row["query_id"] in wanted and own:
            questions.append(row["问题"])
            right.append(frozenset(own))
    return QuestionSet(name, texts, questions, right)


def pairs(name: str, found: list[tuple[str, str]], extra: list[str]) -> QuestionSet:
    """Sentence pairs of the same meaning: the first asks, the second is to be found among all second sentences."""
    found = [(a, b) for a, b in found if a != b]
    numbers: dict[str, int] = {}
    for text in [b for _, b in found] + extra:
        numbers.setdefault(text, len(numbers))
    right: dict[str, set[int]] = {}
    for a, b in found:
        if a not in numbers:
            right.setdefault(a, set()).add(numbers[b])
    return QuestionSet(name, list(numbers), list(right), [frozenset(r) for r in right.values()])


def _tab(name: str, path: Path) -> QuestionSet:
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if len(row) == 3]
    return pairs(name, [(r[0], r[1]) for r in rows if r[2].strip() == "1"], [r[1] for r in rows])


def _simclue(name: str, path: Path) -> QuestionSet:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return pairs(name, [(r["query"], r["title"]) for r in rows], [])


def _afqmc(name: str, path: Path) -> QuestionSet:
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("{"):
            row = json.loads(line)
            rows.append([row["sentence1"], row["sentence2"], row["label"]])
        else:
            rows.append(line.split("\t"))
    rows = [r for r in rows if len(r) == 3]
    return pairs(name, [(r[0], r[1]) for r in rows if r[2].strip() == "1"], [r[1] for r in rows])


READERS: dict[str, Callable[[Path], QuestionSet]] = {
    "cmrc": lambda d: squad("cmrc", d / "reading/cmrc2018_trial.json"),
    "drcd": lambda d: squad("drcd", d / "reading/DRCD_dev.json"),
    "dureader": lambda d: squad("dureader", d / "reading/dureader_robust_dev.json"),
    "cail-dev": lambda d: squad("cail-dev", d / "reading/dev_ground_truth.json"),
    "cail-test": lambda d: squad("cail-test", d / "reading/test_ground_truth.json"),
    "squad": lambda d: squad("squad", d / "reading/dev-v2.0-zh.json"),
    "stard": lambda d: stard("stard", d / "similarity/stard", part="dev"),
    "lcqmc-dev": lambda d: _tab("lcqmc-dev", d / "similarity/LCQMC/dev.txt"),
    "lcqmc": lambda d: _tab("lcqmc", d / "similarity/LCQMC/test.txt"),
    "simclue": lambda d: _simclue("simclue", d / "similarity/train_pair_postive_1w.json"),
    "afqmc": lambda d: _afqmc("afqmc", d / "similarity/AFQMC/dev.txt"),
}
