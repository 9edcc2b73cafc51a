"""For tests of mirroring: folders of made-up Chinese documents, and a tiny real embedder."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kb.types import Metric, Vectors

SUBJECTS = [
    "公司",
    "员工",
    "设备",
    "合同",
    "客户",
    "仓库",
    "订单",
    "会议",
    "项目",
    "报告",
    "年假",
    "工资",
    "保险",
    "培训",
    "考勤",
    "加班",
    "出差",
    "报销",
    "采购",
    "质检",
]
VERBS = ["应当", "可以", "必须", "不得", "需要", "按时", "提前", "统一", "逐级", "书面"]
OBJECTS = [
    "申请",
    "登记",
    "审批",
    "核对",
    "归档",
    "检查",
    "提交",
    "说明",
    "保管",
    "更新",
    "通知",
    "备案",
    "复核",
    "签字",
    "评估",
]


def sentence(draw: random.Random) -> str:
    number = draw.randint(1, 99)
    return f"{draw.choice(SUBJECTS)}{draw.choice(VERBS)}在 {number} 日内{draw.choice(OBJECTS)}{draw.choice(SUBJECTS)}。"


def document(draw: random.Random, *, paragraphs: int) -> str:
    parts = [f"# {draw.choice(SUBJECTS)}{draw.choice(OBJECTS)}办法"]
    for number in range(paragraphs):
        if number % 4 == 0:
            parts.append(f"## 第{number // 4 + 1}节 {draw.choice(SUBJECTS)}")
        parts.append("".join(sentence(draw) for _ in range(draw.randint(2, 6))))
    return "\n\n".join(parts) + "\n"


def make_folder(folder: Path, *, files: int, paragraphs: int = 6, seed: int = 0, old: bool = True) -> None:
    """`old`: their times are a minute back, so that they are trusted as those of a real folder are."""
    draw = random.Random(seed)
    for number in range(files):
        path = folder / f"部门{number % 7}" / f"文件{number:05d}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(document(draw, paragraphs=paragraphs), encoding="utf-8")
    if old:
        age(folder)


def age(folder: Path, *, seconds: float = 60.0) -> None:
    """Set the times of all files back (the change time cannot be)."""
    for path in folder.rglob("*"):
        if path.is_file():
            about = path.stat()
            os.utime(path, (about.st_atime - seconds, about.st_mtime - seconds))


class HashEmbedder:
    """A real embedder of the simplest kind: characters and pairs hashed into 64 dimensions; one character, one token."""

    def __init__(self, name: str = "hash-64", *, metric: Metric = "cosine", limit: int = 64) -> None:
        self.name, self._metric, self._limit = name, metric, limit
        self.texts: list[str] = []
        """Everything that was embedded, in order."""

    @property
    def fingerprint(self) -> str:
        return f"{self.name}/{self._metric}/{self._limit}"

    @property
    def dimensions(self) -> int:
        return 64

    @property
    def metric(self) -> Metric:
        return self._metric

    @property
    def max_tokens(self) -> int:
        return self._limit

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text) for text in texts]

    def token_spans(self, text: str) -> list[tuple[int, int]]:
        return [(i, i + 1) for i in range(len(text))]

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        rows = np.zeros((len(texts), 64), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            for term in [*text, *(text[i : i + 2] for i in range(len(text) - 1))]:
                place = hashlib.blake2b(term.encode(), digest_size=2).digest()
                row[place[0] % 64] += 1.0 if place[1] % 2 else -1.0
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        return rows / np.maximum(norms, 1e-9) if self._metric == "cosine" else rows

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        self.texts += texts
        return self.encode_queries(texts)
