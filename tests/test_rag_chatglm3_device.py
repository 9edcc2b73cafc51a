"""Which GPU the threads work on: the one where the model lies, not the first of the machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from test_rag_chatglm3_engine import QUESTIONS, add_lora, prompt, reference
from tiny_chatglm3 import converted

from rag.chatglm3.engine.engine import Engine, EngineConfig
from rag.chatglm3.load import LoadConfig, load
from rag.chatglm3.memory import on_device
from rag.types import GenerateOptions


def test_every_step_is_taken_on_the_device_of_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new thread begins at the first GPU: an event recorded there says nothing about a step on the second."""
    loaded = load(converted(tmp_path / "glm"))
    inside: list[str] = []
    steps: list[list[str]] = []

    @contextmanager
    def recorded(device: object) -> Iterator[None]:
        inside.append(f"{threading.current_thread().name} {device}")
        yield
        inside.clear()

    monkeypatch.setattr("rag.chatglm3.engine.engine.on_device", recorded)
    with Engine(loaded, config=EngineConfig(slots=1)) as engine:
        forward = engine._network._forward

        def watched(*given: object) -> object:
            steps.append(list(inside))
            return forward(*given)  # type: ignore[arg-type]

        monkeypatch.setattr(engine._network, "_forward", watched)
        engine.submit(prompt(loaded, "你好"), options=GenerateOptions(max_tokens=3)).text()
    assert steps and all(found == ["chatglm3-engine cpu"] for found in steps)


def test_a_device_is_chosen_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    chosen: list[str] = []

    @contextmanager
    def device(which: torch.device) -> Iterator[None]:
        chosen.append(str(which))
        yield

    monkeypatch.setattr(torch.cuda, "device", device)
    with on_device(torch.device("cpu")), on_device(torch.device("cuda:1")):
        pass
    assert chosen == ["cuda:1"]


def test_training_goes_to_its_gpu_before_the_base_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--gpu 1`: Triton launches on the current GPU and would not reach what lies on the second."""
    import torch

    from finetune import methods
    from finetune.config import RunConfig

    done: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_device", done.append)
    monkeypatch.setattr(methods, "load_base", lambda folder, how: done.append(f"loaded on {how.device}"))
    for device in ("cuda:1", "cpu"):
        methods.open_base(RunConfig(), folder=tmp_path, device=device)
    assert done == ["cuda:1", "loaded on cuda:1", "loaded on cpu"]


@pytest.mark.gpu
def test_the_engine_on_the_second_gpu(tmp_path: Path) -> None:
    import torch

    if torch.cuda.device_count() < 2:
        pytest.skip("needs two NVIDIA GPUs")
    torch.backends.cuda.matmul.allow_tf32 = False
    base = converted(tmp_path / "glm", hidden_size=256, ffn_hidden_size=512, kv_channels=32)
    adapters = {"red": add_lora(base, tmp_path / "red", seed=1)}
    loaded = load(base, adapters=adapters, config=LoadConfig(dtype="fp32", device="cuda:1"))
    cases = [(q, a) for q in QUESTIONS for a in ("", "red")]
    expected = [reference(loaded, prompt(loaded, q), adapter=a) for q, a in cases]
    with Engine(loaded, config=EngineConfig(slots=4, loop_guard=False)) as engine:
        for _ in range(2):  # while the kernels are compiled, and through them
            tickets = [
                engine.submit(prompt(loaded, q), options=GenerateOptions(max_tokens=24, adapter=a))
                for q, a in cases
            ]
            for ticket in tickets:
                ticket.text()
            assert [ticket.ids for ticket in tickets] == expected
            assert engine.ready.wait(240)
        assert engine.path == "kernels"
    assert torch.cuda.current_device() == 0
