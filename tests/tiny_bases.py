"""Base models other than ChatGLM, in small: real architectures with random weights, and a tokenizer of single characters.

Its ids can be read off: special tokens first, then bytes, then the characters in order.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.tiny_training import FACTS

WORDS = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request. "
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. USER: ASSISTANT: OBSERVATION: ### Instruction: ### Response: "
    "Human: System: [Round 123]\n问：答：[INST] <<SYS>> system tool think"
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
GLM4 = (
    "[gMASK]<sop>{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
LLAMA2 = (
    "{% if messages[0].role == 'system' %}{% set say = messages[0].content %}{% set talk = messages[1:] %}"
    "{% else %}{% set say = false %}{% set talk = messages %}{% endif %}"
    "{% for m in talk %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if loop.first and say %}{% set text = '<<SYS>>\\n' + say.strip() + '\\n<</SYS>>\\n\\n' + m.content %}"
    "{% else %}{% set text = m.content %}{% endif %}"
    "{% if m.role == 'user' %}{{ bos_token + '[INST] ' + text.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + text.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
    "{% if m.role == 'assistant' and loop.last %}{{ '<think>\\n\\n</think>\\n\\n' + m.content.lstrip('\\n') }}"
    "{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}"
)
SPECIALS = {
    "qwen3": ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    "llama": ("<unk>", "<s>", "</s>"),
    "glm4": (
        "<|endoftext|>",
        "[gMASK]",
        "<sop>",
        "<|system|>",
        "<|user|>",
        "<|assistant|>",
        "<|observation|>",
    ),
}
ENDS = {"qwen3": "<|im_end|>", "llama": "</s>", "glm4": "<|endoftext|>"}
TEMPLATES = {"qwen3": CHATML, "llama": LLAMA2, "glm4": GLM4}


def characters() -> list[str]:
    """Every character that the vocabulary knows, in the order of their ids."""
    text = WORDS + "".join(q + a for q, a in FACTS.items()) + "你好，我是客服<|>_/{}\\n"
    return sorted(set(text))


def write_tokenizer(folder: Path, kind: str, *, template: str = "") -> Path:
    """tokenizer.json, tokenizer_config.json and chat_template.jinja ("" takes the kind's own, "none" writes none)."""
    specials = SPECIALS[kind]
    pieces = [*specials, *(f"<0x{byte:02X}>" for byte in range(256)), *characters(), "<think>", "</think>"]
    added = [
        {
            "id": pieces.index(token),
            "content": token,
            "special": token in specials,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
        }
        for token in (*specials, "<think>", "</think>")
    ]
    layout: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {piece: number for number, piece in enumerate(pieces)},
            "merges": [],
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(layout, ensure_ascii=False), encoding="utf-8")
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": ENDS[kind]}
    if kind == "llama":
        about["bos_token"] = "<s>"
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    if template != "none":
        (folder / "chat_template.jinja").write_text(template or TEMPLATES[kind], encoding="utf-8")
    return folder


def tiny_base(folder: Path, kind: str, *, seed: int = 0, template: str = "", **changes: Any) -> Path:
    """A whole model folder: "llama", "qwen3" or "glm4"."""
    import torch
    from transformers import AutoModelForCausalLM, Glm4Config, LlamaConfig, Qwen3Config

    write_tokenizer(folder, kind, template=template)
    vocabulary = len(json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"])
    numbers: dict[str, Any] = {
        "vocab_size": 64 * (vocabulary // 64 + 1),
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 24,
        "max_position_embeddings": 1024,
        "initializer_range": 0.15,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": SPECIALS[kind].index(ENDS[kind]),
        "tie_word_embeddings": kind == "qwen3",
        **changes,
    }
    config = {"llama": LlamaConfig, "qwen3": Qwen3Config, "glm4": Glm4Config}[kind](**numbers)
    torch.manual_seed(seed)
    model: Any = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    return folder
