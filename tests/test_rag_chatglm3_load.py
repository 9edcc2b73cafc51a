"""Loading: precision, quantisation, memory plan, and the cure for bitsandbytes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_rag_chatglm3_engine import add_lora
from tiny_chatglm3 import converted

from kb.errors import ModelError
from rag.chatglm3.engine.engine import Engine
from rag.chatglm3.load import LoadConfig, choose_device, load
from rag.chatglm3.memory import MemoryPlan, out_of_memory, plan_memory, weight_bytes
from rag.chatglm3.shape import GlmShape
from rag.types import GenerateOptions

FULL = GlmShape(28, 4096, 32, 2, 128, 13696, 65024, 8192)
IDS = [5, 300, 622, 17, 450, 33, 280]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("load") / "glm"  # multiples of 64, as 4 bits want them
    return converted(folder, hidden_size=64, ffn_hidden_size=128)


def logits(model: Any) -> Any:
    import torch

    with torch.inference_mode():
        return model(torch.tensor([IDS])).logits[0, -1].float()


@pytest.mark.parametrize("quantise", ["int8", "nf4"])
def test_quantised(base: Path, quantise: Any) -> None:
    plain = load(base).model
    exact, weights = logits(plain), {n: p.detach() for n, p in plain.named_parameters()}
    loaded = load(base, config=LoadConfig(quantise=quantise, device="cpu"))
    assert loaded.name == f"glm ({quantise})"
    kinds = {type(m).__name__ for m in loaded.model.modules()}
    assert ("Linear4bit" if quantise == "nf4" else "Linear8bitLt") in kinds
    assert type(loaded.model.lm_head).__name__ == "Linear"
    near = logits(loaded.model)
    import torch

    assert torch.cosine_similarity(near, exact, dim=0) > 0.7, "random weights amplify what rounding does"
    assert (near - exact).abs().max() > 0
    if quantise == "nf4":
        from bitsandbytes.functional import dequantize_4bit

        layers = [(n, m) for n, m in loaded.model.named_modules() if type(m).__name__ == "Linear4bit"]
        assert len(layers) == 12
        for name, layer in layers:
            assert layer.weight.quant_state.nested, "double quantisation"
            back = dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
            whole = weights[f"{name}.weight"]
            assert (back - whole).norm() / whole.norm() < 0.12, name


def test_the_engine_on_quantised_weights_with_an_adapter(base: Path, tmp_path: Path) -> None:
    import torch

    adapter = add_lora(base, tmp_path / "run", seed=1)
    loaded = load(base, adapters={"run": adapter}, config=LoadConfig(quantise="nf4", device="cpu"))
    with Engine(loaded) as engine:
        ticket = engine.submit(IDS, options=GenerateOptions(max_tokens=6, adapter="run"))
        ticket.text()
    with torch.inference_mode():
        out = loaded.model.generate(input_ids=torch.tensor([IDS]), max_new_tokens=6, do_sample=False)
    assert ticket.ids == [i for i in out[0, len(IDS) :].tolist() if i not in (2, 626, 628)]


def test_half_precision(base: Path) -> None:
    exact = logits(load(base).model)
    for dtype in ("bf16", "fp16"):
        loaded = load(base, config=LoadConfig(dtype=dtype, device="cpu"))  # type: ignore[arg-type]
        assert loaded.name == f"glm ({dtype})"
        assert (logits(loaded.model) - exact).abs().max() < 0.3


def test_the_plan_of_the_real_size() -> None:
    gib = 2**30
    assert weight_bytes(FULL, dtype="bfloat16", quantise="none") == 12_487_168_000
    assert 3.6 < weight_bytes(FULL, dtype="bfloat16", quantise="nf4") / gib < 3.9, "measured: 3.77"
    assert 6.2 < weight_bytes(FULL, dtype="bfloat16", quantise="int8") / gib < 6.5
    plan = plan_memory(FULL, device="cpu", dtype="bfloat16", quantise="none", cached_tokens=8192)
    assert plan.cache == 8192 * 28 * 1024
    assert plan.free > 0


def test_it_says_what_it_needs_and_what_to_change(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[str, str]] = []
    load(base, say=lambda zh, en: said.append((zh, en)))
    assert "cpu: needs about" in said[0][1]
    assert "可用" in said[0][0]
    monkeypatch.setattr("rag.chatglm3.memory.free_bytes", lambda device: 1000)
    with pytest.raises(ModelError, match=r"Not enough memory\. cpu: needs .*quantise to 4 bits"):
        load(base)
    full = MemoryPlan("cuda:0", 12 * 2**30, 4 * 2**30, 2**29, 2**33)
    text = out_of_memory(full, quantise="nf4")
    assert "quantise" not in text.message.split("You can")[1].split("(")[0]
    assert "shorten the context" in text.message
    assert "缩短上下文" in text.zh


def test_what_cannot_be(base: Path, tmp_path: Path) -> None:
    for name in ("cuda:7", "cuda:x", "cudax", "mps"):
        with pytest.raises(ModelError, match=f"no device '{name}'"):
            choose_device(name)
    with pytest.raises(ModelError, match="cannot be merged into nf4"):
        LoadConfig(merge="run", quantise="nf4")
    with pytest.raises(ModelError, match="No LoRA adapter 'run' to merge"):
        load(base, config=LoadConfig(merge="run"))
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        load(tmp_path)
    with pytest.raises(ValueError, match="quantise must be"):
        LoadConfig(quantise="int4")  # type: ignore[arg-type]


def repacks() -> bool:
    """Whether a forward pass in evaluation mode changes the 4-bit weights of a layer."""
    import bitsandbytes
    import torch

    torch.manual_seed(0)
    plain = torch.nn.Linear(128, 64, bias=False)
    layer = bitsandbytes.nn.Linear4bit(128, 64, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4")
    layer.load_state_dict(plain.state_dict())
    layer = layer.to("cpu")
    before = layer.weight.data.clone()
    with torch.no_grad():
        layer.eval()(torch.randn(3, 128, dtype=torch.bfloat16))
    return before.shape != layer.weight.data.shape or not torch.equal(before, layer.weight.data)


@pytest.mark.slow
def test_bitsandbytes_still_needs_its_cure() -> None:
    import bitsandbytes.functional as functional
    import torch

    from rag.chatglm3.bnb import prepare_bitsandbytes

    has = getattr(functional, "has_avx512bf16", None)
    if has is None or not getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)():
        pytest.skip("bitsandbytes repacks weights on CPUs with AVX512-BF16 only")
    here = Path(__file__).parent
    code = "from test_rag_chatglm3_load import repacks; print(repacks())"
    child = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {[str(here), str(here.parent)]}; {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert child.stdout.strip() == "True", "bitsandbytes no longer repacks: rag/chatglm3/bnb.py can go"
    prepare_bitsandbytes()
    assert not repacks()
