"""A conversation as ids through any template and any tokenizer: `rag.types.Chat` for what is not ChatGLM's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from kb.errors import ModelError
from rag.templates import thoughts
from rag.templates.jinja import Frame, JinjaTemplate, find_template
from rag.templates.marks import harmless, marks_of
from rag.templates.named import WORDS, content_of, rounds_parts, tokens_parts, words_parts
from rag.templates.names import NAMES
from rag.templates.parts import Part, encoded, literal
from rag.templates.vocabulary import Vocabulary, WindowDecoder
from rag.types import EncodedChat, Message, StreamDecoder

Layout = Callable[..., list[Part]]
_ROLES = ("system", "user", "assistant", "observation")


class TemplateChat:
    """One tokenizer with one template. Thread safe."""

    header: tuple[int, ...] = ()

    def __init__(self, folder: Path, *, template: str = "") -> None:
        """`template`: a name of `NAMES`; empty is the model's own. Raises ModelError."""
        self.folder, self.vocabulary = folder, Vocabulary(folder)
        self.own: JinjaTemplate | None = None
        self._ends = self.vocabulary.ends
        if template == "chatglm3":
            tokens_parts([], vocabulary=self.vocabulary, generate=False)
            roles = ("<|user|>", "<|observation|>")
            self._ends += tuple(i for r in roles if (i := self.vocabulary.id_of(r)) is not None)
        elif not template:
            self.own = self._own_template()
            self._ends += self._own_end()
        self._thinks = self._opens_thoughts()
        self._known_marks: dict[tuple[str, ...], set[str]] = {}
        self._name = template or (self.own.identity if self.own else "")

    def _own_template(self) -> JinjaTemplate:
        source = find_template(self.folder)
        if not source:
            raise ModelError(
                f"{self.folder} brings no chat template along. Choose one: --template alpaca, vicuna or default "
                "(generator.template for answering).",
                zh=f"{self.folder} 没有自带对话模板。请选一个：--template alpaca、vicuna 或 default"
                "（回答时为 generator.template）。",
            )
        names = {
            key: self.vocabulary.text_of(key) for key in ("bos_token", "eos_token", "pad_token", "unk_token")
        }
        return JinjaTemplate(source, names=names, folder=self.folder)

    def _own_end(self) -> tuple[int, ...]:
        """The token with which the template closes an answer."""
        assert self.own is not None
        try:
            tail = self.own.frame(("user", "assistant"), generate=False).tails[1]
        except ModelError:
            return ()  # it can answer; training with it is refused with the reason
        found = [piece for piece in self.vocabulary.split(tail) if isinstance(piece, int)]
        return tuple(found[:1])

    def _opens_thoughts(self) -> bool:
        """Whether the template's prompt ends in the middle of a block of thoughts."""
        if self.own is None:
            return False
        try:
            last = self.own.frame(("user",), generate=True).last
        except ModelError:
            return False
        return last.rfind(thoughts.OPEN) > last.rfind(thoughts.CLOSE)

    # -------------------------------------------------------------- what `Chat` asks for

    @property
    def template(self) -> str:
        """Its name, or "own:" and a hash of the model's own."""
        return self._name

    @property
    def start(self) -> tuple[int, ...]:
        """Ids that every text begins with."""
        return self.vocabulary.start

    @property
    def eos(self) -> int:
        """Id that ends a text."""
        return self.vocabulary.ends[0]

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end the assistant's turn."""
        return tuple(dict.fromkeys(self._ends))

    def encode(self, text: str) -> list[int]:
        """Ids of a text on its own, never a special one."""
        return self.vocabulary.encode(text)

    def count(self, text: str) -> int:
        """Number of tokens of a text."""
        return len(self.encode(text))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; special ids give none."""
        return self.vocabulary.decode(ids)

    def detokeniser(self) -> StreamDecoder:
        """A fresh streaming decoder."""
        return WindowDecoder(self.vocabulary, thinking=self._thinks)

    def piece(self, token: int) -> str:
        """What a token is called."""
        return self.vocabulary.piece(token)

    def is_special(self, token: int) -> bool:
        """Whether it is no text: a role, the end of a turn and the like."""
        return token in self.vocabulary.numbers

    def prompt(self, messages: Sequence[Message], *, close_turns: bool = False) -> EncodedChat:
        """A conversation that the assistant goes on with.

        `close_turns`: earlier answers end with eos where the template closes them with nothing, as in training.
        """
        return self._encoded(messages, generate=True, close=close_turns, train=False)

    def example(self, messages: Sequence[Message]) -> EncodedChat:
        """A conversation to learn from. Raises ModelError: no answer at its end, or a template that cannot be masked."""
        if not messages or messages[-1].role != "assistant":
            raise ModelError(
                "An example to learn from must end with the assistant's turn.",
                zh="训练样本必须以 assistant 的回答结尾。",
            )
        return self._encoded(messages, generate=False, close=True, train=True)

    # -------------------------------------------------------------- rendering

    def _encoded(
        self, messages: Sequence[Message], *, generate: bool, close: bool, train: bool
    ) -> EncodedChat:
        for message in messages:
            if message.role not in _ROLES:
                raise ModelError(
                    f"Unknown role {message.role!r}: {', '.join(_ROLES)}.",
                    zh=f"未知的角色 {message.role!r}：可用 {'、'.join(_ROLES)}。",
                )
        if self.own is not None:
            parts = self._own_parts(self.own, messages, generate, close)
            return encoded(parts, vocabulary=self.vocabulary, train=train)
        if self._name in WORDS:
            parts = words_parts(messages, WORDS[self._name], vocabulary=self.vocabulary, generate=generate)
        else:
            layout = rounds_parts if self._name == "chatglm2" else tokens_parts
            parts = layout(messages, vocabulary=self.vocabulary, generate=generate)
        opening = [Part("start", "", -1, self.piece(i), i) for i in self.start]
        return encoded([*opening, *parts], vocabulary=self.vocabulary, train=train)

    def _own_parts(
        self, own: JinjaTemplate, messages: Sequence[Message], generate: bool, close: bool
    ) -> list[Part]:
        messages, frame = self._framed(own, messages, generate)
        marks = self._marks((*frame.heads, *frame.tails, frame.last))
        out: list[Part] = []
        for turn, message in enumerate(messages):
            role, mine = message.role, message.role == "assistant"
            out += self._literal(frame.heads[turn], Part("role", role, turn, ""))
            out += self._literal(frame.leads[turn], Part("header", role, turn, "", own=True))
            text = frame.strips[turn](harmless(content_of(message), marks))
            out.append(Part("content", role, turn, text, own=mine))
            if mine:
                out += self._closed(frame.tails[turn], turn, close)
        if frame.last:
            out += self._literal(frame.last, Part("role", "assistant", len(messages), ""))
        return [part for part in out if part.text]

    def _framed(
        self, own: JinjaTemplate, messages: Sequence[Message], generate: bool
    ) -> tuple[Sequence[Message], Frame]:
        """The frame, with roles that the template does not know told as the user's. Raises the first ModelError."""
        reason: ModelError | None = None
        for attempt in (messages, _merged(messages), _by_user(messages), _by_user(_merged(messages))):
            try:
                return attempt, own.frame([m.role for m in attempt], generate=generate)
            except ModelError as error:
                reason = reason or error
        assert reason is not None
        raise reason

    def _literal(self, text: str, like: Part) -> list[Part]:
        return literal(text, like, vocabulary=self.vocabulary)

    def _closed(self, tail: str, turn: int, close: bool) -> list[Part]:
        """The end of an answer: up to its first special token the assistant writes it; eos where there is none."""
        parts = self._literal(tail, Part("end", "assistant", turn, ""))
        at = next((i for i, part in enumerate(parts) if part.token >= 0), -1)
        if at < 0:
            eos = Part("end", "assistant", turn, self.piece(self.eos), self.eos, own=True)
            return [eos, *parts] if close else parts
        own = [Part(p.kind, p.role, p.turn, p.text, p.token, own=True) for p in parts[: at + 1]]
        return [*own, *parts[at + 1 :]]

    def _marks(self, literals: tuple[str, ...]) -> set[str]:
        """Role marks of the template that are plain text."""
        if literals in self._known_marks:
            return self._known_marks[literals]
        edges = {*self.vocabulary.ends, self.vocabulary.named("bos_token"), *self.vocabulary.start}
        found: set[str] = set()
        for text in literals:
            pieces = self.vocabulary.split(text)
            if all(isinstance(p, str) or p in edges for p in pieces):
                found |= {mark for p in pieces if isinstance(p, str) for mark in marks_of(p)}
        if len(self._known_marks) < 500:
            self._known_marks[literals] = found
        return found


def _merged(messages: Sequence[Message]) -> Sequence[Message]:
    """The system message in front of the first question, for a template without a system role."""
    if len(messages) < 2 or messages[0].role != "system":
        return messages
    first, second, *rest = messages
    return [Message(second.role, f"{first.content}\n\n{second.content}", second.metadata), *rest]


def _by_user(messages: Sequence[Message]) -> Sequence[Message]:
    """What tools say as what the user says, for a template without tools."""
    return [Message("user", m.content, m.metadata) if m.role == "observation" else m for m in messages]


def check_name(template: str) -> None:
    """Raise ModelError if there is no such template."""
    if template and template not in NAMES:
        raise ModelError(
            f"There is no template {template!r}. Known: auto, {', '.join(NAMES)}.",
            zh=f"没有叫 {template!r} 的模板。可用：auto、{'、'.join(NAMES)}。",
        )
