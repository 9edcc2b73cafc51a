"""The optional cross-encoder: a real tiny BERT with one output, saved and opened as any reranker would be."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_knowledge import static_embedder, topics
from tiny_embedders import vocabulary

from kb.errors import ModelError
from kb.rerank import open_reranker
from kb.search import SearchOptions, search


def cross_encoder(folder: Path, *, outputs: int = 1) -> Path:
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    torch.manual_seed(5)
    vocab = vocabulary()
    config = BertConfig(
        vocab_size=len(vocab),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        initializer_range=0.5,
        num_labels=outputs,
    )
    BertTokenizerFast(vocab=vocab, model_max_length=128).save_pretrained(folder)
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def test_a_cross_encoder_orders_the_hits_by_its_own_score(tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder

    embedder = static_embedder(tmp_path / "model")
    kb = topics(tmp_path, "docs", embedder=embedder)
    folder = cross_encoder(tmp_path / "reranker")
    question = "年休假按工龄计算吗"
    plain = search([kb], question, embedder=embedder, options=SearchOptions(join_chars=0))
    result = search(
        [kb], question, embedder=embedder, options=SearchOptions(reranker=str(folder), join_chars=0)
    )
    scores = [hit.score for hit in result.hits]
    assert scores == sorted(scores, reverse=True) and len(set(scores)) > 1
    model = CrossEncoder(str(folder))
    for rank, hit in enumerate(result.hits, start=1):
        leg = next(leg for leg in hit.legs if leg.leg == "rerank")
        assert leg.rank == rank and leg.score == hit.score
        text = "\n".join((*hit.passage.headings[-2:], hit.passage.text))
        assert float(model.predict([(question, text)])[0]) == pytest.approx(hit.score, abs=1e-4)
    assert [h.passage.id for h in plain.hits] != [h.passage.id for h in result.hits]
    assert "rerank" in result.seconds


def test_what_is_no_reranker_is_said_clearly(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not the folder of a cross-encoder") as caught:
        open_reranker(str(tmp_path / "missing"))
    assert "交叉编码器" in caught.value.zh
    with pytest.raises(ModelError, match="3 outputs"):
        open_reranker(str(cross_encoder(tmp_path / "three", outputs=3)))
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError):
        open_reranker(str(broken))
