"""Our decoding kernels against plain torch: run by Triton's interpreter on a CPU, for real on a GPU.

Without Triton they are skipped.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from tiny_chatglm3 import converted

from rag.chatglm3.engine.network import Network
from rag.chatglm3.load import LoadConfig, LoadedModel, load

pytest.importorskip("triton", reason="Triton is not installed")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def device() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("no NVIDIA GPU, and TRITON_INTERPRET is not 1")
    return "cpu"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kernels") / "glm"
    return converted(folder, hidden_size=256, ffn_hidden_size=192, kv_channels=32, seq_length=512)


def steps(
    loaded: LoadedModel, *, rows: int, lora: bool, positions: list[int], adapters: list[int]
) -> tuple[Any, Any]:
    """Logits of one step through the kernels and through torch, on caches with the same random content."""
    import torch

    from rag.chatglm3.engine.fast import FastStep, layers_of, why_not

    network = Network(loaded, slots=rows, context=512)
    assert why_not(network) == ""
    torch.manual_seed(0)
    for store in (network.cache.keys, network.cache.values):
        store.copy_(torch.randn(store.shape))
    kept = network.cache.keys.clone(), network.cache.values.clone()
    network.next_ids.copy_(torch.arange(rows) * 37 % 700 + 5)
    layers = [layers_of(block) for block in network.blocks]
    step = FastStep(network, layers, rows=rows, lora=lora)
    step.inputs.copy_(torch.tensor([positions, list(range(rows)), adapters]))
    with torch.inference_mode():
        step.run()
        written = network.cache.keys.clone(), network.cache.values.clone()
        network.cache.keys.copy_(kept[0])
        network.cache.values.copy_(kept[1])
        device = network.device
        wanted = network.decode(
            network.next_ids.clone(),
            positions=torch.tensor(positions, device=device),
            first=0,
            length=512,
            adapter=torch.tensor(adapters, device=device) if lora else None,
        )
    taking_part = [i for i, p in enumerate(positions) if p < 512]
    for ours, plain in zip(written, (network.cache.keys, network.cache.values), strict=True):
        difference = (ours[..., :512, :] - plain[..., :512, :]).abs().max()
        assert difference < 4e-3 * plain.abs().max()
    return step.logits[taking_part].float(), wanted[taking_part].float()


def test_more_inputs_than_fit_in_registers(
    base: Path, tmp_path: Path, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from test_rag_chatglm3_engine import add_lora

    from rag.chatglm3.engine.tiles import SINGLE, Tiles

    monkeypatch.setitem(SINGLE, "nf4", Tiles(4, 128, 4, each=1))
    monkeypatch.setitem(SINGLE, "nf4, long", Tiles(4, 128, 4))
    adapters = {"red": add_lora(base, tmp_path / "red", seed=1)}
    loaded = load(base, adapters=adapters, config=LoadConfig(quantise="nf4", device=device, dtype="fp32"))
    both = steps(loaded, rows=1, lora=True, positions=[300], adapters=[0])
    assert close(*both, within=1e-4 if device == "cpu" else 2e-3)


def close(ours: Any, plain: Any, *, within: float) -> bool:
    return bool((ours - plain).norm() / plain.norm() < within)


@pytest.mark.parametrize("quantise", ["none", "nf4"])
@pytest.mark.parametrize("rows", [1, 5])
def test_a_step_is_that_of_torch(base: Path, tmp_path: Path, device: str, quantise: Any, rows: int) -> None:
    from test_rag_chatglm3_engine import add_lora

    adapters = {name: add_lora(base, tmp_path / name, seed=i) for i, name in enumerate(("red", "blue"), 1)}
    config = LoadConfig(quantise=quantise, device=device, dtype="fp32")
    loaded = load(base, adapters=adapters, config=config)
    positions = [300, 0, 127, 512, 511][:rows]
    exact = (
        1e-4 if quantise == "none" or device == "cpu" else 2e-3
    )  # nf4's numbers in registers are 0.11 % off
    plain = steps(loaded, rows=rows, lora=False, positions=positions, adapters=[-1] * rows)
    assert close(*plain, within=exact)
    with_lora = steps(loaded, rows=rows, lora=True, positions=positions, adapters=[1, 0, -1, -1, 1][:rows])
    assert close(*with_lora, within=exact)
    assert not close(plain[0], with_lora[0], within=0.01)
