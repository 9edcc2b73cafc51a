"""Calibration: deterministic, cheap, right about strong and useless embedders, refuses what is not there."""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from made_knowledge import TOPICS, embedder_folder, knowledge, static_embedder, topics

from kb.calibrate import calibrate
from kb.calibration import Calibration, calibration_of
from kb.embed import EmbedderConfig, open_embedder
from kb.errors import EmbedderMismatch
from kb.foreign import FOREIGN
from kb.fusion import weight_of
from kb.pseudo import bm25, pseudo_questions, trust
from kb.search import search
from kb.types import Embedder, Metric, Vectors

LAY = {
    "病假最晚什么时候告诉主管？": "请假",
    "住宿一晚最多报销多少钱？": "报销",
    "滤芯多久换一次？": "净水",
    "仓库湿度不能超过多少？": "仓库",
    "班车几点从地铁站开？": "车辆",
    "打印机显示 E7 怎么办？": "设备",
}
NOWHERE = ("鲸鱼靠什么呼吸？", "谁写了《红楼梦》？", "How tall is the Eiffel tower?", "足球比赛一共踢多久？")


class Noise:
    """An embedder that has no idea: every text gets a random vector of its own."""

    name, fingerprint, dimensions, metric, max_tokens = "noise", "noise", 32, "cosine", 256
    metric: Metric

    def __init__(self, base: Embedder) -> None:
        self._base = base

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return self._base.count_tokens(texts)

    def token_spans(self, text: str) -> list[tuple[int, int]]:
        return self._base.token_spans(text)

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        seeds = [zlib.crc32(text.encode()) for text in texts]
        rows = [np.random.default_rng(seed).standard_normal(32) for seed in seeds]
        found = np.array(rows, dtype=np.float32).reshape(len(texts), 32)
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)

    encode_queries = encode_passages


def test_lay_questions_are_answered_and_foreign_ones_refused(tmp_path: Path) -> None:
    embedder = static_embedder(tmp_path / "model")
    kb = topics(tmp_path, "docs", embedder=embedder)
    measured = calibrate(kb, embedder=embedder)
    for question, topic in LAY.items():
        result = search([kb], question, embedder=embedder)
        assert result.answerable, (question, result.hits[0].confidence)
        assert result.hits[0].document.name == f"{topic}.txt"
    for question in NOWHERE:
        assert not search([kb], question, embedder=embedder).answerable, question
    refused = [not search([kb], q, embedder=embedder).answerable for q in FOREIGN]
    assert np.mean(refused) >= 0.75
    assert measured.accepted <= 0.2 and measured.questions > 0


def test_the_same_state_gives_the_same_calibration_and_it_is_kept(tmp_path: Path) -> None:
    embedder = static_embedder(tmp_path / "model")
    kb = topics(tmp_path, "docs", embedder=embedder)
    assert calibration_of(kb) == Calibration()
    began = time.perf_counter()
    first = calibrate(kb, embedder=embedder, seed=1)
    assert time.perf_counter() - began < 5
    assert calibration_of(kb) == first
    assert calibrate(kb, embedder=embedder, seed=1) == first
    with pytest.raises(EmbedderMismatch):
        calibrate(kb, embedder=static_embedder(tmp_path / "other", seed=9))


def test_an_embedder_without_an_idea_is_not_trusted_and_does_no_harm(tmp_path: Path) -> None:
    base = open_embedder(EmbedderConfig(model=str(embedder_folder(tmp_path / "model"))))
    noise: Embedder = Noise(base)
    documents = {f"{topic}-{n}.txt": f"第{n}号。{text}" for topic, text in TOPICS.items() for n in range(6)}
    kb = knowledge(tmp_path, "noise", documents, embedder=noise)
    questions = pseudo_questions(kb, count=60)
    measured = calibrate(kb, embedder=noise)
    assert len(questions) == 60
    assert measured.trust < 0.4 and weight_of(measured.trust) < 0.006 and measured.dense == 0.0
    for question, topic in LAY.items():
        assert search([kb], question, embedder=noise).hits[0].document.name.startswith(topic)


def test_pseudo_questions_are_cut_out_and_bm25_is_that_of_the_index(tmp_path: Path) -> None:
    embedder = static_embedder(tmp_path / "model")
    kb = topics(tmp_path, "docs", embedder=embedder)
    found = pseudo_questions(kb, count=8, seed=2)
    assert found and found == pseudo_questions(kb, count=8, seed=2)
    index = kb.lexical()
    lengths = [len(q.chunk.text) for q in found]
    assert max(lengths) < 200
    for question in found:
        assert question.text in question.chunk.text and question.text not in question.rest
        from kb.analyze import tokens

        rarity = index.rarity(dict.fromkeys(tokens(question.text)))
        mean = float(np.mean([len(tokens(t)) for t in TOPICS.values()]))
        own = bm25(question.chunk.text, rarity, length=mean)
        assert own == pytest.approx(
            index.scores_of(question.text, [question.chunk.id])[question.chunk.id], rel=0.06
        )
    assert 0 < trust(kb, found, embedder=embedder) < 5
