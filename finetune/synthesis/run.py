"""What every way of synthesis shares: the budget, the files, what was asked already, the threads."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kb.errors import DataError, GenerationError
from rag.types import GenerateOptions, Generator, Message

SHORTEST_ANSWER = 200
"""Tokens: a call that may write less than this is not made."""


@dataclass(frozen=True, slots=True)
class SynthesisOptions:
    """How much to make."""

    pairs: int = 3
    """Questions a passage."""
    variants: int = 2
    """Other ways of asking each."""
    questions: int = 20
    """From notes: ways of asking for each."""
    distractors: int = 2
    """Other passages that stand beside the right one in the prompt."""
    budget_tokens: int = 200_000
    """Tokens that all calls together may cost, prompt and answer, earlier sittings included; then it stops and says so."""
    answer_tokens: int = 2048
    """Longest answer of one call."""
    workers: int = 4
    limit: int = 0
    """Passages or notes at the most; 0: all."""
    hold_out: float = 0.0
    """Share of the questions that are written to `<out>.questions.jsonl` instead, to compare with later. A question that
    is held out has another phrasing among the examples: what is trained on is never asked, what it is about is."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.pairs < 1 or self.variants < 0 or self.questions < 1:
            raise ValueError(f"pairs, variants and questions must be positive, got {self}")
        if self.budget_tokens < 1 or self.workers < 1:
            raise ValueError(f"budget_tokens and workers must be at least 1, got {self}")
        if not 0 <= self.hold_out < 1:
            raise ValueError(f"hold_out must be 0 or more and below 1, got {self.hold_out}")


DEFAULTS = SynthesisOptions()


@dataclass(frozen=True, slots=True)
class SynthesisReport:
    """What came of it."""

    kept: int
    """Training examples written, earlier sittings included."""
    held_out: int
    """Questions written beside them."""
    dropped: dict[str, int]
    """Why pairs were not kept -> how many."""
    tokens: int
    """Spent, earlier sittings included."""
    calls: int
    stopped: str = ""
    """"budget" or "cancelled"; empty: it went through."""


class Run:
    """Shared by the workers. `out` holds the examples; `<out>.done.jsonl` which sources are done and what they cost."""

    def __init__(self, out: Path, options: SynthesisOptions, generator: Generator) -> None:
        if out.suffix != ".jsonl":
            raise DataError(
                f"--out must end in .jsonl, got {out.name!r}.",
                zh=f"--out 应以 .jsonl 结尾，而不是 {out.name!r}。",
            )
        self.out, self.options, self.generator = out, options, generator
        self.questions = out.with_suffix(".questions.jsonl")
        self.ledger = out.with_suffix(".done.jsonl")
        self.free = threading.Condition()
        self.dropped: dict[str, int] = {}
        self.kept = self.held_out = self.tokens = self.reserved = self.calls = 0
        self.stopped = ""
        self.seen: set[str] = set()
        self.done: set[str] = set()
        out.parent.mkdir(parents=True, exist_ok=True)
        for row in whole_rows(self.ledger):
            self.done.add(str(row.get("source", "")))
            self.tokens += int(row.get("tokens", 0))
        for path in (out, self.questions):
            for row in whole_rows(path):
                self.seen.add(plain(asked_in(row)))
                self.done.add(str(row.get("source", "")))
                if path == out:
                    self.kept += 1
                else:
                    self.held_out += 1

    def report(self) -> SynthesisReport:
        """What came of it so far."""
        return SynthesisReport(
            self.kept, self.held_out, dict(self.dropped), self.tokens, self.calls, self.stopped
        )

    def drop(self, why: str) -> None:
        """Count a pair that is not kept."""
        with self.free:
            self.dropped[why] = self.dropped.get(why, 0) + 1

    def new(self, question: str) -> bool:
        """Was it not asked before? Then it counts as asked. Punctuation and spaces make no new question."""
        key = plain(question)
        with self.free:
            if not key or key in self.seen:
                self.dropped["duplicate question"] = self.dropped.get("duplicate question", 0) + 1
                return False
            self.seen.add(key)
            return True

    def keep(
        self, source: str, *, examples: Sequence[dict[str, Any]], held: Sequence[dict[str, Any]], tokens: int
    ) -> None:
        """All rows of one source at once; the line in the ledger comes last, so that a source is done or not begun."""
        with self.free:
            for path, rows in (
                (self.questions, held),
                (self.out, examples),
                (self.ledger, [{"tokens": tokens}]),
            ):
                if rows:
                    with path.open("a", encoding="utf-8") as file:
                        file.write(
                            "".join(
                                json.dumps(r | {"source": source}, ensure_ascii=False) + "\n" for r in rows
                            )
                        )
            self.kept += len(examples)
            self.held_out += len(held)

    def call(self, prompt: str) -> tuple[dict[str, Any], int] | None:
        """(the JSON object of the answer, tokens spent); None if no answer came, or the budget has no room for a call.

        An answer without JSON is an empty object. The room for a call is taken before it is made: the budget is never passed.
        """
        count = self.generator.count_tokens
        cost = count(prompt)
        with self.free:
            while self.reserved and not self.stopped and self._room(cost) < self.options.answer_tokens:
                self.free.wait()
            room = min(self.options.answer_tokens, self._room(cost))
            if room < SHORTEST_ANSWER and not self.stopped:
                self.stopped = "budget"
            if self.stopped:
                self.free.notify_all()
                return None
            self.reserved += cost + room
            self.calls += 1
        text, failed = "", False
        try:
            options = GenerateOptions(max_tokens=room)
            for piece in self.generator.stream([Message("user", prompt)], options=options):
                text += piece.text
        except GenerationError:
            failed = True
        spent = cost + min(count(text), room)
        with self.free:
            self.reserved -= cost + room
            self.tokens += spent
            self.free.notify_all()
        if failed:
            self.drop("call failed")
            return None
        found = first_json(text)
        if not found:
            self.drop("answer is not JSON")
        return found or {}, spent

    def _room(self, cost: int) -> int:
        """Tokens that the answer of a call may have."""
        return self.options.budget_tokens - self.tokens - self.reserved - cost

    def each(
        self,
        work: Callable[..., None],
        todo: Sequence[tuple[Any, ...]],
        *,
        progress: Callable[[int, int], None],
        cancel: threading.Event | None,
    ) -> None:
        """Do the work on everything, several at a time, until it is stopped. Ctrl-C lets the calls under way end."""

        def unless_stopped(*item: Any) -> None:
            if cancel is not None and cancel.is_set():
                self.stopped = self.stopped or "cancelled"
            if not self.stopped:
                work(*item)

        with ThreadPoolExecutor(self.options.workers, thread_name_prefix="synthesize") as pool:
            futures = [pool.submit(unless_stopped, *item) for item in todo]
            try:
                for done, future in enumerate(as_completed(futures), start=1):
                    future.result()
                    progress(done, len(futures))
            except BaseException:
                self.stopped = self.stopped or "cancelled"
                raise


def asked_in(row: dict[str, Any]) -> str:
    """The question of a row that this package wrote."""
    made = row.get("made")
    return str(
        made.get("question", "") if isinstance(made, dict) else row.get("question") or row.get("content", "")
    )


def whole_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file that this module writes. A broken last line of a killed run is cut off, atomically."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    rows, whole = [], []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and line.endswith("\n"):
            rows.append(row)
            whole.append(line)
    if len(whole) < len(lines):
        temporary = path.with_name(path.name + ".part")
        temporary.write_text("".join(whole), encoding="utf-8")
        os.replace(temporary, path)
    return rows


def first_json(text: str) -> dict[str, Any] | None:
    """The first JSON object in a text that may hold other words or a code fence around it."""
    decoder = json.JSONDecoder()
    for match in re.finditer(r"\{", text):
        try:
            found, _ = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            return found
    return None


def texts(value: object, *, most: int) -> list[str]:
    """The strings of a list that a model wrote, stripped, without empty ones; anything else is none."""
    found = [v.strip() for v in value if isinstance(v, str) and v.strip()] if isinstance(value, list) else []
    return found[:most]


def plain(text: str) -> str:
    """Without spaces and punctuation, in lower case: what must be equal for two texts to be the same."""
    return re.sub(r"[\W_]+", "", text).lower()
