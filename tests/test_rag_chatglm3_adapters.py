"""Adapters: old ones move over exactly, wrong ones are refused with the reason, right ones do something."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from test_rag_chatglm3_engine import add_lora
from tiny_chatglm3 import converted

from kb.errors import ModelError
from rag.chatglm3.adapters import engine_takes, logit_change, read_adapter
from rag.chatglm3.base import base_hash
from rag.chatglm3.engine.engine import Engine
from rag.chatglm3.export import export
from rag.chatglm3.import_adapter import import_adapter
from rag.chatglm3.load import LoadConfig, LoadedModel, load
from rag.chatglm3.shape import read_native
from rag.chatglm3.verify import official_tensors
from rag.types import GenerateOptions, Message

IDS = [5, 300, 622, 17, 450, 33, 280]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return converted(tmp_path_factory.mktemp("adapters") / "glm")


def logits(model: Any) -> Any:
    import torch

    with torch.inference_mode():
        return model(torch.tensor([IDS])).logits[0].float()


def old_lora(folder: Path, *, layers: int = 2, rows: int = 128) -> dict[str, Any]:
    """An adapter as PEFT wrote it in 2023, on the official module names. Returns its tensors."""
    import torch

    random = torch.Generator().manual_seed(5)
    state = {}
    for layer in range(layers):
        stem = f"base_model.model.transformer.encoder.layers.{layer}."
        for module, out, wide in (
            ("self_attention.query_key_value", rows, 48),
            ("self_attention.dense", 48, 64),
            ("mlp.dense_h_to_4h", 192, 48),
            ("mlp.dense_4h_to_h", 48, 96),
        ):
            state[f"{stem}{module}.lora_A.weight"] = torch.randn(4, wide, generator=random)
            state[f"{stem}{module}.lora_B.weight"] = torch.randn(out, 4, generator=random)
    folder.mkdir()
    torch.save(state, folder / "adapter_model.bin")
    targets = ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"]
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 2, "lora_dropout": 0.1, "target_modules": targets}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return state


def test_an_old_lora_moves_over_exactly(base: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM

    state = old_lora(tmp_path / "old")
    import_adapter(tmp_path / "old", target=tmp_path / "new", base=base)
    loaded = load(base, adapters={"old": tmp_path / "new"})
    # the official way: add scale * B @ A to the official weights, convert those
    official = export(base, target=tmp_path / "official")
    weights = dict(official_tensors(official))
    for key in [k for k in state if "lora_A" in k]:
        name = key.removeprefix("base_model.model.").replace(".lora_A.weight", ".weight")
        weights[name] = weights[name] + 0.5 * state[key.replace("lora_A", "lora_B")] @ state[key]
    for file in official.glob("*.safetensors"):
        save_file({name: weights[name].contiguous() for name in load_file(file)}, file)
    from rag.chatglm3.convert import convert

    merged = convert(official, target=tmp_path / "merged").folder
    reference = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)
    assert (logits(loaded.model) - logits(reference)).abs().max() < 1e-4
    with pytest.raises(ModelError, match="import-adapter"):
        load(base, adapters={"raw": tmp_path / "old"})
    out = export(base, target=tmp_path / "exported", adapter=tmp_path / "new")
    ours = dict(official_tensors(out))
    assert all((ours[name] - weights[name]).abs().max() < 1e-5 for name in ours)


def test_dora_is_merged_as_peft_merges_it(base: Path, tmp_path: Path) -> None:
    """What `ask` advises when it says that DoRA is slower: export it merged."""
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import GlmForCausalLM

    torch.manual_seed(3)
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], use_dora=True, task_type="CAUSAL_LM"
    )
    made: Any = get_peft_model(GlmForCausalLM.from_pretrained(base), config)
    for name, parameter in made.named_parameters():
        if "lora_B" in name or "magnitude" in name:
            torch.nn.init.normal_(parameter, mean=1.0, std=0.4)
    made.save_pretrained(tmp_path / "dora")
    whole: Any = PeftModel.from_pretrained(GlmForCausalLM.from_pretrained(base), tmp_path / "dora")
    wanted = whole.merge_and_unload().state_dict()
    ours = dict(official_tensors(export(base, target=tmp_path / "out", adapter=tmp_path / "dora")))
    qkv = ours["transformer.encoder.layers.1.self_attention.query_key_value.weight"]
    query = wanted["model.layers.1.self_attn.q_proj.weight"]
    assert (qkv[: len(query)] - query).abs().max() < 1e-5
    down = ours["transformer.encoder.layers.0.mlp.dense_4h_to_h.weight"]
    assert (down - wanted["model.layers.0.mlp.down_proj.weight"]).abs().max() < 1e-5


def test_a_merge_leaves_nothing_out(base: Path, tmp_path: Path) -> None:
    """Layers that the base does not have, and changes that are no product of two matrices."""
    from safetensors.torch import load_file, save_file

    adapter = add_lora(base, tmp_path / "deep", seed=1)
    file = adapter / "adapter_model.safetensors"
    state = load_file(file)
    key = next(k for k in state if "layers.1." in k and "q_proj.lora_A" in k)
    save_file(state | {k.replace("layers.1.", "layers.7."): v.clone() for k, v in state.items()}, file)
    with pytest.raises(ModelError, match=r"belongs to another base: .*layers\.7\."):
        export(base, target=tmp_path / "out", adapter=adapter)
    save_file({k: v for k, v in state.items() if k != key}, file)
    with pytest.raises(ModelError, match=r"has half of what it changes in .*q_proj"):
        export(base, target=tmp_path / "out", adapter=adapter)
    other = key.replace("lora_A.weight", "lora_B.bias")
    save_file(state | {other: state[key][0].clone()}, file)
    with pytest.raises(ModelError, match=r"lora_B\.bias .*not merged here"):
        export(base, target=tmp_path / "out", adapter=adapter)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ModelError, match="would be replaced"):
        export(base, target=base.parent, overwrite=True)
    assert (base / "config.json").is_file()


def test_old_adapters_with_more_than_lora_are_refused(base: Path, tmp_path: Path) -> None:
    old_lora(tmp_path / "old")
    config = json.loads((tmp_path / "old" / "adapter_config.json").read_text())
    for key, value in {"alpha_pattern": {"layers.0": 64}, "bias": "all"}.items():
        (tmp_path / "old" / "adapter_config.json").write_text(json.dumps(config | {key: value}))
        with pytest.raises(ModelError, match="Only plain LoRA"):
            import_adapter(tmp_path / "old", target=tmp_path / "new", base=base)


@pytest.mark.parametrize("name", ["1", "mlp", "model", "q_proj"])
def test_an_adapter_may_be_called_as_a_layer_is(base: Path, tmp_path: Path, name: str) -> None:
    assert load(base, adapters={name: add_lora(base, tmp_path / "run", seed=1)}).adapters[name].name == name


def test_what_is_more_than_lora_is_not_for_the_engine(base: Path, tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import GlmForCausalLM

    for more in (
        {"lora_bias": True}, {"trainable_token_indices": [5]}, {"modules_to_save": ["lm_head"]}, {"use_dora": True},
    ):  # fmt: skip
        config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", **more)
        made: Any = get_peft_model(GlmForCausalLM.from_pretrained(base), config)
        for parameter in made.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.4)
        folder = tmp_path / next(iter(more))
        made.save_pretrained(folder)
        assert not engine_takes(folder), more
        loaded = load(base, adapters={"more": folder})
        with pytest.raises(ModelError, match="load it merged"):
            Engine(loaded)
    assert engine_takes(add_lora(base, tmp_path / "plain", seed=1))


def test_an_adapter_of_another_size_is_refused(base: Path, tmp_path: Path) -> None:
    old_lora(tmp_path / "old", rows=4608)
    with pytest.raises(ModelError, match="4608 rows, this base needs 128"):
        import_adapter(tmp_path / "old", target=tmp_path / "new", base=base)
    assert not (tmp_path / "new").exists()
    with pytest.raises(ModelError, match="holds no adapter"):
        import_adapter(base.parent, target=tmp_path / "new", base=base)


@pytest.mark.parametrize("projected", [False, True])
def test_p_tuning_moves_over_exactly(base: Path, tmp_path: Path, projected: bool) -> None:
    import torch
    from safetensors.torch import load_file
    from transformers import DynamicCache

    shape, count = read_native(base), 6
    width = shape.layers * 2 * shape.groups * shape.head_dim
    torch.manual_seed(3)
    encoder = torch.nn.Embedding(count, width)
    state = {"transformer.prefix_encoder.embedding.weight": encoder.weight.detach()}
    values = encoder.weight.detach()
    if projected:
        trans = torch.nn.Sequential(torch.nn.Linear(width, 32), torch.nn.Tanh(), torch.nn.Linear(32, width))
        state |= {f"transformer.prefix_encoder.trans.{k}": v for k, v in trans.state_dict().items()}
        values = trans(values).detach()
    (tmp_path / "old").mkdir()
    torch.save(state, tmp_path / "old" / "pytorch_model.bin")
    import_adapter(tmp_path / "old", target=tmp_path / "new", base=base)
    loaded = load(base, adapters={"prefix": tmp_path / "new"})

    # as the official code computes it: keys as they are, the text's positions begin at 0
    parts = values.view(count, shape.layers, 2, shape.groups, shape.head_dim).permute(1, 2, 3, 0, 4)
    cache = DynamicCache(config=loaded.model.config)
    for layer in range(shape.layers):
        cache.update(parts[layer, 0][None].clone(), parts[layer, 1][None].clone(), layer)
    with torch.inference_mode():
        expected = loaded.model(
            torch.tensor([IDS]),
            past_key_values=cache,
            position_ids=torch.arange(len(IDS))[None],
            attention_mask=torch.ones(1, count + len(IDS), dtype=torch.long),
        ).logits[0]
    assert (expected - logits(loaded.model)).abs().max() > 0.1, "the prefix must matter"

    from peft import PeftModel

    peft = PeftModel.from_pretrained(loaded.model, tmp_path / "new")
    assert (logits(peft) - expected).abs().max() < 1e-4
    with Engine(loaded) as engine:  # and the engine goes on from it as PEFT does
        ticket = engine.submit(IDS, options=GenerateOptions(max_tokens=12, adapter="prefix"))
        ticket.text()
        again = engine.submit(IDS, options=GenerateOptions(max_tokens=12, adapter="prefix"))
        again.text()
    written = list(IDS)
    for _ in range(len(ticket.ids)):
        with torch.inference_mode():
            step = peft(torch.tensor([written])).logits[0, -1]
        written.append(int(step.argmax()))
    assert ticket.ids == again.ids == written[len(IDS) :]
    assert load_file(tmp_path / "new" / "adapter_model.safetensors")["prompt_embeddings"].shape == (
        count,
        width,
    )


def with_train(folder: Path, **values: object) -> Path:
    (folder / "train.json").write_text(json.dumps(values))
    return folder


def test_an_adapter_of_another_base_is_refused(base: Path, tmp_path: Path) -> None:
    adapter = with_train(add_lora(base, tmp_path / "run", seed=1), base_hash="0" * 64)
    with pytest.raises(ModelError, match="trained on another base model"):
        load(base, adapters={"run": adapter})
    with_train(adapter, base_hash=base_hash(base), prompt_version="3", close_turns=True)
    loaded = load(base, adapters={"run": adapter})
    info = loaded.adapters["run"]
    assert (info.prompt_version, info.close_turns, info.kind) == ("3", True, "lora")


def test_close_turns_of_the_adapter_shapes_the_prompt(base: Path, tmp_path: Path) -> None:
    from rag.generate.chatglm3 import ChatGLM3Generator

    adapter = with_train(add_lora(base, tmp_path / "run", seed=1), close_turns=True)
    with ChatGLM3Generator(load(base, adapters={"run": adapter})) as generator:
        talk = [Message("user", "一"), Message("assistant", "二"), Message("user", "三")]
        assert generator.prompt_ids(talk).count(2) == 0
        assert generator.prompt_ids(talk, adapter="run").count(2) == 1


def test_an_adapter_that_does_nothing_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="every lora_B is zero"):
        load(base, adapters={"new": add_lora(base, tmp_path / "new", seed=1, size=0.0)})


def test_an_adapter_with_foreign_tensors_is_refused(base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = add_lora(base, tmp_path / "run", seed=1)
    state = load_file(folder / "adapter_model.safetensors")
    renamed = {key.replace("layers.1.", "layers.7."): value for key, value in state.items()}
    save_file(renamed, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="does not fit this base model"):
        load(base, adapters={"run": folder})


def test_switched_and_active(base: Path, tmp_path: Path) -> None:
    loaded = load(
        base, adapters={n: add_lora(base, tmp_path / n, seed=s) for s, n in enumerate(("red", "blue"), 1)}
    )
    assert logit_change(loaded.model, "red", ids=IDS) > 0.01
    loaded.model.set_adapter("blue")
    blue = logits(loaded.model)
    loaded.model.set_adapter("red")
    assert (logits(loaded.model) - blue).abs().max() > 0.01


def test_merged(base: Path, tmp_path: Path) -> None:
    adapter = add_lora(base, tmp_path / "run", seed=1)
    apart = load(base, adapters={"run": adapter})
    merged = load(base, adapters={"run": adapter}, config=LoadConfig(merge="run"))
    assert (logits(apart.model) - logits(merged.model)).abs().max() < 1e-4
    assert merged.name == "glm (fp32) + run"
    with Engine(merged) as engine, Engine(apart) as other:
        first = engine.submit(IDS, options=GenerateOptions(max_tokens=8, adapter="run"))
        second = other.submit(IDS, options=GenerateOptions(max_tokens=8, adapter="run"))
        first.text(), second.text()
    assert first.ids == second.ids


def test_other_kinds_are_named(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "IA3"}')
    with pytest.raises(ModelError, match="is a IA3 adapter"):
        read_adapter(tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "target_modules": ["q_proj"]}')
    with pytest.raises(ModelError, match=r"no adapter_model\.safetensors"):
        read_adapter(tmp_path)


def test_name(base: Path) -> None:
    loaded: LoadedModel = load(base)
    assert loaded.name == "glm (fp32)"
    assert shutil.disk_usage(base).free > 0
