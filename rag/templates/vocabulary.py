"""The tokenizer of any model folder: text -> ids in which nothing of the text can become a special token.

Two views of one tokenizer.json: `split` cuts text that *we* wrote (a template) at special tokens; `run` encodes text
that others wrote, with every added token of the vocabulary switched off.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from kb.errors import ModelError
from rag.chatglm3.shape import read_json
from rag.templates.thoughts import Thoughts

GUARD = "\ue0f0"
"""Stands before a run so that a tokenizer treats it as text after a special token: no blank is put in front."""
BROKEN = "\ufffd"


class Vocabulary:
    """Encoding and decoding with the tokenizer of a folder. Thread safe."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import AddedToken, Tokenizer

        self.folder = folder
        layout = _layout(folder)
        self._open: Any = Tokenizer.from_str(layout)
        closed = json.loads(layout)
        self.added: dict[str, int] = {}
        """Added tokens, the special ones among them: text -> id."""
        self._flags: dict[int, tuple[bool, bool]] = {}
        for token in closed.get("added_tokens", []):
            token["special"] = True
            self.added[token["content"]] = token["id"]
            self._flags[token["id"]] = (bool(token.get("lstrip")), bool(token.get("rstrip")))
        self._byte_level = "ByteLevel" in json.dumps(closed.get("decoder"))
        self.numbers = frozenset(self.added.values())
        self._closed: Any = Tokenizer.from_str(json.dumps(closed))
        self._closed.add_tokens([AddedToken(GUARD, special=False, normalized=False)])
        self._closed.encode_special_tokens = True
        self.config = _optional(folder / "tokenizer_config.json")
        pattern = "|".join(re.escape(t) for t in sorted(self.added, key=len, reverse=True) if t)
        self._cut = re.compile(f"({pattern})") if pattern else None

    # -------------------------------------------------------------- special ids

    def named(self, key: str) -> int | None:
        """Id of "eos_token", "bos_token" ... of tokenizer_config.json; None where it has none."""
        text = self.text_of(key)
        return None if not text else self._open.token_to_id(text)

    def text_of(self, key: str) -> str:
        """The token that tokenizer_config.json names; empty where it names none."""
        value = self.config.get(key)
        return str(value.get("content", "")) if isinstance(value, dict) else str(value or "")

    def id_of(self, token: str) -> int | None:
        """Id of an added token."""
        return self.added.get(token)

    @cached_property
    def start(self) -> tuple[int, ...]:
        """Ids that the tokenizer puts in front of every text (`[gMASK]<sop>`, `<s>`, or nothing)."""
        plain = self._open.encode("a", add_special_tokens=False).ids
        whole = self._open.encode("a", add_special_tokens=True).ids
        at = next((i for i in range(len(whole)) if whole[i : i + len(plain)] == plain), 0)
        found = tuple(whole[:at])
        if not found and {"[gMASK]", "<sop>"} <= self.added.keys():
            return self.added["[gMASK]"], self.added["<sop>"]
        old = (
            str(self.config.get("tokenizer_class", "")).startswith("Llama")
            and not (self.folder / "tokenizer.json").is_file()
        )  # the first Llama tokenizers began every text with <s> unless told otherwise
        bos = self.named("bos_token")
        if not found and bos is not None and self.config.get("add_bos_token", old) is True:
            return (bos,)
        return found

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """Ids that end a text: eos of the tokenizer first, then those that the model's own settings name.

        Raises ModelError where nobody names one.
        """
        found = [self.named("eos_token")]
        for name in ("generation_config.json", "config.json"):
            value = _optional(self.folder / name).get("eos_token_id")
            found += value if isinstance(value, list) else [value]
        ids = tuple(dict.fromkeys(i for i in found if isinstance(i, int)))
        if not ids:
            raise ModelError(
                f"{self.folder} names no end-of-sequence token (eos_token in tokenizer_config.json, eos_token_id in "
                "config.json). Add one: without it no answer ever ends.",
                zh=f"{self.folder} 没有写明结束符（tokenizer_config.json 的 eos_token 或 config.json 的 eos_token_id）。"
                "请补上：没有它，回答永远不会结束。",
            )
        return ids

    # -------------------------------------------------------------- text -> ids

    def split(self, text: str) -> list[str | int]:
        """Text of a template as runs of plain text and ids of added tokens. White space that a token swallows is gone."""
        out: list[str | int] = []
        for piece in self._cut.split(text) if self._cut else [text]:
            if piece in self.added:
                token = self.added[piece]
                if self._flags[token][0] and out and isinstance(out[-1], str):
                    out[-1] = out[-1].rstrip()
                out.append(token)
            elif piece:
                swallowed = bool(out) and isinstance(out[-1], int) and self._flags[out[-1]][1]
                out.append(piece.lstrip() if swallowed else piece)
        return [piece for piece in out if piece != ""]

    def run(self, text: str, *, first: bool = False) -> tuple[list[int], list[int]]:
        """Ids of text with no special token in it, and for each id the character that it begins at.

        `first`: nothing stands before it; tokenizers that put a blank in front of a text do it only there.
        """
        clean = text.encode("utf-8", "replace").decode("utf-8").replace(GUARD, BROKEN)
        if not clean:
            return [], []
        encoding = self._closed.encode(clean if first else GUARD + clean, add_special_tokens=False)
        if first:
            return list(encoding.ids), [start for start, _ in encoding.offsets]
        return list(encoding.ids)[1:], [start - 1 if start else 0 for start, _ in encoding.offsets[1:]]

    def encode(self, text: str) -> list[int]:
        """Ids of a text on its own."""
        return self.run(text, first=True)[0]

    # -------------------------------------------------------------- ids -> text

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special ones left out."""
        return str(self._open.decode(list(ids), skip_special_tokens=True))

    def piece(self, token: int) -> str:
        """What a token is called; where the vocabulary spells bytes, the text that they are."""
        if self._byte_level and token not in self.numbers:
            text = self.decode([token])
            if text and BROKEN not in text:
                return text
        return str(self._open.id_to_token(token) or f"<{token}>")


class WindowDecoder:
    """Ids -> text for any tokenizer: text is given out when the ids after it can no longer change it.

    White space before the answer, and thoughts that a model writes down first, are left out.
    """

    def __init__(self, vocabulary: Vocabulary, *, thinking: bool = False) -> None:
        """`thinking`: the prompt has opened a block of thoughts."""
        self._vocabulary = vocabulary
        self._ids: list[int] = []
        self._given, self._read = 0, 0
        self._thoughts = Thoughts(inside=thinking)

    def feed(self, token: int) -> str:
        """The text that became certain."""
        self._ids.append(token)
        text = self._news()
        if not text or text.endswith(BROKEN):
            return ""
        self._given, self._read = self._read, len(self._ids)
        return self._thoughts.feed(text)

    def finish(self) -> str:
        """What was held back."""
        text = self._thoughts.feed(self._news())
        self._given = self._read = len(self._ids)
        return text + self._thoughts.finish()

    def _news(self) -> str:
        before = self._vocabulary.decode(self._ids[self._given : self._read])
        return self._vocabulary.decode(self._ids[self._given :])[len(before) :]


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _layout(folder: Path) -> str:
    """The tokenizer as JSON: tokenizer.json, or what transformers makes of an older tokenizer.model."""
    if (folder / "tokenizer.json").is_file():
        return (folder / "tokenizer.json").read_text(encoding="utf-8")
    if not any((folder / name).is_file() for name in ("tokenizer.model", "vocab.json")):
        raise ModelError(
            f"{folder} has no tokenizer (tokenizer.json, tokenizer.model or vocab.json). Give the folder of a whole model.",
            zh=f"{folder} 里没有分词器（tokenizer.json、tokenizer.model 或 vocab.json）。请给出完整的模型文件夹。",
        )
    from transformers import AutoTokenizer

    try:
        slow = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return str(slow.backend_tokenizer.to_str())
    except (AttributeError, ImportError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"The tokenizer of {folder} needs code of its own or cannot be read ({reason}). Only standard tokenizers are "
            "used; save one as tokenizer.json.",
            zh=f"{folder} 的分词器需要自带代码或无法读取（{reason}）。这里只用标准分词器，请另存为 tokenizer.json。",
        ) from error
