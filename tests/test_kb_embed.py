"""Our vectors against SentenceTransformer's, on models made small in the official layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_embedders import TEXTS, bert_folder, reference, static_folder

from kb.embed import SHIPPED, EmbedderConfig, open_embedder, truncated_tokens
from kb.embed.static import StaticEmbedder
from kb.embed.transformer import TransformerEmbedder, _packed
from kb.types import Embedder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {
        "text2vec": bert_folder(root / "text2vec"),
        "bge": bert_folder(root / "bge-small-zh", pooling="cls", normalize=True, limit=512),
        "max": bert_folder(root / "maxpooled", pooling="max"),
        "static": static_folder(root / "static"),
        "static-raw": static_folder(root / "static-raw", normalize=False, dtype="float32"),
    }


def opened(folder: Path, **settings: str) -> Embedder:
    return open_embedder(EmbedderConfig(model=str(folder), **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["text2vec", "bge", "max", "static", "static-raw"])
@pytest.mark.parametrize("metric", ["cosine", "ip"])
def test_same_vectors_as_sentence_transformers(models: dict[str, Path], name: str, metric: str) -> None:
    embedder = opened(models[name], metric=metric, dtype="float32", query_prefix="none")
    ours = embedder.encode_queries(TEXTS)
    theirs = reference(models[name], TEXTS, normalize_embeddings=metric == "cosine")
    assert ours.dtype == np.float32 and ours.shape == (len(TEXTS), embedder.dimensions)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    np.testing.assert_array_equal(ours, embedder.encode_passages(TEXTS))


def test_bf16_is_the_same_direction(models: dict[str, Path]) -> None:
    exact = opened(models["text2vec"], dtype="float32").encode_passages(TEXTS)
    fast = opened(models["text2vec"], dtype="bfloat16")
    assert isinstance(fast, TransformerEmbedder) and fast.dtype == "bfloat16"
    assert (exact * fast.encode_passages(TEXTS)).sum(axis=1).min() > 0.999


def test_prefixes(models: dict[str, Path]) -> None:
    embedder = opened(models["bge"], dtype="float32")
    prefix = "为这个句子生成表示以用于检索相关文章："
    np.testing.assert_allclose(
        embedder.encode_queries(TEXTS), reference(models["bge"], [prefix + text for text in TEXTS]), atol=1e-5
    )
    np.testing.assert_allclose(embedder.encode_passages(TEXTS), reference(models["bge"], TEXTS), atol=1e-5)
    own = opened(models["text2vec"], dtype="float32", passage_prefix="地势坤，", query_prefix="天行健，")
    expected = reference(models["text2vec"], ["地势坤，" + text for text in TEXTS], normalize_embeddings=True)
    np.testing.assert_allclose(own.encode_passages(TEXTS), expected, atol=1e-5)
    assert own.max_tokens == 128 - 2 - 4


@pytest.mark.parametrize(("name", "limit"), [("text2vec", 126), ("max", 126), ("static", 256)])
def test_tokens_are_counted_and_located(models: dict[str, Path], name: str, limit: int) -> None:
    embedder = opened(models[name])
    assert embedder.max_tokens == limit
    text = "员工请假 leaving，三天。"
    spans = embedder.token_spans(text)
    assert [text[a:b] for a, b in spans] == [*"员工请假", *"leav", "ing", *"，三天。"]
    assert embedder.count_tokens([text]) == [len(spans)]
    assert embedder.count_tokens([]) == [] and embedder.count_tokens(["", "坤"]) == [0, 1]


def test_truncation_is_counted_not_assumed(models: dict[str, Path]) -> None:
    for name in ("text2vec", "max"):
        embedder = opened(models[name])
        embedder.encode_passages(["坤" * 126, "坤"])
        assert embedder.truncated_tokens == 0  # type: ignore[attr-defined]
        embedder.encode_passages(["坤" * 130, "坤", "坤" * 127])
        assert embedder.truncated_tokens == 5  # type: ignore[attr-defined]
        assert truncated_tokens(embedder, ["坤" * 130, "坤", "坤" * 127]) == 5


def test_no_texts_and_empty_texts(models: dict[str, Path]) -> None:
    for name in ("text2vec", "max", "static"):
        embedder = opened(models[name])
        assert embedder.encode_passages([]).shape == (0, embedder.dimensions)
        assert np.isfinite(embedder.encode_passages(["", "坤"])).all()


def test_batches_hold_every_text_once_and_obey_the_budget() -> None:
    lengths = [3, 128, 5, 5, 64, 1, 128, 30, 2000]
    batches = list(_packed(lengths, budget=256))
    assert sorted(at for batch in batches for at in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * max(lengths[at] for at in batch) <= 256 for batch in batches)


def test_fingerprint_says_what_changes_the_vectors(models: dict[str, Path], tmp_path: Path) -> None:
    base = opened(models["text2vec"]).fingerprint
    assert base == opened(models["text2vec"], dtype="float32").fingerprint
    assert len(base) == 32
    others = {
        opened(models["text2vec"], query_prefix="问").fingerprint,
        opened(models["text2vec"], passage_prefix="文").fingerprint,
        opened(models["text2vec"], metric="l2").fingerprint,
        opened(models["bge"]).fingerprint,
        opened(models["max"]).fingerprint,
    }
    assert len(others | {base}) == 6
    copy = static_folder(tmp_path / "static")
    assert opened(copy).fingerprint == opened(models["static"]).fingerprint
    weights = copy / "0_StaticEmbedding" / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    assert opened(copy).fingerprint != opened(models["static"]).fingerprint


def test_the_shipped_model_is_what_sentence_transformers_computes() -> None:
    if not (SHIPPED / "modules.json").is_file():
        pytest.skip("the shipped model is not in this checkout")
    ours = open_embedder(EmbedderConfig())
    assert isinstance(ours, StaticEmbedder) and ours.name == "zhiwen-embed-zh"
    np.testing.assert_allclose(
        ours.encode_passages(TEXTS), reference(SHIPPED, TEXTS, normalize_embeddings=True), atol=1e-5
    )


def test_langchain_embeddings(models: dict[str, Path]) -> None:
    from langchain_core.embeddings import Embeddings

    from kb.embed.langchain import ZhiwenEmbeddings

    embedder = opened(models["static"])
    adapter = ZhiwenEmbeddings(embedder)
    assert isinstance(adapter, Embeddings)
    assert adapter.embed_documents(TEXTS) == embedder.encode_passages(TEXTS).tolist()
    assert adapter.embed_query(TEXTS[0]) == embedder.encode_queries(TEXTS[:1])[0].tolist()
