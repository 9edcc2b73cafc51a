"""A tiny random ChatGLM3 for trying the whole way out: the official layout in small, with a tokenizer of its own.

It has learned nothing, so all that it can say afterwards is what a run on this machine taught it.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from finetune.data.types import Example, Feedback, PlainText, Preference
from rag.chatglm3.shape import read_official

CONFIG: dict[str, Any] = {
    "_name_or_path": "zhiwen/tiny-chatglm3",
    "model_type": "chatglm",
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_residual_connection_post_layernorm": False,
    "ffn_hidden_size": 384,
    "hidden_size": 128,
    "kv_channels": 32,
    "layernorm_epsilon": 1e-05,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "num_attention_heads": 4,
    "num_layers": 2,
    "post_layer_norm": True,
    "rmsnorm": True,
    "seq_length": 2048,
    "torch_dtype": "float32",
    "tie_word_embeddings": False,
}
_BYTES = 256 + 3
"""Pieces that every model has: the bytes, unknown, begin and end."""


def texts_of(examples: Iterable[Example]) -> list[str]:
    """Every line that the tokenizer should know."""
    lines: list[str] = []
    for example in examples:
        if isinstance(example, PlainText):
            lines += example.text.splitlines()
            continue
        lines += example.system.splitlines()
        for turn in example.turns:
            lines += turn.content.splitlines()
        if isinstance(example, Preference):
            lines += [*example.chosen.splitlines(), *example.rejected.splitlines()]
        elif isinstance(example, Feedback):
            lines += example.answer.splitlines()
    return [line for line in lines if line.strip()]


def build(folder: Path, *, texts: list[str], seed: int = 0, layers: int = 2) -> Path:
    """Make the model at `folder`, in the standard layout, its vocabulary learned from `texts`. About two seconds."""
    from safetensors.torch import save_file

    from rag.chatglm3.convert import convert

    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary) / "official"
        source.mkdir()
        pieces = _write_tokenizer(source / "tokenizer.model", texts)
        config = {**CONFIG, "num_layers": layers, "padded_vocab_size": 64 * ((pieces + 9 + 63) // 64)}
        (source / "config.json").write_text(json.dumps(config))
        save_file(_weights(source, seed), source / "model.safetensors", metadata={"format": "pt"})
        convert(source, target=folder, dtype="float32", overwrite=True)
    return folder


def _write_tokenizer(path: Path, texts: list[str]) -> int:
    import sentencepiece

    characters = {c for line in texts for c in line}
    wanted = min(_BYTES + len(characters) + 800, 6000)
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=out,
        vocab_size=wanted,
        hard_vocab_limit=False,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        character_coverage=0.9995,
        num_threads=1,
        minloglevel=2,
    )
    path.write_bytes(out.getvalue())
    from rag.chatglm3.tokenizer_model import read_pieces

    return len(read_pieces(path).pieces)


def _weights(source: Path, seed: int) -> dict[str, Any]:
    """Random tensors under their official names."""
    import torch

    from rag.chatglm3.names import native_parts, official_names

    shape = read_official(source)
    generator = torch.Generator().manual_seed(seed)
    weights: dict[str, Any] = {}
    for name in official_names(shape):
        parts = native_parts(name, shape=shape)
        size = (parts[-1].end, *parts[0].shape[1:])
        if len(size) == 1:
            weights[name] = torch.ones(size) if "layernorm" in name else torch.zeros(size)
            continue
        spread = 1.0 if "word_embeddings" in name else size[-1] ** -0.5
        weights[name] = torch.randn(size, generator=generator) * spread
    return weights
