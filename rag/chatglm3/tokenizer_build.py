"""The files of a standard fast tokenizer, made from `tokenizer.model`: no code travels with them.

`AutoTokenizer` reads them anywhere. A prompt that is rendered by the chat template and then tokenised as one string has
the right ids, but a document in it could forge a role; so zhiwen itself encodes with `chat.py`, segment by segment.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rag.chatglm3.folder import write_json
from rag.chatglm3.shape import Family
from rag.chatglm3.tokenizer_model import BYTE, CONTROL, SPACE, SPECIAL_NAMES, UNKNOWN, PieceModel, merges_of

CHATGLM3_TEMPLATE = (
    "{{- '[gMASK]<sop>' }}"
    "{%- for message in messages %}"
    "{{- '<|' + message['role'] + '|>' + (message.get('metadata') or '') + '\n' }}"
    "{%- if message['content'] %}{{- ' ' + message['content'] }}{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"
)
"""The official chat format. The space before the content is the dummy prefix of an encoding of its own."""

CHATGLM2_TEMPLATE = (
    "{{- '[gMASK]<sop>' }}"
    "{%- set ns = namespace(round=0) %}"
    "{%- for message in messages %}"
    "{%- if message['role'] == 'assistant' %}{{- message['content'] + '\n\n' }}"
    "{%- else %}{%- set ns.round = ns.round + 1 %}"
    "{{- '[Round ' ~ ns.round ~ ']\n\n问：' + message['content'] + '\n\n答：' }}{%- endif %}"
    "{%- endfor %}"
)
"""ChatGLM2 knows no roles: rounds of question and answer in plain text."""

NORMALISER: dict[str, Any] = {
    "type": "Sequence",
    "normalizers": [
        {"type": "Prepend", "prepend": SPACE},
        {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
    ],
}
"""A dummy prefix, and a mark for every space."""

DECODER: dict[str, Any] = {
    "type": "Sequence",
    "decoders": [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ],
}
"""The way back."""


def tokenizer_json(model: PieceModel) -> dict[str, Any]:
    """`tokenizer.json`: byte-pair encoding by score, byte fallback, a dummy prefix for every segment."""
    special = [i for i, kind in enumerate(model.types) if kind in (UNKNOWN, CONTROL)]
    names = [(i, model.pieces[i]) for i in special]
    names += [(len(model.pieces) + i, name) for i, name in enumerate(SPECIAL_NAMES)]
    vocabulary = {piece: i for i, piece in enumerate(model.pieces)}
    added = [
        {
            "id": number,
            "content": name,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for number, name in names
    ]
    start = [("[gMASK]", model.specials.gmask), ("<sop>", model.specials.sop)]
    pieces: list[dict[str, Any]] = [{"SpecialToken": {"id": name, "type_id": 0}} for name, _ in start]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": NORMALISER,
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [*pieces, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [
                *pieces,
                {"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 0}},
            ],
            "special_tokens": {
                name: {"id": name, "ids": [number], "tokens": [name]} for name, number in start
            },
        },
        "decoder": DECODER,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": model.pieces[0],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": BYTE in model.types,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": [list(pair) for pair in merges_of(model)],
        },
    }


def tokenizer_config(model: PieceModel, *, context: int) -> dict[str, Any]:
    """`tokenizer_config.json`. Padding goes to the left, as the official tokenizer does it."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "unk_token": model.pieces[0],
        "pad_token": model.pieces[0],
        "eos_token": model.pieces[2],
        "additional_special_tokens": list(SPECIAL_NAMES),
        "model_input_names": ["input_ids", "attention_mask", "position_ids"],
    }


def write_tokenizer(model: PieceModel, *, folder: Path, context: int, family: Family) -> None:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja into `folder`."""
    import json

    text = json.dumps(tokenizer_json(model), ensure_ascii=False, separators=(",", ":"))
    (folder / "tokenizer.json").write_text(text + "\n", encoding="utf-8")
    write_json(folder / "tokenizer_config.json", tokenizer_config(model, context=context))
    template = CHATGLM2_TEMPLATE if family == "chatglm2" else CHATGLM3_TEMPLATE
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
