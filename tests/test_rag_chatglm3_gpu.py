"""What only a GPU shows: captured steps write what `generate` writes. Run with: make test-gpu."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_rag_chatglm3_engine import QUESTIONS, add_lora, prompt, reference
from tiny_chatglm3 import converted

from rag.chatglm3.engine.engine import Engine, EngineConfig
from rag.chatglm3.load import LoadConfig, load
from rag.types import GenerateOptions

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", autouse=True)
def gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu") / "glm"
    return converted(folder, hidden_size=256, ffn_hidden_size=512, kv_channels=32)


@pytest.mark.parametrize("quantise", ["none", "nf4", "int8"])
def test_the_engine_writes_on_every_precision(base: Path, quantise: Any) -> None:
    loaded = load(base, config=LoadConfig(quantise=quantise, device="cuda"))
    with Engine(loaded, config=EngineConfig(slots=4)) as engine:
        for _ in range(2):  # while the kernels are compiled, and through them
            tickets = [
                engine.submit(prompt(loaded, q), options=GenerateOptions(max_tokens=16)) for q in QUESTIONS
            ]
            assert all(ticket.text()[1].finish for ticket in tickets)
            assert engine.ready.wait(240)
        assert engine.path == "kernels"


def test_captured_steps_equal_generate(base: Path, tmp_path: Path) -> None:
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    adapters = {"red": add_lora(base, tmp_path / "red", seed=1)}
    loaded = load(base, adapters=adapters, config=LoadConfig(dtype="fp32", device="cuda"))
    loaded.model.to("cuda")
    cases = [(q, a) for q in QUESTIONS for a in ("", "red")]
    with Engine(loaded, config=EngineConfig(slots=4, loop_guard=False)) as engine:
        early = engine.submit(prompt(loaded, QUESTIONS[0]), options=GenerateOptions(max_tokens=24))
        early.text()
        assert engine.ready.wait(240)
        alone = engine.submit(prompt(loaded, QUESTIONS[0]), options=GenerateOptions(max_tokens=24))
        alone.text()
        red = engine.submit(
            prompt(loaded, QUESTIONS[0]), options=GenerateOptions(max_tokens=24, adapter="red")
        )
        red.text()
        tickets = [
            engine.submit(prompt(loaded, q), options=GenerateOptions(max_tokens=24, adapter=a))
            for q, a in cases
        ]
        for ticket in tickets:
            ticket.text()
        assert set(engine._stepper._fast) == {(1, False), (1, True), (4, True)}, "steps were captured"
    assert early.ids == alone.ids == tickets[0].ids and red.ids == tickets[1].ids
    for ticket, (question, adapter) in zip(tickets, cases, strict=True):
        assert ticket.ids == reference(loaded, prompt(loaded, question), adapter=adapter)
