"""A ChatGLM3 in small for tests: the official layout with random weights and a SentencePiece model of our own.

`write_official(folder)` makes what a hub would serve; `converted(folder)` the standard folder made from it.
The network learned nothing, so what it says is noise, but every file, id and tensor is laid out as in the real one.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

TEXT = """知问是一个可以向自己的文档提问的工具，回答都带有可以核对的出处。
年假有几天？入职满一年的员工每年有五天带薪年假，满十年有十天。
乾卦象征天，坤卦象征地。刘备、关羽、张飞在桃园结义。
净水机的滤芯每六个月更换一次，质保期为三年，客服电话是四零零。
You are a helpful assistant. Answer only from the documents, and say where it stands.
people philosophy sopranos eopen mask user system observation 2024-05-17 3.14159
def f(x):\n\treturn x ** 2\n    # 注释：四个空格缩进
根据已知信息无法回答该问题。请提供更多资料，以便我们核对数字、日期和人名。
""".splitlines()

PIECES = 620
"""Pieces of the tokenizer; with nine specials they fit an embedding of 768 rows."""
CONFIG = {
    "_name_or_path": "THUDM/chatglm3-6b",
    "model_type": "chatglm",
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_residual_connection_post_layernorm": False,
    "ffn_hidden_size": 96,
    "hidden_size": 48,
    "kv_channels": 16,
    "layernorm_epsilon": 1e-05,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "num_attention_heads": 4,
    "num_layers": 2,
    "padded_vocab_size": 768,
    "post_layer_norm": True,
    "rmsnorm": True,
    "seq_length": 1024,
    "torch_dtype": "float16",
    "tie_word_embeddings": False,
}


def write_tokenizer_model(path: Path) -> None:
    """Train a SentencePiece model with ChatGLM's settings on the text above and write it to `path`."""
    import sentencepiece

    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT),
        model_writer=out,
        vocab_size=PIECES,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        character_coverage=0.98,
        num_threads=1,
        minloglevel=2,
    )
    path.write_bytes(out.getvalue())


def official_weights(config: dict[str, object], *, seed: int = 0) -> dict[str, object]:
    """Random tensors under their official names, float16."""
    import torch

    from rag.chatglm3.names import native_parts, official_names

    shape = shape_of(config)
    random = torch.Generator().manual_seed(seed)
    weights: dict[str, object] = {}
    for name in official_names(shape):
        parts = native_parts(name, shape=shape)
        size = (parts[-1].end, *parts[0].shape[1:])
        noise = torch.randn(size, generator=random) * (0.3 if len(size) == 2 else 0.1)
        weights[name] = (noise + ("layernorm" in name)).to(torch.float16)
    weights["transformer.rotary_pos_emb.inv_freq"] = torch.ones(4, dtype=torch.float16)
    return weights


def shape_of(config: dict[str, object]):  # type: ignore[no-untyped-def]
    """The GlmShape of a configuration."""
    import tempfile

    from rag.chatglm3.shape import read_official

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config))
        return read_official(Path(folder))


def write_official(folder: Path, *, binary: bool = False, seed: int = 0, **changes: object) -> Path:
    """An official folder in two shards, as safetensors or (`binary`) as .bin files."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    config = {**CONFIG, **changes}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "ChatGLMTokenizer"}))
    write_tokenizer_model(folder / "tokenizer.model")
    weights = official_weights(config, seed=seed)
    names, suffix = sorted(weights), "bin" if binary else "safetensors"
    stem = "pytorch_model" if binary else "model"
    weight_map = {}
    for number, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), 1):
        file = f"{stem}-{number:05d}-of-00002.{suffix}"
        tensors = {name: weights[name] for name in part}
        if binary:
            torch.save(tensors, folder / file)
        else:
            save_file(tensors, folder / file, metadata={"format": "pt"})  # type: ignore[arg-type]
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))
    return folder


def converted(folder: Path, *, dtype: str = "float32", seed: int = 0, **changes: object) -> Path:
    """A standard folder, made in `folder` from an official one beside it."""
    from rag.chatglm3.convert import convert

    source = write_official(folder.parent / f"{folder.name}-official", seed=seed, **changes)
    convert(source, target=folder, dtype=dtype)  # type: ignore[arg-type]
    return folder
