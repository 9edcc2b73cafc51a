"""The one model that a process keeps: used again while it is what lies on the disk, loaded again when it is not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from test_rag_chatglm3_engine import add_lora
from tiny_chatglm3 import converted

from rag.types import GenerateOptions, Message
from ui import held
from ui.settings import GeneratorSettings


@pytest.fixture(autouse=True)
def nothing_held() -> Iterator[None]:
    held.let_go()
    yield
    held.let_go()


def test_an_adapter_that_was_trained_again_is_loaded_again(tmp_path: Path) -> None:
    base = converted(tmp_path / "glm")
    wanted = GeneratorSettings(
        kind="chatglm3", model=str(base), dtype="fp32", device="cpu", context_tokens=1024
    )
    run, other = add_lora(base, tmp_path / "run", seed=1), add_lora(base, tmp_path / "other", seed=3)

    def said(adapters: dict[str, Path], name: str) -> str:
        voice = held.Voice(held.take(wanted, base, adapters=adapters).generator, name)
        pieces = voice.stream([Message("user", "年假有几天？")], options=GenerateOptions(max_tokens=12))
        return "".join(piece.text for piece in pieces)

    both = {"run": run, "other": other}
    first, kept = said(both, "run"), held.held()
    assert said({"run": run}, "run") == first and held.held() is kept, "nothing changed: nothing is loaded"
    add_lora(base, run, seed=2)
    assert said(both, "run") != first
    assert held.held() is not kept


def test_names_that_torch_has_taken() -> None:
    assert [held.key_of(n) for n in ("train", "type", "v1.2", "周易", "zhouyi")] == [
        "train_", "type_", "v1_2", "周易", "zhouyi",
    ]  # fmt: skip
