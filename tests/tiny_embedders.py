"""Embedding models made small: random weights in the official sentence-transformers layouts. Imported by tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

WORDS = (
    "员工请假须提前三天向部门主管申请，年休假按工龄计算。公司为全体职工缴纳社会保险！乾卦象曰：天行健，君子以自强不息；"
    "坤卦象曰：地势坤，君子以厚德载物。产品保修期为一年，自购买之日起算？第条章节一二四五六七八九十零、（）"
)
LATIN = ["the", "price", "of", "leave", "##s", "##ing", *"abcdefghijklmnopqrstuvwxyz0123456789.,"]
LATIN += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz0123456789"]
TEXTS = [
    "员工请假须提前三天申请。",
    "公司为全体职工缴纳社会保险！",
    "天行健，君子以自强不息",
    "the price of leave 2024.",
    "产品保修期为一年，自购买之日起算？" * 3,
    "坤",
    "地势坤，君子以厚德载物。" * 20,
    "未知的字符☃也要算",
]


def vocabulary() -> dict[str, int]:
    """Characters first seen in WORDS, then Latin letters and pieces."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(WORDS), *LATIN]
    return {token: at for at, token in enumerate(dict.fromkeys(tokens))}


def bert_folder(folder: Path, *, pooling: str = "mean", normalize: bool = False, limit: int = 128) -> Path:
    """A two-layer random BERT as text2vec-base-chinese (mean, 128 tokens) or bge (cls, Normalize) lie on disk."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    torch.manual_seed(7)
    vocab = vocabulary()
    config = BertConfig(
        vocab_size=len(vocab),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=512,
        initializer_range=0.3,
    )
    folder.mkdir(parents=True)
    BertTokenizerFast(vocab=vocab, model_max_length=512).save_pretrained(folder)
    BertModel(config).save_pretrained(folder)
    modules = [("0", "", "Transformer"), ("1", "1_Pooling", "Pooling")]
    if normalize:
        modules.append(("2", "2_Normalize", "Normalize"))
        (folder / "2_Normalize").mkdir()
    _write_modules(folder, modules)
    _write(folder / "sentence_bert_config.json", {"max_seq_length": limit, "do_lower_case": False})
    (folder / "1_Pooling").mkdir()
    flags = {
        "cls": "pooling_mode_cls_token",
        "mean": "pooling_mode_mean_tokens",
        "max": "pooling_mode_max_tokens",
    }
    _write(
        folder / "1_Pooling" / "config.json",
        {"word_embedding_dimension": 64, **{flag: name == pooling for name, flag in flags.items()}},
    )
    return folder


def static_folder(folder: Path, *, normalize: bool = True, dtype: str = "float16") -> Path:
    """A random StaticEmbedding in the layout of the shipped model."""
    from safetensors.numpy import save_file
    from tokenizers import BertWordPieceTokenizer

    vocab = vocabulary()
    body = folder / "0_StaticEmbedding"
    body.mkdir(parents=True)
    BertWordPieceTokenizer(vocab=vocab).save(str(body / "tokenizer.json"))
    rows = np.random.default_rng(3).standard_normal((len(vocab), 32)).astype(dtype)
    save_file({"embedding.weight": rows}, body / "model.safetensors")
    modules = [("0", "0_StaticEmbedding", "StaticEmbedding")]
    if normalize:
        modules.append(("1", "1_Normalize", "Normalize"))
        (folder / "1_Normalize").mkdir()
    _write_modules(folder, modules)
    return folder


def reference(folder: Path, texts: list[str], **more: Any) -> Any:
    """SentenceTransformer's own vectors, fp32 on CPU."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True).float()
    return model.encode(texts, show_progress_bar=False, **more)


def _write_modules(folder: Path, modules: list[tuple[str, str, str]]) -> None:
    _write(
        folder / "modules.json",
        [
            {"idx": at, "name": name, "path": path, "type": f"sentence_transformers.models.{kind}"}
            for at, (name, path, kind) in enumerate(modules)
        ],
    )


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
