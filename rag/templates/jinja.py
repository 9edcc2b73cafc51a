"""The chat template that a model brings along (Jinja), taken apart exactly.

A template is rendered with a stand-in for every message, never with what people wrote: so no text can change what the
template does, and what stands between the stand-ins is the template's own. Where the assistant begins is where the
prompt for that turn ends (or where the template's `{% generation %}` says): checked for every turn, and a template for
which it does not hold cannot be trained.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kb.errors import ModelError
from rag.chatglm3.shape import read_json
from rag.templates.sandbox import CLOSE, OPEN, compiled

AT_MOST = 1_000_000
"""Characters of a template."""
DATE = "26 Jul 2024"
"""What templates that print today's date are given: the day must not change what was trained."""
_PAD_LEFT, _PAD_RIGHT = "\n \n", "\n \n"
_STRIPS: tuple[Callable[[str], str], ...] = (
    lambda text: text,
    str.strip,
    lambda text: text.strip("\n"),
    str.lstrip,
    str.rstrip,
    lambda text: text.lstrip("\n"),
    lambda text: text.rstrip("\n"),
    lambda text: text.rstrip("\n").lstrip(),
    lambda text: text.lstrip("\n").rstrip(),
)
"""What templates do to the white space around a message."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What a template puts around the messages of one sequence of roles."""

    heads: tuple[str, ...]
    """Before each message, up to where the assistant itself begins; for other roles all of it."""
    leads: tuple[str, ...]
    """What the assistant writes before its content (an empty block of thoughts), in the template's words."""
    tails: tuple[str, ...]
    """What closes each message's turn; only the assistant's is told apart, the others' is in the next head."""
    last: str
    """After everything: what a prompt ends with."""
    strips: tuple[Callable[[str], str], ...]
    """What becomes of each content's white space."""


def find_template(folder: Path) -> str:
    """The folder's chat template; empty if it has none. Raises ModelError if it cannot be read."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        if file.stat().st_size > AT_MOST:
            raise ModelError(
                f"{file} is over {AT_MOST} bytes: no chat template.", zh=f"{file} 超过 {AT_MOST} 字节。"
            )
        return file.read_text(encoding="utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            continue
        value = read_json(folder / name).get("chat_template")
        if isinstance(value, list):
            named = {str(e.get("name")): e.get("template") for e in value if isinstance(e, dict)}
            value = named.get("default")
        if isinstance(value, str) and value:
            return value[:AT_MOST]
    return ""


class JinjaTemplate:
    """A template and the frames that it makes. Thread safe."""

    def __init__(self, source: str, *, names: dict[str, str], folder: Path) -> None:
        """`names`: bos_token and eos_token as text."""
        self.folder, self._names = folder, names
        self._template: Any = compiled(source, folder=folder)
        self.identity = "own:" + hashlib.sha256(source.encode()).hexdigest()[:12]
        self._variants: list[dict[str, Any]] = [{}]
        if "enable_thinking" in source:
            self._variants.insert(0, {"enable_thinking": False})
        self._frames: dict[tuple[tuple[str, ...], bool], Frame | ModelError] = {}
        self._lock = threading.Lock()

    def frame(self, roles: Sequence[str], *, generate: bool) -> Frame:
        """The frame of messages with these roles. Raises ModelError with the reason if the template cannot do it."""
        key = (tuple(roles), generate)
        with self._lock:
            if key not in self._frames:
                if len(self._frames) > 500:
                    self._frames.clear()
                try:
                    self._frames[key] = self._made(list(roles), generate)
                except ModelError as error:
                    self._frames[key] = error
            found = self._frames[key]
        if isinstance(found, ModelError):
            raise found.with_traceback(None)
        return found

    def _made(self, roles: list[str], generate: bool) -> Frame:
        reason: ModelError | None = None
        for variant in self._variants:
            try:
                return self._taken_apart(roles, generate, variant)
            except ModelError as error:
                reason = error
        assert reason is not None
        raise reason

    def render(
        self, roles: Sequence[str], *, generate: bool, variant: dict[str, Any], pad: bool = False
    ) -> str:
        """The template's text with stand-ins for the messages. Raises ModelError."""
        import jinja2

        messages = [
            {"role": _OUTSIDE.get(role, role), "content": padded(stand_in(i), pad)}
            for i, role in enumerate(roles)
        ]
        values = {**self._names, "date_string": DATE, **variant}
        try:
            return str(
                self._template.render(
                    messages=messages, tools=None, documents=None, add_generation_prompt=generate, **values
                )
            )
        except (
            jinja2.exceptions.TemplateError,
            ArithmeticError,
            AttributeError,
            LookupError,
            RecursionError,
            TypeError,
            ValueError,
        ) as error:
            raise self.refused(f"it says: {error}", f"它报告：{error}") from error

    # -------------------------------------------------------------- taking a rendering apart

    def _taken_apart(self, roles: list[str], generate: bool, variant: dict[str, Any]) -> Frame:
        marked = self.render(roles, generate=generate, variant=variant)
        text, spans = _spans(marked)
        gaps = self._gaps(text, len(roles))
        padded_text, _ = _spans(self.render(roles, generate=generate, variant=variant, pad=True))
        strips = self._strips(gaps, self._gaps(padded_text, len(roles)))
        heads, leads, tails = [], [], []
        at = 0
        rest = gaps[0]
        for i, role in enumerate(roles):
            at += len(rest)
            head, lead = rest, ""
            if role == "assistant":
                begin = at if generate else self._begin(text, at, spans, roles[:i], variant)
                cut = len(rest) - (at - begin)
                if cut < 0:
                    raise self.unmaskable()
                head, lead = rest[:cut], rest[cut:]
            at += len(stand_in(i))
            rest, tail = gaps[i + 1], ""
            if role == "assistant":
                tail = self._tail(roles[: i + 1], rest, variant)
                at, rest = at + len(tail), rest[len(tail) :]
            heads.append(head)
            leads.append(lead)
            tails.append(tail)
        return Frame(tuple(heads), tuple(leads), tuple(tails), rest, strips)

    def _gaps(self, text: str, count: int) -> list[str]:
        """What stands before, between and after the stand-ins."""
        gaps, at = [], 0
        for i in range(count):
            mark = stand_in(i)
            if text.count(mark) != 1 or (found := text.find(mark, at)) < 0:
                raise self.refused(
                    f"message {i + 1} stands in it {text.count(mark)} times or out of order",
                    f"第 {i + 1} 条消息在其中出现 {text.count(mark)} 次或次序不对",
                )
            gaps.append(text[at:found])
            at = found + len(mark)
        return [*gaps, text[at:]]

    def _strips(self, plain: list[str], wide: list[str]) -> tuple[Callable[[str], str], ...]:
        """How each message's white space is treated, from the gaps between bare and between padded stand-ins."""
        out: list[Callable[[str], str]] = []
        before = ""
        for i in range(len(plain) - 1):
            if not wide[i].startswith(before + plain[i]):
                raise self._rewrites()
            left = wide[i][len(before + plain[i]) :]
            last = i == len(plain) - 2
            rests = {""} if last else {_edges(strip)[0] for strip in _STRIPS}
            fitting = [
                strip
                for strip in _STRIPS
                if _edges(strip)[0] == left
                and wide[i + 1].startswith(start := _edges(strip)[1] + plain[i + 1])
                and wide[i + 1][len(start) :] in rests
            ]
            if not fitting:
                raise self._rewrites()
            chosen = max(fitting, key=lambda strip: len(_edges(strip)[1]))
            before = _edges(chosen)[1]
            out.append(chosen)
        return tuple(out)

    def _rewrites(self) -> ModelError:
        return self.refused("it rewrites what a message says", "它会改写消息的内容")

    def _begin(
        self, text: str, at: int, spans: list[tuple[int, int]], before: list[str], variant: dict[str, Any]
    ) -> int:
        """Where the assistant's turn whose content is at `at` begins to be its own."""
        for begin, end in spans:
            if begin <= at < end:
                return begin
        prompt, _ = _spans(self.render(before, generate=True, variant=variant))
        if len(prompt) > at or not text.startswith(prompt):
            raise self.unmaskable()
        return len(prompt)

    def _tail(self, roles: list[str], rest: str, variant: dict[str, Any]) -> str:
        """What closes the assistant's turn, which is the same at the end and in the middle of a conversation."""
        closed, _ = _spans(self.render(roles, generate=False, variant=variant))
        tail = closed.rsplit(stand_in(len(roles) - 1), 1)[-1]
        if not rest.startswith(tail):
            tail = tail.rstrip()
        if not rest.startswith(tail):
            raise self.refused(
                "an answer ends differently in the middle of a conversation and at its end",
                "回答在对话中间和末尾的结束方式不同",
            )
        return tail

    def refused(self, english: str, chinese: str) -> ModelError:
        """The error for a template that cannot be used."""
        return ModelError(
            f"The chat template of {self.folder} cannot be used: {english}. Choose another one: --template alpaca, vicuna "
            "or default (generator.template for answering).",
            zh=f"{self.folder} 自带的对话模板不能使用：{chinese}。请另选：--template alpaca、vicuna 或 default"
            "（回答时为 generator.template）。",
        )

    def unmaskable(self) -> ModelError:
        """The error for a template in which the assistant's words cannot be told apart."""
        return self.refused(
            "the prompt for an answer is not how the finished conversation goes on, so what the assistant says cannot be "
            "told apart (put {% generation %} ... {% endgeneration %} around it in chat_template.jinja)",
            "回答前的提示词与完整对话的开头不一致，分不清哪些是助手说的（可在 chat_template.jinja 里用 "
            "{% generation %} … {% endgeneration %} 标出）",
        )


_OUTSIDE = {"observation": "tool"}


def stand_in(number: int) -> str:
    """What stands for a message while a template is rendered."""
    return f"\ue100{number}\ue101"


def _edges(strip: Callable[[str], str]) -> tuple[str, str]:
    """What is left of the white space before and after a message."""
    left, right = strip(f"{_PAD_LEFT}x{_PAD_RIGHT}").split("x")
    return left, right


def padded(text: str, pad: bool) -> str:
    """With white space around it, to see what a template does to that."""
    return f"{_PAD_LEFT}{text}{_PAD_RIGHT}" if pad else text


def _spans(text: str) -> tuple[str, list[tuple[int, int]]]:
    """The text without the marks of `{% generation %}`, and where they were."""
    plain, spans = "", []
    for number, piece in enumerate(text.split(OPEN)):
        if number == 0:
            plain = piece
            continue
        inside, _, outside = piece.partition(CLOSE)
        spans.append((len(plain), len(plain) + len(inside)))
        plain += inside + outside
    return plain, spans
