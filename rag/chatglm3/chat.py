"""Messages -> token ids and loss mask: the one prompt encoder, for training, evaluation and answering.

Every segment (a role's header line, a content) is tokenised on its own with special tokens off, so nothing that stands
in a document or a question can become a role: the only special ids are those that this file puts in.

    [gMASK] sop  <|user|> encode("\\n") encode("你好")  <|assistant|>
    64790 64792  64795    30910 13      36474 54591    64796
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from kb.errors import ModelError
from rag.chatglm3.detokenise import Detokeniser, decode
from rag.chatglm3.shape import Family, read_native
from rag.chatglm3.tokenizer_model import Specials, read_pieces
from rag.types import EncodedChat, Message, Segment


class ChatTokenizer:
    """The tokenizer of one model folder. Thread safe."""

    def __init__(self, folder: Path, *, family: Family = "chatglm3") -> None:
        from tokenizers import Tokenizer

        if not (folder / "tokenizer.json").is_file():
            raise ModelError(
                f"{folder} has no tokenizer.json. Convert the official model: zhiwen models convert SRC DST",
                zh=f"{folder} 里没有 tokenizer.json。请转换官方模型：zhiwen models convert 源 目标",
            )
        self.folder, self.family = folder, family
        try:
            self._tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # tokenizers raises nothing narrower
            raise ModelError(
                f"{folder}/tokenizer.json is broken: {error}", zh=f"{folder}/tokenizer.json 已损坏：{error}"
            ) from error
        self._tokenizer.encode_special_tokens = True
        gmask = self._tokenizer.token_to_id("[gMASK]")
        if gmask is None or self._tokenizer.token_to_id("<|observation|>") != gmask + 7:
            raise ModelError(
                f"{folder}/tokenizer.json is not a converted ChatGLM tokenizer.",
                zh=f"{folder}/tokenizer.json 不是转换后的 ChatGLM 分词器。",
            )
        self.specials = Specials.after(gmask - 1)

    # -------------------------------------------------------------- text

    def encode(self, text: str) -> list[int]:
        """Ids of a text on its own: with its dummy prefix, never with a special id. Empty text has none."""
        clean = text.encode("utf-8", "replace").decode("utf-8")
        return list(self._tokenizer.encode(clean, add_special_tokens=False).ids)

    def count(self, text: str) -> int:
        """Number of tokens of a text."""
        return len(self.encode(text))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; special ids give none."""
        pieces, types = self._tables
        return decode(ids, pieces=pieces, types=types)

    def detokeniser(self) -> Detokeniser:
        """A fresh streaming decoder."""
        pieces, types = self._tables
        return Detokeniser(pieces, types=types)

    def piece(self, token: int) -> str:
        """What a token is called, for showing."""
        return str(self._tokenizer.id_to_token(token) or f"<{token}>")

    def is_special(self, token: int) -> bool:
        """Whether it is no text: a role, `</s>` and the like."""
        return token >= self.specials.mask or token == self.specials.eos

    @cached_property
    def _tables(self) -> tuple[Sequence[str], Sequence[int]]:
        """Pieces and their SentencePiece types by id."""
        if (self.folder / "tokenizer.model").is_file():
            model = read_pieces(self.folder / "tokenizer.model")
            return model.pieces, model.types
        pieces = [self.piece(i) for i in range(self.specials.mask)]
        return pieces, [_guess_type(i, piece) for i, piece in enumerate(pieces)]

    @cached_property
    def header(self) -> tuple[int, ...]:
        """What the assistant's turn begins with: 30910 13."""
        return tuple(self.encode("\n")) if self.family == "chatglm3" else ()

    @property
    def template(self) -> str:
        """Name of the chat format."""
        return self.family

    @property
    def start(self) -> tuple[int, ...]:
        """What every text begins with."""
        return self.specials.gmask, self.specials.sop

    @property
    def eos(self) -> int:
        """Id of `</s>`."""
        return self.specials.eos

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end the assistant's turn."""
        return self.specials.ends if self.family == "chatglm3" else (self.specials.eos,)

    # -------------------------------------------------------------- conversations

    def prompt(self, messages: Sequence[Message], *, close_turns: bool = False) -> EncodedChat:
        """A conversation that the assistant goes on with. No loss anywhere.

        `close_turns` ends earlier answers with `</s>`, as training writes them (an adapter's train.json says so).
        """
        return self._render(messages, close_turns=close_turns, generate=True, train=False)

    def example(self, messages: Sequence[Message]) -> EncodedChat:
        """A conversation to learn from: loss on every assistant turn, each with `</s>` at its end.

        Raises ModelError if the last message is not the assistant's.
        """
        if not messages or messages[-1].role != "assistant":
            raise ModelError(
                "An example to learn from must end with the assistant's turn.",
                zh="训练样本必须以 assistant 的回答结尾。",
            )
        return self._render(messages, close_turns=True, generate=False, train=True)

    def _render(
        self, messages: Sequence[Message], *, close_turns: bool, generate: bool, train: bool
    ) -> EncodedChat:
        special = self.specials
        segments = [Segment("start", "", "[gMASK]<sop>", (special.gmask, special.sop), False)]
        render = self._rounds if self.family == "chatglm2" else self._roles
        segments += render(messages, close_turns, train)
        if generate and self.family == "chatglm3":
            segments.append(Segment("role", "assistant", "<|assistant|>", (special.assistant,), False))
        return EncodedChat(tuple(segments))

    def _roles(self, messages: Sequence[Message], close_turns: bool, train: bool) -> list[Segment]:
        out = []
        for message in messages:
            try:
                role = self.specials.role(message.role)
            except KeyError as error:
                raise ModelError(
                    f"Unknown role {message.role!r}: system, user, assistant, observation.",
                    zh=f"未知的角色 {message.role!r}：可用 system、user、assistant、observation。",
                ) from error
            header, loss = message.metadata + "\n", train and message.role == "assistant"
            out.append(Segment("role", message.role, f"<|{message.role}|>", (role,), False))
            out.append(Segment("header", message.role, header, tuple(self.encode(header)), loss))
            out.append(
                Segment("content", message.role, message.content, tuple(self.encode(message.content)), loss)
            )
            if message.role == "assistant" and close_turns:
                out.append(Segment("end", message.role, "</s>", (self.specials.eos,), loss))
        return out

    def _rounds(self, messages: Sequence[Message], close_turns: bool, train: bool) -> list[Segment]:
        """ChatGLM2's rounds. A system message stands before the first question, in the same round."""
        out, turn, before = [], 0, ""
        for message in messages:
            content = unforged_rounds(message.content)
            if message.role == "assistant":
                ids = tuple(self.encode(content))
                out.append(Segment("content", "assistant", content, ids, train))
                if close_turns:
                    out.append(Segment("end", "assistant", "</s>", (self.specials.eos,), train))
                continue
            if message.role == "system":
                before += content + "\n\n"
                continue
            turn += 1
            text = f"[Round {turn}]\n\n问：{before}{content}\n\n答："
            text, before = ("\n\n" if turn > 1 else "") + text, ""
            out.append(Segment("content", message.role, text, tuple(self.encode(text)), False))
        return out


_ROUND = re.compile(r"\[(Round \d+)\]")
_SPEAKER = re.compile(r"(?m)^([ \t]*)(问|答)：")


def unforged_rounds(text: str) -> str:
    """Data in which no mark of ChatGLM2's rounds stands: they are words, so special tokens do not guard them."""
    return _SPEAKER.sub(r"\1\2:", _ROUND.sub(r"［\1］", text))


def _guess_type(number: int, piece: str) -> int:
    if number == 0:
        return 2
    if number in (1, 2):
        return 3
    return 6 if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">") else 1


def open_tokenizer(folder: Path) -> ChatTokenizer:
    """The tokenizer of a converted folder. Raises ModelError."""
    return ChatTokenizer(folder, family=read_native(folder).family)
