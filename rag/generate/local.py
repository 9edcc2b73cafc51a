"""Any other base model on this machine, as a `Generator`: transformers' own `generate`, our sampling and stopping.

loaded = load_other(Path("models/qwen3-8b"), config=LoadConfig(quantise="nf4"))
with LocalGenerator(loaded) as generator:
    for piece in generator.stream([Message("user", "你好")], options=GenerateOptions()):
        print(piece.text, end="")

Answers are written one after the other; who comes second waits. (ChatGLM has an engine that serves many at once.)
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any

from kb.errors import GenerationError, ModelError
from rag.chatglm3.adapters import loaded_one, tunes_biases
from rag.chatglm3.engine.request import Request, Ticket
from rag.chatglm3.engine.sampling import Row, choose
from rag.chatglm3.engine.writing import Writing
from rag.chatglm3.memory import on_device
from rag.models import LoadedOther
from rag.templates.choice import check_templates
from rag.types import GenerateOptions, Message, Piece

if TYPE_CHECKING:
    import torch


class LocalGenerator:
    """A loaded model that answers. Safe to call from several threads: they take turns."""

    def __init__(
        self,
        loaded: LoadedOther,
        *,
        context: int = 0,
        adapter: str = "",
        note: tuple[str, str] | None = None,
    ) -> None:
        """`context`: prompt and answer together, 0 is what the model was made for; `adapter`: answers where none is named;
        `note`: what people should know about it, in Chinese and English.

        Raises ModelError if an adapter was trained with another template.
        """
        if loaded.chat is None:
            raise ModelError(
                f"{loaded.folder} was loaded without a tokenizer.", zh=f"{loaded.folder} 没有加载分词器。"
            )
        check_templates(loaded.chat, loaded.adapters.values())
        self.loaded, self.chat, self.note = loaded, loaded.chat, note
        self.adapter = adapter or loaded.merged
        self._tuned = {n for n, info in loaded.adapters.items() if tunes_biases(info.folder)} - {
            loaded.merged
        }
        self.context = min(context or loaded.shape.context, loaded.shape.context)
        self._turn, self._closed = threading.Lock(), threading.Event()

    @property
    def name(self) -> str:
        """Such as "qwen3-8b (nf4) + zhouyi"."""
        plain = not self.adapter or self.adapter == self.loaded.merged
        return self.loaded.name if plain else f"{self.loaded.name} + {self.adapter}"

    @property
    def context_tokens(self) -> int:
        """Prompt and answer together."""
        return self.context

    def count_tokens(self, text: str) -> int:
        """Tokens of a text on its own."""
        return self.chat.count(text)

    def prompt_ids(self, messages: Sequence[Message], *, adapter: str = "") -> list[int]:
        """The ids that the model reads; earlier answers are closed as the adapter's training closed them.

        Raises GenerationError for an adapter that is not loaded.
        """
        info = loaded_one(self.loaded.adapters, adapter or self.adapter)
        return self.chat.prompt(messages, close_turns=info is not None and info.close_turns).ids

    def stream(
        self,
        messages: Sequence[Message],
        *,
        options: GenerateOptions,
        cancel: threading.Event | None = None,
    ) -> Iterator[Piece]:
        """Pieces as they are written. Raises GenerationError: prompt too long, unknown adapter, out of memory."""
        adapter = options.adapter or self.adapter
        loaded_one(self.loaded.adapters, adapter)
        if spoilt := self._tuned - {adapter}:
            raise GenerationError(
                f"The adapter {min(spoilt)!r} changed the base's own biases when it was loaded: only it can answer now.",
                zh=f"适配器 {min(spoilt)!r} 加载时改动了基座自身的偏置，现在只能由它回答。",
            )
        ids = self.prompt_ids(messages, adapter=adapter)
        room = self.context - len(ids)
        if not ids or room < 1:
            raise GenerationError(
                f"The prompt has {len(ids)} tokens; prompt and answer together may have {self.context}.",
                zh=f"提示词有 {len(ids)} 个 token，提示词和回答合计最多 {self.context} 个。请缩短问题或减少资料。",
            )
        writing = Writing(self.chat, options=options, limit=min(options.max_tokens, room), guard=True)
        request = Request(
            ids, options, writing, cancel or threading.Event(), random=random.Random(options.seed)
        )
        worker = threading.Thread(
            target=self._write, args=(request, adapter), name="local-model", daemon=True
        )
        worker.start()
        yield from Ticket(request)

    def close(self) -> None:
        """End what is being written and wait for it."""
        self._closed.set()
        with self._turn:
            pass

    def __enter__(self) -> LocalGenerator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -------------------------------------------------------------- the thread of one answer

    def _write(self, request: Request, adapter: str) -> None:
        import torch

        while not self._turn.acquire(timeout=0.05):
            if request.cancel.is_set() or self._closed.is_set():
                request.out.put(request.writing.end("stopped"))
                return
        try:
            pen = _Pen(request, self._closed)
            if pen.stopped():
                return
            with on_device(self.loaded.device), torch.inference_mode(), self._speaking(adapter):
                self._generate(request, pen)
            if not pen.done:
                request.out.put(request.writing.end("length"))
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            request.out.put(
                GenerationError(
                    f"Generating failed: out of GPU memory: {str(error).splitlines()[0]}",
                    zh="生成失败：显存不足，请缩短上下文或改用 4 位量化。",
                )
            )
        except Exception as error:  # noqa: BLE001 - whoever asked gets it; the next one is served
            request.out.put(
                GenerationError(
                    f"Generating failed: {type(error).__name__}: {error}",
                    zh=f"生成失败：{type(error).__name__}：{error}",
                )
            )
        finally:
            self._turn.release()

    def _generate(self, request: Request, pen: _Pen) -> None:
        import torch
        from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

        prompt = torch.tensor([request.ids], device=self.loaded.device)
        # our own sampling picks the token (and leaves it alone on top), so transformers only has to take the largest
        plain = GenerationConfig(
            max_new_tokens=request.writing.limit + 1, do_sample=False, pad_token_id=0, eos_token_id=None
        )
        self.loaded.model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            generation_config=plain,
            logits_processor=LogitsProcessorList([pen.pick]),
            stopping_criteria=StoppingCriteriaList([pen.stop]),
        )

    def _speaking(self, adapter: str) -> AbstractContextManager[Any]:
        """The model with this adapter, or with none."""
        model = self.loaded.model
        if self.loaded.merged or not self.loaded.adapters:
            return nullcontext()
        if not adapter:
            off: AbstractContextManager[Any] = model.disable_adapter()
            return off
        model.set_adapter(adapter)
        return nullcontext()


class _Pen:
    """Picks every token of one answer and says when to stop, in the calls that `generate` makes anyway."""

    def __init__(self, request: Request, closed: threading.Event) -> None:
        self._request, self._closed = request, closed
        self.done = False

    def stopped(self) -> bool:
        """Whether somebody asked to stop; the last piece is sent then."""
        if not self.done and (self._request.cancel.is_set() or self._closed.is_set()):
            self._request.out.put(self._request.writing.end("stopped"))
            self.done = True
        return self.done

    def pick(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Only the chosen token is left."""
        import torch

        request = self._request
        row = Row(request.options, request.writing.ids, request.random.random())
        token = choose(scores, rows=[row])
        return torch.full_like(scores, -torch.inf).scatter_(1, token[:, None], 0.0)

    def stop(self, ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Hand on the text of the newest token; true when the answer ends."""
        import torch

        if not self.stopped():
            piece = self._request.writing.feed(int(ids[0, -1]))
            self._request.out.put(piece)
            self.done = piece.finish is not None
        return torch.tensor([self.done], device=ids.device)
